"""The learning-rate search: the same trials with and without Optuna, killed and resumed, and what pruning saves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from training_world import SHAPE, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
from lang1.common.artefact import open_folder
from lang1.common.errors import SettingsError
from lang1.training.answers import Answers
from lang1.training.finetune import finetune
from lang1.training.pretrain import pretrain
from lang1.training.search import JOURNAL, drawn_rates
from lang1.training.settings import FinetuneSettings, PretrainSettings, SearchSettings

SEARCH = SearchSettings(trials=5, steps=2, low=1e-6, high=1e-3, optuna=False)
RUN = FinetuneSettings(
    steps=4, notes_per_step=4, note_budget=32, min_cases=1, threads=1, device="cpu", precision="fp32", lr_search=SEARCH
)


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    settings = PretrainSettings(
        model=SHAPE, tokens=512, sequence_length=64, sequences_per_step=4, threads=1, device="cpu", precision="fp32"
    )
    return pretrain(write_corpus(folder / "corpus"), folder / "pretrained", settings)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("b") / "benchmark")


def searched(**changes: Any) -> FinetuneSettings:
    return RUN.model_copy(update={"lr_search": SEARCH.model_copy(update=changes)})


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "lr_search.json").read_text())
    return found


def stop_in_trial(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process dies in the second step of that trial, once."""
    losses, begun = Answers.losses, [0]

    def dying(self: Answers, step: int) -> Any:
        begun[0] += step == 0
        if begun[0] == number + 1 and step == 1:
            monkeypatch.setattr(Answers, "losses", losses)
            raise RuntimeError("killed")
        return losses(self, step)

    monkeypatch.setattr(Answers, "losses", dying)


def test_random_trials_are_the_same_with_and_without_optuna_and_after_a_kill(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna")
    alone = finetune(pretrained, benchmark, tmp_path / "alone", RUN)
    assert [t["lr"] for t in trials(alone)] == drawn_rates(RUN)
    assert not (alone / JOURNAL).exists()
    stop_in_trial(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="killed"):
        finetune(pretrained, benchmark, tmp_path / "m", searched(optuna=True))
    assert len(json.loads((tmp_path / ".m.partial" / "lr_search.json").read_text())) == 2
    out = finetune(pretrained, benchmark, tmp_path / "m", searched(optuna=True))
    assert trials(out) == trials(alone)
    assert open_folder(out, "model").manifest.extra["lr"] == open_folder(alone, "model").manifest.extra["lr"]
    # The journal is JSON lines that Optuna reads, the trial that was killed among them.
    assert all(isinstance(json.loads(line), dict) for line in (out / JOURNAL).read_text().splitlines())
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / JOURNAL)))
    study = optuna.load_study(study_name="learning rate", storage=storage)
    states = [t.state.name for t in study.trials]
    assert states.count("COMPLETE") == 5 and states.count("FAIL") == 1
    assert study.best_value == max(t["score"] for t in trials(out))
    # Logs are not part of what a run made: the same run with a journal is the same model.
    again = finetune(pretrained, benchmark, tmp_path / "again", searched(optuna=True))
    assert open_folder(again, "model").fingerprint == open_folder(out, "model").fingerprint


def test_tpe_goes_on_after_a_kill_as_if_there_had_been_none(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    settings = searched(sampler="tpe", trials=6)
    whole = finetune(pretrained, benchmark, tmp_path / "whole", settings)
    assert len({t["lr"] for t in trials(whole)}) == 6
    assert all(1e-6 <= t["lr"] <= 1e-3 for t in trials(whole))
    assert [t["lr"] for t in trials(whole)] != drawn_rates(settings)
    for number in (1, 4):
        stop_in_trial(monkeypatch, number if number == 1 else number - 1)
        with pytest.raises(RuntimeError, match="killed"):
            finetune(pretrained, benchmark, tmp_path / "m", settings)
    (tmp_path / ".m.partial" / JOURNAL).unlink()  # the journal can be made again from what counts
    assert trials(finetune(pretrained, benchmark, tmp_path / "m", settings)) == trials(whole)


def test_a_trial_that_lags_is_ended_early_and_not_chosen(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scores as measured: early and late of trials 0 to 3; trial 2 lags behind the median and gets no late one.
    scores = iter([0.6, 0.6, 0.7, 0.7, 0.5, 0.8, 0.9, *[0.5] * 5])
    monkeypatch.setattr(Answers, "measure", lambda self: ({"score": (s := next(scores)), "loss": 1 - s}, {}))
    settings = searched(trials=4, steps=3, prune_at=1)
    out = finetune(pretrained, benchmark, tmp_path / "m", settings)
    found = trials(out)
    assert [t.get("pruned", False) for t in found] == [False, False, True, False]
    assert [t["score"] for t in found] == [0.6, 0.7, 0.5, 0.9]
    assert open_folder(out, "model").manifest.extra["lr"] == found[3]["lr"]


def test_a_sampler_that_needs_optuna_says_so_where_it_is_missing(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"pip install 'lang1\[search\]'") as caught:
        finetune(pretrained, benchmark, tmp_path / "m", searched(sampler="tpe"))
    assert "\n" not in str(caught.value)
    out = finetune(pretrained, benchmark, tmp_path / "n", searched(optuna=None, trials=1))
    assert len(trials(out)) == 1
