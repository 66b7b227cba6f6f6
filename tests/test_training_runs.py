"""Whole runs of pretraining and finetuning: determinism, exact resume, equal micro-batches, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_corpus_order import make_corpus
from training_world import OPTIONS, SHAPE, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
import lang1.training.pretrain as pretraining
from lang1.common.artefact import open_folder, partial_path
from lang1.common.errors import ArtefactError, SettingsError
from lang1.common.identity import patient_hash, read_patient_hashes, write_patient_hashes
from lang1.model.store import load_model
from lang1.training.checkpoint import open_checkpoint
from lang1.training.finetune import finetune
from lang1.training.loop import METRICS, Loop, Step
from lang1.training.order_log import surviving
from lang1.training.pretrain import Pretraining, pretrain
from lang1.training.settings import (
    FinetuneSettings,
    OptimizerSettings,
    PretrainSettings,
    RunSettings,
    SearchSettings,
)
from lang1.training.watch import TIMED

PRETRAIN = PretrainSettings(
    model=SHAPE,
    tokens=12 * 4 * 64,
    sequence_length=64,
    sequences_per_step=4,
    validate_every=5,
    validation_tokens=256,
    checkpoint_every=3,
    log_every=2,
    threads=1,
    device="cpu",
    precision="fp32",
)
FINETUNE = FinetuneSettings(
    steps=12,
    notes_per_step=8,
    note_budget=32,
    note_loss=0.2,
    validate_every=4,
    checkpoint_every=3,
    log_every=2,
    min_cases=1,
    oversample=1.5,
    rare_below=0.4,
    lr_search=SearchSettings(trials=2, steps=2),
    threads=1,
    device="cpu",
    precision="fp32",
)


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)
    monkeypatch.setattr(pretraining, "Benchmark", World)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("benchmark") / "benchmark")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return pretrain(corpus, tmp_path_factory.mktemp("pretrained") / "m", PRETRAIN)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def records(folder: Path) -> list[dict[str, Any]]:
    """The log without what tells how a run went and not what it made."""
    found = [json.loads(line) for line in (folder / METRICS).open()]
    return [{k: v for k, v in r.items() if k not in TIMED} for r in found if r["kind"] != "start"]


def assert_same_run(one: Path, other: Path) -> None:
    assert open_folder(one, "model").fingerprint == open_folder(other, "model").fingerprint
    a, b = (records(folder) for folder in (one, other))
    assert a == b


class Stopper:
    """Makes a run stop as by Ctrl-C after given steps, or die as by kill -9 in the middle of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, at: list[int], kill: bool) -> None:
        self.at, self.count = list(at), 0
        step = Loop._step

        def stopping(loop: Loop) -> Step:
            if self.at and loop.done >= self.at[0]:
                self.at.pop(0)
                if kill:
                    raise RuntimeError("killed")
                import signal

                result = step(loop)
                signal.raise_signal(signal.SIGTERM)
                return result
            return step(loop)

        monkeypatch.setattr(Loop, "_step", stopping)


@pytest.mark.parametrize("kill", [False, True])
def test_pretraining_stopped_twice_equals_uninterrupted(
    tmp_path: Path, corpus: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    Stopper(monkeypatch, "pretrain", [4, 8], kill)
    for _ in range(2):
        with pytest.raises(RuntimeError if kill else KeyboardInterrupt):
            pretrain(corpus, tmp_path / "m", PRETRAIN)
        assert not (tmp_path / "m").exists()
    assert_same_run(pretrain(corpus, tmp_path / "m", PRETRAIN), pretrained)
    assert not (tmp_path / "m" / "checkpoints").exists()


def test_a_changing_mixture_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = {"notes": [list(range(i, i + 40)) for i in range(20)], "general": [list(range(150, 240))] * 20}
    corpus = make_corpus(tmp_path / "c", documents).folder.path
    points = [{"at": 0, "weights": {"notes": 1, "general": 3}}, {"at": 1, "weights": {"notes": 3, "general": 1}}]
    asked = {"mixture": points, "epochs_cap": {"general": 0.5}, "tokens_per_pass": 64}
    settings = PretrainSettings.model_validate(PRETRAIN.model_dump() | asked)
    whole = pretrain(corpus, tmp_path / "whole", settings)
    Stopper(monkeypatch, "pretrain", [4, 8], False)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain(corpus, tmp_path / "m", settings)
    assert_same_run(pretrain(corpus, tmp_path / "m", settings), whole)
    mixture = open_folder(whole, "model").manifest.extra["mixture"]
    limit = 20 * 91 // 2 // 64
    assert {name: source["rows"] for name, source in mixture.items()} == {"notes": 48 - limit, "general": limit}
    assert mixture["general"]["asked"] == pytest.approx(0.5)


@pytest.mark.parametrize("kill", [False, True])
def test_finetuning_stopped_twice_equals_uninterrupted(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    whole = finetune(pretrained, benchmark, tmp_path / "whole", FINETUNE)
    Stopper(monkeypatch, "finetune", [4, 9], kill)
    for _ in range(2):
        with pytest.raises(RuntimeError if kill else KeyboardInterrupt):
            finetune(pretrained, benchmark, tmp_path / "m", FINETUNE)
    assert_same_run(finetune(pretrained, benchmark, tmp_path / "m", FINETUNE), whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_two_runs_are_bit_identical_and_learn(tmp_path: Path, corpus: Path, precision: str, kind: str) -> None:
    settings = PRETRAIN.model_copy(
        update={"precision": precision, "optimizer": OptimizerSettings(kind=kind, lr=0.01)}  # type: ignore[arg-type]
    )
    one, two = (pretrain(corpus, tmp_path / n, settings) for n in ("one", "two"))
    assert_same_run(one, two)
    losses = [r["loss"] for r in map(json.loads, (one / METRICS).open()) if r["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5


def test_eight_passes_of_one_row_equal_one_pass_of_eight(corpus: Path) -> None:
    """Rows hold unequal numbers of targets; normalising by the whole step makes the cut irrelevant."""
    from lang1.corpus.order import BatchOrder
    from lang1.corpus.reader import Corpus
    from lang1.model.llama import Llama

    opened = Corpus.open(corpus)
    grads = []
    for tokens_per_pass in (64, 8 * 64):
        settings = PRETRAIN.model_copy(update={"tokens_per_pass": tokens_per_pass, "sequences_per_step": 8})
        model = Llama(SHAPE.model_copy(update={"vocab_size": opened.tokenizer.vocab_size}))
        model.initialise(0)
        work = Pretraining(model, opened, BatchOrder(opened, None, 64, 8, 0), settings)
        parts = list(work.losses(0))
        assert len(parts) == (8 if tokens_per_pass == 64 else 1)
        for loss, _ in parts:
            loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-6, rtol=1e-4)


def test_finetuning_passes_do_not_change_the_gradient(pretrained: Path, benchmark: Path) -> None:
    from lang1.text.shared_note import encode_groups
    from lang1.training.answers import Answers

    world = World.open(benchmark)
    grads = []
    for tokens_per_pass in (64, 100_000):
        loaded = load_model(pretrained, device="cpu")
        settings = FINETUNE.model_copy(update={"tokens_per_pass": tokens_per_pass})
        train, val = (
            encode_groups(world.note_groups(s, list(OPTIONS)), loaded.tokenizer, world.questions(), 32)
            for s in ("train", "val")
        )
        work = Answers(loaded.model, loaded.tokenizer, train, val, {"mortality": 2, "length_of_stay": 3}, settings)
        parts = list(work.losses(0))
        assert (len(parts) > 3) == (tokens_per_pass == 64)
        for loss, _ in parts:
            loss.backward()
        grads.append({n: p.grad for n, p in loaded.model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["vocabulary", "letters"])
def test_finetuning_learns_what_a_word_shows(tmp_path: Path, pretrained: Path, benchmark: Path, loss: str) -> None:
    settings = FINETUNE.model_copy(
        update={
            "steps": 60,
            "loss": loss,
            "note_loss": 0.0,
            "validate_every": 30,
            "lr_search": SearchSettings(),
            "optimizer": OptimizerSettings(lr=6e-3),
        }
    )
    out = finetune(pretrained, benchmark, tmp_path / "m", settings)
    manifest = open_folder(out, "model").manifest
    assert manifest.extra["validation_score"] > 0.8
    assert manifest.extra["stage"] == "finetuned" and manifest.extra["tasks"] == list(OPTIONS)
    assert manifest.counts["examples"] == {"mortality": 60, "length_of_stay": 60}
    before = open_folder(pretrained, "model").manifest.extra["tokens_seen"]
    assert manifest.extra["tokens_seen"] == before + manifest.counts["tokens"]
    assert sorted(read_patient_hashes(out)) == sorted(patient_hash(p) for p in ("p1", "p2", "p3"))


def test_the_best_validation_is_kept_and_patience_ends_the_run(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lang1.training.answers import Answers

    scores: Iterator[float] = iter([0.6, 0.7, 0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(Answers, "validate", lambda self, step: {"score": next(scores), "loss": 1.0})
    settings = FINETUNE.model_copy(update={"validate_every": 2, "patience": 2, "lr_search": SearchSettings()})
    out = finetune(pretrained, benchmark, tmp_path / "m", settings)
    counts = open_folder(out, "model").manifest.counts
    assert counts["best_step"] == 4 and counts["steps"] == 8
    longer = settings.model_copy(update={"patience": None, "keep_checkpoints": True, "checkpoint_every": 4})
    scores = iter([0.6, 0.7, 0.5, 0.4, 0.3, 0.2])
    again = finetune(pretrained, benchmark, tmp_path / "again", longer)
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, weights(out)[name])
    last = open_checkpoint(again / "checkpoints" / "step-00000012").tensors
    assert not all(torch.equal(tensor, last.rows(f"model/{name}")) for name, tensor in weights(again).items())


def test_a_nan_loss_is_skipped_counted_and_survived(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Pretraining.losses

    def poisoned(self: Pretraining, step: int) -> Iterator[tuple[torch.Tensor, int]]:
        for loss, tokens in losses(self, step):
            yield (loss * float("nan") if step == 5 else loss), tokens

    monkeypatch.setattr(Pretraining, "losses", poisoned)
    out = pretrain(corpus, tmp_path / "m", PRETRAIN)
    assert open_folder(out, "model").manifest.counts["skipped_steps"] == {"non-finite": 1}
    assert all(torch.isfinite(t).all() for t in weights(out).values())
    assert [json.loads(x)["skipped"] for x in (out / METRICS).open() if "skipped" in x][-1] == 1


def test_a_bad_step_of_finetuning_names_the_notes_that_it_read(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lang1.training.answers import Answers

    losses = Answers.losses

    def poisoned(self: Answers, step: int) -> Iterator[tuple[torch.Tensor, int]]:
        for loss, tokens in losses(self, step):
            yield (loss * float("nan") if step == 5 else loss), tokens

    monkeypatch.setattr(Answers, "losses", poisoned)
    settings = FINETUNE.model_copy(update={"lr_search": SearchSettings(), "order_log": True})
    out = finetune(pretrained, benchmark, tmp_path / "m", settings)
    assert open_folder(out, "model").manifest.counts["skipped_steps"] == {"non-finite": 1}
    (skip,) = [r for r in map(json.loads, (out / METRICS).open()) if r["kind"] == "skip"]
    assert skip["step"] == 6 and skip["read"]["notes"] == sorted(set(surviving(out)[5][0]["notes"]))


def stop_early(monkeypatch: pytest.MonkeyPatch, step: int = 4) -> None:
    Stopper(monkeypatch, "any", [step], kill=False)


def test_other_settings_on_resume_are_refused_in_one_line(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_early(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", PRETRAIN)
    changed = PRETRAIN.model_copy(update={"seed": 1})
    with pytest.raises(SettingsError, match=r"settings\.seed was 3407, now 1") as caught:
        pretrain(corpus, tmp_path / "m", changed)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_an_error_not_a_crash(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_early(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", PRETRAIN)
    folders = sorted((partial_path(tmp_path / "m") / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-00000000", "step-00000002"]
    for folder in folders:
        (folder / "rank-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match="damaged"):
        pretrain(corpus, tmp_path / "m", PRETRAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["readmission"]}, "'readmission' is not in"),
        ({"tasks": []}, "empty list"),
        ({"note_budget": 128}, "exceeds the model's context of 128; set at most"),
    ],
)
def test_unfit_finetuning_settings_are_named(
    tmp_path: Path, pretrained: Path, benchmark: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        finetune(pretrained, benchmark, tmp_path / "m", FINETUNE.model_copy(update=changes))


def test_unfit_pretraining_settings_are_named(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(SettingsError, match="sequence_length 256 exceeds"):
        pretrain(corpus, tmp_path / "m", PRETRAIN.model_copy(update={"sequence_length": 256}))
    with pytest.raises(SettingsError, match=r"vocab_size is 7"):
        shape = SHAPE.model_copy(update={"vocab_size": 7})
        pretrain(corpus, tmp_path / "m", PRETRAIN.model_copy(update={"model": shape}))
    with pytest.raises(SettingsError, match="unknown model 'lang1-2b'"):
        pretrain(corpus, tmp_path / "m", PRETRAIN.model_copy(update={"model": "lang1-2b"}))


def test_a_model_that_saw_held_out_patients_is_not_finetuned(
    tmp_path: Path, pretrained: Path, benchmark: Path, corpus: Path
) -> None:
    from lang1.common.artefact import new_folder

    with new_folder(tmp_path / "b", "benchmark") as draft:
        write_patient_hashes(draft.path, ["p2", "other"])
    with pytest.raises(ArtefactError, match="1 patients"):
        finetune(pretrained, tmp_path / "b", tmp_path / "m", FINETUNE)
    with pytest.raises(ArtefactError, match="1 patients"):
        pretrain(corpus, tmp_path / "m", PRETRAIN, benchmark=tmp_path / "b")


def test_search_tries_drawn_rates_from_the_same_start_and_picks_the_best(
    tmp_path: Path, pretrained: Path, benchmark: Path
) -> None:
    from lang1.training.search import drawn_rates

    settings = FINETUNE.model_copy(update={"lr_search": SearchSettings(trials=3, steps=2, low=1e-5, high=1e-2)})
    rates = drawn_rates(settings)
    assert len(set(rates)) == 3 and all(1e-5 <= r <= 1e-2 for r in rates)
    out = finetune(pretrained, benchmark, tmp_path / "m", settings)
    tried = json.loads((out / "lr_search.json").read_text())
    assert [t["lr"] for t in tried] == rates
    best = max(tried, key=lambda t: (t["score"], -t["loss"]))
    assert open_folder(out, "model").manifest.extra["lr"] == best["lr"]


def test_settings_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="must not be below low"):
        SearchSettings(low=1.0, high=0.1)
    assert RunSettings().seed == 3407
    assert np.isclose(PretrainSettings().optimizer.betas[1], 0.95)
