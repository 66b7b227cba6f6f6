"""Shortcuts: what the length of the note, the hour of the question or registration data alone would tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.metrics.auroc import Floats
from lang1.remede.audit.effects import Estimate, area, corrected, exact_low
from lang1.remede.audit.finding import Finding, graded, told
from lang1.remede.audit.material import FIELDS, Material, TaskRows
from lang1.remede.audit.textmodel import levels, table_scores, value_scores
from lang1.reporting.numbers import fixed, percent

GUARD = "shortcuts"


@dataclass(frozen=True)
class Alone:
    """What scores tell alone: the class that they tell best, and its AUROC."""

    option: str
    area: Estimate


@dataclass(frozen=True)
class Deciding:
    """A value that nearly decides a class: the share of the class among its rows."""

    value: str
    option: str
    share: float
    rows: int


def check(material: Material) -> list[Finding]:
    """Findings a task: note length, delay, single registration fields, all of them, and the payer for denials."""
    findings = []
    for task, rows in material.tasks.items():
        if not rows.classes_of_all(material.settings.least_cases):
            said = "Too few cases to try shortcuts."
            findings.append(Finding(GUARD, (23,), task, "not_applicable", said))
            continue
        findings += _number(material, rows, "note_words", "length_auroc", "the length of the note")
        findings += _number(material, rows, "delay_hours", "delay_auroc", "how late the question is asked")
        findings += _fields(material, rows)
    return findings


def judge(material: Material, rows: TaskRows, scores: Floats, looked_at: int) -> Alone:
    """The class that scores ``[N, classes]`` tell best, by the lower bound of its AUROC over all rows."""
    settings = material.settings
    classes = rows.classes_of_all(settings.least_cases)
    level = corrected(settings.confidence, looked_at * len(classes))
    found = [(area(rows.labels == c, scores[:, c], rows.patients, level, settings.resamples), c) for c in classes]
    best, c = max(found, key=lambda pair: pair[0].low)
    return Alone(rows.card.options[c], best)


def deciding(material: Material, rows: TaskRows, values: npt.NDArray[np.object_], looked_at: int) -> Deciding | None:
    """A value whose rows nearly all have one class that is rare otherwise."""
    share, odds = material.threshold("deciding_share", rows.task), material.threshold("deciding_odds", rows.task)
    level_of, names = levels(values)
    classes = rows.classes_of_all(material.settings.least_cases)
    level = corrected(material.settings.confidence, looked_at * len(classes) * len(names))
    for c in classes:
        prior = float((rows.labels == c).mean())
        if prior >= 0.5:
            continue
        n = np.bincount(level_of, minlength=len(names))
        k = np.bincount(level_of[rows.labels == c], minlength=len(names))
        low = exact_low(k, n, level)
        lift = low / np.maximum(1 - low, 1e-9) / (prior / (1 - prior))
        for number in np.flatnonzero((low > share.value) & (lift > odds.value)):
            return Deciding(names[number], rows.card.options[c], float(k[number] / n[number]), int(n[number]))
    return None


def _number(material: Material, rows: TaskRows, column: str, name: str, words: str) -> list[Finding]:
    values = rows.column(column)
    if not np.isfinite(values).any():
        return []
    limit = material.threshold(name, rows.task)
    alone = judge(material, rows, value_scores(rows, values), 1)
    said = f"From {words} alone, '{alone.option}' is told with AUROC {_with(alone.area)}."
    figures = alone.area.figures("auroc") | {"from": column, "class": alone.option}
    verdict = graded(alone.area.low > limit.value, "fail", "pass")
    return [Finding(GUARD, (23,), rows.task, verdict, said, 0, (), figures, told(name, limit))]


def _fields(material: Material, rows: TaskRows) -> list[Finding]:
    known = [name for name in FIELDS if _informative(rows, name)]
    if not known:
        return [Finding(GUARD, (23,), rows.task, "not_applicable", "The records hold no registration data.")]
    limit = material.threshold("field_auroc", rows.task)
    alone = {name: judge(material, rows, value_scores(rows, rows.column(name)), len(known)) for name in known}
    findings = []
    for name in known:
        column = rows.column(name)
        told_by = deciding(material, rows, column, len(known)) if column.dtype == object else None
        if told_by is not None:
            said = (
                f"The {name.replace('_', ' ')} '{told_by.value}' nearly decides the outcome: {percent(told_by.share)} "
                "of its "
                f"{told_by.rows} examples are '{told_by.option}'."
            )
            share = material.threshold("deciding_share", rows.task)
            figures = {"field": name, "value": told_by.value, "share": told_by.share}
            findings.append(
                Finding(GUARD, (23,), rows.task, "fail", said, told_by.rows, (), figures, told("deciding_share", share))
            )
        elif alone[name].area.low > limit.value:
            said = f"The field '{name}' alone tells '{alone[name].option}' with AUROC {_with(alone[name].area)}."
            figures = alone[name].area.figures("auroc") | {"field": name}
            findings.append(Finding(GUARD, (23,), rows.task, "fail", said, 0, (), figures, told("field_auroc", limit)))
    together = judge(material, rows, table_scores(rows, known), 1)
    strongest = max(alone, key=lambda name: alone[name].area.value)
    figures = together.area.figures("auroc") | {
        "fields": {name: one.area.value for name, one in alone.items()},
        "strongest_field": strongest,
    }
    wide = material.threshold("metadata_auroc", rows.task)
    said = (
        f"Registration data without any text tell '{together.option}' with AUROC {_with(together.area)}; the strongest "
        f"single field is '{strongest}' ({fixed(alone[strongest].area.value)})."
    )
    verdict = graded(together.area.low > wide.value, "warn", "pass")
    findings.append(Finding(GUARD, (23,), rows.task, verdict, said, 0, (), figures, told("metadata_auroc", wide)))
    if rows.card.rule_name == "insurance_denial" and "payer" in alone:
        limit, payer = material.threshold("payer_auroc", rows.task), alone["payer"].area
        said = f"From the payer alone, a denial is told with AUROC {_with(payer)}."
        verdict = graded(payer.low > limit.value, "warn", "pass")
        findings.append(
            Finding(
                GUARD, (22, 23), rows.task, verdict, said, 0, (), payer.figures("auroc"), told("payer_auroc", limit)
            )
        )
    return findings


def _informative(rows: TaskRows, name: str) -> bool:
    values = rows.column(name)
    if values.dtype == object:
        return len({value for value in values if value is not None}) > 1
    return len(np.unique(values[np.isfinite(values)])) > 1


def _with(estimate: Estimate) -> str:
    return f"{fixed(estimate.value)} ({fixed(estimate.low)}–{fixed(estimate.high)})"
