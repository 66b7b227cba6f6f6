"""Progress for a person at the terminal: a live bar on a TTY, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")
PLAIN_EVERY_SECONDS = 15.0
QUIET_SECONDS = 2.0

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line to the person at the terminal (standard error, so that results can be piped)."""
    console.print(text, markup=False)


class Meter:
    """Counts work against a total and shows rate and remaining time. Use as a context manager.

    Args:
        what: what is being done, e.g. ``"pretrain"``.
        total: how many units there are, or None if that is not known.
        unit: the unit's name, e.g. ``"tok"`` or ``"encounters"``.
    """

    def __init__(self, what: str, total: float | None, unit: str = "it") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0.0
        self._note = ""
        self._started = self._last = time.monotonic()
        self._first = 0.0
        self._bar: Progress | None = None
        self._said = False

    def __enter__(self) -> Meter:
        self._started = self._last = time.monotonic()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=28),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, rate="", note="")
        return self

    def start_at(self, done: float) -> None:
        """Say that ``done`` units were finished before (a resumed run); they do not count in the rate."""
        self.done = self._first = done

    def add(self, units: float, note: str = "") -> None:
        """Count ``units`` more as done; ``note`` is shown at the end of the line."""
        self.done += units
        self._note = note or self._note
        now = time.monotonic()
        rate = (self.done - self._first) / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{_si(rate)} {self.unit}/s", note=self._note)
        elif now - self._last >= PLAIN_EVERY_SECONDS:
            self._last, self._said = now, True
            share = f" {100 * self.done / self.total:.0f} %" if self.total else ""
            left = f", {_clock((self.total - self.done) / rate)} left" if self.total and rate > 0 else ""
            say(
                f"{self.what}:{share} {_si(self.done)} {self.unit}, "
                f"{_si(rate)} {self.unit}/s{left} {self._note}".rstrip()
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        seconds = time.monotonic() - self._started
        if kind is None and (seconds >= QUIET_SECONDS or self._said):
            rate = (self.done - self._first) / max(seconds, 1e-9)
            say(
                f"{self.what}: {_si(self.done)} {self.unit} in {_clock(seconds)} "
                f"({_si(rate)} {self.unit}/s) {self._note}".rstrip()
            )


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a :class:`Meter`, one unit an item."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Meter(what, total, unit) as meter:
        for item in items:
            yield item
            meter.add(1)


def _si(value: float) -> str:
    for bound, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= bound:
            return f"{value / (1e3 if sign == 'k' else bound):.{0 if sign == 'k' else 2}f}{sign}"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _clock(seconds: float) -> str:
    seconds = max(0, int(seconds + 0.5))
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
