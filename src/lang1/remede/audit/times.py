"""Notes and the time of the question: what was written, signed or amended after it, and how exact the times are."""

from __future__ import annotations

from lang1.remede.audit.effects import share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.material import Material
from lang1.remede.cohort import literal
from lang1.reporting.numbers import percent, plural

GUARD = "note_times"
# A bare date is stored as midnight; as an input it counts from the end of that day.
_USABLE = "CASE WHEN {0} = date_trunc('day', {0}) THEN {0} + INTERVAL 1 DAY - INTERVAL 1 MICROSECOND ELSE {0} END"
# Share of bare dates between these bounds: some times have a time of day and some have none.
MIXED = (0.01, 0.99)


def check(material: Material) -> list[Finding]:
    """Findings a task, then one about the exactness of the notes' times."""
    if not material.timed:
        return [
            Finding(
                GUARD,
                (2, 3),
                None,
                "not_applicable",
                "The records have no times; the order of facts is the source's word.",
            )
        ]
    material.connection.execute("""
        CREATE OR REPLACE TEMP TABLE read_notes AS
        SELECT x.task, x.example_id, x.prediction_time, n.note_id, n.encounter_id, n.created_time, n.signed_time,
            n.available_time
        FROM examples x JOIN inputs i ON i.input_id = x.note_id LEFT JOIN notes n ON n.note_id = i.note_id""")
    return [*(f for task in material.cards for f in _task(material, task)), _exactness(material)]


def _task(material: Material, task: str) -> list[Finding]:
    settings = material.settings
    ((notes,),) = material.sql(f"SELECT count(*) FROM read_notes WHERE task = {literal(task)}")
    available = _USABLE.format("available_time")
    # Without dates of its own a given label vouches for its note.
    given = (
        "EXISTS (SELECT 1 FROM given_labels g WHERE g.encounter_id = read_notes.encounter_id AND g.task = "
        f"{literal(task)})"
    )
    never = {
        f"{available} > prediction_time": "became available after the question was asked",
        "created_time > prediction_time": "were begun after the question was asked",
        f"available_time IS NULL AND NOT {given}": "have no known time at which they could be read",
        "note_id IS NULL": "are missing from the records",
    }
    rare = {
        "signed_time > prediction_time": (
            "were signed after the question was asked, so that their text may be later",
            "signed_later",
        ),
        "available_time < created_time": (
            "are said to have been readable before they were begun",
            "available_before_created",
        ),
    }
    found: list[Finding] = []
    for rule, words in never.items():
        ids = _broken(material, task, rule)
        if ids:
            said = f"{plural(len(ids), 'note')} of {notes:,} {words}."
            found.append(Finding(GUARD, (2,), task, "fail", said, len(ids), first(ids), {"notes": notes}))
    for rule, (words, name) in rare.items():
        ids = _broken(material, task, rule)
        limit = material.threshold(name, task)
        of = share(len(ids), notes, settings.confidence)
        if ids:
            verdict = graded(of.low > limit.value, "fail", "warn")
            said = f"{plural(len(ids), 'note')} of {notes:,} ({percent(of.value)}) {words}."
            figures = of.figures("share") | {"notes": notes}
            found.append(Finding(GUARD, (2,), task, verdict, said, len(ids), first(ids), figures, told(name, limit)))
    if not found:
        said = (
            f"All {plural(notes, 'note')} that are read were begun, signed and available by the time of the question."
        )
        found.append(Finding(GUARD, (2,), task, "pass", said, 0, (), {"notes": notes}))
    return found


def _broken(material: Material, task: str, rule: str) -> list[str]:
    return [
        str(name)
        for (name,) in material.sql(
            f"SELECT DISTINCT example_id FROM read_notes WHERE task = {literal(task)} AND ({rule}) ORDER BY 1"
        )
    ]


def _exactness(material: Material) -> Finding:
    ((notes, bare),) = material.sql("""
        SELECT count(*), count(*) FILTER (available_time = date_trunc('day', available_time))
        FROM (SELECT DISTINCT note_id, available_time FROM read_notes WHERE available_time IS NOT NULL)""")
    of = share(bare, notes, material.settings.confidence)
    figures = of.figures("share_of_bare_dates") | {"notes": notes}
    if of.low > MIXED[0] and of.high < MIXED[1]:
        said = (
            f"{percent(of.value)} of the notes' times are bare dates and the others have a time of day: two ways of "
            "dating "
            "in one table, of which each needs its own rule."
        )
        return Finding(GUARD, (3,), None, "warn", said, bare, (), figures)
    kind = "are bare dates, which count from the end of their day" if of.low > 0.5 else "have a time of day"
    return Finding(
        GUARD,
        (3,),
        None,
        "pass",
        f"The times at which {plural(notes, 'note')} became available {kind}.",
        0,
        (),
        figures,
    )
