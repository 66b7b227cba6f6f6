"""The answer in plain words, generated from paired intervals and never beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lang1.reporting import words
from lang1.reporting.index import Entry, Index
from lang1.reporting.numbers import count, fixed, join, percent, plural, signed, signed_with_interval, with_interval
from lang1.reporting.schema import Row, Task

AHEAD, BEHIND, UNDECIDED, UNKNOWN = "ahead", "behind", "undecided", "not compared"


def verdict(row: Row | None, better: str = "higher") -> str:
    """Whether a paired difference decides: ``ahead`` or ``behind`` if its interval excludes 0, else ``undecided``.

    ``not compared`` where there is no row or no interval; ``better`` is ``lower`` for errors such as Brier.
    """
    if row is None or row.value is None or row.low is None or row.high is None:
        return UNKNOWN
    if row.low <= 0 <= row.high:
        return UNDECIDED
    return AHEAD if (row.low > 0) == (better == "higher") else BEHIND


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of the specialist with another competitor on one task."""

    task: Task
    versus: Entry
    row: Row | None
    verdict: str


def comparisons(index: Index, versus: Entry) -> list[Comparison]:
    """The primary specialist against one competitor, on every task that the specialist has a figure for."""
    if index.primary is None:
        return []
    found = []
    for task in index.tasks:
        if index.auroc(task, index.primary) is None:
            continue
        rows = [r for r in index.paired(task, index.primary) if r.versus in (versus.key, versus.model)]
        row = rows[0] if rows else None
        found.append(Comparison(task, versus, row, verdict(row)))
    return found


def peers(index: Index) -> list[Entry]:
    """Whom the headline compares with: the specialist's own self, then the strong baselines that are there."""
    strong = [e for e in index.by_role("baseline") if e.short in ("TF-IDF + LR", "Gradient boosting")]
    own = [e for e in index.by_role("self") if e.regime == "zero-shot"][:1]
    return [e for e in own + strong if any(c.row is not None for c in comparisons(index, e))]


def answer(index: Index) -> list[str]:
    """The sentences of the opening paragraph."""
    if index.primary is None:
        return [
            f"No finetuned model is among these results, so there is no specialist to judge. "
            f"The tables show {plural(len(index.entries), 'competitor')} on {plural(len(index.tasks), 'task')}."
        ]
    scored = [(t, r) for t in index.tasks if (r := index.auroc(t, index.primary)) is not None and r.value is not None]
    if not scored:
        return [f"The results hold no AUROC of the specialist {index.primary.label}, so they answer nothing yet."]
    sentences = [_tested(index, index.primary, scored)]
    sentences += [_compared(versus, comparisons(index, versus)) for versus in peers(index)]
    share = _attained(index, index.primary)
    return [*sentences, share] if share else sentences


def _tested(index: Index, primary: Entry, scored: Sequence[tuple[Task, Row]]) -> str:
    sizes = [row.n or 0 for _, row in scored]
    low, high = min(sizes), max(sizes)
    number = "" if high == 0 else f"{count(high)} " if low in (0, high) else f"{count(low)} to {count(high)} "
    kinds = {d.real for d in index.results.data if d.patients is not None or d.encounters is not None}
    kind = {frozenset({True}): "real ", frozenset({False}): "simulated "}.get(frozenset(kinds), "")
    period = join([d.period for d in index.results.data if d.period])
    where = f"{number}held-out {kind}admissions{' a task' if low != high else ''}{f' from {period}' if period else ''}"
    who = f"{primary.name} ({words.REGIME_WORDS[primary.regime]}) answers {_questions(len(scored))}"
    if len(scored) == 1:
        row = scored[0][1]
        span = with_interval(row.value, row.low, row.high)
    else:
        span = _span([(task, row.value, fixed(row.value)) for task, row in scored])
    return f"On {where}, {who} with an AUROC of {span}; 0.5 is guessing and 1 is perfect."


def _questions(number: int) -> str:
    return "one question" if number == 1 else f"{number} questions"


def _span(found: Sequence[tuple[Task, float | None, str]]) -> str:
    """From the lowest to the highest, each with its task."""
    ordered = sorted(found, key=lambda item: item[1] or 0.0)
    (low_task, _, low), (high_task, _, high) = ordered[0], ordered[-1]
    return f"{low} ({low_task.title}) to {high} ({high_task.title})"


def _compared(versus: Entry, found: Sequence[Comparison]) -> str:
    """What the paired intervals decide between the specialist and one other competitor."""
    name = "itself before finetuning (zero-shot)" if versus.role == "self" else versus.label
    known = [c for c in found if c.verdict != UNKNOWN]
    if not known:
        return f"The difference to {name} has no interval, so it decides nothing."
    if len(known) == 1:
        row, decided = known[0].row, known[0].verdict
        only = "" if len(found) == 1 else f" ({known[0].task.title} only)"
        difference = signed_with_interval(row.value, row.low, row.high) if row is not None else ""
        return f"Compared with {name}{only}, the difference in AUROC is {difference}: {decided}."
    some = "" if len(known) == len(found) else f" ({len(known)} of {len(found)} tasks)"
    groups = [(v, [c for c in known if c.verdict == v]) for v in (AHEAD, UNDECIDED, BEHIND)]
    groups = [(v, group) for v, group in groups if group]
    if len(groups) == 1:
        values = [c.row.value for c in known if c.row is not None and c.row.value is not None]
        span = f" (differences {signed(min(values))} to {signed(max(values))})"
        return f"Compared with {name}{some} it is {groups[0][0]} on all {len(known)}{span}."
    parts = [f"{v} on {len(group)} ({join([c.task.title for c in group])})" for v, group in groups]
    return f"Compared with {name}{some} it is {join(parts)}."


def _attained(index: Index, primary: Entry) -> str:
    found = [(t, r) for t in index.tasks if (r := index.row(t, primary, "attained_share")) and r.value is not None]
    if not found:
        return ""
    span = (
        percent(found[0][1].value)
        if len(found) == 1
        else _span([(task, row.value, percent(row.value)) for task, row in found])
    )
    return f"Of the way from guessing to the best that any model could do with these notes, it goes {span}."
