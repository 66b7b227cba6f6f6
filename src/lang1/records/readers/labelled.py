"""One table of notes with labels as records: note, patient, label columns, and an order or a date if there is one.

For data that has no encounters of its own. Labels land in ``given_labels``; nothing is derived from them here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import duckdb
import pyarrow as pa
from pydantic import Field, model_validator

from lang1.common.artefact import InputRef, file_sha256
from lang1.common.errors import InputError
from lang1.common.settings import Settings
from lang1.records.readers.dates import OFFSET
from lang1.records.readers.source import name, open_source, read_into
from lang1.records.rules import at
from lang1.records.schema import ENCOUNTER_CLASSES, NOTE_TYPES, TimeBasis
from lang1.records.store import RecordsMeta, new_records, quoted

DATE_HINT = "expected a date or time such as 2024-01-31 14:05, without a UTC offset (else give date_format)"


class LabelledSettings(Settings):
    """Settings of :func:`ingest_labelled`; the first five name columns of the table."""

    note: str
    patient: str
    labels: dict[str, str] = Field(min_length=1)  # task: column; ReMedE's tasks or new ones
    encounter: str | None = None  # None: each row is an encounter of its own
    order: str | None = None  # whole numbers that put encounters in order: time_basis ordinal
    date: str | None = None  # when the note could be read, or the stay's times: time_basis calendar
    date_is: Literal["note", "admission", "discharge"] = "note"
    date_format: str | None = None  # strptime pattern; None: ISO 8601
    values: dict[str, dict[str, str]] = Field(default_factory=dict)  # task: {their value: ours}
    null_values: list[str] = Field(default_factory=lambda: ["", "NULL"])  # a label that is not known
    note_type: str = "other"
    encounter_class: str = "inpatient"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    system: str = "labelled"
    source: str = ""
    real: bool = True
    licence: str | None = None
    on_bad_rows: Literal["refuse", "leave_out"] = "refuse"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.order and self.date:
            raise ValueError("order and date are both given; keep the one that tells the time")
        if self.note_type not in NOTE_TYPES:
            raise ValueError(f"note_type is '{self.note_type}', expected one of {', '.join(NOTE_TYPES)}")
        if self.encounter_class not in ENCOUNTER_CLASSES:
            raise ValueError(
                f"encounter_class is '{self.encounter_class}', expected one of {', '.join(ENCOUNTER_CLASSES)}"
            )
        for task in self.values:
            if task not in self.labels:
                raise ValueError(f"values names the task '{task}', which is not among the labels")
        return self

    @property
    def time_basis(self) -> TimeBasis:
        return "ordinal" if self.order else "calendar" if self.date else "none"


def ingest_labelled(file: Path, out: Path, settings: LabelledSettings, *, overwrite: bool = False) -> Path:
    """Write a records folder from one CSV or Parquet table.

    A row without a label keeps its note and gets no label of that task, counted. Several rows of one encounter are
    several notes of it; their labels must agree.

    Returns:
        ``out``.

    Raises:
        InputError: a missing column, an empty id, a bad order or date, or labels that contradict each other.
    """
    source = open_source(Path(file), settings.delimiter)
    wanted = {"note": settings.note, "patient": settings.patient}
    wanted |= {role: column for role in ("encounter", "order", "date") if (column := getattr(settings, role))}
    wanted |= {f"labels.{task}": column for task, column in settings.labels.items()}
    for role, column in wanted.items():
        source.need(column, role)
    with duckdb.connect(":memory:", config={"memory_limit": "2GB", "threads": 2}) as connection:
        columns = list(dict.fromkeys(wanted.values()))
        labels = ", ".join(f"label_{number} VARCHAR" for number in range(len(settings.labels)))
        connection.execute(
            f"CREATE TABLE rows (_row BIGINT, note VARCHAR, patient_id VARCHAR, encounter_id VARCHAR, "
            f"said VARCHAR, {labels}, _file VARCHAR)"
        )
        said = settings.order or settings.date
        select = [
            "_row",
            f"coalesce({name(settings.note)}, '')",
            f"nullif(trim({name(settings.patient)}), '')",
            f"nullif(trim({name(settings.encounter)}), '')" if settings.encounter else "'row-' || _row",
            f"nullif(trim({name(said)}), '')" if said else "NULL",
            *(_label(task, column, settings) for task, column in settings.labels.items()),
            "_file",
        ]
        read_into(connection, "rows", ", ".join(select), [source], columns)
        left_out = _clear(connection, settings, source.path)
        meta = RecordsMeta(
            system=settings.system,
            time_basis=settings.time_basis,
            source=settings.source or source.path.name,
            real=settings.real,
            licence=settings.licence,
            notes="One table of notes with labels; encounters are its rows." if not settings.encounter else "",
        )
        data = InputRef(path=str(file), kind="file", fingerprint=file_sha256(source.path))
        with new_records(out, meta, settings=settings, inputs={"data": data}, overwrite=overwrite) as draft:
            for reason, (rows, example) in left_out.items():
                draft.leave_out(reason, rows)
                draft.extra.setdefault("left_out_examples", {})[reason] = example
            for table, query in _queries(settings).items():
                draft.write_stream(table, pa.RecordBatchReader.from_stream(connection.sql(query)))
            for number, task in enumerate(settings.labels):
                draft.counts.setdefault("without_label", {})[task] = _count(
                    connection, f"timed WHERE label_{number} IS NULL"
                )
    return out


def _label(task: str, column: str, settings: LabelledSettings) -> str:
    raw = f"trim({name(column)})"
    nulls = ", ".join(quoted(value.strip()) for value in ["", *settings.null_values])
    # true and false are what Parquet's booleans read as; elsewhere a site says what its words mean.
    values = {"true": "1", "false": "0"} | {k.strip().lower(): v for k, v in settings.values.get(task, {}).items()}
    whens = " ".join(f"WHEN lower({raw}) = {quoted(theirs)} THEN {quoted(ours)}" for theirs, ours in values.items())
    return f"CASE WHEN {raw} IN ({nulls}) THEN NULL {whens} ELSE {raw} END"


def _clear(connection: duckdb.DuckDBPyConnection, settings: LabelledSettings, path: Path) -> dict[str, tuple[int, str]]:
    """Type the order or date into ``timed`` without the rows that cannot be used; those by reason, with an example."""
    if _count(connection, "rows") == 0:
        raise InputError(f"{path}: no rows below the header; check the extract.")
    time, sequence = "NULL::TIMESTAMP", "NULL::BIGINT"
    if settings.order:
        whole = "regexp_full_match(said, '[+-]?[0-9]+(\\.0*)?')"
        sequence = f"CASE WHEN {whole} THEN try_cast(split_part(said, '.', 1) AS BIGINT) END"
    elif settings.date and settings.date_format:
        time = f"try_strptime(said, {quoted(settings.date_format)})"
    elif settings.date:
        # Times are local hospital time; one with a UTC offset is not, and is refused rather than shifted.
        time = f"CASE WHEN NOT regexp_matches(said, '{OFFSET}') THEN try_cast(said AS TIMESTAMP) END"
    if settings.date and settings.date_is != "admission":
        # A bare date is the end of that day: a note must not be read before it was there.
        time = (
            f"CASE WHEN {time} = date_trunc('day', {time}) AND NOT contains(said, ':') "
            f"THEN {time} + INTERVAL 86399 SECONDS ELSE {time} END"
        )
    try:
        connection.execute(f"CREATE TABLE timed AS SELECT *, {time} AS time, {sequence} AS sequence FROM rows")
    except duckdb.Error as error:
        raise InputError(f"date_format '{settings.date_format}': {str(error).splitlines()[0]}") from error
    checks = [
        ("patient empty", "patient_id IS NULL", f"'{settings.patient}' (patient) is empty"),
        ("encounter empty", "encounter_id IS NULL", f"'{settings.encounter}' (encounter) is empty"),
    ]
    if settings.order:
        checks.append(
            ("order not a whole number", "sequence IS NULL", f"'{settings.order}' (order) is not a whole number")
        )
    if settings.date:
        checks.append(("date not a date", "time IS NULL", f"'{settings.date}' (date) is not a date; {DATE_HINT}"))
    left_out: dict[str, tuple[int, str]] = {}
    for reason, bad, problem in checks:
        found = connection.execute(f"SELECT _file, _row, said FROM timed WHERE {bad} ORDER BY _row LIMIT 1").fetchall()
        if not found:
            continue
        place = at(found[0][0], found[0][1])
        if settings.on_bad_rows == "refuse":
            value = f" (it is '{found[0][2]}')" if found[0][2] and reason.startswith(("order", "date")) else ""
            raise InputError(f"{place}: {problem}{value}; mend it, or set on_bad_rows=leave_out.")
        left_out[reason] = (_count(connection, f"timed WHERE {bad}"), place)
        connection.execute(f"DELETE FROM timed WHERE {bad}")
    _agree(connection, settings)
    return left_out


def _agree(connection: duckdb.DuckDBPyConnection, settings: LabelledSettings) -> None:
    """Refuse an encounter whose rows contradict each other, naming two of them."""
    told = {"patient_id": f"'{settings.patient}' (patient)", "sequence": f"'{settings.order}' (order)"}
    told |= {f"label_{n}": f"'{column}' (label of {task})" for n, (task, column) in enumerate(settings.labels.items())}
    for column, words in told.items():
        found = connection.execute(
            f"SELECT min(_file), encounter_id, min(_row), arg_min({column}, _row), max(_row), arg_max({column}, _row) "
            f"FROM timed WHERE {column} IS NOT NULL GROUP BY encounter_id "
            f"HAVING count(DISTINCT {column}) > 1 ORDER BY min(_row) LIMIT 1"
        ).fetchall()
        if found:
            file, encounter, first, one, _, _ = found[0]
            raise InputError(
                f"{at(file, first)}: encounter '{encounter}' has {words} '{one}' here and another later; "
                f"rows of one encounter must agree."
            )


def _queries(settings: LabelledSettings) -> dict[str, str]:
    admit = "min(time)" if settings.date and settings.date_is == "admission" else "NULL::TIMESTAMP"
    discharge = "max(time)" if settings.date and settings.date_is == "discharge" else "NULL::TIMESTAMP"
    available = "time" if settings.date and settings.date_is == "note" else "NULL::TIMESTAMP"
    labels = " UNION ALL ".join(
        f"SELECT encounter_id, {quoted(task)} AS task, label_{n} AS value, _row, {n} AS place FROM timed"
        for n, task in enumerate(settings.labels)
    )
    return {
        "patients": "SELECT patient_id FROM timed GROUP BY patient_id ORDER BY min(_row)",
        "encounters": f"SELECT encounter_id, min(patient_id) AS patient_id, min(sequence) AS sequence, "
        f"{quoted(settings.encounter_class)} AS encounter_class, {admit} AS admit_time, {discharge} AS discharge_time "
        f"FROM timed GROUP BY encounter_id ORDER BY min(_row)",
        "notes": f"SELECT 'note-' || _row AS note_id, patient_id, encounter_id, "
        f"{quoted(settings.note_type)} AS note_type, {available} AS available_time, note AS text "
        f"FROM timed ORDER BY _row",
        "given_labels": f"SELECT encounter_id, task, min(value) AS value FROM ({labels}) WHERE value IS NOT NULL "
        f"GROUP BY encounter_id, task, place ORDER BY min(_row), place",
    }


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0])
