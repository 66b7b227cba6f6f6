"""Records of several health systems as those of one, each at facilities of its own: to train on all of them.

Ids stay as they are, since the fold of a patient follows from the id: a patient whom a system's own benchmark holds out
is held out in the pool's as well. Ids that two systems share are refused, and are to be made different at ingest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
from pydantic import Field

from lang1.common.errors import InputError, SettingsError
from lang1.common.settings import Settings
from lang1.records.rules import ALL_TABLES
from lang1.records.store import CompleteThrough, Records, RecordsMeta, VitalStatus, new_records, part_files, quoted

# Whose rows two systems must not share, by table.
IDS = {"patients": "patient_id", "encounters": "encounter_id", "notes": "note_id", "claims": "claim_id"}


class PoolSettings(Settings):
    """How records are pooled."""

    names: list[str] | None = Field(
        default=None, description="of the systems, in the order of the records; null: as the records say"
    )


def pool(records: Sequence[Path], out: Path, settings: PoolSettings | None = None) -> Path:
    """Write one records folder of several health systems; ``facility`` becomes ``SYSTEM: FACILITY``, or ``SYSTEM``.

    Each table is complete through the earliest moment through which every system's is.

    Raises:
        InputError: an id that two systems share, time bases or keys of completeness that differ.
        SettingsError: fewer than two records folders, or names that do not fit them.
    """
    opened = [Records.open(path) for path in records]
    names = (settings or PoolSettings()).names or [one.meta.system for one in opened]
    if len(opened) < 2 or len(names) != len(opened) or len(set(names)) < len(names):
        raise SettingsError(
            f"pool: {len(opened)} records folders under the names {', '.join(names)}; give each its own."
        )
    meta = _meta(opened, names)
    inputs = {f"records_{i + 1}": one.folder for i, one in enumerate(opened)}
    with opened[0].connect() as connection:
        _refuse_clashes(connection, opened, names)
        with new_records(out, meta, inputs=inputs, settings={"names": names}) as draft:
            for table, schema in ALL_TABLES.items():
                parts = [
                    _scan(one, table, schema.names, name)
                    for one, name in zip(opened, names, strict=True)
                    if one.has(table)
                ]
                if parts:
                    rows = connection.sql(" UNION ALL ".join(parts))
                    draft.write_stream(table, pa.RecordBatchReader.from_stream(rows))
    return out


def _scan(one: Records, table: str, columns: Sequence[str], name: str) -> str:
    """SQL: a system's rows of a table, its facilities under its name."""
    placed = f"coalesce({quoted(f'{name}: ')} || facility, {quoted(name)}) AS facility"
    shown = [placed if table == "encounters" and column == "facility" else column for column in columns]
    return f"SELECT {', '.join(shown)} FROM {_files(one, table)}"


def _files(one: Records, table: str) -> str:
    return f"read_parquet([{', '.join(quoted(file) for file in part_files(one.path, table))}])"


def _meta(opened: Sequence[Records], names: Sequence[str]) -> RecordsMeta:
    bases = {one.meta.time_basis for one in opened}
    if len(bases) > 1:
        raise InputError(f"pool: time_basis is {' and '.join(sorted(bases))}: their benchmarks cannot be one.")
    complete: dict[str, CompleteThrough] = {}
    for table in dict.fromkeys(table for one in opened for table in one.meta.complete_through):
        said = [one.meta.complete_through.get(table) for one in opened]
        known = [each for each in said if each is not None]
        if len(known) < len(said):
            continue  # unknown for one of them, so for the pool
        if len({each.key for each in known}) > 1:
            raise InputError(f"pool: {table} is complete by {' and '.join(sorted({each.key for each in known}))}.")
        complete[table] = min(known, key=lambda each: each.through)
    vital = [one.meta.vital_status for one in opened]
    through = [each.through for each in vital if each.through is not None]
    same = len({each.source for each in vital}) == 1
    licences = list(dict.fromkeys(one.meta.licence for one in opened if one.meta.licence))
    return RecordsMeta(
        system=" + ".join(names),
        time_basis=opened[0].meta.time_basis,
        complete_through=complete,
        vital_status=VitalStatus(
            source=vital[0].source if same else "none", through=min(through) if len(through) == len(vital) else None
        ),
        source="pooled: " + "; ".join(f"{n} ({one.meta.source})" for n, one in zip(names, opened, strict=True)),
        real=any(one.meta.real for one in opened),
        licence=", ".join(licences) or None,
        limits=tuple(dict.fromkeys(limit for one in opened for limit in one.meta.limits)),
    )


def _refuse_clashes(connection: duckdb.DuckDBPyConnection, opened: Sequence[Records], names: Sequence[str]) -> None:
    for table, column in IDS.items():
        there = [(one, name) for one, name in zip(opened, names, strict=True) if one.has(table)]
        for (one, first), (other, second) in itertools.combinations(there, 2):
            shared = connection.execute(
                f"SELECT {column} FROM {_files(one, table)} INTERSECT SELECT {column} FROM {_files(other, table)} "
                "ORDER BY 1 LIMIT 1"
            ).fetchall()
            if shared:
                raise InputError(
                    f"pool: {table}: {column} '{shared[0][0]}' is in {first} and in {second}: give each health system "
                    "ids of its own when it is ingested (a prefix will do)."
                )
