"""Bad steps: skipped and counted when they are alone; repeated, the run goes back and leaves out what caused them."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_corpus_order import make_corpus
from test_training_runs import PRETRAIN, assert_same_run

from lang1.common.artefact import open_folder
from lang1.common.errors import InputError
from lang1.training.distributed import Processes
from lang1.training.guard import SETTLE, StepGuard
from lang1.training.loop import METRICS, Loop, Step
from lang1.training.optim import Optimizers
from lang1.training.order_log import OrderLog, surviving
from lang1.training.pretrain import Pretraining, pretrain
from lang1.training.rollback import Rollback
from lang1.training.settings import PretrainSettings

STEPS, ROWS, LENGTH = 48, 2, 64


def settings(**changes: Any) -> PretrainSettings:
    base = PRETRAIN.model_dump() | {"tokens": STEPS * ROWS * LENGTH, "sequences_per_step": ROWS, "log_every": 1}
    base |= {"validate_every": 100, "rollback_after": 3, "rollback_window": 10, "optimizer": {"lr": 3e-3}}
    base["schedule"] = {"kind": "constant"}  # so that what counts is how many updates there were
    return PretrainSettings.model_validate(base | changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notes that can be learnt, and a shard of tokens at random."""
    rng = np.random.default_rng(0)
    notes = [[int(x) for x in (np.arange(50) + rng.integers(0, 5)) % 40 + 5] for _ in range(40)]
    garbage = [[int(x) for x in rng.integers(100, 250, 50)] for _ in range(40)]
    base = tmp_path_factory.mktemp("corpus")
    return make_corpus(base / "c", {"notes": notes, "poison": garbage}, {"notes": notes[:5]}).folder.path


ONLY_NOTES = {"weights": {"notes": 1, "poison": 0}}
# The shard is read in steps 28 to 34 or so.
POISONED = {
    "mixture": [
        {"at": at, "weights": {"notes": 1 - bad, "poison": bad}}
        for at, bad in ((0, 0), (0.58, 0), (0.59, 1), (0.72, 1), (0.73, 0), (1, 0))
    ]
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return pretrain(corpus, tmp_path_factory.mktemp("clean") / "m", settings(**ONLY_NOTES))


def logged(out: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in map(json.loads, (out / METRICS).open()) if r["kind"] == kind]


def last_loss(out: Path, left_out: int = 0) -> float:
    """The mean of five steps: the last, or those after which a run has as many updates as one that left some out."""
    losses = [r["loss"] for r in logged(out, "train")]
    return float(np.mean(losses[len(losses) - left_out - 5 : len(losses) - left_out]))


def counts(out: Path) -> dict[str, Any]:
    return open_folder(out, "model").manifest.counts


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], by: float) -> None:
    losses = Pretraining.losses

    def spoilt(self: Pretraining, step: int) -> Iterator[tuple[torch.Tensor, int]]:
        for loss, tokens in losses(self, step):
            yield (loss * by if step in steps else loss), tokens

    monkeypatch.setattr(Pretraining, "losses", spoilt)


def test_a_nan_and_a_batch_at_fifty_deviations_are_skipped_counted_and_told(
    tmp_path: Path, corpus: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [r["loss"] for r in logged(clean, "train")]
    guard = StepGuard(10, 6)
    for value in losses[:40]:
        guard.judge(value, 1.0)
    spoil(monkeypatch, {40}, (guard.loss.mean + 50 * guard.loss.deviation) / losses[40])
    out = pretrain(corpus, tmp_path / "spike", settings(**ONLY_NOTES))
    assert counts(out)["skipped_steps"] == {"loss spike": 1}
    (told,) = logged(out, "skip")
    assert (told["step"], told["reason"], told["read"]["rows"]) == (41, "loss spike", [80, 81])
    assert {piece[1] for piece in told["read"]["pieces"]} == {"notes"}
    assert last_loss(out) == pytest.approx(last_loss(clean), abs=0.15)
    spoil(monkeypatch, {30}, math.nan)
    out = pretrain(corpus, tmp_path / "nan", settings(**ONLY_NOTES))
    assert counts(out)["skipped_steps"]["non-finite"] == 1 and "rollbacks" not in counts(out)
    assert last_loss(out) == pytest.approx(last_loss(clean), abs=0.15)


def test_a_poisoned_shard_is_gone_back_from_and_left_out(
    tmp_path: Path, corpus: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = pretrain(corpus, tmp_path / "m", settings(**POISONED, order_log=True))
    back = counts(out)["rollbacks"]
    assert back and all(r["to"] <= r["first"] < r["last"] for r in back)
    assert last_loss(out) == pytest.approx(last_loss(clean, left_out=7), abs=0.15)
    (first, *_) = told = logged(out, "rollback")
    assert len(told) == len(back) and {p[1] for p in first["read"]["pieces"]} >= {"poison"}
    left_out = {step for r in back for step in range(r["first"], r["last"] + 1)}
    assert logged(out, "train")[-1]["left_out"] == len(left_out)
    # What was read is what the order says, without the stretches that were left out.
    assert set(surviving(out)) == set(range(STEPS)) - left_out
    unguarded = settings(**POISONED, loss_sigma=None, spike_sigma=1e9)
    worst = [r["loss"] for r in logged(pretrain(corpus, tmp_path / "unguarded", unguarded), "train")]
    assert max(r["loss"] for r in logged(out, "train")[25:]) < max(worst[25:]) - 1

    # Stopped after the rollback and gone on with, it is the same run.
    step = Loop._step

    def stopping(loop: Loop) -> Step:
        if loop.done == back[0]["last"] + 3 and loop.rollback.done:
            signal.raise_signal(signal.SIGTERM)
        return step(loop)

    monkeypatch.setattr(Loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "again", settings(**POISONED))
    monkeypatch.setattr(Loop, "_step", step)
    assert_same_run(pretrain(corpus, tmp_path / "again", settings(**POISONED)), out)


def test_weights_that_were_broken_are_put_back(
    tmp_path: Path, corpus: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, taken = Optimizers.step, []

    def breaking(self: Optimizers) -> None:
        update(self)
        taken.append(1)
        if len(taken) == 30:  # once, as a bit that flips
            with torch.no_grad():
                self.parameters[0][0] = math.nan

    monkeypatch.setattr(Optimizers, "step", breaking)
    out = pretrain(corpus, tmp_path / "m", settings(**ONLY_NOTES))
    (back,) = counts(out)["rollbacks"]
    # The step before the first bad one broke them: the checkpoint is from before it, and it is left out too.
    assert back["bad"] == [30, 31, 32] and (back["first"], back["last"]) == (29, 32) and back["to"] <= 29
    assert all(t.isfinite().all() for t in load_file(out / "model.safetensors").values())
    assert last_loss(out) == pytest.approx(last_loss(clean, left_out=4), abs=0.15)


def test_after_so_many_rollbacks_one_line_says_what_to_do(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first three bad steps are 23 to 25 (22 goes with them), the next ones 26 to 28.
    spoil(monkeypatch, set(range(22, STEPS)), math.nan)
    with pytest.raises(InputError, match=r"spiked again at step 28, after 1 rollbacks.*steps 25 to 28") as caught:
        pretrain(corpus, tmp_path / "m", settings(**ONLY_NOTES, max_rollbacks=1))
    assert "\n" not in str(caught.value)


def test_the_guard_judges_losses_beside_norms() -> None:
    guard = StepGuard(sigma=10, loss_sigma=6)
    for number in range(SETTLE + 5):
        assert guard.judge(3 + 0.1 * (-1) ** number, 1.0) is None
    assert guard.judge(3.5, 1.0) is None
    assert guard.judge(4.5, 1.0) == "loss spike"
    assert guard.judge(3.0, 9.0) == "spike"
    assert guard.judge(math.inf, 1.0) == "non-finite"
    copy = StepGuard(sigma=10, loss_sigma=6)
    copy.load(json.loads(json.dumps(guard.state())))
    assert copy.state() == guard.state() and guard.skipped == {"loss spike": 1, "spike": 1, "non-finite": 1}


def test_only_repeated_bad_steps_call_for_a_rollback() -> None:
    rollback = Rollback(after=3, window=10, most=1)
    for step in range(40):
        rollback.note(step, step % 6 == 0)
        assert not rollback.due
    rollback.note(40, True)
    rollback.note(41, True)
    assert rollback.due and rollback.begin() == (35, 41)
    rollback.record(35, 41, to=30)
    assert not rollback.due and [s for s in range(50) if rollback.leaves_out(s)] == list(range(35, 42))
    copy = Rollback(3, 10, 1)
    copy.load(json.loads(json.dumps(rollback.state())))
    assert copy.done == rollback.done
    assert not Rollback(None, 10, 1).due


def test_a_line_of_the_order_log_that_was_torn_costs_no_other(tmp_path: Path) -> None:
    team = Processes()
    for resumed_at, steps in ((0, range(4)), (3, range(3, 6))):
        log = OrderLog(tmp_path, team, resumed_at)
        for step in steps:
            log.write(step, {"rows": [step, resumed_at]})
        log.close()
        with (tmp_path / "order" / "rank-00000.jsonl").open("a") as stream:
            stream.write('{"attempt": 0, "st')
    log = OrderLog(tmp_path, team, 6)
    log.went_back(5)
    log.write(7, "last")
    log.close()
    read = surviving(tmp_path)
    assert {step: parts[0]["rows"][1] for step, parts in read.items() if step < 7} == {0: 0, 1: 0, 2: 0, 3: 3, 4: 3}
    assert read[7] == ["last"]
