"""Site and time: whether place or month stand for the outcome, and whether text carries to new sites."""

from __future__ import annotations

import numpy as np

from lang1.remede.audit.effects import area, corrected
from lang1.remede.audit.finding import Finding, graded, told
from lang1.remede.audit.material import Material, TaskRows
from lang1.remede.audit.shortcuts import deciding, judge
from lang1.remede.audit.textmodel import text_scores, value_scores
from lang1.reporting.numbers import fixed, percent, plural, signed

GUARD = "sites"
LEAST_SITES = 3  # leave-one-site-out needs two sites to learn from
MOST_SITES = 8  # left out in turn, the largest
LEAST_ROWS = 50  # of a site that is left out


def check(material: Material) -> list[Finding]:
    """Findings a task: the site alone, the calendar month alone, and a text model at a site that it has not seen."""
    findings = []
    for task, rows in material.tasks.items():
        if not rows.classes_of_all(material.settings.least_cases):
            said = "Too few cases to compare sites."
            findings.append(Finding(GUARD, (23,), task, "not_applicable", said))
            continue
        findings.append(_site(material, rows))
        if material.calendar:
            findings.append(_alone(material, rows, "month", "the calendar month"))
        findings.append(_left_out(material, rows))
    return findings


def _names(rows: TaskRows) -> list[str]:
    values, counts = np.unique([v for v in rows.column("facility") if v is not None], return_counts=True)
    return [str(name) for _, name in sorted(zip(-counts, values, strict=True))]


def _site(material: Material, rows: TaskRows) -> Finding:
    names = _names(rows)
    if len(names) < 2:
        return Finding(
            GUARD, (23,), rows.task, "not_applicable", "The examples come from one site, or do not say from which."
        )
    site = rows.column("facility")
    told_by = deciding(material, rows, site, 1)
    if told_by is not None:
        limit = material.threshold("deciding_share", rows.task)
        said = (
            f"Site '{told_by.value}' nearly decides the outcome: {percent(told_by.share)} of its {told_by.rows} "
            f"examples are '{told_by.option}'."
        )
        figures = {"site": told_by.value, "share": told_by.share}
        return Finding(GUARD, (23,), rows.task, "fail", said, told_by.rows, (), figures, told("deciding_share", limit))
    finding = _alone(material, rows, "facility", "the site")
    top = rows.card.classes - 1
    rates = {name: float((rows.labels[site == name] == top).mean()) for name in names}
    return Finding(
        GUARD, finding.pitfalls, rows.task, finding.verdict, finding.words, 0, (),
        {**finding.figures, "share_of_last_class_by_site": rates}, finding.threshold,
    )  # fmt: skip


def _alone(material: Material, rows: TaskRows, column: str, words: str) -> Finding:
    limit = material.threshold("site_auroc", rows.task)
    alone = judge(material, rows, value_scores(rows, rows.column(column)), 2)
    said = (
        f"From {words} alone, '{alone.option}' is told with AUROC {fixed(alone.area.value)} "
        f"({fixed(alone.area.low)}–{fixed(alone.area.high)})."
    )
    verdict = graded(alone.area.low > limit.value, "fail", "pass")
    figures = alone.area.figures("auroc") | {"from": column}
    return Finding(GUARD, (23,), rows.task, verdict, said, 0, (), figures, told("site_auroc", limit))


def _left_out(material: Material, rows: TaskRows) -> Finding:
    """A text model's AUROC at each site when it has learnt there too, and when it has not."""
    settings, site = material.settings, rows.column("facility")
    names = [name for name in _names(rows) if int((site == name).sum()) >= LEAST_ROWS][:MOST_SITES]
    if len(names) < LEAST_SITES:
        said = (
            f"Leaving sites out in turn needs {LEAST_SITES} sites with {LEAST_ROWS} examples; there are "
            f"{plural(len(names), 'site')}."
        )
        return Finding(GUARD, (23,), rows.task, "not_applicable", said)
    texts = material.texts(list(rows.inputs))
    c = rows.card.classes - 1 if rows.card.classes == 2 else int(np.argmax(np.bincount(rows.labels)))
    usual = text_scores(rows, texts)
    limit, drops = material.threshold("site_drop", rows.task), {}
    level = corrected(settings.confidence, len(names))
    for name in names:
        there = rows.held & (site == name)
        case = rows.labels[there] == c
        elsewhere = rows.train & (site != name)
        if min(case.sum(), (~case).sum()) < settings.least_cases or len(np.unique(rows.labels[elsewhere])) < 2:
            continue
        unseen = text_scores(rows, texts, elsewhere)
        inside = area(case, usual[there, c], rows.patients[there], level, settings.resamples)
        outside = area(case, unseen[there, c], rows.patients[there], level, settings.resamples)
        # Unpaired, and so on the safe side: a drop counts where the two intervals lie apart by it.
        drops[name] = (inside.value - outside.value, inside.low - outside.high)
    if not drops:
        return Finding(GUARD, (23,), rows.task, "not_applicable", "No site has enough cases to be left out.")
    name, (drop, low) = max(drops.items(), key=lambda pair: pair[1][1])
    verdict = graded(low > limit.value, "fail", "pass")
    said = f"At a site that it has not seen, a text model's AUROC changes by {signed(-drop)} at worst ('{name}')."
    figures = {"drops": {n: d for n, (d, _) in drops.items()}, "class": rows.card.options[c]}
    return Finding(GUARD, (23,), rows.task, verdict, said, 0, (), figures, told("site_drop", limit))
