"""The page of a leak audit, drawn from ``audit.json`` alone: a table of verdicts in plain words, then the details."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lang1.common.errors import ArtefactError
from lang1.reporting.numbers import compact, count, fixed, join, percent, plural
from lang1.reporting.page import write_page
from lang1.reporting.plots import Axes, Line, panel

# Verdict, its sign, its words in a table, and the style class that other reports give the same meaning.
VERDICTS = {
    "fail": ("✗", "failed", "behind"),
    "warn": ("!", "look at it", "undecided"),
    "pass": ("✓", "passed", "ahead"),
    "not_applicable": ("–", "not asked", "not"),
    "checked elsewhere": ("→", "elsewhere", "not"),
}
_WORST_FIRST = ("fail", "warn", "pass", "not_applicable")
# Figures that are drawn or told in a place of their own.
_NOT_LISTED = ("months",)
LEAST_A_POINT = 10


@dataclass(frozen=True)
class Verdict:
    """A verdict as a cell shows it."""

    sign: str
    words: str
    style: str


@dataclass(frozen=True)
class Row:
    """A guard in the table of verdicts."""

    name: str
    title: str
    asks: str
    verdict: Verdict
    words: str
    more: str


@dataclass(frozen=True)
class Detail:
    """A finding: what was found, and behind it."""

    task: str
    verdict: Verdict
    words: str
    examples: Sequence[str]
    figures: Sequence[tuple[str, str]]
    threshold: str
    excerpts: Sequence[str]


def render_audit(source: Path, out: Path) -> Path:
    """Write the page of an audit from its ``audit.json`` and return where it lies.

    Raises:
        ArtefactError: a source that is not an audit, or a place that cannot be written.
    """
    try:
        said = json.loads(Path(source).read_text(encoding="utf-8"))
        findings, guards, about = said["findings"], said["guards"], said["benchmark"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{source}: not the audit.json of an audit ({error}); run the audit again.") from error
    asked = {guard["name"]: guard for guard in guards}
    grouped: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for finding in findings:
        grouped.setdefault(finding["guard"], []).append(finding)
    grouped = {name: found for name, found in grouped.items() if found}
    titles = about["tasks"]
    contents = [
        ("verdicts", "Verdicts"),
        ("details", "Details"),
        ("pitfalls", "Pitfalls"),
        ("thresholds", "Thresholds"),
    ]
    panels = _months(findings, titles)
    if panels:
        contents.insert(2, ("months", "By month"))
    return write_page(
        "audit.html.j2",
        Path(out),
        title=f"Leak audit of {about['name']}",
        contents=contents,
        failed=bool(said["failed"]),
        lead=_lead(grouped, asked),
        chip=("real", "real records") if about["real"] else ("simulated", "simulated records"),
        facts=[
            ("System", str(about["system"])),
            ("Examples", count(about["examples"])),
            ("Patients", count(about["patients"])),
            ("Tasks", str(len(titles))),
        ],
        rows=[_row(name, found, asked, titles) for name, found in grouped.items()],
        details=[
            (name, asked.get(name, {}).get("title", name), _shown(_worst(found)), [_detail(f, titles) for f in found])
            for name, found in grouped.items()
        ],
        panels=panels,
        pitfalls=[
            (
                p["number"],
                p["title"],
                _shown(p["verdict"]),
                [asked[g]["title"] for g in p["guards"] if g in asked],
                p["elsewhere"],
            )
            for p in said["pitfalls"]
        ],
        thresholds=said["thresholds"],
        settings=[
            ("Settings", [(key, _text(value)) for key, value in said["settings"].items() if value not in ({}, None)])
        ],
        fingerprint=about["fingerprint"],
        footer=f"lang1 {said['lang1_version']} · drawn from audit.json alone, without network; "
        + (
            "words around hits are shown, as asked."
            if said["settings"].get("show_text")
            else "no note's text is in it."
        ),
    )


def _worst(findings: Sequence[Mapping[str, Any]]) -> str:
    said = {finding["verdict"] for finding in findings}
    return next(verdict for verdict in _WORST_FIRST if verdict in said)


def _shown(verdict: str) -> Verdict:
    return Verdict(*VERDICTS[verdict])


def _lead(grouped: Mapping[str, Sequence[Mapping[str, Any]]], asked: Mapping[str, Mapping[str, Any]]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for name, found in grouped.items():
        by_verdict.setdefault(_worst(found), []).append(str(asked.get(name, {}).get("title", name)))
    bad, watch = by_verdict.get("fail", []), by_verdict.get("warn", [])
    if bad:
        return (
            f"{len(bad)} of {plural(len(grouped), 'guard')} failed: {join(bad)}. "
            "Figures from this benchmark may say more about its leaks than about a model."
        )
    more = f" Look at: {join(watch)}." if watch else ""
    return f"None of {plural(len(grouped), 'guard')} failed.{more}"


def _row(
    name: str, found: Sequence[Mapping[str, Any]], asked: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]
) -> Row:
    worst = _worst(found)
    grave = [finding for finding in found if finding["verdict"] == worst]
    head = grave[0]
    task = f"{titles[head['task']]}: " if head["task"] in titles else ""
    more = f"and {len(grave) - 1} more" if len(grave) > 1 else ""
    guard = asked.get(name, {"title": name, "asks": ""})
    return Row(name, guard["title"], guard["asks"], _shown(worst), f"{task}{head['words']}", more)


def _detail(finding: Mapping[str, Any], titles: Mapping[str, str]) -> Detail:
    limit = finding["threshold"]
    return Detail(
        titles.get(finding["task"], "All tasks"),
        _shown(finding["verdict"]),
        finding["words"],
        finding["examples"],
        [(key.replace("_", " "), _text(value)) for key, value in finding["figures"].items() if key not in _NOT_LISTED],
        f"{limit['name']} {compact(limit['value'])}: {limit['reason']}" if limit else "",
        finding["excerpts"],
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return fixed(value, 4)
    if isinstance(value, int):
        return count(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(f"({_text(inner)})" if isinstance(inner, Mapping) else _text(inner) for inner in value)
    return "–" if value is None else str(value)


def _months(findings: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Share of a class by quarter of a year, one panel a task; quarters with few examples are left out."""
    panels: list[dict[str, Any]] = []
    for number, finding in enumerate(findings):
        quarters: dict[float, list[float]] = {}
        for row in finding["figures"].get("months", []):
            year, month = (int(part) for part in row["month"].split("-"))
            held = quarters.setdefault(year + (month - 1) // 3 / 4, [0, 0.0])
            held[0] += row["n"]
            held[1] += row["n"] * row["share"]
        points = [(at, k / n) for at, (n, k) in sorted(quarters.items()) if n >= LEAST_A_POINT]
        if len(points) < 2:
            continue
        title = f"{titles.get(finding['task'], finding['task'])}: {finding['figures']['class']}"
        axes = Axes(
            (points[0][0], points[-1][0] + 0.25),
            (0.0, max(share for _, share in points) * 1.15 or 1.0),
            "year",
            "share",
            x_text=lambda value: f"{value:.0f}",
            y_text=lambda value: percent(value),
            width=400.0,
        )
        plot = panel(f"months-{number}", title, [Line(title, points, "r-specialist", "d0")], axes)
        panels.append({"title": title, "plot": plot})
    return panels
