"""The datasheet of a benchmark: who is in it, who was left out by which rule, how labels follow, and its limits.

The questions are those of datasheets for datasets (Gebru et al., doi 10.1145/3458723), as far as a benchmark of a
hospital's own records can answer them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from lang1.remede.benchmark import Benchmark
from lang1.remede.card import Card
from lang1.remede.cohort import rows
from lang1.remede.settings import SPLITS
from lang1.reporting.document import Document, Grid, Section
from lang1.reporting.numbers import count, percent
from lang1.reporting.words import split_title

# Groups with fewer examples are shown together: a rate among so few says little and can point at a person.
SMALLEST_GROUP = 20
MOST_GROUPS = 10
GROUPS = {
    "sex": "p.sex",
    "age": "CASE WHEN age < 18 THEN 'under 18' WHEN age < 45 THEN '18 to 44' WHEN age < 65 THEN '45 to 64' "
    "WHEN age < 80 THEN '65 to 79' WHEN age >= 80 THEN '80 and over' END",
    "race": "p.race",
    "ethnicity": "p.ethnicity",
    "payer": "e.payer",
    "department": "e.department",
    "facility": "e.facility",
    "admission type": "e.admission_type",
}


def datasheet(benchmark: Benchmark) -> Document:
    """The datasheet, from the benchmark's manifest and the records it was built from.

    Raises:
        ArtefactError: the records are gone or changed.
    """
    extra, meta = benchmark.manifest.extra, benchmark.records.meta
    with benchmark.records.connect() as connection:
        _examples(connection, benchmark)
        ((examples, patients, encounters),) = rows(
            connection, "SELECT count(*), count(DISTINCT patient_id), count(DISTINCT encounter_id) FROM described"
        )
        population, tasks = _population(connection, benchmark), _tasks(connection, benchmark)
    real = "real patients" if meta.real else "no real patients"
    cut = benchmark.pretraining_cut
    return Document(
        title=f"Datasheet of {benchmark.folder.path.resolve().name}",
        sentence=f"{count(examples)} questions about {count(encounters)} encounters of {count(patients)} patients of "
        f"{meta.system}; {real}.",
        facts=[
            ("Source", meta.source or meta.system),
            ("Licence", meta.licence or "not stated"),
            ("Times", meta.time_basis),
            ("Split policy", str(extra["policy"])),
            ("Headline split", split_title(benchmark.headline_split)),
            ("Pretraining may read text before", f"{cut:%Y-%m-%d}" if cut else "no cut: by patient only"),
        ],
        sections=[population, *tasks, _splits(benchmark), _limits(benchmark), _made(benchmark)],
        footer=f"lang1 {benchmark.manifest.lang1_version} · benchmark {benchmark.folder.fingerprint[:16]} · records "
        f"{str(extra['records']['fingerprint'])[:16]}",
    )


def write_datasheet(benchmark_folder: Path, out: Path) -> tuple[Path, Path]:
    """Write ``datasheet.html`` and ``datasheet.md`` to a folder; returns both.

    Raises:
        ArtefactError: no benchmark there, its records are gone, or the place cannot be written.
    """
    document = datasheet(Benchmark.open(benchmark_folder))
    page = document.html(out / "datasheet.html")
    text = out / "datasheet.md"
    text.write_text(document.markdown(), encoding="utf-8")
    return page, text


def _examples(connection: duckdb.DuckDBPyConnection, benchmark: Benchmark) -> None:
    """Create ``described``: examples with the groups that they belong to."""
    connection.register("asked", benchmark.examples())
    metadata: pa.Table = benchmark.metadata(benchmark.examples())
    connection.register("metadata", metadata.select(["example_id", "age", "note_words"]))
    groups = ", ".join(f"({sql})::VARCHAR AS {_column(name)}" for name, sql in GROUPS.items())
    connection.execute(f"""
        CREATE TEMP TABLE described AS
        SELECT a.*, m.age, m.note_words, {groups} FROM asked a JOIN metadata m USING (example_id)
        JOIN encounters e USING (encounter_id) LEFT JOIN patients p ON p.patient_id = a.patient_id""")


def _column(name: str) -> str:
    return f"group_{name.replace(' ', '_')}"


def _population(connection: duckdb.DuckDBPyConnection, benchmark: Benchmark) -> Section:
    ((records, inpatient),) = rows(
        connection, "SELECT count(*), count(*) FILTER (encounter_class = 'inpatient') FROM encounters"
    )
    kinds = rows(
        connection, "SELECT note_type, count(*), median(length(text)) FROM notes GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    span = rows(connection, "SELECT min(admit_time), max(coalesce(discharge_time, admit_time)) FROM encounters")[0]
    times = benchmark.records.meta.time_basis
    period = f", from {span[0]:%B %Y} to {span[1]:%B %Y}" if times == "calendar" and span[0] else ""
    grids = []
    for name in GROUPS:
        column = _column(name)
        found = rows(
            connection,
            f"SELECT coalesce({column}, 'not recorded') AS level, count(DISTINCT encounter_id) AS n FROM described "
            "GROUP BY 1 ORDER BY 2 DESC, 1",
        )
        if len(found) < 2 and (not found or found[0][0] == "not recorded"):
            continue
        grids.append(Grid([name, "encounters", "share"], _levels(found), ""))
    return Section(
        "Population",
        [
            f"The records hold {count(records)} encounters, {count(inpatient)} of them inpatient{period}. The tables "
            "below count the encounters about which at least one question is asked."
        ],
        grids=[
            *grids,
            Grid(
                ["note type", "notes in the records", "median characters"],
                [[kind.replace("_", " "), count(n), count(length)] for kind, n, length in kinds],
            ),
        ],
    )


def _levels(found: list[tuple[Any, ...]]) -> list[list[str]]:
    """Levels with their count and share; small ones and those beyond the most frequent go together."""
    total = sum(n for _, n in found)
    shown = [(level, n) for level, n in found[:MOST_GROUPS] if n >= SMALLEST_GROUP]
    rest = total - sum(n for _, n in shown)
    return [[str(level), count(n), percent(n / total)] for level, n in shown] + (
        [["all others", count(rest), percent(rest / total)]] if rest else []
    )


def _tasks(connection: duckdb.DuckDBPyConnection, benchmark: Benchmark) -> list[Section]:
    return [_task(connection, benchmark, task, card) for task, card in benchmark.cards.items()]


def _task(connection: duckdb.DuckDBPyConnection, benchmark: Benchmark, task: str, card: Card) -> Section:
    top = card.options[-1]
    ledger = [row for row in benchmark.ledger if row["task"] == task]
    rules = [
        ("Question", card.question().replace("\n\nQuestion: ", "").replace("\n", " / ")),
        ("Reads", card.note_type.replace("_", " ")),
        ("Asked", card.prediction.words),
        ("Label", card.label_source),
        ("Censoring", card.censoring.words),
    ]
    shares = {(row["split"], row["class"]): row for row in benchmark.shares if row["task"] == task}
    splits = [split for split in SPLITS if (split, 0) in shares]
    classes = [
        [text, *(f"{count(shares[s, c]['n'])} ({percent(shares[s, c]['share'])})" for s in splits)]
        for c, text in enumerate(card.options)
    ]
    extra = benchmark.manifest.extra
    unobserved = [row for row in extra.get("observability", []) if row["task"] == task and row["n_left"]]
    marks = [str(mark["reason"]) for mark in extra.get("marks", []) if mark["task"] == task]
    return Section(
        card.title,
        [card.definition],
        [*(f"{name}: {text}" for name, text in rules), *(f"Marked: {reason}" for reason in marks)],
        [
            Grid(
                ["what remains after each rule", "examples", "patients", f"“{top}”"],
                [[row["rule"], count(row["rows"]), count(row["patients"]), count(row["outcomes"])] for row in ledger],
                "Attrition",
            ),
            Grid(["class", *(split_title(split) for split in splits)], classes, "Classes by split"),
            *([_unobserved(unobserved)] if unobserved else []),
            *_by_group(connection, task, card),
        ],
        [Section("Caveats and sources", (), [*card.caveats, *card.sources])],
    )


def _unobserved(found: list[dict[str, Any]]) -> Grid:
    table = []
    for row in found:
        apart = sorted((c for c in row["covariates"] if c["smd"] is not None), key=lambda c: -abs(c["smd"]))[:3]
        said = "; ".join(f"{c['name']} {c['level'] or ''}".strip() + f" {c['smd']:+.2f}" for c in apart)
        table.append([row["rule"], count(row["n_left"]), count(row["n_kept"]), said or "nothing known of them"])
    return Grid(
        ["outcome cannot be seen", "left out", "kept", "largest differences (standardised)"],
        table,
        "Examples whose outcome the data cannot show, beside those that stay",
    )


def _by_group(connection: duckdb.DuckDBPyConnection, task: str, card: Card) -> list[Grid]:
    """The share of the highest class by group, over all splits."""
    table = []
    for name in GROUPS:
        found = rows(
            connection,
            f"SELECT coalesce({_column(name)}, 'not recorded'), count(*), count(*) FILTER (label = {card.classes - 1}) "
            f"FROM described WHERE task = '{task}' GROUP BY 1 HAVING count(*) >= {SMALLEST_GROUP} "
            f"ORDER BY 2 DESC, 1 LIMIT {MOST_GROUPS}",
        )
        if len(found) > 1:
            table += [[f"{name}: {level}", count(n), percent(cases / n)] for level, n, cases in found]
    if not table:
        return []
    return [
        Grid(
            ["group", "examples", f"“{card.options[-1]}”"],
            table,
            f"Share of “{card.options[-1]}” by group, all splits (groups of {SMALLEST_GROUP} or more)",
        )
    ]


def _splits(benchmark: Benchmark) -> Section:
    extra = benchmark.manifest.extra
    points = [
        f"{task}: {name} from {days[0]} to {days[1]}"
        for task, blocks in dict(extra.get("blocks", {})).items()
        for name, days in blocks.items()
    ]
    held = benchmark.manifest.counts.get("by_task", {})
    present = [split for split in SPLITS if any(held.get(task, {}).get(split) for task in benchmark.tasks)]
    table = [
        [card.title, *(count(held.get(task, {}).get(split, 0)) for split in present)]
        for task, card in benchmark.cards.items()
    ]
    return Section(
        "Splits",
        [
            f"Policy {extra['policy']}. A patient's side follows from a salted hash of the id and survives a new "
            "extract. That no patient stands on two sides is proved each time the benchmark is opened."
        ],
        points,
        [Grid(["examples", *(split_title(split) for split in present)], table)],
    )


def _limits(benchmark: Benchmark) -> Section:
    meta = benchmark.records.meta
    vital = meta.vital_status
    known = f" through {vital.through:%Y-%m-%d}" if vital.through else ""
    complete = [f"{t}: complete through {c.through:%Y-%m-%d}, by {c.key}" for t, c in meta.complete_through.items()]
    oddities = dict(benchmark.records.folder.manifest.counts.get("oddities", {}))
    return Section(
        "Limits",
        [f"Deaths are known from: {vital.source}{known}. {meta.notes}".strip()],
        [
            *benchmark.notices,
            *(complete or ["The records do not declare through when they are complete."]),
            *(f"Odd and kept in the records: {name}: {count(n)}" for name, n in oddities.items()),
            *(
                f"Left out of the records: {reason}: {count(n)}"
                for reason, n in benchmark.records.folder.manifest.left_out.items()
            ),
        ],
    )


def _made(benchmark: Benchmark) -> Section:
    manifest = benchmark.manifest
    return Section(
        "How it was made",
        [
            "The same records and settings give the same bytes. Ids and template names are stored; the text of notes "
            "stays in the records folder."
        ],
        [
            f"Benchmark fingerprint {benchmark.folder.fingerprint}",
            *(f"Input {name}: {ref.kind}, {ref.fingerprint}" for name, ref in manifest.inputs.items()),
            *(f"{name} {version}" for name, version in manifest.versions.items()),
        ],
    )
