"""De-identification of notes on their way into a corpus: off unless asked for.

Rules (``deid_rules``) and the site's own tables (``deid_known``) say where identifiers stand; they become ``[CLASS]``
(``mode: mask``) or stand-ins that are the same throughout a patient's chart (``mode: surrogate``). What a document
becomes depends on its text, its patient, the settings, the tables and the key, and on nothing else.
"""

from __future__ import annotations

import csv
import hashlib
import html
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from lang1.common.artefact import file_sha256
from lang1.common.errors import ArtefactError, SettingsError
from lang1.common.identity import unit_hash
from lang1.corpus.deid_known import Known, find_names, find_values
from lang1.corpus.deid_rules import CLASSES, Span, born_long_ago, find
from lang1.corpus.deid_surrogates import Surrogates
from lang1.corpus.filters import Context, Document, Filter, FilterSettings, Report
from lang1.records.store import Records
from lang1.text.clean import clean_note

NAME = "deidentify"
_SHORTEST_KEY = 32  # characters; a shorter one could be guessed from its fingerprint
_FILES = ("patients", "staff", "places")
_NO_YEAR = 2001  # stands for the year of a note without a time
# What may stand between two parts of one name.
_WITHIN_NAME = re.compile(
    r"[ ,.-]{0,2}(?:(?:van|von|de|der|den|la|el|al|bin|di|da|dos|du)[ ]){0,2}|[ ]?,?[ ]?[A-Z]\.?[ ]"
)
_INITIAL_BEFORE = re.compile(r"(?<![\w'’])[A-Z]\.?[ ]$")
_INITIAL_AFTER = re.compile(r"[ ](?!M\.?[ ]?D\b|D\.?[ ]?O\b)[A-Z](?:\.(?=[ ]?\w|$)|(?=[\s,;|)]|$))")


class DeidSettings(FilterSettings):
    """How notes are de-identified.

    ``fingerprints`` fills itself: SHA-256 of the tables and a keyed hash of the key. A run that goes on with other
    tables or another key is refused. The key itself is never written anywhere.
    """

    mode: Literal["mask", "surrogate"] = "mask"
    classes: tuple[str, ...] = Field(default=tuple(CLASSES), min_length=1)  # what is taken out
    patients: Path | None = None  # names, addresses and numbers by patient, see docs/deid.md
    staff: Path | None = None
    places: Path | None = None
    key_file: Path | None = None  # the user's secret; needed for surrogates
    max_shift_days: int = Field(default=365, ge=7, le=3650)
    keep_weekdays: bool = False  # move dates by whole weeks
    fingerprints: dict[str, str] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.classes:
            if name not in CLASSES:
                raise ValueError(f"classes: '{name}' is unknown; classes are {', '.join(CLASSES)}")
        if self.mode == "surrogate" and self.key_file is None:
            raise ValueError("mode surrogate needs key_file: a file with a secret of 32 characters or more")
        found = {}
        for name in _FILES:
            path = getattr(self, name)
            if path is not None:
                if not path.is_file():
                    raise ValueError(f"{name}: {path} is not a file")
                found[name] = file_sha256(path)
        if self.key_file is not None:
            found["key"] = hashlib.blake2b(b"lang1 key", digest_size=8, key=self.key()[:64]).hexdigest()
        for name, value in self.fingerprints.items():
            if found.get(name) != value:
                raise ValueError(f"fingerprints: {name} is not the one that this was begun with")
        object.__setattr__(self, "fingerprints", found)  # settings are frozen once they are made
        return self

    def key(self) -> bytes:
        """The user's secret."""
        if self.key_file is None:
            raise SettingsError("key_file: there is none.")
        try:
            key = self.key_file.read_bytes().strip()
        except OSError as error:
            raise SettingsError(f"key_file: {self.key_file} cannot be read ({error.strerror}).") from error
        if len(key) < _SHORTEST_KEY:
            raise SettingsError(f"key_file: {self.key_file} holds fewer than {_SHORTEST_KEY} characters.")
        return hashlib.blake2b(key).digest()


@lru_cache(maxsize=2)
def _tables(patients: Path | None, staff: Path | None, places: Path | None, fingerprints: tuple[str, ...]) -> Known:
    """Read once a process; ``fingerprints`` tell files apart that were written anew."""
    return Known(patients, staff, places)


class Deidentifier:
    """Finds and replaces identifiers.

    Args:
        settings: see :class:`DeidSettings`.

    Raises:
        InputError: a table that cannot be read.
    """

    def __init__(self, settings: DeidSettings) -> None:
        self.settings = settings
        self._classes = frozenset(settings.classes)
        prints = tuple(sorted(settings.fingerprints.values()))
        self._known = _tables(settings.patients, settings.staff, settings.places, prints)
        self._surrogates = None
        if settings.mode == "surrogate":
            self._surrogates = Surrogates(settings.key(), settings.max_shift_days, settings.keep_weekdays)
        self._patient = lru_cache(maxsize=256)(self._known.patient)

    def find(self, text: str, patient_id: str, year: int | None = None) -> list[Span]:
        """Where identifiers stand: spans in order, none overlapping.

        Args:
            text: a note.
            patient_id: whose note it is; known values are those of this patient.
            year: of the note, where known.
        """
        patient = self._patient(patient_id)
        by_rule, words = find(text)
        # Of two readings of the same characters the first counts: what the tables say.
        spans = [*find_values(text, (patient.values, self._known.places)), *by_rule]
        if year is not None:
            spans += born_long_ago(text, year)
        names = [s for s in spans if s.cls == "NAME"]
        names += find_names(text, patient, self._known.staff, words)
        spans = [s for s in spans if s.cls != "NAME"] + _whole_names(text, names)
        return [s for s in _apart(text, spans) if s.cls in self._classes]

    def replace(self, text: str, patient_id: str, year: int | None = None) -> tuple[str, list[Span]]:
        """The text without identifiers, and where they stood in the text before."""
        spans = self.find(text, patient_id, year)
        made, last = [], 0
        for start, end, cls in spans:
            made += [text[last:start], self._instead(text[start:end], cls, patient_id, year)]
            last = end
        return "".join([*made, text[last:]]), spans

    def _instead(self, text: str, cls: str, patient_id: str, year: int | None) -> str:
        if cls == "AGE":
            return "90+"
        if self._surrogates is None:
            return f"[{cls}]"
        return self._surrogates.replace(text, cls, self._patient(patient_id), self._known.staff, year or _NO_YEAR)


def _whole_names(text: str, spans: Sequence[Span]) -> list[Span]:
    """Parts of names that stand side by side, and initials beside them, as one."""
    whole: list[Span] = []
    for start, end, _ in sorted(set(spans)):
        if before := _INITIAL_BEFORE.search(text, max(start - 3, 0), start):
            start = before.start()
        if after := _INITIAL_AFTER.match(text, end):
            end = after.end()
        if whole and (start <= whole[-1].end or _WITHIN_NAME.fullmatch(text[whole[-1].end : start])):
            whole[-1] = Span(whole[-1].start, max(end, whole[-1].end), "NAME")
        else:
            whole.append(Span(start, end, "NAME"))
    return whole


def _apart(text: str, spans: Sequence[Span]) -> list[Span]:
    """Spans without overlap: the longer one wins, and what is left of the other stays a span of its own."""
    taken: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start - s.end, s.start, s.cls == "OTHER")):
        pieces = [span]
        for other in taken:
            pieces = [
                Span(start, end, span.cls)
                for piece in pieces
                for start, end in ((piece.start, min(piece.end, other.start)), (max(piece.start, other.end), piece.end))
                if start < end
            ]
        taken += [p for p in pieces if p == span or any(c.isalnum() for c in text[p.start : p.end])]
    return sorted(taken)


class Deidentify(Filter[DeidSettings]):
    """The filter of the corpus: notes go on without identifiers; nothing is left out."""

    name = NAME
    settings_class = DeidSettings
    for_general = False

    def __init__(self, settings: DeidSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._deidentifier = Deidentifier(settings)

    def apply(self, document: Document, report: Report) -> Document:
        """See :class:`Deidentifier`; counts documents touched and identifiers by class."""
        year = document.available_time.year if document.available_time is not None else None
        text, spans = self._deidentifier.replace(document.text, document.unit, year)
        report.count(NAME, "documents read")
        if not spans:
            return document
        report.count(NAME, "documents changed")
        for span in spans:
            report.count(NAME, f"identifiers: {span.cls}")
        return replace(document, text=text)


_SHEET = """<!doctype html><html lang="en"><meta charset="utf-8"><title>De-identification: notes to check</title>
<style>body{{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}pre{{white-space:pre-wrap;
border:1px solid #bbb;padding:.8rem;border-radius:6px}}mark{{padding:0 .15em;border-radius:3px;background:#fe9}}
mark::after{{content:" " attr(data-class);font-size:.65em;color:#555}}</style>
<h1>{n} notes to check</h1><p><strong>This page holds identifiers: keep it where the notes are kept.</strong> What is
marked would be taken out. Look for what is not marked and should be, and for what is marked and need not be; write both
into the CSV file beside this page.</p>{notes}</html>
"""


def deid_sample(records: Path | Records, n: int, out: Path, settings: DeidSettings, seed: int = 1) -> dict[str, int]:
    """Write notes for a person to check: ``OUT/sample.html`` with identifiers marked, ``OUT/sample.csv`` to fill in.

    The notes are drawn by a hash of their ids, so that a bigger sample holds the smaller one. Both files hold patients'
    identifiers. In the CSV every marked span is a row (``right`` to be filled in with yes or no), and every note
    a row of class MISSED for what was overlooked.

    Args:
        records: a records folder.
        n: how many notes; all where there are fewer.
        out: a folder that does not exist yet.
        settings: as the corpus would use them; the mode does not matter.
        seed: another one draws other notes.

    Returns:
        Notes and marked spans by class.

    Raises:
        ArtefactError: ``out`` exists already, or ``records`` is no records folder.
    """
    opened = records if isinstance(records, Records) else Records.open(records)
    if out.exists():
        raise ArtefactError(f"{out} exists already: name a new folder.")
    with closing(opened.connect()) as connection:
        ids = connection.execute("SELECT note_id FROM notes").fetchall()
        chosen = sorted((unit_hash(i, f"deid sample {seed}"), i) for (i,) in ids)[:n]
        notes = connection.execute(
            "SELECT note_id, patient_id, note_type, available_time, text FROM notes "
            "WHERE note_id IN (SELECT unnest(?))",
            [[i for _, i in chosen]],
        ).fetchall()
    found = {note_id: rest for note_id, *rest in notes}
    deidentifier, counts = Deidentifier(settings), {"notes": len(chosen)}
    parts: list[str] = []
    rows: list[tuple[str | int, ...]] = []
    for _, note_id in chosen:
        patient_id, note_type, time, stored = found[note_id]
        text = clean_note(stored)
        spans = deidentifier.find(text, patient_id, time.year if time is not None else None)
        parts.append(f"<h2>{html.escape(note_id)} ({html.escape(note_type)})</h2><pre>{_marked(text, spans)}</pre>")
        for start, end, cls in spans:
            counts[cls] = counts.get(cls, 0) + 1
            rows.append((note_id, start, end, cls, text[start:end], "", ""))
        rows.append((note_id, "", "", "MISSED", "", "", ""))
    out.mkdir(parents=True)
    (out / "sample.html").write_text(_SHEET.format(n=len(chosen), notes="\n".join(parts)), encoding="utf-8")
    with (out / "sample.csv").open("w", encoding="utf-8", newline="") as stream:
        sheet = csv.writer(stream, lineterminator="\n")
        sheet.writerow(("note_id", "start", "end", "class", "text", "right", "remark"))
        sheet.writerows(rows)
    return counts


def _marked(text: str, spans: Sequence[Span]) -> str:
    made, last = [], 0
    for start, end, cls in spans:
        made += [html.escape(text[last:start]), f'<mark data-class="{cls}">{html.escape(text[start:end])}</mark>']
        last = end
    return "".join([*made, html.escape(text[last:])])
