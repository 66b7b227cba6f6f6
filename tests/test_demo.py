"""The main job through the real command line: whole, killed and restarted, and without the truth."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lang1.common.artefact import open_folder
from lang1.study.recipes import recipe_path

SCORED = ("zero-shot", "joint", "oracle", "prevalence", "note-length", "metadata", "tfidf", "report")
# The smoke variant, smaller still: the path is the same, every step runs.
TINY = [
    "hospital.patients=300",
    *(f"{s}.limit=80" for s in SCORED),
    "corpus.vocab_size=640",
    "corpus.tokenizer_sample_bytes=200000",
    "corpus.general={}",
    "corpus.weights={notes: 1.0}",
    "pretrained.tokens=40000",
    "pretrained.checkpoint_every=2",
    "finetuned.epochs=0.3",
    "finetuned.checkpoint_every=2",
    "finetuned.validation_notes=60",
]
COMMAND = [sys.executable, "-m", "lang1.cli.main"]
MADE_BY_TRAINING = ("benchmark", "corpus", "pretrained", "finetuned", "zero-shot", "joint", "tfidf")


def lang1(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, result.stderr
    return result


def rows(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "report" / "results.json").read_text())["rows"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted tiny demo."""
    out = tmp_path_factory.mktemp("whole") / "demo"
    result = lang1("demo", "--smoke", "--out", str(out), *TINY)
    assert "report.html" in result.stderr
    assert "Readmission" in result.stdout or "readmission" in result.stdout
    return out


def test_the_report_holds_every_task_and_model(whole: Path) -> None:
    found = {(r["task"], r["model"], r["regime"]) for r in rows(whole) if r["metric"] == "auroc" and not r["versus"]}
    tasks = {"readmission", "mortality", "length_of_stay", "comorbidity", "insurance_denial"}
    models = {(m, r) for _, m, r in found}
    assert {t for t, _, _ in found} == tasks
    assert {r for _, r in models} >= {"zero-shot", "joint", "baseline", "oracle"}
    html = (whole / "report" / "report.html").read_text()
    assert "simulated" in html and 'src="http' not in html


def test_a_second_run_does_nothing_again(whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file() and ".state" not in p.parts}
    result = lang1("demo", "--smoke", "--out", str(whole), *TINY)
    assert result.stderr.count("done before") == len(yaml.safe_load(recipe_path("demo.yaml").read_text())["steps"])
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file() and ".state" not in p.parts}


def has(pattern: str) -> Callable[[Path], bool]:
    return lambda out: any(out.glob(pattern))


@pytest.mark.parametrize(
    ("stage", "reached", "how"),
    [
        ("corpus", has(".corpus.partial/*"), signal.SIGKILL),
        ("pretrain", has(".pretrained.partial/checkpoints/*"), signal.SIGKILL),
        ("finetune", has(".finetuned.partial/checkpoints/*"), signal.SIGINT),
        ("evaluate", has("zero-shot/manifest.json"), signal.SIGKILL),
    ],
)
def test_killed_and_restarted_ends_with_the_same_table(
    whole: Path, tmp_path: Path, stage: str, reached: Callable[[Path], bool], how: signal.Signals
) -> None:
    out = tmp_path / "demo"
    # What lies before the stage is taken from the whole run: it is finished there and would be made again alike.
    before = {"corpus": 2, "pretrain": 3, "finetune": 4, "evaluate": 5}[stage]
    names = ["hospital", "benchmark", "corpus", "pretrained", "finetuned"][:before]
    (out / ".state").mkdir(parents=True)
    for name in names:
        shutil.copytree(whole / name, out / name)
        shutil.copy(whole / ".state" / f"{name}.json", out / ".state" / f"{name}.json")
    process = subprocess.Popen(
        [*COMMAND, "demo", "--smoke", "--out", str(out), *TINY],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not reached(out) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, how)
    process.communicate()
    assert process.returncode != 0, f"finished before it could be killed at {stage}"
    assert not (out / "report").exists()
    again = lang1("demo", "--smoke", "--out", str(out), *TINY)
    assert again.stderr.count("done before") >= len(names)
    assert rows(out) == rows(whole)


def test_without_the_truth_everything_made_is_the_same(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "hospital" / "riverside", tmp_path / "hospital" / "riverside")
    recipe = yaml.safe_load(recipe_path("demo.yaml").read_text())
    steps = {k: v for k, v in recipe["steps"].items() if k in MADE_BY_TRAINING}
    records = str(tmp_path / "hospital" / "riverside")
    steps["benchmark"]["from"] = {"records": records}
    steps["corpus"]["from"]["records"] = [records]
    variants = {"smoke": [o for o in recipe["variants"]["smoke"] if not o.startswith("hospital")]}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"steps": steps, "variants": variants}))
    overrides = [o for o in TINY if o.partition(".")[0] in steps and not o.startswith("hospital")]
    lang1("study", str(file), str(tmp_path / "out"), "--variant", "smoke", *overrides)
    kinds = ("benchmark", "corpus", "model", "predictions")
    for name in MADE_BY_TRAINING:
        there, here = open_folder(whole / name, kinds), open_folder(tmp_path / "out" / name, kinds)
        assert there.fingerprint == here.fingerprint, name


def test_predict_report_and_export_from_the_demo(whole: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("note_id,text\nn1,HISTORY AND PHYSICAL 70 year old man with chest pain.\nn2,short note here\n")
    lang1("predict", str(whole / "finetuned"), str(notes), str(tmp_path / "p.csv"), "--task", "mortality")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert len(lines) >= 3 and "mortality" in "".join(lines)
    lang1("report", str(whole / "report"), str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_bytes() == (whole / "report" / "report.html").read_bytes()
    lang1("report", str(whole / "pretrained"), str(tmp_path / "run.html"))
    assert "loss" in (tmp_path / "run.html").read_text()
    lang1("export", str(whole / "finetuned"), str(tmp_path / "hf"))
    assert (tmp_path / "hf" / "config.json").exists() and (tmp_path / "hf" / "README.md").exists()


def test_evaluate_compares_models_baselines_and_predictions(whole: Path, tmp_path: Path) -> None:
    lang1(
        "evaluate",
        str(whole / "finetuned"),
        str(whole / "benchmark"),
        str(tmp_path / "e"),
        "--zero-shot",
        str(whole / "pretrained"),
        "--baseline",
        "prevalence",
        "--predictions",
        str(whole / "hospital" / "truth" / "riverside"),
        "tasks=[mortality]",
    )
    found = {(r["task"], r["regime"]) for r in rows(tmp_path / "e") if r["metric"] == "auroc" and not r["versus"]}
    assert found == {("mortality", r) for r in ("joint", "zero-shot", "baseline", "oracle")}
