"""An overlap between corpus and benchmark is refused; allowed on purpose, its mark reaches the report."""

from pathlib import Path

import pytest
from test_corpus_build import SMALL, make_records
from training_world import SHAPE

from lang1.common.artefact import open_folder
from lang1.common.errors import ArtefactError
from lang1.corpus.build import build_corpus
from lang1.evaluation.predict_benchmark import evaluate_model
from lang1.evaluation.results import collect
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.training.finetune import finetune
from lang1.training.pretrain import pretrain
from lang1.training.settings import FinetuneSettings, PretrainSettings


def test_an_overlap_is_refused_unless_asked_for_and_the_report_then_says_so(tmp_path: Path) -> None:
    records, benchmark, corpus = tmp_path / "records", tmp_path / "benchmark", tmp_path / "corpus"
    make_records(records)
    build(records, benchmark, BuildSettings(tasks=("mortality",)))
    build_corpus([records], None, corpus, SMALL.model_copy(update={"allow_unguarded": True}))
    first = PretrainSettings(model=SHAPE, tokens=256, sequence_length=64, sequences_per_step=4, validation_tokens=0)
    second = FinetuneSettings(steps=1, notes_per_step=4, note_budget=32, validation_notes=8, max_notes=8)
    with pytest.raises(ArtefactError, match=r"holds out for evaluation.*allow_overlap=true"):
        pretrain(corpus, tmp_path / "model", first, benchmark=benchmark)
    allowed = {"allow_overlap": True}
    pretrain(corpus, tmp_path / "model", first.model_copy(update=allowed), benchmark=benchmark)
    # What was allowed once has to be said again by whoever goes on from the model.
    with pytest.raises(ArtefactError, match="holds out for evaluation"):
        finetune(tmp_path / "model", benchmark, tmp_path / "finetuned", second)
    finetune(tmp_path / "model", benchmark, tmp_path / "finetuned", second.model_copy(update=allowed))
    marks = open_folder(tmp_path / "finetuned", "model").manifest.extra["overlap"]
    assert [str(corpus) in marks[0], str(tmp_path / "model") in marks[1], len(marks)] == [True, True, 2]
    settings = EvaluateSettings(limit=20, fast=True)
    evaluate_model(tmp_path / "finetuned", benchmark, tmp_path / "predictions", settings, regime="finetuned")
    warnings = collect(benchmark, [tmp_path / "predictions"], settings)["warnings"]
    told = [w["text"] for w in warnings if w["level"] == "warn" and "allow_overlap" in w["text"]]
    assert len(told) == 2 and all("holds out for evaluation" in text for text in told)


def test_without_an_overlap_there_is_no_mark(tmp_path: Path) -> None:
    records, benchmark, corpus = tmp_path / "records", tmp_path / "benchmark", tmp_path / "corpus"
    make_records(records)
    build(records, benchmark, BuildSettings(tasks=("mortality",)))
    build_corpus([records], benchmark, corpus, SMALL)
    settings = PretrainSettings(model=SHAPE, tokens=256, sequence_length=64, sequences_per_step=4, validation_tokens=0)
    pretrain(corpus, tmp_path / "model", settings.model_copy(update={"allow_overlap": True}), benchmark=benchmark)
    assert "overlap" not in open_folder(tmp_path / "model", "model").manifest.extra
