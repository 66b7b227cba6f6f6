"""Where the work on a plan runs: this machine's processes, a Slurm job array, a Ray cluster."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from lang1.common import errors
from lang1.common.errors import ArtefactError
from lang1.common.launching import ray_cluster, submit, write_job
from lang1.common.progress import Meter
from lang1.corpus.settings import Launch
from lang1.corpus.tasks import ENCODE, Plan, Stage
from lang1.corpus.writing import combine, do_task, finished, unit_file

# No second process for less text than this: starting one takes a second, in which the first cleans a few megabytes.
_WORTH_A_PROCESS = 8 << 20


def run_here(plan: Plan, file: Path, workers: int | None) -> None:
    """Do all stages on this machine.

    Args:
        plan: what is to be done.
        file: where it lies.
        workers: processes; None takes as many as there are cores, fewer where there is little to do.

    Raises:
        Lang1Error: the first error of a unit; what is finished stays.
    """
    for stage in plan.stages:
        with Meter(f"corpus: {_words(stage)}", None, "documents") as meter:
            todo = _unfinished(plan, stage)
            size = sum(plan.source(name).bytes[unit] for name, unit in todo)
            most = workers or min(len(os.sched_getaffinity(0)), 1 + size // _WORTH_A_PROCESS)
            if min(most, len(todo)) <= 1:
                for name, unit in todo:
                    meter.add(do_task(file, stage.name, name, unit))
            else:
                _in_processes(file, stage, todo, min(most, len(todo)), lambda read: meter.add(read))
        if stage.name != ENCODE:
            combine(file, stage.name)


def run_on_ray(plan: Plan, file: Path, address: str | None) -> None:
    """Do all stages on a Ray cluster, one core a task; its machines must see the plan's folders under the same paths.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster at the address.
        Lang1Error: the first error of a unit; what is finished stays.
    """
    with ray_cluster(address) as ray:
        remote = ray.remote(num_cpus=1)(_task_alone)
        for stage in plan.stages:
            todo = [remote.remote(str(file), stage.name, name, unit) for name, unit in _unfinished(plan, stage)]
            with Meter(f"corpus: {_words(stage)}, Ray", None, "documents") as meter:
                while todo:
                    done, todo = ray.wait(todo)
                    meter.add(_read(ray.get(done[0])))
            if stage.name != ENCODE:
                combine(file, stage.name)


def write_slurm(plan: Plan, file: Path, launch: Launch) -> Path:
    """Write the job scripts of a plan and ``submit.sh``, which submits them one after the other, beside the plan.

    An array job for each stage (each rank one core), a job that combines after each filter's stage, and a last one
    that finishes the corpus folder; each waits for the one before to succeed. Submitted again after a failure they go
    on with what is not finished.

    Returns:
        ``submit.sh``.
    """
    folder = file.parent
    command = f"{shlex.quote(sys.executable)} -m lang1.corpus.run {shlex.quote(str(file))}"
    submits = ["#!/bin/sh", "# Submits the jobs of this corpus, each after the one before.", "set -e", "after="]
    for number, stage in enumerate(plan.stages):
        if stage.tasks:
            of = min(launch.ranks, len(stage.tasks))
            body = f"{command} --stage {stage.name} --rank $SLURM_ARRAY_TASK_ID --of {of}"
            name = f"{number}-{stage.name}.sbatch"
            _write_job(folder / name, launch, body, ["--cpus-per-task=1", f"--array=0-{of - 1}"], name)
            submits.append(_submit(folder / name))
        if stage.name != ENCODE:
            name = f"{number}-{stage.name}-combine.sbatch"
            _write_job(folder / name, launch, f"{command} --combine --stage {stage.name}", ["--cpus-per-task=1"], name)
            submits.append(_submit(folder / name))
    _write_job(folder / "finish.sbatch", launch, f"{command} --finish", ["--cpus-per-task=1"], "finish")
    submits += [_submit(folder / "finish.sbatch"), 'echo "the last job is ${job%%;*}"']
    script = folder / "submit.sh"
    script.write_text("\n".join(submits) + "\n")
    return script


def submit_slurm(script: Path) -> str:
    """Run ``submit.sh``; returns what it said.

    Raises:
        SettingsError: ``sbatch`` is not there, or refused a job.
    """
    return submit(["sh"], script)


def _write_job(file: Path, launch: Launch, command: str, lines: list[str], name: str) -> None:
    options = [f"--job-name=lang1-corpus-{name.removesuffix('.sbatch')}", *lines, *launch.sbatch]
    options.append(f"--output={file.parent}/%x-%A-%a.log")
    write_job(file, options, ["set -e", *launch.setup, f"exec {command}"])


def _submit(file: Path) -> str:
    return f"job=$(sbatch --parsable $after {shlex.quote(str(file))})\nafter=--dependency=afterok:${{job%%;*}}"


def _words(stage: Stage) -> str:
    return "tokenize" if stage.name == ENCODE else f"{stage.name}, first pass"


def _unfinished(plan: Plan, stage: Stage) -> list[tuple[str, int]]:
    """The tasks of a stage that are not finished, the largest first, so that the last ones to run are short."""
    found = []
    for name, unit in stage.tasks:
        source = plan.source(name)
        if finished(unit_file(plan, source, stage.name, unit, "json"), plan.key(source, stage.name, unit)) is None:
            found.append((source.bytes[unit], name, unit))
    return [(name, unit) for _, name, unit in sorted(found, key=lambda one: (-one[0], one[1:]))]


def _in_processes(
    file: Path, stage: Stage, todo: list[tuple[str, int]], workers: int, done: Callable[[int], None]
) -> None:
    """Feed tasks to processes of :mod:`lang1.corpus.run`, each when it has finished the one before.

    They are started as commands of their own (no fork, no import of the caller's main module), and end by themselves
    when this process ends, however it ends.
    """
    tasks: Queue[tuple[str, int]] = Queue()
    for task in todo:
        tasks.put(task)
    answers: Queue[dict[str, Any]] = Queue()
    command = [sys.executable, "-m", "lang1.corpus.run", str(file), "--feed"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    threads = [threading.Thread(target=_serve, args=(one, stage.name, tasks, answers)) for one in processes]
    try:
        for thread in threads:
            thread.start()
        for _ in todo:
            done(_read(answers.get()))
    finally:
        _drain(tasks)
        for process in processes:
            process.kill()  # a unit is there as a whole or not at all
        for thread in threads:
            thread.join()
        for process in processes:
            process.wait()


def _serve(
    process: subprocess.Popen[str], stage: str, tasks: Queue[tuple[str, int]], answers: Queue[dict[str, Any]]
) -> None:
    """Give one process a task after the other; an answer for each."""
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        while True:
            try:
                name, unit = tasks.get_nowait()
            except Empty:
                return
            try:
                process.stdin.write(json.dumps([stage, name, unit]) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            if not line:
                answers.put({"died": f"unit {unit} of source '{name}'"})
                return
            answers.put(json.loads(line))


def _drain(tasks: Queue[tuple[str, int]]) -> None:
    while True:
        try:
            tasks.get_nowait()
        except Empty:
            return


def _task_alone(file: str, stage: str, name: str, unit: int) -> dict[str, Any]:
    """A task in a process of Ray's; errors come back as values, as from the processes of this machine."""
    from lang1.corpus.run import one_thread

    one_thread()
    try:
        return {"read": do_task(Path(file), stage, name, unit)}
    except errors.Lang1Error as error:
        return {"error": [type(error).__name__, str(error)]}


def _read(answer: dict[str, Any]) -> int:
    """Documents read, from an answer; raises what it says."""
    if "error" in answer:
        kind, message = answer["error"]
        raise getattr(errors, kind)(message)
    if "died" in answer:
        raise ArtefactError(
            f"a worker process ended at {answer['died']}: is there enough memory for `workers` processes? "
            "What is finished is kept; start again, with fewer workers."
        )
    return int(answer["read"])
