"""What a benchmark promises, asked again each time that it is opened: a folder that was changed is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from lang1.common.errors import ArtefactError
from lang1.remede.card import Card
from lang1.remede.charts import composed
from lang1.remede.cohort import literal, rows
from lang1.remede.settings import HELD_OUT_SITE, SPLITS


def check_promises(
    folder: Path,
    cards: Mapping[str, Card],
    extra: Mapping[str, Any],
    tables: Mapping[str, pa.Table],
) -> None:
    """Prove that a benchmark's tables keep what training and evaluation rely on.

    Args:
        folder: named in errors.
        cards: of each task.
        extra: of its manifest (``policy, blocks, held_out_sites``).
        tables: ``examples`` and ``folds``; ``places`` and ``inputs`` where there are such.

    Raises:
        ArtefactError: a broken promise, naming an example.
    """
    connection = duckdb.connect(":memory:")
    for name, table in tables.items():
        connection.register(name, table)
    blocks, by_year = extra.get("blocks", {}), extra.get("placed_by") == "years"
    promises = _sound(cards) | _patients(str(extra["policy"]))
    if "places" in tables:
        promises |= _places(blocks, extra.get("held_out_sites", []), by_year)
    promises |= _time(blocks, by_year)
    if "inputs" in tables:
        promises |= _inputs(cards)
    for what, query in promises.items():
        broken = rows(connection, f"{query} ORDER BY 1 LIMIT 1")
        if broken:
            raise ArtefactError(f"{folder} {what} (example '{broken[0][0]}'); it was changed, so build it again.")
    connection.close()


def _sound(cards: Mapping[str, Card]) -> dict[str, str]:
    classes = " ".join(f"WHEN {literal(task)} THEN {card.classes}" for task, card in cards.items())
    return {
        "holds an example twice": "SELECT example_id FROM examples GROUP BY example_id HAVING count(*) > 1",
        "holds a label or a split that is none": f"""
            SELECT example_id FROM examples
            WHERE label < 0 OR coalesce(label >= CASE task {classes or "WHEN '' THEN 0"} END, true)
                OR split NOT IN ({", ".join(literal(s) for s in SPLITS)})""",
        "holds a patient without a fold": "SELECT example_id FROM examples ANTI JOIN folds USING (patient_id)",
        "holds a horizon that ends before its index": "SELECT example_id FROM examples WHERE horizon_end < index_time",
    }


def _patients(policy: str) -> dict[str, str]:
    held = ", ".join(literal(split) for split in SPLITS if split.startswith("test"))
    promises = {
        "does not keep patients of held-out sites apart": f"""
            SELECT example_id FROM examples JOIN folds USING (patient_id)
            WHERE (fold = '{HELD_OUT_SITE}') <> (split = '{HELD_OUT_SITE}')"""
    }
    if policy != "time-only":
        promises["does not keep patients apart"] = f"""
            SELECT example_id FROM examples JOIN folds USING (patient_id)
            WHERE fold <> CASE WHEN split IN ({held}) THEN 'test' ELSE split END"""
        promises["holds a patient in two splits that are kept apart"] = f"""
            SELECT min(example_id) FROM examples GROUP BY patient_id
            HAVING count(DISTINCT CASE WHEN split IN ({held}) THEN 'test' ELSE split END) > 1"""
    return promises


def _time(blocks: Mapping[str, Mapping[str, list[str]]], by_year: bool) -> dict[str, str]:
    """No row of an earlier block touches a later one, by its question or by its outcome."""
    later = _later_blocks(blocks)
    if not later:
        return {}
    # Shifted times cannot be compared with the calendar: places.parquet holds the latest true time instead.
    reach = "p.reach > b.starts" if by_year else "greatest(index_time, prediction_time, horizon_end) >= b.starts"
    join = "JOIN places p USING (example_id)" if by_year else ""
    return {
        "holds a row that reaches into a later block of time": f"""
            SELECT example_id FROM examples e {join} JOIN (VALUES {later}) b(task, block, starts)
                ON b.task = e.task AND b.block = CASE WHEN split IN ('train', 'val', 'test') THEN 'train' ELSE split END
            WHERE {reach}"""
    }


def _later_blocks(blocks: Mapping[str, Mapping[str, list[str]]]) -> str:
    found = []
    for task, named in blocks.items():
        for name, after in itertools.pairwise(named):
            found.append(f"({literal(task)}, {literal(name)}, TIMESTAMP '{named[after][0]}')")
    return ", ".join(found)


def _places(blocks: Mapping[str, Mapping[str, list[str]]], sites: list[str], by_year: bool) -> dict[str, str]:
    promises = {
        "does not say where an example lies": "SELECT example_id FROM examples ANTI JOIN places USING (example_id)"
    }
    if sites:
        listed = ", ".join(literal(name) for name in sites)
        promises["holds a site on both sides of the split by site"] = f"""
            SELECT example_id FROM examples JOIN places USING (example_id)
            WHERE (split = '{HELD_OUT_SITE}') IS DISTINCT FROM coalesce(site IN ({listed}), false) OR site IS NULL"""
    if by_year:
        within = ", ".join(
            f"({literal(task)}, {literal(name)}, DATE '{first}', DATE '{date.fromisoformat(last) + timedelta(days=1)}')"
            for task, named in blocks.items()
            for name, (first, last) in named.items()
        )
        promises["holds a row whose years lie outside its block"] = f"""
            SELECT example_id FROM examples e JOIN places p USING (example_id)
            JOIN (VALUES {within}) b(task, block, a, z)
                ON b.task = e.task AND b.block = CASE WHEN split IN ('train', 'val', 'test') THEN 'train' ELSE split END
            WHERE (make_date(p.first_year, 1, 1) >= b.a AND make_date(p.last_year + 1, 1, 1) <= b.z) IS NOT TRUE"""
    return promises


def _inputs(cards: Mapping[str, Card]) -> dict[str, str]:
    tasks = ", ".join(literal(task) for task, card in cards.items() if composed(card)) or "NULL"
    return {
        "lacks the notes of an example's input": f"""
            SELECT example_id FROM examples e WHERE task IN ({tasks})
                AND NOT EXISTS (SELECT 1 FROM inputs i WHERE i.input_id = e.note_id)""",
        "holds a note from after the question": """
            SELECT example_id FROM examples e JOIN inputs i ON i.input_id = e.note_id WHERE i.hours_before < 0""",
        "holds an input whose notes do not stand oldest first": """
            SELECT example_id FROM examples e JOIN (
                SELECT input_id,
                    hours_before > lag(hours_before) OVER (PARTITION BY input_id ORDER BY position) AS wrong
                FROM inputs) i ON i.input_id = e.note_id WHERE i.wrong""",
    }
