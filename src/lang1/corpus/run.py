"""The body of the work on a corpus's plan: ``python -m lang1.corpus.run PLAN ...``.

It is the same on one machine, in a Slurm job array and by hand:

    --rank R --of N   every N-th unit of a stage, beginning with unit R, one after the other
    --combine         what a filter's stage collected, after all of its units
    --finish          whatever is left, and the corpus folder
    --feed            the tasks that come on standard input, one "stage source unit" a line as JSON

A unit that is finished is passed over, so any of these can be stopped and started again at any moment.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the body; returns the exit status (2: an error that the user can mend)."""
    parser = argparse.ArgumentParser(prog="python -m lang1.corpus.run", description="Work on the plan of a corpus.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--stage", default="encode", help="encode, or the filter that is prepared")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--combine", action="store_true")
    does.add_argument("--finish", action="store_true")
    does.add_argument("--feed", action="store_true")
    asked = parser.parse_args(arguments)
    if not asked.finish:
        one_thread()
    from lang1.common.errors import Lang1Error
    from lang1.common.progress import say

    try:
        if asked.feed:
            return _feed(asked.plan)
        if asked.finish:
            return _finish(asked.plan)
        if asked.combine:
            from lang1.corpus.writing import combine

            combine(asked.plan, asked.stage)
            return 0
        return _rank(asked.plan, asked.stage, asked.rank, asked.of)
    except Lang1Error as error:
        say(f"error: {error}")
        return 2


def one_thread() -> None:
    """Keep this process to one thread of work: the processes share the cores."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    import pyarrow as pa

    pa.set_cpu_count(1)


def _rank(plan: Path, stage: str, rank: int, of: int) -> int:
    from lang1.common.errors import SettingsError
    from lang1.corpus.writing import do_task, load_plan

    if not 0 <= rank < of:
        raise SettingsError(f"--rank {rank} --of {of}: ranks go from 0 to {of - 1}.")
    found = next((one for one in load_plan(plan).stages if one.name == stage), None)
    if found is None:
        raise SettingsError(f"--stage {stage}: {plan} has no such stage.")
    for source, unit in found.tasks[rank::of]:
        do_task(plan, stage, source, unit)
    return 0


def _finish(plan: Path) -> int:
    from lang1.corpus.build import build_corpus
    from lang1.corpus.tasks import Plan

    made = Plan.load(plan)
    benchmark = Path(made.benchmark) if made.benchmark is not None else None
    build_corpus([Path(one) for one in made.records], benchmark, Path(made.out), made.settings)
    return 0


def _feed(plan: Path) -> int:
    """Answer each line with a line: ``{"read": documents}``, or ``{"error": [kind, message]}``."""
    from lang1.common.errors import Lang1Error
    from lang1.corpus.writing import do_task

    tasks: queue.Queue[list[str | int]] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    while True:
        stage, source, unit = tasks.get()
        try:
            answer: dict[str, object] = {"read": do_task(plan, str(stage), str(source), int(unit))}
        except Lang1Error as error:
            answer = {"error": [type(error).__name__, str(error)]}
        print(json.dumps(answer), flush=True)


def _listen(tasks: queue.Queue[list[str | int]]) -> None:
    """Hand on the lines of standard input. Its end means that who started this process is done, or dead."""
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
