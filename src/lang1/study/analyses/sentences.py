"""Sentences of a study's report, made from its numbers and never beyond them.

A difference is *clear* where its 95 % interval leaves out 0 and, where it belongs to a family of comparisons, its
corrected p-value is under 0.05 as well. Whatever is not clear is undecided: never "the same".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lang1.reporting.numbers import fixed, interval, plural, signed, signed_interval
from lang1.reporting.study_schema import Value

Standing = Literal["ahead", "behind", "undecided"]
Verdict = Literal["clear", "mixed", "undecided", "none"]
SURE = 0.05


def standing(found: Value | None, zero: float = 0.0) -> Standing | None:
    """On which side of ``zero`` a value clearly lies; None where it has no interval."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    if found.p_adjusted is not None and found.p_adjusted >= SURE:
        return "undecided"
    return "ahead" if found.low > zero else "behind" if found.high < zero else "undecided"


@dataclass(frozen=True)
class Tally:
    """Names by where they stand; those without an interval are ``unknown``."""

    ahead: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def known(self) -> int:
        """How many could be judged."""
        return len(self.ahead) + len(self.behind) + len(self.undecided)

    @property
    def verdict(self) -> Verdict:
        """clear: all on one side; undecided: none on either; mixed: the rest."""
        if not self.known:
            return "none"
        if not self.ahead and not self.behind:
            return "undecided"
        return "clear" if self.known in (len(self.ahead), len(self.behind)) else "mixed"


def tally(found: Mapping[str, Value | None], zero: float = 0.0) -> Tally:
    """Where each named value stands."""
    made = Tally()
    for name, value in found.items():
        side = standing(value, zero)
        getattr(made, side or "unknown").append(name)
    return made


def together(tallies: Iterable[Tally]) -> Verdict:
    """The verdict over several tallies."""
    whole = Tally()
    for one in tallies:
        for side in ("ahead", "behind", "undecided", "unknown"):
            getattr(whole, side).extend(getattr(one, side))
    return whole.verdict


def said(
    found: Tally, noun: str = "task", ahead: str = "clearly ahead", behind: str = "clearly behind", named: bool = True
) -> str:
    """``clearly ahead on 4 of 5 tasks (…), clearly behind on none, undecided on 1 (…)``."""
    total = plural(found.known, noun)
    if not found.known:
        return f"not to be judged on any {noun}"
    parts = []
    for words, names in ((ahead, found.ahead), (behind, found.behind), ("undecided", found.undecided)):
        if names or words != "undecided":
            every = len(names) == found.known and found.known > 1
            whole = f"both {noun}s" if found.known == 2 else f"all {total}"
            number = "none" if not names else whole if every else str(len(names))
            parts.append((words, number, "" if every or not named else names_of(names)))
    first = next(k for k, part in enumerate(parts) if part[1] != "none")
    if not parts[first][1].startswith(("all", "both")):
        words, number, which = parts[first]
        parts[first] = (words, f"{number} of {total}", which)
    parts = [parts[first], *(part for k, part in enumerate(parts) if k != first)]
    if parts[0][1].startswith(("all", "both")):
        parts = parts[:1]
    return ", ".join(f"{words} on {number}{which}" for words, number, which in parts)


def names_of(names: Sequence[str]) -> str:
    """`` (a, b)``, or nothing."""
    return f" ({', '.join(names)})" if names else ""


def auroc(found: Value | None) -> str:
    """``0.812 (0.790–0.833)``."""
    if found is None or found.value is None:
        return "unknown"
    between = interval(found.low, found.high)
    return f"{fixed(found.value)} ({between})" if between else fixed(found.value)


def gap(found: Value | None) -> str:
    """``+0.012 (−0.003 to +0.027)``."""
    if found is None or found.value is None:
        return "unknown"
    between = signed_interval(found.low, found.high)
    return f"{signed(found.value)} ({between})" if between else signed(found.value)


def moved(found: Value | None, up: str = "clearly more", down: str = "clearly less") -> str:
    """``clearly more, +0.012 (…)``, or that it is undecided."""
    side = standing(found)
    if side is None:
        return "not to be judged"
    word = {"ahead": up, "behind": down, "undecided": "undecided"}[side]
    return f"{word}, {gap(found)}"


def lower_first(text: str) -> str:
    """A title inside a sentence: ``In-hospital mortality`` becomes ``in-hospital mortality``; acronyms stay."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == "-" else text
