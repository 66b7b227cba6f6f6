"""Watching a run: the record of it in ``metrics.jsonl``, who else sees each record, and evaluations on the way.

``metrics.jsonl`` is the record; one JSON object a line, of one of these kinds (docs/watching.md names every field):

    start   a process began or took the run up again: what is trained, with which settings, on which device
    train   the training step, every ``log_every`` steps
    val     the validation that the run itself needs (early stopping), every ``validate_every`` steps
    eval    an evaluation on the way, at the steps that the settings name
    tracker a watcher failed and is not used any more
    skip    a step that was not taken: why, its loss and gradient norm, and what it read
    rollback  the run went back to a checkpoint, and which steps it leaves out from then on
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from lang1.common.errors import ArtefactError
from lang1.common.progress import say
from lang1.model.decoder import Decoder
from lang1.text.tokenizer import Tokenizer

METRICS = "metrics.jsonl"
# Fields that tell how a run went and not what it made: they differ between two runs that are otherwise the same.
TIMED = ("seconds", "tokens_per_second", "padded_per_second", "mfu", "peak_memory_gib")


class Watcher(Protocol):
    """Sees every record that goes to ``metrics.jsonl``, as it is written there."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Stopped(Exception):
    """Raised by an evaluation that was asked to stop; the run checkpoints, and evaluates again when it goes on."""


class Evaluate(Protocol):
    """An evaluation of the model as it stands; it leaves the model and all random states as they were.

    Args:
        step: how many steps are done.
        should_stop: asked between batches.

    Returns:
        Measures by name; ``NAME/PART`` where a measure has parts.

    Raises:
        Stopped: ``should_stop`` said so.
    """

    def __call__(self, step: int, should_stop: Callable[[], bool]) -> dict[str, float]: ...


# Made once the model is there. The path is the run's folder, for what is no number (sample generations).
MakeEvaluate = Callable[[Decoder, Tokenizer, Path], Evaluate]


class RunLog:
    """Writes records to ``metrics.jsonl`` and shows them to the watchers. Use as a context manager.

    A watcher that fails is told of once, noted in the log (kind ``tracker``), and asked no more; the training goes on.
    """

    def __init__(self, file: Path, watchers: Sequence[Watcher] = ()) -> None:
        self.file, self.watchers = file, list(watchers)
        self.failed: dict[str, int] = {}  # failures by the watcher's class
        self._stream: TextIO | None = None
        self._place: dict[str, Any] = {}  # step and tokens of the last record

    def __enter__(self) -> RunLog:
        self._stream = self.file.open("a", encoding="utf-8")
        return self

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record, whole, at once; numbers that are not finite become null.

        Raises:
            ArtefactError: the disk is full or gone; the last checkpoint is as it was.
        """
        assert self._stream is not None
        plain = {key: _plain(value) for key, value in record.items()}
        self._append(plain)
        for watcher in list(self.watchers):
            self._guarded(watcher, lambda w: w.log(plain))

    def _append(self, plain: Mapping[str, Any]) -> None:
        assert self._stream is not None
        self._place = {name: plain.get(name) for name in ("step", "tokens")}
        try:
            self._stream.write(json.dumps(plain, ensure_ascii=False) + "\n")
            self._stream.flush()
        except OSError as error:
            with suppress(OSError):  # it would try once more to write what it holds
                self._stream.close()
            raise ArtefactError(
                f"{self.file}: cannot be written ({error.strerror}); make room, then run the same command again to go "
                "on from the last checkpoint."
            ) from error

    def cut(self, step: int) -> None:
        """Go back: records of later steps are dropped, as when a run goes on from a checkpoint."""
        assert self._stream is not None
        self._stream.close()
        cut_log(self.file, step)
        self._stream = self.file.open("a", encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watcher in list(self.watchers):
            self._guarded(watcher, lambda w: w.close())
        if self._stream is not None:
            self._stream.close()

    def _guarded(self, watcher: Watcher, do: Callable[[Watcher], None]) -> None:
        try:
            do(watcher)
        except Exception as error:  # whatever a tracker raises, it must not end a training
            name = type(watcher).__name__
            self.failed[name] = self.failed.get(name, 0) + 1
            self.watchers.remove(watcher)
            what = f"{type(error).__name__}: {error}"
            if self._stream is not None and not self._stream.closed:
                self._append({"kind": "tracker", **self._place, "failed": name, "error": what})
            say(f"{name} failed ({what}) and is not used any more; training goes on.")


def cut_log(file: Path, step: int) -> None:
    """Drop what was logged after the checkpoint (it is about to be logged again), and a half-written last line."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").split("\n"):  # not at line separators inside a text
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("step", 0) <= step:
            kept.append(line + "\n")
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(file)  # whole or not at all: a kill here must not cost the record


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
