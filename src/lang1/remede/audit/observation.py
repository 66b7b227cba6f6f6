"""Whether outcomes could be observed: horizons inside the complete data whatever happened, and rows left out unseen."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

from lang1.remede.audit.effects import share
from lang1.remede.audit.finding import Finding, first, told
from lang1.remede.audit.material import Material
from lang1.remede.cohort import literal
from lang1.reporting.numbers import percent, plural

GUARD = "observation"


def check(material: Material) -> list[Finding]:
    """Findings a task: the symmetric rule, then what each rule that asks whether the label is known has left out."""
    return [f for task in material.cards for f in (_censored(material, task), *_left_out(material, task))]


def _censored(material: Material, task: str) -> Finding:
    card, declared = material.cards[task], material.records.meta.complete_through
    if not material.calendar:
        said = "Without true dates nothing says where the data end; censoring at their end cannot be checked."
        return Finding(GUARD, (8,), task, "not_applicable", said)
    first_table = card.censoring.tables[0]
    if first_table not in declared:
        said = (
            f"The records do not declare through when '{first_table}' is complete, so outcomes may be unseen and "
            "counted as none."
        )
        return Finding(GUARD, (8,), task, "warn", said)
    limits = {table: declared[table].through for table in card.censoring.tables if table in declared}
    vital = material.records.meta.vital_status.through
    through = min(limits.values())
    days = card.censoring.observation_days
    anchor = "e.admit_time" if card.censoring.anchor == "admission" else "e.discharge_time"
    late = material.sql(f"""
        SELECT x.example_id, x.label FROM examples x JOIN encounters e USING (encounter_id)
        WHERE x.task = {literal(task)} AND (x.horizon_end > TIMESTAMP '{through}'
            OR {anchor} + INTERVAL {days} DAY > TIMESTAMP '{through}') ORDER BY 1""")
    figures: dict[str, Any] = {"complete_through": str(through), "tables": sorted(limits), "observation_days": days}
    if vital is not None:
        figures["deaths_known_through"] = str(vital)
    if late:
        counts = {card.options[c]: sum(label == c for _, label in late) for c in range(card.classes)}
        figures["by_label"] = counts
        said = (
            f"{plural(len(late), 'example')} were asked whose outcome was not wholly inside the complete data (through "
            f"{through:%Y-%m-%d})."
        )
        return Finding(GUARD, (8,), task, "fail", said, len(late), first([str(name) for name, _ in late]), figures)
    # An admission-anchored task without an observation time keeps the short stays of the last weeks and loses the long.
    if card.censoring.anchor == "admission" and (card.horizon_days or days) < 14 and _open_at_end(material, through):
        said = (
            f"Stays admitted up to {days} days before the end of the data count, so that of the last ones only the "
            "short are in."
        )
        return Finding(GUARD, (8,), task, "fail", said, 0, (), figures)
    said = (
        f"Every example lies with its observation of {days} days inside the complete data (through "
        f"{through:%Y-%m-%d}), whatever happened."
    )
    return Finding(GUARD, (8,), task, "pass", said, 0, (), figures)


def _open_at_end(material: Material, through: datetime) -> bool:
    """Whether stays last long enough, in these records, that those of the last days would be cut off."""
    ((longest,),) = material.sql(f"""
        SELECT quantile_cont(date_diff('hour', admit_time, discharge_time), 0.95) FROM encounters
        WHERE encounter_class = 'inpatient' AND discharge_time <= TIMESTAMP '{through}'""")
    return longest is not None and longest > timedelta(days=1) / timedelta(hours=1)


def _left_out(material: Material, task: str) -> list[Finding]:
    """Stays left out since their label is not known: by rule, and their share of all that were eligible by then."""
    limit = material.threshold("left_unobserved", task)
    ledger = [row for row in material.extra.get("ledger", []) if row["task"] == task]
    findings = []
    for before, row in itertools.pairwise(ledger):
        if not _unobserved(row) or before["rows"] == row["rows"]:
            continue
        gone = before["rows"] - row["rows"]
        found = share(gone, before["rows"], material.settings.confidence)
        if found.low > limit.value:
            said = (
                f"{gone:,} of {before['rows']:,} eligible stays ({percent(found.value)}) have no label under "
                f"'{row['rule']}'; those that stay are a selection."
            )
            figures = found.figures("share") | {"rule": row["rule"]}
            findings.append(
                Finding(GUARD, (8, 9), task, "warn", said, gone, (), figures, told("left_unobserved", limit))
            )
    return findings


def _unobserved(row: dict[str, Any]) -> bool:
    """Whether a rule asks if the label can be known: as the ledger says or, in older folders, by its words."""
    if "reads" in row:
        return bool(row["reads"] in ("observability", "policy"))
    words = str(row["rule"])
    return any(mark in words for mark in ("not observable", "is known", "has a claim", "diagnosis code", "settled"))
