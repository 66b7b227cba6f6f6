"""The report of one training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lang1.common.artefact import new_folder
from lang1.common.errors import ArtefactError
from lang1.reporting.run_report import curves, read_metrics, render_run

RECORDS: list[dict[str, Any]] = [
    {"kind": "train", "step": 10, "tokens": 1000, "loss": 6.0, "lr_factor": 1.0, "skipped": 0, "seconds": 1.0},
    {"kind": "val", "step": 10, "tokens": 1000, "loss/notes": 5.5, "auroc/readmission": 0.61, "score": 0.61},
    {"kind": "train", "step": 20, "tokens": 3000, "loss": 4.25, "lr_factor": 0.5, "skipped": 0, "seconds": 2.0},
    {"kind": "train", "step": 30, "tokens": 4000, "loss": None, "lr_factor": 0.1, "skipped": 1, "seconds": 1.5},
]


def _model(folder: Path, lines: str) -> Path:
    with new_folder(folder, "model", settings={"optimizer": {"lr": 0.001}}) as draft:
        (draft.path / "metrics.jsonl").write_text(lines, encoding="utf-8")
        draft.counts = {"steps": 30, "skipped_steps": {"spike": 1}}
        draft.extra = {
            "stage": "finetuned",
            "name": "nano <1>",
            "parameters": 4_212_480,
            "tokens_seen": 9000,
            "tasks": ["readmission"],
            "validation_score": 0.61,
            "cost": {"tokens": 4000, "seconds": 2.0, "device": "cpu"},
        }
    return folder


def test_a_run_becomes_a_page(tmp_path: Path) -> None:
    model = _model(tmp_path / "model", "".join(json.dumps(r) + "\n" for r in RECORDS))
    text = render_run(model, tmp_path / "run.html").read_text(encoding="utf-8")
    assert "Finetuning of nano &lt;1&gt;" in text and "nano <1>" not in text
    assert "the training loss went from 6.00 to 4.25" in text
    for wanted in ("Validation AUROC", "Validation loss", "Tokens a second", "4,212,480", "optimizer.lr", "0.610"):
        assert wanted in text
    assert "http" not in text.replace("http-equiv", "")


def test_every_measure_becomes_a_curve_and_the_rate_skips_a_clock_set_back() -> None:
    found = {c.metric: c for c in curves(RECORDS, "nano", "Finetuning")}
    assert found["loss"].x == [1000, 3000] and found["loss"].y == [6.0, 4.25]
    assert found["val_loss/notes"].y == [5.5]
    assert found["val_auroc/readmission"].y == [0.61]
    assert found["tokens_per_second"].x == [3000] and found["tokens_per_second"].y == [2000.0]
    assert list(found)[:3] == ["loss", "val_loss/notes", "val_auroc/readmission"]
    assert {c.unit for c in found.values()} == {"tokens"}


def test_steps_are_the_axis_where_no_tokens_are_given() -> None:
    found = curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "r", "s")
    assert found[0].unit == "steps" and found[0].x == [1, 2]


def test_a_last_line_cut_short_is_left_out_and_a_broken_one_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert read_metrics(file) == [{"step": 1, "loss": 2.0}]
    file.write_text('{"step": 1}\n{"st\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"metrics\.jsonl line 2: not JSON"):
        read_metrics(file)
    file.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(ArtefactError, match="line 1: expected an object"):
        read_metrics(file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ArtefactError, match="holds no records"):
        read_metrics(file)
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_metrics(tmp_path / "none.jsonl")


def test_another_kind_of_folder_is_refused(tmp_path: Path) -> None:
    with new_folder(tmp_path / "corpus", "corpus"):
        pass
    with pytest.raises(ArtefactError, match="expected a model folder"):
        render_run(tmp_path / "corpus", tmp_path / "run.html")
