"""What a task reads when one note is not enough: the setting ``inputs`` of its card (``docs/splits.md``)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lang1.common.settings import Settings
from lang1.records.schema import NOTE_TYPES
from lang1.text.chart import Drop


class Inputs(Settings):
    """Which notes a task reads. When it is asked follows from the card's own note and ``prediction``, as ever.

    Attributes:
        select: ``single`` reads the card's own note alone; ``last_k`` the last ``k`` notes that were available when the
            task is asked; ``window`` all that became available in the ``days`` before.
        k: how many notes, for ``last_k``.
        days: how many days of 24 hours, for ``window``.
        note_types: types that are read; empty for all.
        scope: notes of the ``encounter``, or all of the ``patient``, those of earlier encounters too.
        order: of the notes in the input.
        header: whether a line with type and age (never a date) stands above each note.
        drop: which notes leave first where the input exceeds its budget of tokens.
    """

    select: Literal["single", "last_k", "window"]
    k: int | None = Field(default=None, ge=1)
    days: int | None = Field(default=None, ge=1)
    note_types: tuple[str, ...] = ()
    scope: Literal["encounter", "patient"] = "encounter"
    order: Literal["oldest_first"] = "oldest_first"
    header: bool = True
    drop: Drop = "oldest"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        given = {name for name in ("k", "days") if getattr(self, name) is not None}
        needed = {"single": set(), "last_k": {"k"}, "window": {"days"}}[self.select]
        if given != needed:
            words = " and ".join(sorted(needed)) or "neither k nor days"
            raise ValueError(f"select '{self.select}' takes {words}")
        for name in self.note_types:
            if name not in NOTE_TYPES:
                raise ValueError(f"note_types: no type '{name}'; types are {', '.join(NOTE_TYPES)}")
        return self
