"""The tables of a report as plain values, ready for the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from lang1.reporting import plots, words
from lang1.reporting.answer import AHEAD, BEHIND, UNDECIDED, comparisons, peers, verdict
from lang1.reporting.index import Entry, Index
from lang1.reporting.numbers import (
    DASH,
    count,
    fixed,
    interval,
    p_value,
    percent,
    percent_interval,
    signed,
    signed_interval,
    signed_with_interval,
    with_interval,
)
from lang1.reporting.plots import Dot, role_of
from lang1.reporting.schema import Row, Share, Task

SIGNS = {AHEAD: "▲", BEHIND: "▼", UNDECIDED: "◆"}


@dataclass(frozen=True)
class Cell:
    """A figure in a table: its main text, a smaller second line, and a share in [0, 1] for a bar behind it."""

    main: str = DASH
    small: str = ""
    bar: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table: a swatch and heading, then cells."""

    head: str
    cells: Sequence[Cell]
    role: str = ""
    swatch: Markup = field(default_factory=Markup)
    about: str = ""
    brief: str = ""


@dataclass(frozen=True)
class Group:
    """A block of rows under a heading of their own."""

    title: str
    lines: Sequence[Line]
    about: str = ""
    columns: Sequence[str] = ()


def head(index: Index, entry: Entry, cells: Sequence[Cell]) -> Line:
    """A table row of a competitor."""
    return Line(
        entry.label, cells, role_of(entry), plots.swatch(role_of(entry), entry.marker), entry.about, entry.short
    )


def _figure(row: Row | None, digits: int = 3) -> Cell:
    if row is None or row.value is None:
        return Cell()
    return Cell(fixed(row.value, digits), interval(row.low, row.high, digits))


def main_table(index: Index) -> list[Group]:
    """Competitors × tasks: AUROC with its interval, then the attained share."""
    scores, shares = [], []
    for entry in index.entries:
        cells = [_figure(index.auroc(task, entry)) for task in index.tasks]
        if any(cell.main != DASH for cell in cells):
            scores.append(head(index, entry, cells))
        rows = [index.row(task, entry, "attained_share") for task in index.tasks]
        if any(row is not None and row.value is not None for row in rows):
            shares.append(
                head(
                    index,
                    entry,
                    [
                        Cell(percent(r.value), percent_interval(r.low, r.high), min(max(r.value, 0.0), 1.0))
                        if r is not None and r.value is not None
                        else Cell()
                        for r in rows
                    ],
                )
            )
    groups = [Group("AUROC", scores, "95 % interval beneath")]
    if shares:
        groups.append(Group("Attained share", shares, "of the way from guessing to the oracle"))
    return groups


def task_heads(index: Index) -> list[dict[str, str]]:
    """Column heads: a task with its rows and outcomes on the headline split."""
    made = []
    for task in index.tasks:
        rows = [r for e in index.entries if (r := index.auroc(task, e)) is not None and r.n is not None]
        size = f"n = {count(rows[0].n)}" if rows else ""
        events = f"{count(rows[0].events)} with outcome" if rows and rows[0].events is not None else ""
        made.append({"title": task.title, "n": size, "events": events, "split": words.split_title(task.headline_split)})
    return made


def footnotes(index: Index) -> list[str]:
    """Remarks that the evaluation wrote beside the figures of the main table, task by task."""
    rows = [(task, index.auroc(task, entry)) for task in index.tasks for entry in index.entries]
    return list(dict.fromkeys(f"{task.title}: {row.note}" for task, row in rows if row is not None and row.note))


def dots(index: Index, task: Task, entries: Sequence[Entry]) -> list[Dot]:
    """AUROCs of competitors for the plots."""
    made = []
    for entry in entries:
        row = index.auroc(task, entry)
        if row is not None and row.value is not None:
            text = with_interval(row.value, row.low, row.high)
            made.append(Dot(entry.short, row.value, row.low, row.high, role_of(entry), entry.marker, text))
    return made


def glance(index: Index) -> dict[str, Any] | None:
    """The table at the top: a task a row, the specialist's AUROC, where it stands, and the verdicts."""
    if index.primary is None:
        return None
    others = peers(index)
    found = {(c.task.task, e.key): c for e in others for c in comparisons(index, e)}
    shown = [index.primary, *others, *index.by_role("oracle")]
    low = min([0.5, *(d.value for t in index.tasks for d in dots(index, t, shown))])
    low = max(0.0, (low * 20 // 1) / 20)
    lines = []
    for place, task in enumerate(index.tasks):
        row = index.auroc(task, index.primary)
        if row is None:
            continue
        marks = dots(index, task, shown)
        verdicts = []
        for other in others:
            c = found.get((task.task, other.key))
            diff = c.row if c is not None else None
            verdicts.append(
                {
                    "versus": "Zero-shot" if other.role == "self" else other.short,
                    "verdict": c.verdict if c is not None else verdict(None),
                    "sign": SIGNS.get(c.verdict if c is not None else "", ""),
                    "value": signed(diff.value) if diff is not None else "",
                    "interval": signed_interval(diff.low, diff.high) if diff is not None else "",
                }
            )
        share = index.row(task, index.primary, "attained_share")
        lines.append(
            {
                "title": task.title,
                "figure": _figure(row),
                "strip": plots.strip(
                    f"glance-{place}", f"{task.title}: AUROC from {fixed(low, 2)} to 1", marks, low, 1
                ),
                "verdicts": verdicts,
                "share": Cell(percent(share.value), percent_interval(share.low, share.high))
                if share is not None
                else Cell(),
            }
        )
    return {
        "lines": lines,
        "versus": ["Zero-shot" if e.role == "self" else e.short for e in others],
        "has_share": any(line["share"] != Cell() for line in lines),
        "low": fixed(low, 1) if round(low * 10) == low * 10 else fixed(low, 2),
        "legend": [(plots.swatch(role_of(e), e.marker), e.label) for e in shown],
    }


def paired_table(index: Index) -> list[dict[str, Any]]:
    """Paired differences in AUROC of every specialist, task by task, with a small plot each."""
    made: list[dict[str, Any]] = []
    rows = [(t, e, r) for e in index.by_role("specialist") for t in index.tasks for r in index.paired(t, e)]
    ends = [v for _, _, r in rows for v in (r.value, r.low, r.high) if v is not None]
    axis = (min([-0.05, *ends]) * 1.05, max([0.05, *ends]) * 1.05)
    for place, (task, entry, row) in enumerate(rows):
        other = index.entry(row.versus or "")
        decided = verdict(row)
        title = f"{task.title}: {entry.label} minus {other.label}"
        plot = (
            plots.difference(f"pair-{place}", title, row.value, row.low, row.high, axis)
            if row.value is not None
            else Markup("")
        )
        made.append(
            {
                "task": task.title,
                "first": not made or made[-1]["task"] != task.title or made[-1]["entry"] != entry.label,
                "entry": entry.label,
                "versus": other.label,
                "brief": other.short,
                "value": signed(row.value),
                "interval": signed_interval(row.low, row.high),
                "p": p_value(row.note),
                "adjusted": DASH if row.p_adjusted is None else p_value(f"p = {row.p_adjusted:.3g}"),
                "verdict": decided,
                "sign": SIGNS.get(decided, ""),
                "plot": plot,
            }
        )
    return made


def other_paired(index: Index) -> list[Line]:
    """Paired differences in other metrics than AUROC, where the evaluation wrote any."""
    made = []
    for entry in index.by_role("specialist"):
        for task in index.tasks:
            metrics = dict.fromkeys(
                r.metric for r in index.results.rows if r.versus and r.metric != "auroc" and r.task == task.task
            )
            for metric in metrics:
                for row in index.paired(task, entry, metric):
                    spoken = words.metric_words(metric)
                    figure = signed_with_interval(row.value, row.low, row.high, spoken.digits)
                    decided = verdict(row, spoken.better) if spoken.better else DASH
                    cells = [spoken.title, index.entry(row.versus or "").label, figure, p_value(row.note), decided]
                    made.append(Line(task.title, [Cell(text) for text in cells]))
    return made


def per_class(index: Index) -> list[Group]:
    """AUROC of each class against the rest, for tasks with more than two classes."""
    groups = []
    for task in index.tasks:
        classes = index.classes(task)
        lines = []
        for entry in index.entries:
            cells = [_class_cell(index.row(task, entry, "auroc_class", class_=name)) for name in classes]
            if any(cell.main != DASH for cell in cells):
                lines.append(head(index, entry, cells))
        if lines:
            groups.append(Group(task.title, lines, columns=[index.class_title(task, c) for c in classes]))
    return groups


def _class_cell(row: Row | None) -> Cell:
    cell = _figure(row)
    return Cell(cell.main, row.note) if row is not None and row.note and cell.main == DASH else cell


OTHER = (
    "auprc",
    "brier",
    "scaled_brier",
    "log_loss",
    "ece",
    "e_avg",
    "calibration_in_the_large",
    "calibration_slope",
    "option_mass",
)
SHOWN_ELSEWHERE = (
    *("auroc", "auroc_class", "attained_share", "prevalence", "auroc_weighted"),
    *("auroc_patients", "auprc_patients", "brier_patients", "e_90", "e_max"),
)


def other_metrics(index: Index) -> dict[str, Any]:
    """Metrics beside AUROC on the headline split; a column for each that occurs, unknown ones included."""
    present = {metric for task in index.tasks for metric in index.metrics(task)}
    columns = [m for m in OTHER if m in present]
    columns += sorted(present - set(OTHER) - set(SHOWN_ELSEWHERE))
    groups = []
    for task in index.tasks:
        lines = []
        prevalence: list[float] = []
        for entry in index.entries:
            rate = index.row(task, entry, "prevalence")
            prevalence += [rate.value] if rate is not None and rate.value is not None else []
            cells = [_figure(index.row(task, entry, m), words.metric_words(m).digits) for m in columns]
            if any(cell.main != DASH for cell in cells):
                lines.append(head(index, entry, cells))
        if lines:
            groups.append(Group(task.title, lines, f"prevalence {percent(prevalence[0])}" if prevalence else ""))
    return {"columns": [words.metric_words(m).title for m in columns], "groups": groups}


def splits_table(index: Index) -> dict[str, Any]:
    """AUROC on every split that has one; empty where only the headline split was scored."""
    found = {split for task in index.tasks for split in index.splits(task)}
    if all(set(index.splits(task)) <= {task.headline_split} for task in index.tasks):
        return {"columns": [], "groups": []}
    columns = sorted(found, key=words.split_rank)
    groups = []
    for task in index.tasks:
        lines = []
        for entry in index.entries:
            cells = [
                Cell(c.main, c.small, mark="head" if split == task.headline_split else "")
                for split in columns
                for c in [_figure(index.auroc(task, entry, split))]
            ]
            if any(cell.main != DASH for cell in cells):
                lines.append(head(index, entry, cells))
        groups.append(Group(task.title, lines, f"headline: {words.split_title(task.headline_split)}"))
    about = {s: index.results.splits.get(s) or words.SPLIT_WORDS.get(s, ("", ""))[1] for s in columns}
    return {"columns": [(words.split_title(s), about[s]) for s in columns], "groups": groups}


def shares_table(index: Index) -> dict[str, Any]:
    """How often each class occurs, split by split, task by task."""
    splits = sorted({share.split for share in index.results.shares}, key=words.split_rank)
    groups = []
    for task in index.tasks:
        by_class: dict[str, dict[str, Share]] = {}
        for share in index.results.shares:
            if share.task == task.task:
                by_class.setdefault(share.class_ or share.label or "", {})[share.split] = share
        lines = [
            Line(
                index.class_title(task, name),
                [
                    Cell(percent(s.share), count(s.n), s.share) if (s := found.get(split)) is not None else Cell()
                    for split in splits
                ],
            )
            for name, found in by_class.items()
        ]
        if lines:
            groups.append(Group(task.title, lines))
    return {"columns": [words.split_title(s) for s in splits], "groups": groups}


def attrition_table(index: Index) -> list[Group]:
    """The ledger of each task: what remained after each rule, and what the rule left out."""
    groups = []
    for task in index.tasks:
        ledger = sorted((a for a in index.results.attrition if a.task == task.task), key=lambda a: a.order)
        if not ledger:
            continue
        most = max((a.rows or 0 for a in ledger), default=0) or 1
        lines: list[Line] = []
        before: int | None = None
        for step in ledger:
            gone = before - step.rows if before is not None and step.rows is not None else None
            cells = [
                Cell(count(step.rows), bar=(step.rows or 0) / most),
                Cell(DASH if gone is None else f"−{count(gone)}" if gone > 0 else count(gone)),
                Cell(count(step.patients)),
                Cell(count(step.outcomes)),
            ]
            lines.append(Line(step.rule, cells))
            before = step.rows if step.rows is not None else before
        first, last = ledger[0].rows, ledger[-1].rows
        about = f"{count(first)} → {count(last)} rows" + (f" ({percent(last / first)})" if first and last else "")
        groups.append(Group(task.title, lines, about))
    return groups


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as ``section.field`` lines."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return [pair for place, inner in enumerate(value) for pair in flat(inner, f"{prefix}[{place}]")]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value) or DASH)]
    return [(prefix, DASH if value is None else str(value))]
