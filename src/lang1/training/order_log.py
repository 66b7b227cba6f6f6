"""A record of what each process really read, by which it can be proved that nothing was missed or seen twice.

``order/rank-N.jsonl`` in the run's folder, one line a step: ``attempt`` (how often the run was started before),
``step`` (from 0) and what the process read of it. Lines are never removed: a run that was killed repeats the steps
after its last checkpoint, and what counts of an attempt is what came before the step from which the next one went on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lang1.common.artefact import read_json, write_json
from lang1.training.distributed import Processes

FOLDER = "order"
ATTEMPTS = "attempts.json"


class OrderLog:
    """Writes the log of one process; closed by :meth:`close`."""

    def __init__(self, run: Path, team: Processes, resumed_at: int) -> None:
        folder = run / FOLDER
        with team.together():
            if team.first:
                folder.mkdir(exist_ok=True)
                attempts = folder / ATTEMPTS
                before = read_json(attempts) if attempts.exists() else []
                write_json(attempts, [*before, {"from": resumed_at, "processes": team.size}])
        team.wait()
        self.attempt = len(read_json(folder / ATTEMPTS)) - 1
        file = folder / f"rank-{team.rank:05d}.jsonl"
        torn = file.exists() and file.stat().st_size and not _ends_line(file)  # killed while writing a line
        self._stream = file.open("a", encoding="utf-8")
        if torn:
            self._stream.write("\n")

    def write(self, step: int, read: Any) -> None:
        self._stream.write(json.dumps({"attempt": self.attempt, "step": step, "read": read}) + "\n")
        self._stream.flush()

    def went_back(self, to: int) -> None:
        """A rollback: what was read after ``to`` steps does not count. Called once its checkpoint is written."""
        self._stream.write(json.dumps({"attempt": self.attempt, "back_to": to}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _ends_line(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def surviving(run: Path) -> dict[int, list[Any]]:
    """What the run as it ended consists of: by step, what each process read, in the order of the processes."""
    folder = run / FOLDER
    starts = [int(a["from"]) for a in read_json(folder / ATTEMPTS)]
    # What an attempt did after the step from which a later one went on was done again.
    until = [min(starts[i + 1 :], default=None) for i in range(len(starts))]
    steps: dict[int, list[Any]] = {}
    for file in sorted(folder.glob("rank-*.jsonl")):
        mine: dict[tuple[int, int], Any] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # killed while writing: the step was not finished either
                continue
            attempt = int(record["attempt"])
            if "back_to" in record:
                mine = {key: read for key, read in mine.items() if key[1] < record["back_to"]}
                continue
            limit = until[attempt]
            if limit is None or record["step"] < limit:
                mine[attempt, int(record["step"])] = record["read"]
        for (_, step), read in mine.items():
            steps.setdefault(step, []).append(read)
    return dict(sorted(steps.items()))
