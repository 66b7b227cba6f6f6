"""Where the tables of MIMIC lie: in one folder, in modules, or in PhysioNet's versioned folders beside each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lang1.common.errors import InputError
from lang1.records.readers.source import TABLE_SUFFIX, SourceFile, find_table, table_places

DEEPEST = 6
# Columns that hold whole numbers; a tool that knows empty cells only among floats has made 123.0 of 123.
WHOLE = (
    "subject_id", "hadm_id", "stay_id", "icustay_id", "transfer_id", "row_id", "seq_num", "note_seq", "icd_version",
    "anchor_year", "hospital_expire_flag", "iserror", "itemid",
)  # fmt: skip


def find_module(
    source: Path, module: str, by: Sequence[str], given: Mapping[str, Path], *, required: bool = False
) -> Path | None:
    """The folder of a module: the one that holds a table of ``by``, at most six folders below ``source``.

    Args:
        source: the folder that the user named.
        module: its name in messages and in the setting ``modules``.
        by: tables that tell the module.
        given: folders that the user named, by module, from ``source``.
        required: refuse if it is not there.

    Raises:
        InputError: no such folder, none found (required), or several.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder.")
    if module in given:
        place = source / given[module]
        if not any(find_table(place, table) for table in by):
            raise InputError(f"{place}: no {' or '.join(by)} table here (modules.{module}).")
        return place
    found: list[Path] = []
    for folder, below, _ in os.walk(source):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if len(Path(folder).relative_to(source).parts) >= DEEPEST:
            below.clear()
        if table_places(Path(folder), by):
            found.append(Path(folder))
            below[:] = [name for name in below if TABLE_SUFFIX.sub("", name).lower() not in by]  # its parts
    if len(found) > 1:
        raise InputError(
            f"{source}: {by[0]} is in {found[0].relative_to(source)} and in {found[1].relative_to(source)}; name the "
            f"one to read with modules.{module}=FOLDER (from {source.name})."
        )
    if required and not found:
        raise InputError(f"{source}: no {by[0]} table (csv, csv.gz, csv.zst or parquet) in it or in a folder below.")
    return found[0] if found else None


def tables_in(place: Path | None, names: Sequence[str]) -> dict[str, list[SourceFile]]:
    """The files of some tables of a module, empty where a table or the whole module is absent."""
    return {name: find_table(place, name) if place is not None else [] for name in names}
