"""How a bulk export is read: the settings of ``lang1 ingest fhir``."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from lang1.common.settings import Settings
from lang1.records.readers.staging import OnBadRows
from lang1.records.schema import (
    ADMISSION_TYPES,
    CODE_VERSIONS,
    DISPOSITIONS,
    ENCOUNTER_CLASSES,
    NOTE_TYPES,
    PROCEDURE_VERSIONS,
    UNIT_TYPES,
    TimeBasis,
)
from lang1.records.store import CompleteThrough, VitalStatus

_ALLOWED: dict[str, tuple[str, ...]] = {
    "classes": ENCOUNTER_CLASSES,
    "dispositions": DISPOSITIONS,
    "admission_types": ADMISSION_TYPES,
    "note_types": NOTE_TYPES,
    "note_titles": NOTE_TYPES,
    "unit_types": UNIT_TYPES,
    "code_systems": tuple(dict.fromkeys([*CODE_VERSIONS, *PROCEDURE_VERSIONS])),
}


class FhirSettings(Settings):
    """How an export is read. Mappings go from theirs (a code, display or text, case ignored) to ours and win.

    Attributes:
        system: name of the health system.
        time_basis: ``calendar`` for true dates, ``shifted`` for dates moved by patient; null finds out (encounters that
            begin after the export was made, or after 2100, cannot be true).
        time_zone: the hospital's zone, such as America/New_York. Needed where times are in UTC (``Z``); without it a
            time with another offset is taken as the wall time in that offset. ``UTC`` takes ``Z`` for wall time.
        complete_through: through when the export is complete, by table; required under ``calendar``. ``{}`` declares
            nothing: tasks that need it are then refused.
        vital_status: where deaths are known from and through when; null: ``ehr`` if there are deaths, else ``none``.
        classes: encounter classes.
        dispositions: places of discharge.
        admission_types: by the encounter's priority.
        part_of: ``merge`` makes an encounter that begins inside the inpatient, observation or emergency encounter that
            it is part of (``partOf``), and is no higher in rank, a part of that; ``keep`` leaves each one an encounter.
        keep_outpatient: whether outpatient encounters are taken.
        code_systems: code version by system URI, for codes of systems that are not known.
        keep_problem_lists: whether problem list items with an encounter count as codes of it.
        roles_left_out: uses of a diagnosis (``Encounter.diagnosis.use``) that are no coded diagnoses of the stay.
        verification_left_out: verification statuses of conditions that are not taken.
        note_types: by LOINC number, or any code or display of the document's type.
        note_titles: by regular expressions on the words of the document's type; asked after ``note_types``.
        note_time_is: ``filed``: a document could be read, and was signed, at its date. ``written``: its date says only
            when it was written; it could be read when the resource was last updated.
        amended_notes: when a document reference with status ``amended`` and no reference to what it replaces could be
            read: at its ``last_updated`` time (unknown without one), or ``date`` takes its date.
        unstated_status: whether documents without a ``docStatus`` were signed.
        notes_without_encounter: ``by_time`` gives a note to the one inpatient stay of its patient that holds its time.
        diagnostic_reports: which text forms of diagnostic reports are notes too: ``notes`` takes those with a type of
            note (radiology, pathology), ``all`` laboratory results too.
        unit_types: by the name or type of the location.
        claim_types: types of claims that count; claims that state no type do. Claims of other types than institutional
            are left out where the encounter has an institutional one.
        claims_without_encounter: ``by_period`` gives a claim to the one inpatient stay of its patient that its billed
            period overlaps.
        appeal_days: how long after the last answer a denial may still be overturned; it is upheld when they lie inside
            ``complete_through.claims``. 120: Medicare's time for the first appeal (42 CFR 405.942).
        missing_files: whether files that the export's manifest lists and that are not there are an error.
        on_bad_rows: ``leave_out`` counts lines and rows that cannot be used, ``refuse`` stops at the first.
    """

    system: str = "fhir"
    time_basis: TimeBasis | None = None
    time_zone: str | None = None
    complete_through: dict[str, CompleteThrough] | None = None
    vital_status: VitalStatus | None = None
    classes: dict[str, str] = {}
    dispositions: dict[str, str] = {}
    admission_types: dict[str, str] = {}
    part_of: Literal["merge", "keep"] = "merge"
    keep_outpatient: bool = True
    code_systems: dict[str, str] = {}
    keep_problem_lists: bool = False
    roles_left_out: tuple[str, ...] = ("AD", "CC", "pre-op", "admission", "working", "reason-for-visit")
    verification_left_out: tuple[str, ...] = ("entered-in-error", "refuted")
    note_types: dict[str, str] = {}
    note_titles: dict[str, str] = {}
    note_time_is: Literal["filed", "written"] = "filed"
    amended_notes: Literal["last_updated", "date"] = "last_updated"
    unstated_status: Literal["signed", "unsigned"] = "signed"
    notes_without_encounter: Literal["keep", "by_time"] = "keep"
    diagnostic_reports: Literal["none", "notes", "all"] = "notes"
    unit_types: dict[str, str] = {}
    claim_types: tuple[str, ...] = ("institutional", "professional")
    claims_without_encounter: Literal["leave_out", "by_period"] = "leave_out"
    appeal_days: int = Field(default=120, ge=0)
    missing_files: Literal["refuse", "leave_out"] = "refuse"
    source: str = ""
    real: bool = True
    licence: str | None = None
    on_bad_rows: OnBadRows = "leave_out"

    @field_validator(*_ALLOWED, mode="before")
    @classmethod
    def _known(cls, value: object, info: object) -> object:
        if not isinstance(value, dict):
            return value
        allowed = _ALLOWED[str(getattr(info, "field_name", ""))]
        for theirs, ours in value.items():
            if ours not in allowed:
                raise ValueError(f"'{theirs}' is mapped to '{ours}', expected one of {', '.join(allowed)}")
        return {str(theirs).strip().lower(): ours for theirs, ours in value.items()}

    @field_validator("note_titles")
    @classmethod
    def _patterns(cls, titles: dict[str, str]) -> dict[str, str]:
        for title in titles:
            try:
                re.compile(title)
            except re.error as error:
                raise ValueError(f"'{title}' is not a regular expression ({error})") from error
        return titles
