"""Pretraining that goes on from a model: ours, or a plain Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_world import SHAPE, write_corpus

from lang1.common.artefact import open_folder
from lang1.common.errors import ArtefactError, SettingsError
from lang1.common.identity import patient_hash, read_patient_hashes
from lang1.corpus.reader import Corpus
from lang1.model.store import export_model
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.pretrain import pretrain
from lang1.training.settings import OptimizerSettings, PretrainSettings
from lang1.training.start import open_start

SETTINGS = PretrainSettings(
    model=SHAPE,
    tokens=6 * 4 * 64,
    sequence_length=64,
    sequences_per_step=4,
    validation_tokens=256,
    optimizer=OptimizerSettings(lr=3e-3),
    log_every=1,
    threads=1,
    device="cpu",
    precision="fp32",
)
ON = PretrainSettings.model_validate(SETTINGS.model_dump(exclude={"model"}))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return pretrain(corpus, tmp_path_factory.mktemp("first") / "m", SETTINGS)


def test_training_goes_on_where_the_start_model_stands(tmp_path: Path, corpus: Path, first: Path) -> None:
    plain = export_model(first, tmp_path / "plain")
    out = pretrain(corpus, tmp_path / "m", ON, start=plain)
    again = pretrain(corpus, tmp_path / "again", ON, start=first)
    assert all(
        torch.equal(a, load_file(again / "model.safetensors")[n])
        for n, a in load_file(out / "model.safetensors").items()
    )

    def losses(folder: Path) -> list[float]:
        return [r["loss"] for r in map(json.loads, (folder / "metrics.jsonl").open()) if r["kind"] == "train"]

    assert losses(out)[0] < losses(first)[0] - 0.2  # the first batch is the same: it has been learnt from
    extra = open_folder(again, "model").manifest
    assert extra.extra["tokens_seen"] == 2 * open_folder(first, "model").manifest.extra["tokens_seen"]
    assert extra.inputs["start"].fingerprint == open_folder(first, "model").fingerprint
    assert set(read_patient_hashes(again)) == {patient_hash("p1"), patient_hash("p2")}


def test_what_does_not_fit_the_start_model_is_refused_in_one_line(tmp_path: Path, corpus: Path, first: Path) -> None:
    with pytest.raises(SettingsError, match="model: leave it out"):
        pretrain(corpus, tmp_path / "m", SETTINGS, start=first)
    with pytest.raises(SettingsError, match="exceeds the model's context"):
        pretrain(corpus, tmp_path / "m", ON.model_copy(update={"sequence_length": 256}), start=first)
    other = export_model(first, tmp_path / "other")
    size = Corpus.open(corpus).tokenizer.vocab_size
    train_tokenizer(["quite another text " * 20], size, required=["\nAnswer: A B C"]).save(other)
    with pytest.raises(SettingsError, match=f"make the corpus again with tokenizer={other}") as caught:
        pretrain(corpus, tmp_path / "m", ON, start=other)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtefactError, match="expected a model folder"):
        open_start(tmp_path / "nothing")
    with pytest.raises(ArtefactError, match="is a corpus folder; expected a model folder"):
        open_start(corpus)
