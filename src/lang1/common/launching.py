"""What starting work elsewhere shares: Slurm job scripts and their submission, and joining a Ray cluster."""

from __future__ import annotations

import importlib
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lang1.common.errors import SettingsError


def write_job(file: Path, options: Sequence[str], lines: Sequence[str]) -> None:
    """Write a Slurm job script that runs in the folder where this is called.

    Args:
        file: the script.
        options: of ``#SBATCH`` lines, e.g. ``--time=12:00:00``.
        lines: the shell lines of its body.
    """
    text = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), f"cd {shlex.quote(str(Path.cwd()))} || exit 1"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*text, *lines]) + "\n", encoding="utf-8")


def submit(command: Sequence[str], script: Path) -> str:
    """Run the command that submits ``script``; returns what it said.

    Raises:
        SettingsError: ``sbatch`` is not there, or refused the job.
    """
    try:
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error.strerror
        raise SettingsError(
            f"launch.submit: {script} could not be submitted ({said or 'no reason given'}): run it on a machine that "
            "can submit to Slurm."
        ) from error
    return done.stdout.strip()


@contextmanager
def ray_cluster(address: str | None, *, show: bool = False) -> Iterator[Any]:
    """The ``ray`` package, connected to a cluster; what was not connected before is disconnected afterwards.

    Args:
        address: of an existing cluster, e.g. ``auto``; None starts one on this machine.
        show: what its workers print appears here.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise SettingsError(
            "launch.how=ray needs the package ray on every machine: pip install 'lang1[ray]', or set launch.how=local."
        ) from error
    started = not ray.is_initialized()
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=show)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"launch.ray_address={address}: no Ray cluster there ({error}).") from error
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()
