"""Detectors of answers in text: what they find and where, as ``detectors.yaml`` describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from lang1.common.sections import HEADINGS, filled
from lang1.common.settings import Settings, read_yaml, validate_settings
from lang1.remede.card import Card
from lang1.remede.charts import composed

SHIPPED = Path(__file__).parent / "detectors.yaml"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATES = (
    re.compile(r"\b(?P<y>(?:19|20|21|22)\d\d)-(?P<m>\d{1,2})-(?P<d>\d{1,2})\b"),
    re.compile(r"\b(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>(?:(?:19|20|21|22)\d\d)|\d\d)\b"),
    re.compile(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s+{_MONTH},?\s+(?P<y>(?:19|20|21|22)\d\d)\b", re.IGNORECASE),
    re.compile(rf"\b{_MONTH}\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y>(?:19|20|21|22)\d\d)\b", re.IGNORECASE),
)


class Detector(Settings):
    """One detector: the rules of the tasks and the note types that it is for, and what it looks for."""

    rules: tuple[str, ...]
    finds: Literal["phrase", "number", "section"]
    words: str
    pattern: str = ""
    sections: tuple[str, ...] = ()
    note_types: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.finds == "section":
            unknown = [name for name in self.sections if name not in HEADINGS]
            if unknown or not self.sections:
                raise ValueError(f"sections {unknown or 'missing'}: known are {', '.join(HEADINGS)}")
            return self
        try:
            groups = re.compile(self.pattern, re.IGNORECASE).groupindex
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from error
        if not self.pattern or (self.finds == "number" and "number" not in groups):
            raise ValueError("a phrase needs a pattern, a number one with the group (?P<number>…)")
        return self

    def asks(self, card: Card) -> bool:
        """Whether a task's text is searched."""
        right = "*" in self.rules or card.rule_name in self.rules
        # In an input of several notes, an older discharge summary is no answer.
        return right and (not self.note_types or (card.note_type in self.note_types and not composed(card)))

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE)

    def spans(self, text: str) -> list[tuple[int, int, float | None]]:
        """Where it hits: start and end, and the stated number where it finds numbers."""
        if self.finds == "section":
            return [(s.start, s.end, None) for s in filled(text, self.sections)]
        return [
            (m.start(), m.end(), float(m["number"]) if self.finds == "number" else None)
            for m in self._compiled.finditer(text)
        ]


def load(more: Path | None) -> Mapping[str, Detector]:
    """The shipped detectors, and those of a file of the user's; the latter win.

    Raises:
        SettingsError: a detector that is not one.
    """
    found: dict[str, Detector] = {}
    for file in (SHIPPED, more):
        if file is not None:
            for name, value in read_yaml(file).items():
                found[name] = validate_settings(Detector, value, f"{file.name}: {name}")
    return found


def dates(text: str) -> list[tuple[date, int, int]]:
    """The dates in a text with where they stand: ISO, month/day/year, and with the month's English name."""
    found = []
    for pattern in _DATES:
        for match in pattern.finditer(text):
            parts = match.groupdict()
            month = _MONTHS.index(parts["name"].lower()) + 1 if parts.get("name") else int(parts["m"])
            year = int(parts["y"]) + (2000 if len(parts["y"]) == 2 else 0)
            try:
                found.append((date(year, month, int(parts["d"])), match.start(), match.end()))
            except ValueError:  # 13/40/2020 is no date
                continue
    return found
