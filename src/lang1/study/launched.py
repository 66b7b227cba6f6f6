"""Training steps of a study as several processes, on a Ray cluster, or as Slurm jobs that the study waits for.

The command line that is started is the one that a person would type, with the step's settings in a file; what the step
makes is the same wherever it runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lang1.common.artefact import MANIFEST
from lang1.common.errors import InputError, SettingsError
from lang1.common.launching import submit
from lang1.study.runner import STATE, Waiting
from lang1.training.launch import LAST_LINES, LaunchSettings, launch
from lang1.training.launch_slurm import write_script

# So often in a row a job is not found in the queue before it counts as ended: a file system may show the finished
# folder later than the queue shows the end.
GONE = 3


def elsewhere(settings: Any) -> bool:
    """Whether a training's settings ask for more than this process."""
    asked: LaunchSettings = settings.launch
    return "RANK" not in os.environ and (asked.how != "local" or asked.processes * asked.nodes > 1)


def launch_step(
    verb: str, folders: Sequence[Path], out: Path, settings: Any, options: Sequence[str] = ()
) -> Waiting | None:
    """Run ``lang1 VERB FOLDERS OUT`` as ``settings.launch`` says.

    Returns:
        None once the folder is there; what to wait for where Slurm runs it.

    Raises:
        SettingsError: it cannot be launched, or Slurm was not to be told (``launch.submit``).
        InputError: a process failed.
        KeyboardInterrupt: it was stopped, with a checkpoint.
    """
    file = out.parent / STATE / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(_given(settings)), encoding="utf-8")
    command = [verb, *map(str, folders), str(out), "--config", str(file), *options]
    if settings.launch.how == "slurm":
        return _slurm(verb, out, settings.launch, command)
    status = launch(settings.launch, verb, out, command)
    if status in (130, 143):
        raise KeyboardInterrupt
    if status or not (out / MANIFEST).exists():
        raise InputError(f"`lang1 {shlex.join(command)}` ended with status {status}; what it said stands above.")
    return None


def _given(settings: Any) -> dict[str, Any]:
    """What was set, in a form that reads back as the same settings; how to launch aside."""
    given: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    for name in ("watch", "encoded"):  # not among what is recorded, so not in the dump
        if name in settings.model_fields_set and getattr(settings, name) is not None:
            value = getattr(settings, name)
            given[name] = value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
    return given


def _slurm(verb: str, out: Path, settings: LaunchSettings, command: Sequence[str]) -> Waiting:
    note = out.parent / STATE / f"{out.name}.job"
    job = note.read_text(encoding="utf-8").strip() if note.exists() else ""
    line = [settings.python or sys.executable, "-m", "lang1.cli.main", *command]
    if not (job and _queued(job)):  # a job of an earlier run of the study goes on; two would write one folder
        script, log = write_script(settings, verb, out, line)
        if not settings.submit:
            raise SettingsError(
                f"{script} is written and not submitted: set launch.submit=true, or run `sbatch {script}` and, when "
                "the job has ended, the study again."
            )
        job = submit(["sbatch", "--parsable"], script).partition(";")[0]
        note.write_text(job, encoding="utf-8")
    log = out.resolve().with_name(f"{out.name}.log")
    missed = 0

    def ended() -> bool:
        nonlocal missed
        if (out / MANIFEST).exists():
            note.unlink(missing_ok=True)
            return True
        missed = 0 if _queued(job) else missed + 1
        if missed < GONE:
            return False
        note.unlink(missing_ok=True)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        last = " | ".join(lines[-LAST_LINES:])
        raise InputError(f"job {job} ended without its folder; its log is {log}: {last}")

    return Waiting(f"job {job} of Slurm; its log is {log}", ended)


def _queued(job: str) -> bool:
    """Whether Slurm still has the job: waiting, running, or about to enter the queue again."""
    if shutil.which("squeue") is None:
        raise SettingsError("launch: squeue is not here, to wait for a job; run the study where Slurm can be asked.")
    found = subprocess.run(
        ["squeue", "--noheader", "--format=%T", f"--jobs={job}"], capture_output=True, text=True, check=False
    )
    if found.returncode:  # a scheduler that cannot be reached just now says nothing about the job
        return "invalid job id" not in found.stderr.lower()
    return bool(found.stdout.strip())
