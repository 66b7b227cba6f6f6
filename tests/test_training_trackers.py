"""Trackers beside the log: really written and read back where their package is there."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from lang1.common.errors import SettingsError
from lang1.training.settings import WatchSettings
from lang1.training.trackers import make_trackers
from lang1.training.watch import RunLog

START = {"kind": "start", "step": 0, "tokens": 0, "steps": 4, "settings": {"seed": 3407, "optimizer": {"lr": 0.001}}}
BEFORE: list[dict[str, Any]] = [
    {"kind": "train", "step": 2, "tokens": 200, "loss": 3.0, "mfu": 0.5},
    {"kind": "eval", "step": 2, "tokens": 200, "auroc/readmission": 0.625},
    {"kind": "train", "step": 3, "tokens": 300, "loss": 9.0},  # after the last checkpoint
]
AFTER: list[dict[str, Any]] = [
    {"kind": "train", "step": 3, "tokens": 300, "loss": 2.5},
    {"kind": "train", "step": 4, "tokens": 400, "loss": None, "skipped": 1},
]


def run(settings: WatchSettings, out: Path, log: Path) -> dict[str, int]:
    """A run that is taken up again from step 2, as :class:`lang1.training.loop.Loop` does it."""
    failed: dict[str, int] = {}
    for records in ([START, *BEFORE], [{**START, "step": 2, "tokens": 200}, *AFTER]):
        with RunLog(log, make_trackers(settings, out)) as opened:
            for record in records:
                opened.write(record)
        failed |= opened.failed
    return failed


def test_nothing_is_tracked_unless_asked() -> None:
    assert make_trackers(WatchSettings(), Path("m")) == []


def test_tensorboard_is_written_and_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = WatchSettings(tensorboard=tmp_path / "tb")
    assert run(settings, tmp_path / "model", tmp_path / "log.jsonl") == {}
    events = EventAccumulator(str(tmp_path / "tb" / "model"), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["train/loss"] == [(2, 3.0), (3, 2.5)]
    assert scalars["train/skipped"] == [(4, 1.0)] and scalars["train/tokens"][-1] == (4, 400.0)
    assert scalars["eval/auroc/readmission"] == [(2, 0.625)] and scalars["train/mfu"] == [(2, 0.5)]
    assert "settings/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_mlflow_is_written_and_reads_back(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("mlflow")
    if kind == "database":
        pytest.importorskip("sqlalchemy")
    store = str(tmp_path / "runs") if kind == "folder" else f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run(WatchSettings(mlflow=store), tmp_path / "model", tmp_path / "log.jsonl") == {}
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lang1")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED" and runs[0].info.run_name == "model"
    assert runs[0].data.params == {"seed": "3407", "optimizer.lr": "0.001"}
    history = client.get_metric_history(runs[0].info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(2, 3.0), (3, 9.0), (3, 2.5)]  # it keeps what was overtaken
    assert runs[0].data.metrics["eval/auroc/readmission"] == 0.625


def test_wandb_offline_keeps_everything_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # whatever is sent fails
    settings = WatchSettings(wandb="offline", wandb_folder=tmp_path / "wb")
    assert run(settings, tmp_path / "model", tmp_path / "log.jsonl") == {}
    kept = list((tmp_path / "wb" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 2 and all(file.stat().st_size > 0 for file in kept)
    assert b"train/loss" in kept[0].read_bytes()


@pytest.mark.parametrize(
    ("asked", "package", "extra"),
    [
        ({"tensorboard": "tb"}, "tensorboard", "tensorboard"),
        ({"mlflow": "runs"}, "mlflow", "mlflow"),
        ({"wandb": "offline"}, "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], package: str, extra: str
) -> None:
    real = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(SettingsError, match=rf"lang1\[{extra}\]") as caught:
        make_trackers(WatchSettings.model_validate(asked), Path("m"))
    assert "\n" not in str(caught.value)


def test_a_tracker_that_cannot_write_is_told_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tb").write_text("a file where a folder should be")
    failed = run(WatchSettings(tensorboard=tmp_path / "tb"), tmp_path / "model", tmp_path / "log.jsonl")
    assert failed == {"TensorBoard": 1}
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [r["step"] for r in records if r["kind"] != "tracker"] == [0, 2, 2, 3, 2, 3, 4]
    assert [(r["step"], r["failed"]) for r in records if r["kind"] == "tracker"] == [
        (0, "TensorBoard"),
        (2, "TensorBoard"),
    ]
    assert "training goes on" in " ".join(capsys.readouterr().err.split())
