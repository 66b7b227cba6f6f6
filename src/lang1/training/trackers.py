"""TensorBoard, MLflow and Weights & Biases beside ``metrics.jsonl``: off unless asked for, each one ``log(record)``.

Each opens with a run's first record, in the process that writes the log, and takes a run up again where it was.
Numbers become ``KIND/NAME`` over steps (``train/loss``, ``eval/auroc/readmission``). No text of a note is among what
is logged. Nothing leaves the machine but to the MLflow server that is named, and to W&B where ``online`` is said;
usage reports of the packages themselves are switched off.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lang1.common.errors import SettingsError
from lang1.training.settings import WatchSettings
from lang1.training.watch import Watcher

PLACES = ("kind", "step", "tokens")  # where a record stands, besides its tokens no measures
LONGEST_PARAMETER = 500  # characters; MLflow refuses more in some of its stores
TAG = "lang1.run"


def make_trackers(settings: WatchSettings, out: Path) -> list[Watcher]:
    """The trackers that the settings ask for, for a run that writes ``out``.

    Raises:
        SettingsError: one needs a package that is not installed.
    """
    made: list[Watcher] = []
    if settings.tensorboard is not None:
        _package("tensorboard", "watch.tensorboard", "tensorboard")
        made.append(TensorBoard(settings.tensorboard / out.name))
    if settings.mlflow is not None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        if "://" not in settings.mlflow:  # a folder, the one store that needs no database and no server
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        made.append(MLflow(_package("mlflow", "watch.mlflow", "mlflow"), settings.mlflow, out))
    if settings.wandb != "off":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        made.append(WandB(_package("wandb", "watch.wandb", "wandb"), settings.wandb, settings.wandb_folder, out))
    return made


class TensorBoard:
    """Event files in a folder of the run's name; ``tensorboard --logdir`` shows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def log(self, record: Mapping[str, Any]) -> None:
        step = int(record["step"])
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # Taken up at a checkpoint: what was written after it does not count any more.
            self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
        if record["kind"] == "start":
            lines = "\n".join(f"    {name}: {value}" for name, value in flat(record.get("settings", {})))
            self._writer.add_text("settings", lines, step)
        for name, value in numbers(record):
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run in an MLflow store: a server's address, ``sqlite:///FILE``, or a folder.

    Args:
        mlflow: the package.
        store: where it keeps its runs.
        out: what the run writes; names it, and finds it again when it goes on.
    """

    def __init__(self, mlflow: Any, store: str, out: Path) -> None:
        self.mlflow, self.store, self.out = mlflow, store, out
        self._client: Any = None
        self._run = ""
        self._ended = False

    def log(self, record: Mapping[str, Any]) -> None:
        if self._client is None:
            self._open(record)
        now = int(time.time() * 1000)
        entity = self.mlflow.entities.Metric
        metrics = [entity(name, value, now, int(record["step"])) for name, value in numbers(record)]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)
        self._ended = record["kind"] != "start" and record["step"] == self._steps

    def _open(self, record: Mapping[str, Any]) -> None:
        tracking = importlib.import_module("mlflow.tracking")
        client = tracking.MlflowClient(tracking_uri=self.store)
        self._steps = record.get("steps")
        name = "lang1"
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else client.create_experiment(name)
        mark = _mark(self.out)
        before = client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{mark}'", max_results=1)
        if before and record["step"]:
            self._run = before[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            self._run = client.create_run(experiment, run_name=self.out.name, tags={TAG: mark}).info.run_id
            param = self.mlflow.entities.Param
            params = [param(key, value[:LONGEST_PARAMETER]) for key, value in flat(record.get("settings", {}))]
            for start in range(0, len(params), 100):  # the most of one request
                client.log_batch(self._run, params=params[start : start + 100])
        self._client = client

    def close(self) -> None:
        if self._client is not None:
            self._client.set_terminated(self._run, status="FINISHED" if self._ended else "KILLED")


class WandB:
    """A run of Weights & Biases: kept on this machine (``wandb sync`` sends it some day), or sent where ``online``.

    Args:
        wandb: the package.
        mode: offline or online.
        folder: where it keeps its files.
        out: what the run writes; names it, and finds it again when it goes on.
    """

    def __init__(self, wandb: Any, mode: str, folder: Path, out: Path) -> None:
        self.wandb, self.mode, self.folder, self.out = wandb, mode, folder, out
        self._run: Any = None

    def log(self, record: Mapping[str, Any]) -> None:
        if self._run is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Neither code, nor the repository's address, nor what the terminal shows, nor figures of the machine.
            quiet = self.wandb.Settings(disable_git=True, disable_code=True, console="off", silent=True)
            self._run = self.wandb.init(
                project="lang1",
                dir=str(self.folder),
                mode=self.mode,
                id=_mark(self.out),
                name=self.out.name,
                resume="allow",
                config=dict(flat(record.get("settings", {}))),
                settings=quiet,
            )
            self._run.define_metric("*", step_metric="step")
        values = dict(numbers(record))
        if values:  # its own counter of steps may not go back, ours may after a restart
            self._run.log({**values, "step": record["step"], "tokens": record["tokens"]})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The measures of a record as ``KIND/NAME``; a start record has none."""
    if record["kind"] == "start":
        return
    for name, value in record.items():
        if name not in PLACES and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{record['kind']}/{name}", float(value)
    if record["kind"] == "train" and "tokens" in record:
        yield "train/tokens", float(record["tokens"])


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings as ``section.field`` and text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)


def _mark(out: Path) -> str:
    """Names a run by where it lies, without saying where."""
    return hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]


def _package(name: str, setting: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"{setting} needs the package {name}: pip install 'lang1[{extra}]', or leave the setting out."
        ) from error
