"""The journal of a run: finished answers, one line each, appended as they come, so that a stopped run goes on.

A line holds a key and is written whole; of two lines with one key the first counts, and a line that was cut short by
a crash counts for nothing. The first line names the run: a journal of other settings or other inputs is not gone on
with.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lang1.common.errors import ArtefactError

SUFFIX = ".jsonl"


class Journal:
    """An append-only file of keyed lines. Use as a context manager; :meth:`add` may be called from many threads.

    Args:
        file: where it lies; made when missing.
        run: what the run is; a file that names another is set aside as ``NAME.other``.
    """

    def __init__(self, file: Path, run: Mapping[str, Any]) -> None:
        self.file = file
        self.lines: dict[str, dict[str, Any]] = {}
        self.unkeyed: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._head = _head(run)
        whole = self._read()
        try:
            self._stream = file.open("r+b" if whole else "wb")
            self._stream.truncate(whole)
            self._stream.seek(whole)
            if not whole:
                self._write(self._head)
        except OSError as error:
            raise ArtefactError(f"{file} cannot be written ({error.strerror}); choose another place.") from error

    def _read(self) -> int:
        """Take over what an earlier run left; returns the length of the whole lines of it."""
        if not self.file.is_file():
            return 0
        same, found, place = _parse(self.file.read_bytes(), self._head)
        if not same:
            if self.file.stat().st_size:
                self.file.replace(self.file.with_name(f"{self.file.name}.other"))
            return 0
        for line in found:
            if line.get("key") is None:
                self.unkeyed.append(line)
            else:
                self.lines.setdefault(line["key"], line)
        return place

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __contains__(self, key: str) -> bool:
        return key in self.lines

    def add(self, key: str | None, line: Mapping[str, Any]) -> None:
        """Write a line, once for each key; lines without a key (costs of what failed) are all kept."""
        with self._lock:
            whole = {"key": key, **line}
            if key is None:
                self.unkeyed.append(whole)
            elif key in self.lines:
                return
            else:
                self.lines[key] = whole
            self._write(json.dumps(whole))

    def _write(self, text: str) -> None:
        self._stream.write(text.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


def read_lines(file: Path, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The keyed lines of another process's journal, as far as it is written; none where it is of another run."""
    _, found, _ = _parse(file.read_bytes(), _head(run))
    lines: dict[str, dict[str, Any]] = {}
    for line in found:
        if line.get("key") is not None:
            lines.setdefault(line["key"], line)
    return lines


def _head(run: Mapping[str, Any]) -> str:
    return json.dumps({"run": run}, sort_keys=True, default=str)


def _parse(content: bytes, head: str) -> tuple[bool, list[dict[str, Any]], int]:
    """Whether a journal is of this run, its whole lines, and where they end."""
    content = content[: content.rfind(b"\n") + 1]
    first, _, rest = content.partition(b"\n")
    if first.decode(errors="replace") != head:
        return False, [], 0
    found: list[dict[str, Any]] = []
    place = len(first) + 1
    for raw in rest.splitlines(keepends=True):
        try:
            line = json.loads(raw)
        except ValueError:  # damaged: what stands before it is kept, the rest is asked again
            break
        found.append(line)
        place += len(raw)
    return True, found, place
