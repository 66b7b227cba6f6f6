"""Build a benchmark from records: labels, splits and the attrition ledger (``docs/remede.md``)."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lang1.common.artefact import Draft, new_folder
from lang1.common.errors import InputError, SettingsError
from lang1.common.identity import write_patient_hashes
from lang1.records.store import Records
from lang1.remede import charts, splits
from lang1.remede.benchmark import CARDS, EXAMPLES, KIND, LEFT_OUT, PLACES, SPLITS_FILE, Benchmark
from lang1.remede.card import Card, load_card, write_card
from lang1.remede.cohort import Facts, Ledger, Rule, Unsupported, label_sql, literal, prepare, rows
from lang1.remede.lint import lint
from lang1.remede.names import TASKS, in_order
from lang1.remede.observability import compare
from lang1.remede.settings import HELD_OUT_SITE, SPLITS, BuildSettings, check_path
from lang1.remede.tasks import cohort
from lang1.remede.timeline import Timeline, timeline

__all__ = ["BuildSettings", "build"]

EXAMPLE_SCHEMA = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("encounter_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us")),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("index_time", pa.timestamp("us")),
        pa.field("horizon_end", pa.timestamp("us")),
    ]
)

# Where an example lies; kept beside the examples where years or sites decide over its split.
PLACED = ("site", "first_year", "last_year", "reach")


@dataclass(frozen=True)
class Place:
    """Where rows are placed: the blocks of time, and the sites that are held out."""

    timeline: Timeline | None
    sites: tuple[str, ...]

    @property
    def by_year(self) -> bool:
        """Whether rows are placed in time by true years."""
        return self.timeline is not None and self.timeline.by_year


def build(records: Path, out: Path, settings: BuildSettings | None = None) -> Path:
    """Build the benchmark of a records folder; same records and settings, same bytes.

    Raises:
        SettingsError: a setting or card that cannot be used.
        InputError: records that support none of the tasks, or not one that was asked for; an unreadable given label.
        ArtefactError: folders that are missing, damaged or in the way.
    """
    settings = settings or BuildSettings()
    check_path(settings.card_dir, "card_dir")
    cards = {
        task: load_card(task, settings.card_dir, settings.cards.get(task)) for task in in_order(settings.tasks or TASKS)
    }
    opened = Records.open(records)
    inputs = {"records": opened.folder}
    if settings.cut_points_from is not None:
        other = Benchmark.open(settings.cut_points_from)
        inputs["cut_points"] = other.folder
        cards = {task: _other_bins(card, other) for task, card in cards.items()}
    with opened.connect() as connection, new_folder(out, KIND, inputs=inputs, settings=settings) as draft:
        facts = Facts(opened, connection, settings.mark_unsupported)
        place = Place(timeline(facts, settings, cards.values()), splits.held_out_sites(facts, settings))
        prepare(facts)
        splits.create_folds(connection, settings, place.sites)
        ledger = Ledger(connection)
        connection.execute("CREATE TEMP TABLE examples (draw DOUBLE)")
        connection.execute(f"CREATE TEMP TABLE inputs ({charts.COLUMNS})")
        built = _label_all(cards, facts, settings, place, ledger)
        _sample(built, settings, ledger, connection)
        if settings.policy == "time-only":
            splits.hold_out_sampled_patients(connection)
        _write(draft, built, facts, settings, place, ledger)
        draft.extra["records"] = {
            "path": str(opened.path.resolve()),
            # So that benchmark and records can be moved together.
            "relative": os.path.relpath(opened.path.resolve(), Path(out).resolve()),
            "fingerprint": opened.folder.fingerprint,
        }
    return Path(out)


def _other_bins(card: Card, other: Benchmark) -> Card:
    theirs = other.cards.get(card.task)
    if card.cut_points is None or theirs is None or theirs.cut_points is None:
        return card
    return card.with_cut_points(theirs.cut_points, theirs.options)


def _label_all(
    cards: dict[str, Card], facts: Facts, settings: BuildSettings, place: Place, ledger: Ledger
) -> dict[str, Card]:
    """Label each task into ``examples``; returns the cards of the tasks that the records support."""
    built: dict[str, Card] = {}
    for task, card in cards.items():
        try:
            _label(card, facts, settings, place, ledger)
        except Unsupported as reason:
            if settings.tasks is not None:
                raise
            facts.note(f"Task '{task}' is left aside: {reason}")
            continue
        if settings.fit_cut_points and card.cut_points is not None:
            card = _fitted(card, facts.connection)
            _label(card, facts, settings, place, ledger)
        built[task] = card
        more = "".join(f", {name}" for name in ("died_without_return", *PLACED) if _has(facts.connection, name))
        facts.connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE examples AS
            SELECT * FROM examples UNION ALL BY NAME
            SELECT {literal(task + ":")} || encounter_id AS example_id, {literal(task)} AS task, encounter_id,
                patient_id, subject_id, note_id, prediction_time, {splits.SPLIT} AS split,
                ({label_sql(card)})::INTEGER AS label,
                index_time, horizon_end, draw{more}
            FROM remaining
        """)
    if not built or not _one(facts.connection, "SELECT count(*) FROM examples"):
        empty = [f"{row['task']}: none left after '{row['rule']}'" for row in _emptied(ledger)]
        why = "; ".join([*facts.notices, *empty])
        raise InputError(f"{facts.records.path}: no example for any task. {why}")
    return built


def _label(card: Card, facts: Facts, settings: BuildSettings, place: Place, ledger: Ledger) -> None:
    charts.check_times(card, facts)
    asked = cohort(card, facts)
    if findings := lint(card, asked.rules, asked.columns):
        more = f" ({len(findings) - 1} more)" if len(findings) > 1 else ""
        raise SettingsError(f"{findings[0]}.{more}")
    ledger.start(card, asked.start)
    ledger.apply(card, asked.rules)
    facts.observability[card.task] = compare(card, asked.rules, facts)
    if charts.composed(card) is not None:
        charts.choose(facts.connection, card)
        ledger.apply(card, [charts.HAS_NOTES])
    splits.place(facts.connection, card, settings, place.timeline, place.sites)
    ledger.apply(card, splits.rules(settings, place.timeline, place.sites))


def _fitted(card: Card, connection: duckdb.DuckDBPyConnection) -> Card:
    """The card with integer bins at the quantiles of the train split; equal bounds are merged."""
    if not card.quantiles:
        raise SettingsError(f"{card.task}: the card names no quantiles, so its bins cannot be fitted.")
    if _one(connection, "SELECT count(*) FROM remaining WHERE given_class IS NOT NULL"):
        raise SettingsError(
            f"{card.task}: its labels are given as classes, so bins cannot be fitted; set fit_cut_points=false."
        )
    listed = ", ".join(str(q) for q in card.quantiles)
    ((quantiles, largest),) = rows(
        connection,
        f"SELECT quantile_disc(value, [{listed}]), max(value) FROM remaining WHERE {splits.SPLIT} = 'train'",
    )
    # A bound at the largest value would leave the class above it empty.
    bounds = sorted({int(value) for value in quantiles or () if int(value) < largest})
    if not bounds:
        raise InputError(f"{card.task}: no two values in the train split to fit bins on; set fit_cut_points=false.")
    return card.with_cut_points(bounds)


def _sample(
    built: dict[str, Card], settings: BuildSettings, ledger: Ledger, connection: duckdb.DuckDBPyConnection
) -> None:
    if not settings.max_examples:
        return
    splits.sampled(connection, settings.max_examples)
    limits = ", ".join(f"{split} {number}" for split, number in settings.max_examples.items())
    words = f"in the sample of patients by hash (about so many stays: {limits})"
    kept = "EXISTS (SELECT 1 FROM drawn d WHERE d.split = {0}.split AND d.patient_id = {0}.patient_id)"
    for card in built.values():
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE remaining AS SELECT *, label AS given_class, NULL::DOUBLE AS value "
            f"FROM examples WHERE task = '{card.task}'"
        )
        ledger.apply(card, [Rule(words, kept.format("asked"))])
    connection.execute(f"DELETE FROM examples WHERE NOT {kept.format('examples')}")


def _write(
    draft: Draft,
    built: dict[str, Card],
    facts: Facts,
    settings: BuildSettings,
    place: Place,
    ledger: Ledger,
) -> None:
    connection = facts.connection
    order = " ".join(f"WHEN '{task}' THEN {number}" for number, task in enumerate(built))
    names = ", ".join(EXAMPLE_SCHEMA.names)
    examples: pa.Table = connection.sql(
        f"SELECT {names} FROM examples ORDER BY CASE task {order} END, encounter_id"
    ).to_arrow_table()
    pq.write_table(examples.cast(EXAMPLE_SCHEMA), draft.path / EXAMPLES, compression="zstd")
    folds: pa.Table = connection.sql(
        "SELECT patient_id, subject_id, fold FROM folds ORDER BY patient_id"
    ).to_arrow_table()
    pq.write_table(folds, draft.path / SPLITS_FILE, compression="zstd")
    if any(charts.composed(card) for card in built.values()):
        pq.write_table(charts.stored(connection), draft.path / charts.FILE, compression="zstd")
    if place.sites or place.by_year:
        places = connection.sql(
            f"SELECT example_id, {', '.join(PLACED)} FROM examples ORDER BY CASE task {order} END, encounter_id"
        )
        pq.write_table(places.to_arrow_table(), draft.path / PLACES, compression="zstd")
    ledger_rules = pa.table(
        {key: [row[key] for row in ledger.rows] for key in ("task", "order", "rule")},
        schema=pa.schema({"task": pa.string(), "order": pa.int32(), "rule": pa.string()}),
    )
    connection.register("ledger_rules", ledger_rules)
    left_out = connection.sql(
        f'SELECT task, encounter_id, "order", rule FROM left_out JOIN ledger_rules USING (task, "order") '
        f'ORDER BY CASE task {order} END, "order", encounter_id'
    ).to_arrow_table()
    pq.write_table(left_out, draft.path / LEFT_OUT, compression="zstd")
    held_out = rows(connection, "SELECT patient_id FROM folds WHERE fold <> 'train'")
    write_patient_hashes(draft.path, (row[0] for row in held_out))
    (draft.path / CARDS).mkdir()
    for task, card in built.items():
        write_card(draft.path / CARDS / f"{task}.yaml", card)

    ledger_rows = [row for row in ledger.rows if row["task"] in built]
    by_split = rows(connection, "SELECT task, split, count(*) FROM examples GROUP BY ALL")
    cut = place.timeline.pretraining_cut(built) if place.timeline is not None else None
    present = {split for _, split, _ in by_split}
    headline = next((s for s in ("test_newest", "test_older", "test", HELD_OUT_SITE) if s in present), "test")
    draft.counts.update({"examples": examples.num_rows, "patients": folds.num_rows})
    draft.counts["by_task"] = {t: {s: n for s in SPLITS for t2, s2, n in by_split if (t2, s2) == (t, s)} for t in built}
    for earlier, row in itertools.pairwise(ledger_rows):
        if earlier["task"] == row["task"]:
            draft.leave_out(f"{row['task']}: not ({row['rule']})", earlier["rows"] - row["rows"])
    draft.extra.update(
        {
            "tasks": list(built),
            "headline_split": headline,
            "ledger": ledger_rows,
            "shares": _shares(built, connection),
            "pretraining_cut": cut.isoformat() if cut else None,
            "blocks": _blocks(list(built), place.timeline),
            "placed_by": None if place.timeline is None else "years" if place.by_year else "dates",
            "held_out_sites": list(place.sites),
            "policy": settings.policy,
            "died_without_return": _died_without_return(built, connection),
            "observability": [entry for task in built for entry in facts.observability[task]],
            "marks": [mark for mark in facts.marks if mark["task"] in built],
            "notices": facts.notices,
        }
    )


def _shares(built: dict[str, Card], connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    counted = {
        (task, split, label): n
        for task, split, label, n in rows(connection, "SELECT task, split, label, count(*) FROM examples GROUP BY ALL")
    }
    shares = []
    for task, card in built.items():
        for split in SPLITS:
            total = sum(counted.get((task, split, label), 0) for label in range(card.classes))
            for label, text in enumerate(card.options if total else ()):
                n = counted.get((task, split, label), 0)
                shares.append({"task": task, "split": split, "class": label, "label": text, "n": n, "share": n / total})
    return shares


def _blocks(tasks: list[str], timeline: Timeline | None) -> dict[str, dict[str, list[str]]]:
    """By task, the first and the last day of each block."""
    if timeline is None:
        return {}
    return {
        task: {name: [str(block.start), str(block.end)] for name, block in timeline.of(task).named().items()}
        for task in tasks
    }


def _died_without_return(built: dict[str, Card], connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """By task and split: examples whose patient died within the horizon without a return, where the task asks."""
    if not _has(connection, "died_without_return", "examples"):
        return {}
    found = {
        (task, split): n
        for task, split, n in rows(
            connection, "SELECT task, split, count(*) FROM examples WHERE died_without_return GROUP BY ALL"
        )
    }
    by_task = {task: {s: found[task, s] for s in SPLITS if (task, s) in found} for task in built}
    return {task: counts for task, counts in by_task.items() if counts}


def _emptied(ledger: Ledger) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for row in ledger.rows:
        if row["rows"] == 0:
            first.setdefault(row["task"], row)
    return list(first.values())


def _has(connection: duckdb.DuckDBPyConnection, column: str, table: str = "remaining") -> bool:
    return column in [name for name, *_ in rows(connection, f"DESCRIBE {table}")]


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(rows(connection, sql)[0][0])
