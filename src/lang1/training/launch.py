"""Starting a training run as several processes: on this machine, through Slurm, on a Ray cluster.

Each process runs the same command line, ``lang1 pretrain …`` or ``lang1 finetune …``, with the environment that
torchrun gives (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``); what
a run does with it is the affair of ``distributed.py``. So torchrun itself works as well. It is not used here: its
agent gives stopped processes thirty seconds (less than the last checkpoint of a large model needs) and answers an
error of the user's with its own traceback.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO, Literal

from pydantic import Field

from lang1.common.errors import SettingsError
from lang1.common.progress import say
from lang1.common.settings import Settings

# After one process failed, how long the others have to end by themselves, and then after being told to.
PATIENCE = 60.0
LAST_LINES = 12


class LaunchSettings(Settings):
    """Where a training runs, and as how many processes. Nothing here is recorded; any number can take a run up."""

    how: Literal["local", "slurm", "ray"] = "local"
    processes: int = Field(default=1, ge=1, description="on each machine; with GPUs one for each of them")
    nodes: int = Field(default=1, ge=1, description="machines (slurm, ray)")
    gpus: bool = Field(default=False, description="slurm, ray: ask for a GPU for each process")
    cpus: int = Field(default=1, ge=1, description="slurm, ray: cores to ask for, for each process")
    submit: bool = Field(default=False, description="slurm: submit the job; false writes the script and shows it")
    partition: str | None = None
    account: str | None = None
    time: str = Field(default="24:00:00", description="slurm: the limit of one job; the run goes on in the next one")
    warn_seconds: int = Field(default=300, ge=30, description="slurm: so long before the limit it checkpoints")
    requeues: int = Field(default=100, ge=0, description="slurm: how often a stopped job enters the queue again")
    sbatch: tuple[str, ...] = Field(default=(), description="slurm: more options, e.g. --mem=200G")
    setup: tuple[str, ...] = Field(default=(), description="slurm: shell lines first, e.g. module load cuda")
    wrapper: str = Field(default="", description="slurm: before python, e.g. apptainer exec --nv /shared/lang1.sif")
    python: str | None = Field(default=None, description="the python to run; null: the one that runs this")
    ray_address: str | None = Field(default=None, description="ray: a cluster, e.g. auto; null starts one here")


def launch(settings: LaunchSettings, verb: str, out: Path, arguments: Sequence[str]) -> int | None:
    """Run a command as the settings say; to be called by the command itself, before it begins.

    Args:
        settings: where.
        verb: for names.
        out: the folder that the run writes.
        arguments: the command line after ``lang1``.

    Returns:
        None where this process is to do the work (it is one of the started ones, or the only one); else the exit
        status of the whole.

    Raises:
        SettingsError: settings that do not fit each other; no Slurm or Ray where they are asked for.
    """
    if "RANK" in os.environ:
        return None
    command = [settings.python or sys.executable, "-m", "lang1.cli.main", *without_launch(arguments)]
    if settings.how == "slurm":
        from lang1.training.launch_slurm import write_slurm

        return write_slurm(settings, verb, out, command)
    if settings.how == "ray":
        from lang1.training.launch_ray import run_on_ray

        return run_on_ray(settings, command)
    if settings.nodes > 1:
        raise SettingsError("launch.nodes: several machines need --launch slurm or --launch ray.")
    return run_here(settings.processes, command) if settings.processes > 1 else None


def without_launch(arguments: Sequence[str]) -> list[str]:
    """A command line without ``--launch HOW`` and ``--submit``."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument in ("--launch", "--submit"):
            skip = argument == "--launch" and not skip
        elif not argument.startswith("--launch="):
            kept.append(argument)
    return kept


def environment(rank: int, size: int, local_rank: int, local_size: int, address: str, port: int) -> dict[str, str]:
    """What torchrun would set for a process."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def run_here(processes: int, command: Sequence[str]) -> int:
    """Run a command as several processes of this machine and wait for them.

    The first one's output is shown, the others' last lines only where they alone failed. Ctrl-C and SIGTERM are handed
    on once to each, and each is waited for while it checkpoints. When one fails, the others are ended.

    Returns:
        0, or the exit status of the first that failed (128 + the signal that ended it).
    """
    with ExitStack() as opened:
        outputs = [None, *(opened.enter_context(tempfile.TemporaryFile()) for _ in range(processes - 1))]
        return _run(command, outputs)


def _run(command: Sequence[str], outputs: Sequence[IO[bytes] | None]) -> int:
    port, processes = free_port(), len(outputs)
    started: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        # SIGUSR1 is what some schedulers send first; a process would die of it.
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if number == signal.SIGUSR1 else number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        for rank, output in enumerate(outputs):
            given = os.environ | environment(rank, processes, rank, processes, "127.0.0.1", port)
            # A session of its own: Ctrl-C at the terminal comes once, from here.
            started.append(
                subprocess.Popen(
                    command,
                    env=given,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            )
        first = _wait(started)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if first is None:
        return 0
    status = started[first].returncode
    if first and started[0].returncode in (0, -signal.SIGTERM, -signal.SIGKILL):
        say(f"process {first} of {processes} failed:\n{_last_lines(outputs[first])}")
    return status if status > 0 else 128 - status


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended; returns the first that failed. The others then have a while each, twice."""
    first: int | None = None
    deadline, tools = float("inf"), [signal.SIGKILL, signal.SIGTERM]
    while None in [process.poll() for process in started]:
        if first is None:
            first = next((i for i, process in enumerate(started) if process.returncode), None)
            deadline = time.monotonic() + PATIENCE if first is not None else deadline
        elif time.monotonic() > deadline and tools:
            number, deadline = tools.pop(), time.monotonic() + PATIENCE
            for process in started:
                if process.poll() is None:
                    process.send_signal(number)
        time.sleep(0.05)
    return first if first is not None else next((i for i, process in enumerate(started) if process.returncode), None)


def _end_with_parent() -> None:
    """Ask Linux to send SIGTERM when the parent dies, however it dies: no process is left behind on a GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _last_lines(output: IO[bytes] | None) -> str:
    if output is None:
        return ""
    output.seek(0)
    return "\n".join(output.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:])
