"""Ctrl-C and SIGTERM during training: noted at once, obeyed at the next pass through the model, after a checkpoint.

"Pass" since a step can consist of many and an evaluation of thousands: whoever asks gives a minute, not an hour.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from lang1.common.progress import say


class Interrupt:
    """Context manager; ``requested`` turns true on the first signal, a second one stops without waiting."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say("Stopping with a checkpoint; run the same command again to go on from here.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
