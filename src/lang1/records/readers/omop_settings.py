"""How a CDM is read: the settings of ``lang1 ingest omop``."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field, field_validator

from lang1.common.settings import Settings
from lang1.records.readers.source import Encoding
from lang1.records.readers.staging import OnBadRows
from lang1.records.schema import (
    ADMISSION_TYPES,
    DISPOSITIONS,
    ENCOUNTER_CLASSES,
    NOTE_TYPES,
    UNIT_TYPES,
    TimeBasis,
)
from lang1.records.store import CompleteThrough, VitalStatus


class NoteTypes(Settings):
    """Rules for the type of a note, asked before the shipped ones.

    Attributes:
        concepts: by ``note_class_concept_id``, ``note_type_concept_id`` or the LOINC code of the class.
        titles: by regular expressions, case ignored, on ``note_title`` and ``note_source_value``; these win.
    """

    concepts: dict[str, str] = {}
    titles: dict[str, str] = {}

    @field_validator("concepts", "titles", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        return _mapped(value, NOTE_TYPES)


def _mapped(value: object, allowed: tuple[str, ...]) -> object:
    """A mapping with its keys as text (YAML reads 9201 as a number) and its values checked."""
    if not isinstance(value, dict):
        return value
    for theirs, ours in value.items():
        if ours not in allowed:
            raise ValueError(f"'{theirs}' is mapped to '{ours}', expected one of {', '.join(allowed)}")
    return {str(theirs): ours for theirs, ours in value.items()}


class OmopSettings(Settings):
    """How a CDM is read. Mappings are keyed by concept id (or source value, where said) and win over the shipped ones.

    Attributes:
        system: name of the health system; null takes the abbreviation in ``cdm_source``.
        time_basis: ``calendar`` for true dates, ``shifted`` for dates moved by patient; null finds out (dates after
            the release of the CDM, or after 2100, cannot be true).
        complete_through: through when the extract is complete, by table; required under ``calendar``. ``{}`` declares
            nothing: tasks that need it are then refused.
        vital_status: where deaths are known from and through when; null: ``ehr`` if there are deaths, else ``none``.
        visit_classes: encounter class by ``visit_source_concept_id``, ``visit_source_value`` or ``visit_concept_id``,
            asked in this order.
        keep_outpatient: whether outpatient visits become encounters.
        merge_visits: ``overlapping`` makes inpatient visits of one person that overlap, or follow within
            ``merge_gap_hours``, one encounter; ``linked`` only where ``preceding_visit_occurrence_id`` says so too.
        open_visits_end: the date that the source put in for visits that were still open: inpatient visits that end on
            or after it and have no disposition are open.
        admission_types: by ``visit_source_concept_id`` or ``visit_source_value``.
        dispositions: by ``discharged_to_concept_id`` or its source value; the source value is asked first.
        no_disposition: what a visit without any is: some sources leave home empty.
        care_site_is: whether the care site of a visit is a facility or a department.
        unit_types: by ``visit_detail_concept_id`` or the name of the care site.
        death_sources: by ``death_type_concept_id``.
        code_version: of diagnosis codes that no concept table explains: ``by_shape``, one version, or ``none``.
        keep_problem_lists: whether problem lists and admitting or preliminary diagnoses count as codes of the stay.
        note_types: rules for the type of a note.
        note_time_is: ``filed``: a note could be read, and was signed, at its time. ``written``: its time says only
            when it was written, so that it is not known when it could be read.
        notes_without_visit: ``by_time`` gives a note to the one inpatient stay of its person that holds its time.
        time_zone: the hospital's zone, needed where times carry a UTC offset.
        time_formats: how times are written where not in ISO 8601 or as 20240131, e.g. ``["%m/%d/%Y %H:%M"]``.
        schema_name: of a DuckDB file, where several hold a CDM.
        encoding: of CSV files.
        on_bad_rows: ``leave_out`` counts rows that cannot be used, ``refuse`` stops at the first.
    """

    system: str | None = None
    time_basis: TimeBasis | None = None
    complete_through: dict[str, CompleteThrough] | None = None
    vital_status: VitalStatus | None = None
    visit_classes: dict[str, str] = {}
    keep_outpatient: bool = True
    merge_visits: Literal["none", "overlapping", "linked"] = "none"
    merge_gap_hours: float = Field(default=0, ge=0)
    open_visits_end: date | None = None
    admission_types: dict[str, str] = {}
    dispositions: dict[str, str] = {}
    no_disposition: Literal["unknown", "home"] = "unknown"
    care_site_is: Literal["facility", "department"] = "facility"
    unit_types: dict[str, str] = {}
    death_sources: dict[str, str] = {}
    code_version: Literal["by_shape", "none", "ICD-9-CM", "ICD-10-CM", "ICD-10"] = "by_shape"
    keep_problem_lists: bool = False
    note_types: NoteTypes = NoteTypes()
    note_time_is: Literal["filed", "written"] = "filed"
    notes_without_visit: Literal["keep", "by_time"] = "keep"
    time_zone: str | None = None
    time_formats: tuple[str, ...] = ()
    schema_name: str | None = None
    encoding: Encoding = "utf-8"
    source: str = ""
    real: bool = True
    licence: str | None = None
    on_bad_rows: OnBadRows = "leave_out"

    @field_validator("visit_classes", mode="before")
    @classmethod
    def _classes(cls, value: object) -> object:
        return _mapped(value, ENCOUNTER_CLASSES)

    @field_validator("admission_types", mode="before")
    @classmethod
    def _types(cls, value: object) -> object:
        return _mapped(value, ADMISSION_TYPES)

    @field_validator("dispositions", mode="before")
    @classmethod
    def _dispositions(cls, value: object) -> object:
        return _mapped(value, DISPOSITIONS)

    @field_validator("unit_types", mode="before")
    @classmethod
    def _units(cls, value: object) -> object:
        return _mapped(value, UNIT_TYPES)

    @field_validator("death_sources", mode="before")
    @classmethod
    def _deaths(cls, value: object) -> object:
        return _mapped(value, ("ehr", "registry", "both"))
