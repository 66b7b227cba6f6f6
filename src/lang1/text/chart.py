"""Several notes as one input: oldest first, each under a header, cut to a budget note by note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lang1.text.clean import clean_note

Drop = Literal["oldest", "newest"]

# How a header calls each type of note (``records/schema.py``).
NAMES = {
    "history_and_physical": "history and physical",
    "progress": "progress note",
    "radiology": "radiology report",
    "pathology": "pathology report",
    "discharge_summary": "discharge summary",
    "emergency": "emergency note",
    "consult": "consult note",
    "nursing": "nursing note",
    "operative": "operative note",
    "case_management": "case management note",
    "other": "note",
}


@dataclass(frozen=True)
class Chart:
    """Notes that a model reads as one input.

    Attributes:
        headers: what stands before each note, empty where there are none; ends in a line end.
        notes: the notes' texts, oldest first; as long as ``headers``.
        drop: which notes leave first when the whole exceeds its budget of tokens.
    """

    headers: tuple[str, ...]
    notes: tuple[str, ...]
    drop: Drop = "oldest"

    @property
    def text(self) -> str:
        """All of it as one text."""
        return "".join(head + body for head, body in zip(self.headers, self.bodies(), strict=True))

    def bodies(self, clean: bool = False) -> list[str]:
        """The notes, each but the last with the blank line that parts it from the next; ``clean`` as models read."""
        texts = [clean_note(note) for note in self.notes] if clean else list(self.notes)
        return [text + "\n\n" for text in texts[:-1]] + texts[-1:]


def header(note_type: str, hours_before: int, addendum: bool = False) -> str:
    """The line above a note: its type, and how long before the question it became available, never a date.

    Args:
        note_type: one of the record tables' types.
        hours_before: whole hours; from 24 on they are told as whole days.
        addendum: the note amends another.
    """
    if hours_before < 1:
        ago = "less than 1 hour"
    else:
        number, unit = (hours_before, "hour") if hours_before < 24 else (hours_before // 24, "day")
        ago = f"{number} {unit}{'' if number == 1 else 's'}"
    return f"[{NAMES.get(note_type, note_type)}{', addendum' if addendum else ''}, {ago} before]\n"


def fit(heads: Sequence[int], bodies: Sequence[int], budget: int, drop: Drop) -> list[int]:
    """How many tokens of each note's body stay within a budget; -1 for a note that leaves with its header.

    Whole notes leave from one end, as many as leave the rest within the budget or filling it; the note at that end is
    then cut. A note of which nothing but its header would fit leaves too. The last one left is always read, if need
    be without its header.

    Args:
        heads: tokens of each header, oldest note first.
        bodies: tokens of each note, likewise.
        budget: the most tokens of headers and bodies together, at least 1.
        drop: from which end notes leave.
    """
    kept = [-1] * len(bodies)
    order = range(len(bodies) - 1, -1, -1) if drop == "oldest" else range(len(bodies))
    left = budget
    for place, i in enumerate(order):
        room = left - heads[i]
        if room < min(1, bodies[i]) and place:
            break
        kept[i] = min(bodies[i], room) if room > 0 else min(bodies[i], budget)
        if room < bodies[i]:
            break
        left = room - bodies[i]
    return kept
