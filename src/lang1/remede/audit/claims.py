"""Sources of denial leaks: notes that are written for the payer, and notes from after the payer's first answer."""

from __future__ import annotations

from lang1.remede.audit.finding import Finding, first
from lang1.remede.audit.material import Material
from lang1.remede.cohort import literal
from lang1.reporting.numbers import plural

GUARD = "denial_sources"
# Written for or after the payer's decision (utilization review, peer-to-peer calls, scanned letters).
PAYER_NOTES = ("case_management",)


def check(material: Material) -> list[Finding]:
    """Findings of the denial tasks."""
    tasks = [task for task, card in material.cards.items() if card.rule_name == "insurance_denial"]
    if not tasks:
        return [Finding(GUARD, (22,), None, "not_applicable", "No task asks about denials.")]
    return [f for task in tasks for f in _task(material, task)]


def _task(material: Material, task: str) -> list[Finding]:
    kinds = ", ".join(literal(kind) for kind in PAYER_NOTES)
    read = f"""
        FROM examples x JOIN inputs i ON i.input_id = x.note_id JOIN notes n ON n.note_id = i.note_id
        LEFT JOIN (SELECT encounter_id, min(first_remit_time) AS answered FROM claims GROUP BY 1) c
            ON c.encounter_id = x.encounter_id
        WHERE x.task = {literal(task)}"""
    rules = {
        f"n.note_type IN ({kinds})": "read a note that is written for the payer (case management)",
        "greatest(n.available_time, n.created_time) >= c.answered": "read a note from after the payer's first answer",
        "x.prediction_time >= c.answered": "are asked after the payer's first answer",
    }
    findings = []
    for rule, words in rules.items():
        ids = [str(name) for (name,) in material.sql(f"SELECT DISTINCT x.example_id {read} AND ({rule}) ORDER BY 1")]
        if ids:
            said = f"{plural(len(ids), 'example')} {words}."
            findings.append(Finding(GUARD, (22,), task, "fail", said, len(ids), first(ids)))
    if not findings:
        said = "No note that is read was written for the payer or after the payer's first answer."
        findings.append(Finding(GUARD, (22,), task, "pass", said))
    return findings
