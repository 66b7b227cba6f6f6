"""The report of one training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lang1.common.artefact import new_folder
from lang1.common.errors import ArtefactError
from lang1.reporting.run_panels import panels, series, thinned
from lang1.reporting.run_report import is_run, read_metrics, render_run

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
    for wanted in (
        "AUROC on validation notes",
        "held out, notes",
        "Tokens a second",
        "4,212,480",
        "optimizer.lr",
        "0.610",
    ):
        assert wanted in text
    assert "http" not in text.replace("http-equiv", "")


def test_every_measure_becomes_a_curve_and_the_rate_skips_a_clock_set_back() -> None:
    found = series(RECORDS, "tokens")
    assert found["train", "loss", ""] == [(1000, 6.0), (3000, 4.25)]
    assert found["val", "loss", "notes"] == [(1000, 5.5)]
    assert found["val", "auroc", "readmission"] == [(1000, 0.61)]
    assert found["train", "tokens_per_second", ""] == [(3000, 2000.0)]
    titles = [panel["title"] for panel in panels(RECORDS, "tokens", [])]
    assert titles == ["Loss", "AUROC on validation notes", "Tokens a second", "Validation: score"]


def test_a_rate_that_the_log_tells_is_taken_as_it_is() -> None:
    told = [{**r, "tokens_per_second": 7.0} for r in RECORDS if r["kind"] == "train"]
    assert series(told, "step")["train", "tokens_per_second", ""] == [(10, 7.0), (20, 7.0), (30, 7.0)]


def test_long_curves_are_thinned_to_means_that_end_where_they_end() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    found = thinned(points)
    assert len(found) <= 401 and found[-1] == points[-1]
    assert all(y == pytest.approx(0.5, abs=0.05) for _, y in found[:-1])
    assert thinned(points[:400]) == points[:400]


def test_values_far_above_all_others_leave_the_frame_and_are_counted() -> None:
    records = [{"kind": "train", "step": i, "grad_norm": 1000.0 if i == 50 else 1.0} for i in range(1, 101)]
    panel = next(p for p in panels(records, "steps", []) if "Gradient" in p["title"])
    assert "1 of 100 values lie above the frame" in panel["note"]
    few = panels(records[49:52], "steps", [])
    assert "above the frame" not in few[0]["note"]


START = {
    "kind": "start",
    "step": 0,
    "tokens": 0,
    "seconds": 0.0,
    "run": "pretrain",
    "model": "nano",
    "parameters": 7,
    "steps": 40,
    "device": "NVIDIA H100 80GB HBM3",
    "processes": 4,
    "settings": {"seed": 3407},
    "watch": {"tensorboard": None},
}
EVENTS: list[dict[str, Any]] = [
    START,
    {"kind": "train", "step": 10, "tokens": 1000, "loss": 5.0, "seconds": 100.0, "mfu": 0.4, "share/notes": 0.25},
    {"kind": "skip", "step": 12, "tokens": 1200, "reason": "spike", "loss": 9.0, "grad_norm": 70.0},
    {"kind": "tracker", "step": 12, "tokens": 1200, "failed": "MLflow", "error": "OSError: <gone>"},
    {"kind": "rollback", "step": 10, "tokens": 1000, "first": 11, "last": 13},
    {"kind": "eval", "step": 20, "tokens": 2000, "auroc/readmission": 0.625},
    {**START, "step": 20, "tokens": 2000, "seconds": 200.0, "started": "2026-01-01T00:00:00+00:00"},
    {
        "kind": "train",
        "step": 30,
        "tokens": 3000,
        "loss": 4.0,
        "seconds": 240.0,
        "mfu": 0.5,
        "skipped": 1,
        "share/notes": 0.25,
    },
]


def test_an_unfinished_run_is_drawn_from_its_log_alone(tmp_path: Path) -> None:
    partial = tmp_path / ".model.partial"
    partial.mkdir()
    (partial / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in EVENTS) + '{"kind": "tr')
    (partial / "samples.jsonl").write_text(
        "".join(
            json.dumps({"step": s, "prompt": "Pt <b>", "text": f"text {s}", "ended": s > 3}) + "\n" for s in range(9)
        )
    )
    texts = []
    for place in (tmp_path / "model", partial, partial / "metrics.jsonl"):
        assert is_run(place)
        texts.append(render_run(place, tmp_path / "run.html").read_text(encoding="utf-8"))
    assert texts[0] == texts[1] == texts[2]
    text = texts[0]
    # 10 steps in the 40 seconds since it was taken up again: 10 more steps take 40 seconds.
    assert "Unfinished: pretraining of nano is at step 30 of 40, about 40\u202fs left at its pace" in text
    for wanted in (
        "4 × NVIDIA H100",
        "45\u202f%",
        "Device-hours",
        "skipped: spike",
        "MLflow failed",
        "OSError: &lt;gone&gt;",
        "steps 12 to 14 are left out",
        "taken up again",
        'class="event rollback"',
        "Model FLOP/s utilisation",
        "“Pt &lt;b&gt;”",
        "text 0 …",
        "text 8<",
        "seed",
        "notes 25",
    ):
        assert wanted in text, wanted
    assert "text 1 …" not in text  # only some moments
    assert not is_run(tmp_path / "nothing")


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
