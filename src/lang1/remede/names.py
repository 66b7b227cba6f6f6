"""The names of tasks: which cards there are, and in which order they stand."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lang1.common.errors import SettingsError

# Built where no task is named.
TASKS = ("readmission", "mortality", "length_of_stay", "comorbidity", "insurance_denial")
CARDS = Path(__file__).parent / "cards"


@cache
def shipped_cards() -> tuple[str, ...]:
    """The names of the cards that come with the package: the five of ``TASKS`` first, then the others by name."""
    return in_order(cards_in(CARDS))


def cards_in(folder: Path) -> tuple[str, ...]:
    """The names of the cards in a folder, sorted: its YAML files that have a ``task`` or a ``based_on``."""
    found = (file for file in sorted(folder.glob("*.yaml")) if file.is_file())
    return tuple(file.stem for file in found if re.search(r"^(task|based_on):", file.read_text("utf-8"), re.MULTILINE))


def known_cards(card_dir: Path | None = None) -> tuple[str, ...]:
    """The names of all cards that can be asked for: those shipped, then those of ``card_dir``."""
    return tuple(dict.fromkeys([*shipped_cards(), *(cards_in(card_dir) if card_dir is not None else ())]))


def check_known(task: str, card_dir: Path | None = None) -> None:
    """Refuse a name that no card has.

    Raises:
        SettingsError: lists the names that there are, and the nearest one.
    """
    known = known_cards(card_dir)
    if task not in known:
        near = difflib.get_close_matches(task, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise SettingsError(f"unknown task '{task}'; tasks are {', '.join(known)}{hint}")


def in_order(tasks: Sequence[str]) -> tuple[str, ...]:
    """Task names in the order of every table: the five of ``TASKS`` first, then the others as they came."""
    return (*(task for task in TASKS if task in tasks), *(task for task in tasks if task not in TASKS))
