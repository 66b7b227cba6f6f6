"""The end of the data: rows that thin out although they are said to be complete, and classes that drift there."""

from __future__ import annotations

from datetime import datetime, timedelta

from lang1.remede.audit.effects import Estimate, corrected, rate_ratio, share_ratio
from lang1.remede.audit.finding import Finding, graded, told
from lang1.remede.audit.material import Material
from lang1.remede.cohort import literal
from lang1.reporting.numbers import fixed, percent, plural

GUARD = "tails"
WINDOWS = (30, 60, 120)  # days of the tail
BEFORE = 365  # days that it is compared with
# By table, the time that says when a row came to be. Notes and codes follow the stays.
TIMES = {"encounters": "admit_time", "notes": "available_time", "claims": "submitted_time"}


def check(material: Material) -> list[Finding]:
    """Volumes of the tables at the end of their declared completeness, then shares of classes by task."""
    if not material.calendar:
        said = "The records have no true dates, so no end of the data can be looked at."
        return [Finding(GUARD, (8,), None, "not_applicable", said)]
    return [*_volumes(material), *(_prevalence(material, task) for task in material.cards)]


def _volumes(material: Material) -> list[Finding]:
    declared = {t: c for t, c in material.records.meta.complete_through.items() if t in TIMES}
    limit = material.threshold("tail_volume")
    level = corrected(material.settings.confidence, len(declared) * len(WINDOWS))
    findings = []
    for table, complete in declared.items():
        kind = "WHERE encounter_class = 'inpatient'" if table == "encounters" else ""
        # A claim or note is complete when its stay is: no row is expected after the declared end of the stays.
        through = min(complete.through, _end_of_stays(material, complete.through))
        ratios: dict[int, Estimate] = {}
        for days in WINDOWS:
            start, before = through - timedelta(days=days), through - timedelta(days=days + BEFORE)
            tail, earlier = (
                material.sql(
                    f"SELECT count(*) FROM (SELECT {TIMES[table]} AS came FROM {table} {kind}) "
                    f"WHERE came > TIMESTAMP '{a}' AND came <= TIMESTAMP '{b}'"
                )[0][0]
                for a, b in ((start, through), (before, start))
            )
            if earlier:
                ratios[days] = rate_ratio(tail, days, earlier, BEFORE, level)
        if not ratios:
            continue
        days, worst = min(ratios.items(), key=lambda pair: pair[1].high)
        figures = (
            {f"last_{d}_days": ratios[d].value for d in ratios} | worst.figures("ratio") | {"through": str(through)}
        )
        bad = worst.high < limit.value
        said = (
            f"In the last {days} days before {through:%Y-%m-%d}, through which they are said to be complete, {table} "
            "come at "
            f"{percent(worst.value)} of the rate of the year before."
        )
        findings.append(
            Finding(GUARD, (8,), None, graded(bad, "fail", "pass"), said, 0, (), figures, told("tail_volume", limit))
        )
    if not findings:
        said = (
            "The records do not say through when they are complete, so nobody can tell an unobserved outcome from none."
        )
        findings.append(Finding(GUARD, (8,), None, "warn", said))
    return findings


def _end_of_stays(material: Material, otherwise: datetime) -> datetime:
    stays = material.records.meta.complete_through.get("encounters")
    return stays.through if stays is not None else otherwise


def _prevalence(material: Material, task: str) -> Finding:
    card = material.cards[task]
    rows = material.sql(
        f"SELECT index_time, label FROM examples WHERE task = {literal(task)} AND index_time IS NOT NULL"
    )
    limit = material.threshold("tail_prevalence", task)
    if not rows:
        return Finding(GUARD, (8,), task, "not_applicable", "The examples have no index time.")
    last = max(at for at, _ in rows)
    classes = [1] if card.classes == 2 else list(range(card.classes))
    level = corrected(material.settings.confidence, len(classes) * len(WINDOWS) * len(material.cards))
    worst: tuple[float, int, int, Estimate] | None = None
    for days in WINDOWS:
        start, before = last - timedelta(days=days), last - timedelta(days=days + BEFORE)
        tail = [label for at, label in rows if at > start]
        earlier = [label for at, label in rows if before < at <= start]
        for c in classes:
            found = share_ratio(tail.count(c), len(tail), earlier.count(c), len(earlier), level)
            # How far the near bound lies from 1, in either direction.
            near = max(1 / found.high if found.high > 0 else float("inf"), found.low)
            if worst is None or near > worst[0]:
                worst = (near, days, c, found)
    assert worst is not None
    near, days, c, found = worst
    months = _months(rows, c)
    bad = near > 1 / limit.value
    said = (
        f"The share of '{card.options[c]}' in the last {days} days is {fixed(found.value, 2)} times that of the year "
        "before "
        f"(between {fixed(found.low, 2)} and {fixed(min(found.high, 99), 2)})."
    )
    figures = found.figures("ratio") | {"class": card.options[c], "months": months}
    if not bad:
        said = f"Shares of outcomes stay level to the end of the data ({plural(len(months), 'month')} with examples)."
    return Finding(GUARD, (8,), task, graded(bad, "fail", "pass"), said, 0, (), figures, told("tail_prevalence", limit))


def _months(rows: list[tuple[datetime, int]], c: int) -> list[dict[str, object]]:
    """Examples and share of a class by month, in order."""
    found: dict[str, list[int]] = {}
    for at, label in rows:
        month = found.setdefault(f"{at:%Y-%m}", [0, 0])
        month[0] += 1
        month[1] += label == c
    return [{"month": m, "n": n, "share": k / n} for m, (n, k) in sorted(found.items())]
