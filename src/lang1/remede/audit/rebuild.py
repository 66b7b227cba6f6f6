"""Truncation and swapped outcomes: examples are built again from records whose future is another one.

Each sampled example becomes a patient of its own in a small records folder: its patient's rows as they stood at the
prediction time, with everything that happened, was written, signed, coded or billed later deleted. A label needs some
future, so the deleted one is replaced by an invented one, the same for all: in the first folder a quiet discharge, in
the second death, return, grave codes, denial and later notes. Both go through the builder that made the benchmark.
Whatever is read must be the same bytes in the benchmark and in both. (The test of truncation after the package
``icu-leakage-check``; the swapped outcome is a metamorphic test.)
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from lang1.common.errors import Lang1Error
from lang1.records.store import Records, new_records
from lang1.remede.audit.effects import share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.futures import QUIET, TURNED, Future, choose, meta_of, tables_of
from lang1.remede.audit.material import Material
from lang1.remede.benchmark import EXAMPLES, LEFT_OUT, Benchmark
from lang1.remede.build import build
from lang1.remede.card import write_card
from lang1.remede.charts import FILE as INPUTS
from lang1.remede.cohort import literal
from lang1.remede.lint import lint
from lang1.remede.names import shipped_cards
from lang1.remede.settings import BuildSettings
from lang1.reporting.numbers import plural

TRUNCATION, SWAPPED, ELIGIBILITY = "truncation", "swapped_outcome", "eligibility"


def check(material: Material) -> list[Finding]:
    """Findings a task: truncation, swapped outcome, and whether who is asked depends on the future."""
    if not material.timed:
        said = "The records have no times, so nothing can be cut off after the question."
        return [
            Finding(guard, (number,), None, "not_applicable", said)
            for guard, number in ((TRUNCATION, 4), (SWAPPED, 5), (ELIGIBILITY, 9))
        ] + _linted(material)
    findings: list[Finding] = []
    try:
        findings += _checked(material, tuple(material.cards))
    except (Lang1Error, duckdb.Error):
        # Again one by one, so that the task whose rows or card cannot be built does not take the others with it.
        for task in material.cards:
            try:
                findings += _checked(material, (task,))
            except (Lang1Error, duckdb.Error) as error:
                findings += _not_rebuilt(task, str(error).splitlines()[0])
    return [*findings, *_linted(material)]


def _checked(material: Material, tasks: tuple[str, ...]) -> list[Finding]:
    choose(material, tasks)
    if not material.sql("SELECT 1 FROM chosen LIMIT 1"):
        return [
            finding for task in tasks for finding in _compare(material, task, {}, _Rebuilt({}, {}), _Rebuilt({}, {}))
        ]
    with tempfile.TemporaryDirectory(prefix="lang1-audit-") as place:
        found = [_rebuilt(material, Path(place) / name, f) for name, f in (("quiet", QUIET), ("turned", TURNED))]
    now = _current(material)
    findings = []
    for task in tasks:
        asked = {key: read for key, read in now.items() if key[0] == task}
        findings += _compare(material, task, asked, found[0], found[1])
    return findings


def _not_rebuilt(task: str, why: str) -> list[Finding]:
    """Guards that could not be asked have not held."""
    said = f"Not shown: the examples could not be built again from records cut off at the question ({why})"
    return [
        Finding(guard, (number,), task, "fail", said)
        for guard, number in ((TRUNCATION, 4), (SWAPPED, 5), (ELIGIBILITY, 9))
    ]


Key = tuple[str, str]  # task, and the number of the chosen example with its encounter
Read = tuple[Any, ...]  # question, prediction time, and the notes that are read with their texts


@dataclass(frozen=True)
class _Rebuilt:
    read: dict[Key, Read]
    left_out: dict[Key, str]


def _rebuilt(material: Material, place: Path, future: Future) -> _Rebuilt:
    """Write the truncated records with an invented future, build them, and read what each example would show."""
    tables = tables_of(material, future)
    place.mkdir()
    with new_records(place / "records", meta_of(material)) as draft:
        for name, table in tables.items():
            if table.num_rows:
                draft.write_part(name, table, 0)
    cards = place / "cards"
    cards.mkdir()
    tasks = [task for (task,) in material.sql("SELECT DISTINCT task FROM chosen ORDER BY 1")]
    for task, card in ((task, material.cards[task]) for task in tasks):
        write_card(cards / f"{task}.yaml", card)
        if task in shipped_cards():
            _without_base(cards / f"{task}.yaml")
        if card.sql is not None and card.query is not None:
            (cards / card.sql).write_text(card.query, encoding="utf-8")
    # The few rows may lack what the whole records support.
    settings = BuildSettings(tasks=tuple(tasks), calendar=None, card_dir=cards, mark_unsupported="all")
    build(place / "records", place / "benchmark", settings)
    return _read(place / "benchmark", place / "records")


def _without_base(file: Path) -> None:
    """A shipped card, written whole, is taken as an edit of itself, which may not name a base."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("based_on:")), encoding="utf-8")


def _current(material: Material) -> dict[Key, Read]:
    """What each chosen example shows in the benchmark."""
    keys = {name: k for k, name in material.sql("SELECT k, example_id FROM chosen")}
    wanted = ", ".join(literal(name) for name in keys) or "NULL"
    read = _texts(material.connection, f"SELECT * FROM examples WHERE example_id IN ({wanted})", "inputs", "notes")
    questions = {task: card.question() for task, card in material.cards.items()}
    return {
        (task, keys[f"{task}:{encounter}"] + encounter): (questions[task], time, *notes)
        for (task, encounter), (time, notes) in read.items()
        if f"{task}:{encounter}" in keys
    }


def _read(benchmark: Path, records: Path) -> _Rebuilt:
    """What each example of a rebuilt benchmark shows, ids of notes without their number; why others are not asked."""
    opened = Benchmark.open(benchmark)
    with Records.open(records).connect() as connection:
        connection.register("examples", pq.read_table(benchmark / EXAMPLES))
        if (benchmark / INPUTS).is_file():
            connection.register(
                "composed", pq.read_table(benchmark / INPUTS, columns=["input_id", "position", "note_id"])
            )
        else:
            connection.execute("CREATE TEMP TABLE composed (input_id VARCHAR, position INTEGER, note_id VARCHAR)")
        connection.execute("""
            CREATE TEMP TABLE inputs AS SELECT * FROM composed UNION ALL
            SELECT DISTINCT note_id, 0, note_id FROM examples WHERE note_id NOT IN (SELECT input_id FROM composed)""")
        read = _texts(connection, "SELECT * FROM examples", "inputs", "notes")
        connection.register("left_out", pq.read_table(benchmark / LEFT_OUT))
        left = connection.execute("SELECT task, encounter_id, rule FROM left_out").fetchall()
    questions = opened.questions()
    return _Rebuilt(
        {
            key: (questions[key[0]], time, *((note[6:], text) for note, text in notes))
            for key, (time, notes) in read.items()
        },
        {(task, encounter): rule for task, encounter, rule in left},
    )


def _texts(
    connection: duckdb.DuckDBPyConnection, examples: str, inputs: str, notes: str
) -> dict[Key, tuple[Any, list[tuple[str, str]]]]:
    found: dict[Key, tuple[Any, list[tuple[str, str]]]] = {}
    for task, encounter, time, note, text in connection.execute(f"""
            SELECT x.task, x.encounter_id, x.prediction_time, i.note_id, n.text
            FROM ({examples}) x JOIN {inputs} i ON i.input_id = x.note_id LEFT JOIN {notes} n ON n.note_id = i.note_id
            ORDER BY 1, 2, i.position""").fetchall():
        found.setdefault((task, encounter), (time, []))[1].append((note, text))
    return found


def _compare(material: Material, task: str, asked: dict[Key, Read], quiet: _Rebuilt, turned: _Rebuilt) -> list[Finding]:
    if not asked:
        said = "No example of the task has a time at which it is asked."
        return [Finding(TRUNCATION, (4,), task, "not_applicable", said)]
    example = {key: f"{task}:{key[1][6:]}" for key in asked}
    gone = [key for key in asked if key not in quiet.read]
    other = [key for key in asked if key in quiet.read and quiet.read[key] != asked[key]]
    both = [key for key in asked if key in quiet.read and key in turned.read]
    swayed = [key for key in both if quiet.read[key] != turned.read[key]]
    limit = material.threshold("not_asked_again", task)
    lost = share(len(gone), len(asked), material.settings.confidence)
    why = sorted({quiet.left_out.get(key, "not among the candidates") for key in gone})
    findings = []
    figures = {"rebuilt": len(asked), "differ": len(other), "not_asked_again": len(gone), "left_out_by": why}
    if other:
        said = (
            f"{plural(len(other), 'example')} of {len(asked)} read otherwise once everything after the question is "
            "deleted."
        )
        findings.append(
            Finding(TRUNCATION, (2, 4), task, "fail", said, len(other), first([example[k] for k in other]), figures)
        )
    else:
        said = (
            f"With everything after the question deleted, {len(asked) - len(gone)} of {len(asked)} examples read the "
            "same, byte by byte."
        )
        findings.append(Finding(TRUNCATION, (2, 4), task, "pass", said, 0, (), figures))
    if len(gone) == len(asked):
        said = f"No example is asked once the future is another one ({'; '.join(why)}), so this could not be checked."
        findings.append(Finding(ELIGIBILITY, (9,), task, "warn", said, len(gone), (), figures))
    elif gone:
        verdict = graded(lost.low > limit.value, "fail", "warn")
        said = (
            f"{plural(len(gone), 'example')} of {len(asked)} are no longer asked once the future is another one: "
            f"{'; '.join(why)}."
        )
        ids = first([example[k] for k in gone])
        findings.append(
            Finding(
                ELIGIBILITY,
                (9, 2),
                task,
                verdict,
                said,
                len(gone),
                ids,
                figures | lost.figures("share"),
                told("not_asked_again", limit),
            )
        )
    else:
        said = f"All {len(asked)} examples are asked again when their future is another one."
        findings.append(Finding(ELIGIBILITY, (9,), task, "pass", said, 0, (), figures))
    if not both:
        said = "No example is asked under both invented futures."
        findings.append(Finding(SWAPPED, (5,), task, "not_applicable", said))
    elif swayed:
        said = f"{plural(len(swayed), 'example')} of {len(both)} read otherwise when only the outcome is turned round."
        findings.append(
            Finding(
                SWAPPED,
                (5,),
                task,
                "fail",
                said,
                len(swayed),
                first([example[k] for k in swayed]),
                {"compared": len(both)},
            )
        )
    else:
        said = (
            f"{len(both)} examples read the same under opposite outcomes (death, return, codes, denial, later notes)."
        )
        findings.append(Finding(SWAPPED, (5,), task, "pass", said, 0, (), {"compared": len(both), "asked": len(asked)}))
    return findings


def _linted(material: Material) -> list[Finding]:
    """The cards' own rules, read by the linter of cards."""
    findings = []
    for task, card in material.cards.items():
        wrong = lint(card)
        if wrong:
            said = f"{plural(len(wrong), 'rule')} of the card read the future: {'; '.join(str(w) for w in wrong[:3])}"
            findings.append(Finding(ELIGIBILITY, (9,), task, "fail", said, len(wrong)))
    return findings
