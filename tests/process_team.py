"""Several processes in a test, started as torchrun starts them: the same environment, gloo between them.

From a fork server that has torch imported already, since importing it costs more than such a test.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from lang1.common.errors import Lang1Error

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lang1.training.pretrain", "lang1.training.finetune", "training_world"])


def run_team(size: int, work: Callable[..., Any], *args: Any, timeout: float = 120) -> list[str]:
    """Run ``work(*args)`` in so many processes; what became of each: ``done``, ``stopped`` (as by SIGTERM), the line
    of an error that a user can mend, or ``exit CODE``.

    Raises:
        AssertionError: a fault in one of them, with its traceback, or they do not end.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, processes = [], []
    for rank in range(size):
        mine, theirs = _CONTEXT.Pipe(duplex=False)
        started = _CONTEXT.Process(target=_run, args=(theirs, rank, size, port, work, args))
        started.start()
        theirs.close()
        pipes.append(mine)
        processes.append(started)
    said = []
    for process, pipe in zip(processes, pipes, strict=True):
        process.join(timeout)
        try:
            said.append(pipe.recv() if pipe.poll() else f"exit {process.exitcode}")
        except EOFError:
            said.append(f"exit {process.exitcode}")
    for process in processes:
        if process.is_alive():
            process.kill()
            said.append("fault: it did not end")
    faults = [line for line in said if line.startswith("fault")]
    assert not faults, faults[0]
    return said


def _run(pipe: Any, rank: int, size: int, port: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if size > 1:
        about = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        os.environ.update({k: str(v) for k, v in about.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        if size > 1:  # once for all runs of this test
            torch.distributed.init_process_group("gloo")
        work(*args)
        pipe.send("done")
    except KeyboardInterrupt:
        pipe.send("stopped")
    except Lang1Error as error:
        pipe.send(str(error))
    except BaseException:
        pipe.send(f"fault in process {rank}:\n{traceback.format_exc()}")
