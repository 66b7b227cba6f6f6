"""A short search of the learning rate, judged by validation AUROC and then by validation loss.

Finished trials are written to ``lr_search.json``, which a resumed run goes on from. Where Optuna is installed (extra
``search``) they stand in its journal as well (``lr_search_optuna.jsonl``: JSON lines, no pickle), for its dashboard and
for its samplers; random rates are drawn here and are the same with and without it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lang1.common.artefact import read_json, write_json
from lang1.common.errors import SettingsError
from lang1.common.progress import Meter, say
from lang1.training.answers import Answers
from lang1.training.checkpoint import restore
from lang1.training.interrupt import Interrupt
from lang1.training.optim import Optimizers, factor_at
from lang1.training.settings import FinetuneSettings, OptimizerSettings

if TYPE_CHECKING:
    import optuna

FILE = "lr_search.json"
JOURNAL = "lr_search_optuna.jsonl"
# Share of the trials that are random before TPE has something to go by.
_RANDOM_FIRST = 3


def drawn_rates(settings: FinetuneSettings) -> list[float]:
    """The learning rates that random search tries, log-uniform between the bounds."""
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
        SettingsError: TPE was asked for and Optuna is not installed.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, between steps.
    """
    file = folder / FILE
    done: list[dict[str, Any]] = json.loads(work.team.told(json.dumps(read_json(file) if file.exists() else [])))
    trials = settings.lr_search.trials
    steps = min(settings.lr_search.steps, work.steps)
    team = work.team
    with team.together():
        journal = Journal.open(folder / JOURNAL, settings, done) if team.first else None
    with Interrupt() as interrupt, Meter("learning-rate search", trials * steps, "steps") as meter:
        meter.start_at(len(done) * steps)
        while len(done) < trials:
            rate = drawn_rates(settings)[len(done)] if journal is None else journal.ask(len(done))
            rate = float(team.told(repr(rate)))
            restore(work.model, base)
            done.append(_trial(work, rate, steps, settings, done, interrupt, meter))
            if team.first:
                write_json(file, done)
            if journal is not None:
                journal.tell(done[-1])
    restore(work.model, base)
    judged = [d for d in done if d["score"] is not None and not d.get("pruned")]
    if not judged:
        say("learning-rate search: no trial could be judged; the rate that was set is kept.")
        return settings.optimizer
    best = max(judged, key=lambda d: (d["score"], -d["loss"]))
    say(f"learning-rate search: {best['lr']:.3g} of {len(done)} trials (validation AUROC {best['score']:.3f})")
    return with_rate(settings.optimizer, float(best["lr"]))


def _trial(
    work: Answers,
    rate: float,
    steps: int,
    settings: FinetuneSettings,
    before: list[dict[str, Any]],
    interrupt: Interrupt,
    meter: Meter,
) -> dict[str, Any]:
    """Train a few steps; the trial's record: rate, score and loss, None where it diverged."""
    optimizers = Optimizers(work.model, with_rate(settings.optimizer, rate))
    record: dict[str, Any] = {"lr": rate}
    scale = work.team.gradient_scale()
    for step in range(steps):
        optimizers.set_factor(factor_at(step, work.steps, settings.schedule))
        for loss, _ in work.losses(step):
            (loss * scale if scale != 1 else loss).backward()  # type: ignore[no-untyped-call]
        finite = math.isfinite(float(optimizers.clip()))
        if finite:
            optimizers.step()
        optimizers.zero_grad()
        meter.add(1, f"lr {rate:.2g}")
        if work.team.any(interrupt.requested):
            raise KeyboardInterrupt
        if not finite:
            meter.add(steps - step - 1)
            return {**record, "score": None, "loss": None}
        if step + 1 == settings.lr_search.prune_at:
            measures = work.measure()[0]
            record["early"] = measures.get("score")
            others = [d["early"] for d in before if d.get("early") is not None]
            if len(others) > 1 and record["early"] is not None and record["early"] < float(np.median(others)):
                meter.add(steps - step - 1)
                return {**record, "score": measures.get("score"), "loss": measures.get("loss"), "pruned": True}
    measures = work.measure()[0]
    return {**record, "score": measures.get("score"), "loss": measures.get("loss")}


class Journal:
    """The trials as an Optuna study in a journal file; ``lr_search.json`` is what counts, this follows it."""

    def __init__(self, study: optuna.Study, settings: FinetuneSettings) -> None:
        self.study, self.settings = study, settings
        self._asked: optuna.trial.Trial | None = None

    @classmethod
    def open(cls, file: Path, settings: FinetuneSettings, done: list[dict[str, Any]]) -> Journal | None:
        """Open or start the journal and bring it up to the finished trials; None where Optuna is not to be used.

        Raises:
            SettingsError: Optuna was asked for and is not installed.
        """
        search = settings.lr_search
        if search.optuna is False and search.sampler == "random":
            return None
        try:
            import optuna
            import optuna.storages.journal
        except ImportError as error:
            if search.optuna is None and search.sampler == "random":
                return None
            raise SettingsError(
                "lr_search: this needs Optuna; install it with pip install 'lang1[search]', or set sampler=random and "
                "optuna=null."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = optuna.storages.journal.JournalFileBackend(str(file))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="learning rate",
            direction="maximize",
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # of a run that was stopped inside it
        told = sum(_told(t) for t in study.get_trials(deepcopy=False))
        for record in done[told:]:
            study.add_trial(
                optuna.trial.create_trial(
                    params={"lr": record["lr"]},
                    distributions={"lr": optuna.distributions.FloatDistribution(search.low, search.high, log=True)},
                    **_outcome(record),
                    user_attrs={"record": record},
                )
            )
        return cls(study, settings)

    def ask(self, number: int) -> float:
        """The rate of trial ``number``, which counts as running from here on."""
        import optuna

        search = self.settings.lr_search
        if search.sampler == "random":
            self.study.enqueue_trial({"lr": drawn_rates(self.settings)[number]})
        else:  # seeded by the trial, so that a resumed search asks the same
            seed = int(np.random.SeedSequence([self.settings.seed, 19, number]).generate_state(1)[0])
            first = max(1, search.trials // _RANDOM_FIRST)
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)
        self._asked = self.study.ask()
        return self._asked.suggest_float("lr", search.low, search.high, log=True)

    def tell(self, record: dict[str, Any]) -> None:
        """Close the running trial with its record."""
        assert self._asked is not None
        outcome = _outcome(record)
        self._asked.set_user_attr("record", record)
        self.study.tell(self._asked, outcome.get("value"), state=outcome["state"])


def _told(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial stands in the journal with its outcome; one that was stopped, however late, does not."""
    import optuna

    record = trial.user_attrs.get("record")
    return record is not None and (trial.state != optuna.trial.TrialState.FAIL or record["score"] is None)


def _outcome(record: dict[str, Any]) -> dict[str, Any]:
    import optuna

    if record["score"] is None:
        return {"state": optuna.trial.TrialState.FAIL}
    state = optuna.trial.TrialState.PRUNED if record.get("pruned") else optuna.trial.TrialState.COMPLETE
    return {"state": state, "value": record["score"]}
