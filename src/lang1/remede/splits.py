"""Splits: time blocks, folds of patients, and stated samples. None of them looks at an outcome."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import duckdb
import pyarrow as pa

from lang1.common.identity import patient_hash, unit_hash
from lang1.remede.card import Card
from lang1.remede.cohort import Rule, rows
from lang1.remede.settings import Blocks, BuildSettings, Calendar, Fractions


def create_folds(connection: duckdb.DuckDBPyConnection, settings: BuildSettings) -> None:
    """Create ``folds(patient_id, subject_id, fold, draw)`` for all patients.

    The fold follows from a hash of the patient's id and the salt alone, so it survives a new extract. ``draw`` orders
    patients for samples, by a hash of its own.
    """
    ids = [row[0] for row in rows(connection, "SELECT patient_id FROM patients ORDER BY patient_id")]
    fractions = settings.fractions_of(None)
    apart = settings.policy == "patients-apart"
    table = pa.table(
        {
            "patient_id": pa.array(ids, pa.string()),
            "subject_id": pa.array((patient_hash(i) for i in ids), pa.int64()),
            # Time-only: see hold_out_sampled_patients.
            "fold": pa.array(
                (fractions.fold(unit_hash(i, settings.salt)) if apart else "train" for i in ids), pa.string()
            ),
            "draw": pa.array((unit_hash(i, f"{settings.salt}/sample") for i in ids), pa.float64()),
        }
    )
    connection.register("folds_table", table)
    connection.execute("CREATE OR REPLACE TEMP TABLE folds AS SELECT * FROM folds_table")
    connection.unregister("folds_table")


def place(
    connection: duckdb.DuckDBPyConnection, card: Card, settings: BuildSettings, calendar: Calendar | None
) -> None:
    """Add to ``remaining`` its ``subject_id, draw, fold``, and the ``block`` and ``next_block`` of the calendar."""
    blocks = calendar.of(card.task) if calendar is not None else None
    if settings.policy == "time-only":
        fold = _encounter_folds(connection, settings.fractions_of(card.task), settings.salt)
    else:
        fold = "f.fold"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE placed AS
        SELECT r.*, f.subject_id, f.draw, {fold} AS fold, {_block(blocks, lambda name: f"'{name}'")} AS block,
            {_block(blocks, lambda name: _next_start(blocks, name))}::TIMESTAMP AS next_block
        FROM remaining r JOIN folds f USING (patient_id)
    """)
    connection.execute("CREATE OR REPLACE TEMP TABLE remaining AS SELECT * FROM placed")


SPLIT = "CASE WHEN block = 'train' THEN fold ELSE block END"


def rules(settings: BuildSettings, calendar: Calendar | None) -> list[Rule]:
    """The rules of blocks, gaps and patients apart."""
    if calendar is None:
        return []
    found = [
        Rule("the encounter ends within a block of the calendar", "block IS NOT NULL"),
        Rule("its horizon ends before the next block starts", "next_block IS NULL OR horizon_end < next_block"),
    ]
    if settings.policy == "patients-apart":
        words = "patients kept apart: temporal tests hold patients of the test fold only"
        found.append(Rule(words, APART))
    return found


APART = "block = 'train' OR fold = 'test'"


def pretraining_cut(tasks: list[str], calendar: Calendar | None) -> datetime | None:
    """The first moment of the earliest temporal test block of the tasks: text from before it may be pretrained on."""
    if calendar is None:
        return None
    starts = [block.begins for task in tasks for name, block in calendar.of(task).named().items() if name != "train"]
    return min(starts, default=None)


def hold_out_sampled_patients(connection: duckdb.DuckDBPyConnection) -> None:
    """Time-only: patients with an example in val or test of the train period leave the train fold.

    The temporal tests of that policy are kept from pretraining by the cut; the same-period ones would not be.
    """
    connection.execute("""
        UPDATE folds SET fold = held.split
        FROM (SELECT patient_id, max(split) AS split FROM examples WHERE split IN ('val', 'test') GROUP BY ALL) held
        WHERE folds.patient_id = held.patient_id
    """)


def sampled(connection: duckdb.DuckDBPyConnection, most: dict[str, int]) -> None:
    """Create ``drawn(split, patient_id)``: the patients whose examples stay, in the order of their draw.

    Patients are taken until a split holds ``most[split]`` stays (encounters, over all tasks), the last patient whole.
    """
    limits = ", ".join(f"('{split}', {number})" for split, number in most.items())
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE drawn AS
        WITH stays AS (
            SELECT split, patient_id, any_value(draw) AS draw, count(DISTINCT encounter_id) AS stays
            FROM examples GROUP BY split, patient_id
        ),
        before AS (
            SELECT split, patient_id,
                sum(stays) OVER (PARTITION BY split ORDER BY draw, patient_id) - stays AS before
            FROM stays
        )
        SELECT split, patient_id FROM before
        LEFT JOIN (VALUES {limits}) l(split, most) USING (split) WHERE most IS NULL OR before < most
    """)


def _encounter_folds(connection: duckdb.DuckDBPyConnection, fractions: Fractions, salt: str) -> str:
    ids = [row[0] for row in rows(connection, "SELECT encounter_id FROM remaining ORDER BY 1")]
    table = pa.table(
        {
            "encounter_id": pa.array(ids, pa.string()),
            "fold": pa.array((fractions.fold(unit_hash(i, salt)) for i in ids), pa.string()),
        }
    )
    connection.register("encounter_folds_table", table)
    connection.execute("CREATE OR REPLACE TEMP TABLE encounter_folds AS SELECT * FROM encounter_folds_table")
    connection.unregister("encounter_folds_table")
    return "(SELECT e.fold FROM encounter_folds e WHERE e.encounter_id = r.encounter_id)"


def _block(blocks: Blocks | None, says: Callable[[str], str]) -> str:
    """SQL: what ``says`` of the block in which ``end_time`` lies; without a calendar all rows share one period."""
    if blocks is None:
        return says("train")
    cases = " ".join(
        f"WHEN r.end_time >= TIMESTAMP '{block.begins}' AND r.end_time < TIMESTAMP '{block.closes}' THEN {says(name)}"
        for name, block in blocks.named().items()
    )
    return f"CASE {cases} END"


def _next_start(blocks: Blocks | None, name: str) -> str:
    if blocks is None:
        return "NULL"
    named = list(blocks.named().items())
    later = [block.begins for other, block in named[[n for n, _ in named].index(name) + 1 :]]
    return f"TIMESTAMP '{later[0]}'" if later else "NULL"
