"""MEDS 0.4 as records: events paired into encounters, by templates of codes that the user can change.

The schema: github.com/Medical-Event-Data-Standard/meds, version 0.4 (``subject_id, time, code, numeric_value,
text_value`` and any columns more, in ``data/**/*.parquet``). What codes mean is not in the schema: ``meds_codes.py``.
Events stream from Parquet by row groups and only those are kept whose code a template fits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lang1.common.errors import InputError
from lang1.common.settings import Settings
from lang1.records.readers.meds_codes import Known, MedsCodes, classify
from lang1.records.readers.meds_encounters import create_encounters, put_encounters, put_linked, put_patients
from lang1.records.readers.source import name
from lang1.records.readers.staging import MEMORY, THREADS, OnBadRows, Staging, staging
from lang1.records.schema import TimeBasis
from lang1.records.store import CompleteThrough, Limit, RecordsMeta, VitalStatus, quoted

REQUIRED = ("subject_id", "time", "code")
FIELDS = (
    "encounter_class", "our_type", "admission_source", "department", "facility", "our_disposition", "value", "unit",
    "event", "our_version", "bare_code", "our_note_type",
)  # fmt: skip
# No date of a real data set lies beyond this year; MIMIC's do on purpose.
NEVER_BEFORE = 2100
LONG_TEXT = 200
NO_CLAIMS = "MEDS events hold no claims; add them from X12 files with `lang1 ingest x12`"


class MedsSettings(Settings):
    """How a MEDS dataset is read.

    Attributes:
        system: name of the health system; null takes the dataset's name.
        time_basis: ``calendar`` for true dates, ``shifted`` for dates moved by subject; null finds out (admissions
            after the dataset was made, or after 2100, cannot be true).
        complete_through: through when the extract is complete, by table; required under ``calendar``. ``{}`` declares
            nothing: tasks that need it are then refused.
        vital_status: where deaths are known from and through when; null: ``ehr`` if there are deaths, else ``none``.
        codes: what the codes mean, laid over the shipped templates (``meds_codes.py``).
        encounter_id_columns: the first of these columns that the data has ties events to encounters; where it is empty
            an admission goes with the next discharge, and an event with the encounter that holds its time.
        end_columns: the first of these holds the end of encounters that have no event for it.
        text_column: holds the text of notes.
        note_id_columns: the first of these that the data has names a note.
        note_time_is: ``filed``: a note could be read, and was signed, at its time. ``written``: its time says only
            when it was written, so that it is not known when it could be read.
        notes_after_discharge_hours: a note without an encounter id that comes so long after a discharge belongs to
            that stay.
        part_of_admission_hours: an emergency visit that ends at most so long before an admission is part of it.
        on_bad_rows: ``leave_out`` counts rows that cannot be used, ``refuse`` stops at the first.
    """

    system: str | None = None
    time_basis: TimeBasis | None = None
    complete_through: dict[str, CompleteThrough] | None = None
    vital_status: VitalStatus | None = None
    codes: MedsCodes = Field(default_factory=lambda: MedsCodes.model_validate({}))
    encounter_id_columns: tuple[str, ...] = (
        "hadm_id", "visit_id", "visit_occurrence_id", "encounter_id", "hospital_admission_id",
    )  # fmt: skip
    end_columns: tuple[str, ...] = ("end", "end_time", "visit_end")
    text_column: str = "text_value"
    note_id_columns: tuple[str, ...] = ("note_id",)
    note_time_is: Literal["filed", "written"] = "filed"
    notes_after_discharge_hours: float = Field(default=72, ge=0)
    part_of_admission_hours: float = Field(default=6, ge=0)
    source: str = ""
    real: bool = True
    licence: str | None = None
    on_bad_rows: OnBadRows = "leave_out"


@dataclass(frozen=True)
class Dataset:
    """The files of a dataset, its columns and what it says of itself."""

    folder: Path
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    about: dict[str, Any]

    def scan(self, columns: str) -> str:
        """SQL that yields columns of all events, ``_file`` (relative to the data folder) and ``_row``."""
        listed = ", ".join(quoted(file) for file in self.files)
        cut = len(str(self.folder)) + 2
        return (
            f"SELECT {columns}, substr(filename, {cut}) AS _file, file_row_number + 1 AS _row "
            f"FROM read_parquet([{listed}], filename=true, file_row_number=true, union_by_name=true)"
        )

    def first(self, wanted: Sequence[str]) -> str | None:
        """The first of some columns that the data has."""
        return next((column for column in wanted if column in self.columns), None)


def ingest_meds(source: Path, out: Path, settings: MedsSettings | None = None, *, overwrite: bool = False) -> Path:
    """Write a records folder from a MEDS dataset (the folder that holds ``data/``, or ``data`` itself).

    Raises:
        InputError: no MEDS data, a missing column, no code that begins an encounter, calendar dates without a
            declaration of what is complete, or (refuse) a row that cannot be used.
    """
    settings = settings or MedsSettings()
    dataset = open_dataset(source)
    known, meta = _look(dataset, settings)
    by_folder: dict[str, list[Path]] = {}
    for file in dataset.files:
        by_folder.setdefault(f"data/{file.parent.relative_to(dataset.folder)}", []).append(file)
    with staging(
        out, meta, settings=settings, files=by_folder, on_bad_rows=settings.on_bad_rows, overwrite=overwrite
    ) as stage:
        stage.connection.execute("SET TimeZone = 'UTC'")
        _create_events(stage, dataset, settings, known)
        create_encounters(stage, settings.codes, settings.part_of_admission_hours)
        put_patients(stage)
        put_encounters(stage)
        put_linked(stage, settings.note_time_is == "filed", settings.notes_after_discharge_hours)
    return out


def open_dataset(source: Path) -> Dataset:
    """Find the event files of a dataset.

    Raises:
        InputError: there are none, or a file lacks a column or is not Parquet.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected a MEDS dataset (a folder with data/ and metadata/).")
    folder = source / "data" if (source / "data").is_dir() else source
    files = tuple(sorted(p for p in folder.rglob("*.parquet") if p.is_file() and not p.name.startswith((".", "_"))))
    if not files:
        raise InputError(f"{folder}: no *.parquet; expected a MEDS dataset (data/train/0.parquet and so on).")
    columns: dict[str, None] = {}
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: not readable as Parquet ({error}).") from error
        for column in REQUIRED:
            if column not in schema.names:
                old = (
                    "; 'patient_id' is of MEDS before 0.4, convert the dataset" if "patient_id" in schema.names else ""
                )
                raise InputError(
                    f"{file}: column '{column}' is missing; its columns are {', '.join(schema.names)}{old}."
                )
        columns.update(dict.fromkeys(schema.names))
    about: dict[str, Any] = {}
    described = source / "metadata" / "dataset.json"
    if described.is_file():
        try:
            found = json.loads(described.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{described}: not valid JSON ({error}).") from error
        about = found if isinstance(found, dict) else {}
    return Dataset(folder, files, tuple(columns), about)


def _look(dataset: Dataset, settings: MedsSettings) -> tuple[list[Known], RecordsMeta]:
    """The codes that mean something, and what the records say about themselves."""
    with duckdb.connect(":memory:", config={"memory_limit": MEMORY, "threads": THREADS}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        counted = _asked(
            connection,
            dataset,
            f"SELECT code, count(*) FROM ({dataset.scan('code')}) WHERE code IS NOT NULL GROUP BY 1",
        )
        known = classify(sorted(code for code, _ in counted), settings.codes)
        starts = [one.code for one in known if one.kind == "start"]
        if not starts:
            parts: dict[str, int] = {}
            for code, events in counted:
                part = code.split("//")[0].split("/")[0]
                parts[part] = parts.get(part, 0) + events
            most = ", ".join(f"{p} ({n})" for p, n in sorted(parts.items(), key=lambda item: (-item[1], item[0]))[:15])
            raise InputError(
                f"{dataset.folder}: no code begins an encounter by the templates in use. Codes begin with: {most}. Say "
                "which do: 'codes.encounters=[{encounter_class: inpatient, starts: [...], ends: [...]}]'."
            )
        connection.register("starts", pa.table({"code": starts}))
        begun = f"({dataset.scan('code, time')}) SEMI JOIN starts USING (code)"
        half, latest = _asked(
            connection, dataset, f"SELECT quantile_disc(time, 0.5)::TIMESTAMP, max(time)::TIMESTAMP FROM {begun}"
        )[0]
    made = str(dataset.about.get("created_at") or "")[:10]
    # Half of them, since a single wrong year is no shift.
    beyond = isinstance(half, datetime) and half.year > (int(made[:4]) if made[:4].isdigit() else NEVER_BEFORE)
    basis = settings.time_basis or ("shifted" if beyond else "calendar")
    if basis == "calendar" and beyond:
        raise InputError(
            f"{dataset.folder}: time_basis is calendar, but half of the encounters begin at {half} or later, after the "
            f"dataset was made ({made or 'or any could have been'}); set time_basis=shifted."
        )
    if basis == "calendar" and settings.complete_through is None:
        raise InputError(
            f"{dataset.folder}: complete_through is not set, so what came after the end of the extract cannot be told "
            f"from what never came (the last encounter begins {latest}); set 'complete_through.encounters={{through: "
            f"{str(latest)[:10]}, key: discharge_time}}' (key: admit_time if stays that were still open are there), or "
            "time_basis=shifted for shifted dates."
        )
    deaths = any(one.kind == "death" for one in known)
    described = " ".join(str(dataset.about.get(key, "")) for key in ("dataset_name", "dataset_version")).strip()
    return known, RecordsMeta(
        system=settings.system or str(dataset.about.get("dataset_name") or "meds"),
        time_basis=basis,
        complete_through=settings.complete_through or {},
        vital_status=settings.vital_status or VitalStatus(source="ehr" if deaths else "none"),
        source=settings.source or f"MEDS dataset {described}".strip(),
        real=settings.real,
        licence=settings.licence,
        limits=(Limit(task="insurance_denial", reason=NO_CLAIMS),),
    )


def _asked(connection: duckdb.DuckDBPyConnection, dataset: Dataset, sql: str) -> list[tuple[Any, ...]]:
    try:
        return list(connection.execute(sql).fetchall())
    except duckdb.Error as error:
        raise InputError(f"{dataset.folder}: not readable ({str(error).splitlines()[0]}).") from error


def _create_events(stage: Staging, dataset: Dataset, settings: MedsSettings, known: Sequence[Known]) -> None:
    """Create ``events``: those whose code a template fits, with what the code says; the others are counted."""
    rows = {
        "code": [one.code for one in known],
        "kind": [one.kind for one in known],
        "rule": [one.rule for one in known],
    }
    for column in FIELDS:
        theirs = "code" if column == "bare_code" else column
        rows[column] = [one.fields.get(theirs) for one in known]
    types = {"code": pa.string(), "kind": pa.string(), "rule": pa.int32(), **dict.fromkeys(FIELDS, pa.string())}
    stage.connection.register("known_codes", pa.table(rows, schema=pa.schema(list(types.items()))))
    key, end = dataset.first(settings.encounter_id_columns), dataset.first(settings.end_columns)
    text, note = dataset.first([settings.text_column]), dataset.first(settings.note_id_columns)
    given = {
        "subject_id": "subject_id::VARCHAR",
        "time": "time::TIMESTAMP",
        "key": f"{name(key)}::VARCHAR" if key else None,
    }
    given |= {"stated_end": f"try_cast({name(end)} AS TIMESTAMP)" if end else None}
    given |= {
        "note_text": f"{name(text)}::VARCHAR" if text else None,
        "note_key": f"{name(note)}::VARCHAR" if note else None,
    }
    columns = ", ".join(f"{sql or 'NULL::VARCHAR'} AS {column}" for column, sql in given.items())
    sql = f"""
        SELECT e.* REPLACE (regexp_replace(nullif(trim(e.key), ''), '\\.0+$', '') AS key,
            CASE WHEN k.kind = 'notes' THEN e.note_text END AS note_text, e.stated_end::TIMESTAMP AS stated_end), k.*
            EXCLUDE (code)
        FROM ({dataset.scan(f"{columns}, code")}) e JOIN known_codes k USING (code)"""
    try:
        stage.connection.execute(f"CREATE TABLE events AS {sql}")
        others = stage.ask(f"""
            SELECT split_part(code, '//', 1), count(*), arg_min({{'f': _file, 'r': _row}}, (_file, _row)),
                count(*) FILTER (length({name(text) if text else "NULL"}) >= {LONG_TEXT})
            FROM ({dataset.scan(f"code{', ' + name(text) if text else ''}")}) ANTI JOIN known_codes USING (code)
            GROUP BY 1 ORDER BY 2 DESC, 1""")
    except duckdb.Error as error:
        raise InputError(f"{dataset.folder}: not readable ({str(error).splitlines()[0]}).") from error
    if others:
        place = others[0][2]
        stage.count(
            "events: a code that no template takes", sum(row[1] for row in others), f"{place['f']} row {place['r']}"
        )
        stage.draft.counts["codes that no template takes, by their first part"] = {
            str(part): rows for part, rows, _, _ in others[:30]
        }
        texts = {str(part): long for part, _, _, long in others if long}
        if texts:
            stage.draft.counts[f"texts of {LONG_TEXT} characters and more whose code is no note's (codes.notes)"] = (
                texts
            )
    _count_unmapped(stage, known, settings.codes)
    stage.draft.extra["columns"] = {"encounter id": key, "end": end, "note id": note}
    stage.set_aside("events", "subject_id IS NULL", "no subject_id")
    stage.set_aside(
        "events", "time IS NULL AND kind NOT IN ('sex', 'race', 'ethnicity')", "no time, of a code that needs one"
    )


def _count_unmapped(stage: Staging, known: Sequence[Known], meaning: MedsCodes) -> None:
    """Count the words of the source that have no counterpart, by what they are."""
    events = dict(stage.ask("SELECT code, count(*) FROM events GROUP BY 1"))
    words = {
        "admission_type": ("our_type", meaning.admission_types),
        "disposition": ("our_disposition", meaning.dispositions),
        "note_type": ("our_note_type", meaning.note_types),
    }
    for theirs, (ours, mapping) in words.items():
        found: dict[str, int] = {}
        mapped = {word.lower() for word in mapping}
        for one in known:
            said = one.fields.get(theirs)
            if said is not None and said.strip().lower() not in mapped and ours in one.fields and one.code in events:
                word = f"{said} (taken as {one.fields[ours]})"
                found[word] = found.get(word, 0) + events[one.code]
        if found:
            most = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:50]
            stage.draft.counts.setdefault("unmapped", {})[theirs] = dict(most)
