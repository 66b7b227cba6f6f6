"""A short random search of the learning rate, judged by validation AUROC and then by validation loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lang1.common.artefact import read_json, write_json
from lang1.common.progress import Meter, say
from lang1.training.answers import Answers
from lang1.training.checkpoint import restore
from lang1.training.interrupt import Interrupt
from lang1.training.optim import Optimizers, factor_at
from lang1.training.settings import FinetuneSettings, OptimizerSettings

FILE = "lr_search.json"


def drawn_rates(settings: FinetuneSettings) -> list[float]:
    """The learning rates to try, log-uniform between the bounds."""
    search = settings.lr_search
    rng = np.random.default_rng([settings.seed, 17])
    return [float(x) for x in np.exp(rng.uniform(math.log(search.low), math.log(search.high), search.trials))]


def with_rate(settings: OptimizerSettings, rate: float) -> OptimizerSettings:
    """The optimizer at another peak rate; Muon's moves by the same factor."""
    return settings.model_copy(update={"lr": rate, "muon_lr": settings.muon_lr * rate / settings.lr})


def search_lr(folder: Path, work: Answers, base: dict[str, Tensor], settings: FinetuneSettings) -> OptimizerSettings:
    """Try each rate for a few steps from the base weights; the weights are put back afterwards.

    Finished trials are kept in ``lr_search.json`` and not repeated by a resumed run.

    Args:
        folder: the partial folder.
        work: losses and validation; its model is trained in place.
        base: the weights to start from.
        settings: of the whole run; trials follow its schedule up to their length.

    Returns:
        The optimizer settings with the best rate.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, between steps.
    """
    file = folder / FILE
    done: list[dict[str, Any]] = read_json(file) if file.exists() else []
    rates = drawn_rates(settings)
    steps = min(settings.lr_search.steps, work.steps)
    with Interrupt() as interrupt, Meter("learning-rate search", len(rates) * steps, "steps") as meter:
        meter.start_at(len(done) * steps)
        for rate in rates[len(done) :]:
            restore(work.model, base)
            optimizers = Optimizers(work.model, with_rate(settings.optimizer, rate))
            finite = True
            for step in range(steps):
                optimizers.set_factor(factor_at(step, work.steps, settings.schedule))
                for loss, _ in work.losses(step):
                    loss.backward()  # type: ignore[no-untyped-call]
                finite = finite and math.isfinite(float(optimizers.clip()))
                if finite:
                    optimizers.step()
                optimizers.zero_grad()
                meter.add(1, f"lr {rate:.2g}")
                if interrupt.requested:
                    raise KeyboardInterrupt
            measures = work.measure()[0] if finite else {}
            done.append({"lr": rate, "score": measures.get("score"), "loss": measures.get("loss")})
            write_json(file, done)
    restore(work.model, base)
    judged = [d for d in done if d["score"] is not None]
    if not judged:
        say("learning-rate search: no trial could be judged; the rate that was set is kept.")
        return settings.optimizer
    best = max(judged, key=lambda d: (d["score"], -d["loss"]))
    say(f"learning-rate search: {best['lr']:.3g} of {len(done)} trials (validation AUROC {best['score']:.3f})")
    return with_rate(settings.optimizer, float(best["lr"]))
