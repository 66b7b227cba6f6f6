"""A patient's notes in time order as one document (longitudinal pretraining).

Two steps, so that cleaning and filters still see single notes: :func:`by_patient` reads the notes that may enter,
patient after patient and each patient's in time order; :func:`join_patients` puts those that came through together.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb

from lang1.common.errors import ArtefactError, SettingsError
from lang1.corpus.filters import Document, Report
from lang1.corpus.notes import EligibleNotes
from lang1.records.store import quoted
from lang1.text.clean import clean_note

_ROWS = 1_000
# Hexadecimal digits of MD5 by which patients are cut into parts.
_DIGITS = 12


def by_patient(
    notes: Sequence[EligibleNotes],
    part: int,
    parts: int,
    report: Report,
    *,
    memory: str = "2GB",
    spill: Path | None = None,
) -> Iterator[Document]:
    """The notes that may enter of one part of the patients, sorted by patient, availability time and note id.

    Patients come in the order of a hash of their id and are cut into parts by it: a patient's notes are together
    whichever files they lie in, and the parts one after the other are the same for any number of them. Each part reads
    all files once, and its text is sorted within ``memory``: cut the patients into so many parts that one holds at
    most half as much text. Notes of unknown time come last.

    Args:
        notes: the records folders.
        part: which part, from 0.
        parts: how many there are.
        report: counts the notes of this part that are left out, by the first rule that each breaks.
        memory: of the sort, as DuckDB spells it.
        spill: a folder for what the sort puts on disk; None takes the system's temporary folder.

    Raises:
        SettingsError: there is no such part.
        ArtefactError: a part of the notes table cannot be read.
    """
    if not 0 <= part < parts:
        raise SettingsError(f"part {part} of {parts}: expected a number from 0 to {parts - 1}.")
    low, high = (f"{number * 16**_DIGITS // parts:0{_DIGITS}x}" for number in (part, part + 1))
    mine = f"left(md5(patient_id), {_DIGITS}) >= '{low}'"
    if part + 1 < parts:
        mine += f" AND left(md5(patient_id), {_DIGITS}) < '{high}'"
    columns = "patient_id, note_id, note_type, department, available_time, text"
    for folder in notes:
        if not folder.files:
            continue
        scan = f"(SELECT * FROM read_parquet([{', '.join(map(quoted, folder.files))}]) WHERE {mine})"
        with (
            tempfile.TemporaryDirectory(dir=spill) as temporary,
            closing(duckdb.connect(":memory:", config={"memory_limit": memory, "threads": 1})) as connection,
        ):
            connection.execute(f"SET temp_directory = {quoted(Path(temporary))}")
            try:
                counted = connection.execute(
                    f"SELECT reason, count(*) FROM ({folder.judged(scan, 'note_id')}) WHERE reason IS NOT NULL "
                    "GROUP BY reason ORDER BY reason"
                ).fetchall()
                for reason, count in counted:
                    report.leave_out(reason, count)
                found = connection.execute(
                    f"SELECT {columns} FROM ({folder.judged(scan, columns)}) WHERE reason IS NULL "
                    f"ORDER BY left(md5(patient_id), {_DIGITS}), patient_id, available_time NULLS LAST, note_id"
                )
                while rows := found.fetchmany(_ROWS):
                    for patient, note_id, kind, department, time, text in rows:
                        if folder.holds_out(patient):
                            report.leave_out("patient held out by the benchmark")
                            continue
                        yield Document(
                            text,
                            unit=patient,
                            note_id=note_id,
                            note_type=kind,
                            department=department,
                            available_time=time,
                        )
            except duckdb.Error as error:
                raise ArtefactError(
                    f"{folder.files[0].parent}: notes cannot be sorted ({error}); check the files and the free "
                    "disk, or cut the patients into more parts."
                ) from error


def join_patients(documents: Iterable[Document]) -> Iterator[Document]:
    """One document a patient from the patient's notes, which follow each other; a patient is held at a time.

    Each note is headed by a line with the days since the patient's first note, its type and its department: ``[Day 12:
    progress, Cardiology]``. Days, not dates: they mean the same where the records' times are shifted.

    Args:
        documents: notes sorted as :func:`by_patient` gives them, cleaned and filtered. The joined document keeps the
            place and the source of the first.
    """
    for _, notes in itertools.groupby(documents, key=lambda note: (note.source, note.unit)):
        chart = list(notes)
        text = "\n\n".join(f"{header(note, chart[0].available_time)}\n{note.text}" for note in chart)
        yield replace(chart[0], text=text, note_id=None, note_type=None, department=None, available_time=None)


def header(note: Document, begin: datetime | None) -> str:
    """The line above a note in a patient's document; ``begin`` is the time of the patient's first note."""
    day = "Day not known"
    if note.available_time is not None and begin is not None:
        day = f"Day {(note.available_time - begin).days}"
    said = ", ".join(str(part).replace("_", " ") for part in (note.note_type, note.department) if part)
    return clean_note(f"[{day}: {' '.join(said.split())}]")
