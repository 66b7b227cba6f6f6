"""The five tables of a health system, with units and time semantics.

Ids are opaque strings. Times are naive local hospital time (``timestamp[us]``); a null time is *unknown*, it is
never invented. Under ``time_basis: ordinal`` times are null and ``encounters.sequence`` gives the order; under
``none`` there is no order at all. ``shifted`` times are true within a patient and meaningless between patients,
``within_stay`` times within one encounter only. Where the source says between which true years an encounter lies (the
year groups of MIMIC, the discharge year of eICU), ``year_low`` and ``year_high`` keep that.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

TimeBasis = Literal["calendar", "shifted", "within_stay", "ordinal", "none"]

_S, _T, _I, _F = pa.string(), pa.timestamp("us"), pa.int32(), pa.float64()


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


PATIENTS = pa.schema(
    [
        _required("patient_id", _S),
        pa.field("birth_year", _I),  # calendar year; null where unknown or shifted
        pa.field("sex", _S),  # female | male | other | unknown
        pa.field("race", _S),
        pa.field("ethnicity", _S),
        pa.field("area", _S),  # county, borough or the like
        pa.field("death_time", _T),  # null: not known to be dead
        pa.field("death_source", _S),  # ehr | registry | both
    ]
)

ENCOUNTER_CLASSES = ("inpatient", "observation", "emergency", "outpatient")
ADMISSION_TYPES = ("emergency", "urgent", "elective", "newborn", "other", "unknown")
DISPOSITIONS = (
    "home",
    "home_health",
    "skilled_nursing",
    "rehabilitation",
    "long_term_care",
    "psychiatric",
    "transfer_acute",
    "hospice",
    "against_advice",
    "expired",
    "other",
    "unknown",
)

ENCOUNTERS = pa.schema(
    [
        _required("encounter_id", _S),
        _required("patient_id", _S),
        pa.field("sequence", pa.int64()),  # order of encounters where times are unknown (time_basis: ordinal)
        _required("encounter_class", _S),  # ENCOUNTER_CLASSES
        pa.field("admit_time", _T),
        pa.field("discharge_time", _T),  # null: still in hospital, or unknown
        pa.field("admission_type", _S),  # ADMISSION_TYPES
        pa.field("admission_source", _S),  # free text of the site, e.g. "home", "transfer from acute hospital"
        pa.field("department", _S),
        pa.field("facility", _S),
        pa.field("disposition", _S),  # DISPOSITIONS; null while in hospital
        pa.field("age_at_admission", _F),  # years
        pa.field("payer", _S),  # primary payer as known at registration
        pa.field("year_low", _I),  # the true year of discharge (admission where open) is this one at the earliest …
        pa.field("year_high", _I),  # … and this one at the latest; null where times are true dates, or nothing is known
    ]
)

NOTE_TYPES = (
    "history_and_physical",
    "progress",
    "radiology",
    "pathology",
    "discharge_summary",
    "emergency",
    "consult",
    "nursing",
    "operative",
    "case_management",
    "other",
)

NOTES = pa.schema(
    [
        _required("note_id", _S),  # one row a version: an addendum is a row of its own
        pa.field("parent_note_id", _S),  # the note that this row amends
        _required("patient_id", _S),
        pa.field("encounter_id", _S),
        _required("note_type", _S),  # NOTE_TYPES
        pa.field("department", _S),
        pa.field("created_time", _T),
        pa.field("signed_time", _T),  # null: never signed
        pa.field("available_time", _T),  # when a model could have read this text; null: unknown, so unusable
        _required("text", _S),
    ]
)

CODE_VERSIONS = ("ICD-9-CM", "ICD-10-CM", "ICD-10")

DIAGNOSES = pa.schema(
    [
        _required("encounter_id", _S),
        _required("patient_id", _S),
        _required("code", _S),  # dots optional, case ignored
        _required("code_version", _S),  # CODE_VERSIONS
        pa.field("position", _I),  # 1 = principal
        pa.field("present_on_admission", _S),  # Y | N | U | W | null
    ]
)

FINAL_STATUSES = ("paid", "denied_overturned", "denied_upheld", "pending", "other")

CLAIMS = pa.schema(
    [
        _required("claim_id", _S),
        _required("encounter_id", _S),
        _required("patient_id", _S),
        pa.field("payer", _S),
        _required("coverage_order", _I),  # 1 = primary payer
        pa.field("submitted_time", _T),
        pa.field("first_remit_time", _T),
        pa.field("final_time", _T),  # when final_status was reached
        # paid: never denied; denied_overturned: denied first, paid on appeal (favorable);
        # denied_upheld: denied for good (adverse); pending: not settled by the end of the data.
        _required("final_status", _S),
        pa.field("adjustment_codes", pa.list_(_S)),  # "<group>-<number>", e.g. "CO-197"; numbers only, no X12 text
        pa.field("charge", _F),  # in the site's currency
        pa.field("paid", _F),
    ]
)

# Optional: labels that the source itself gives (a data set without dates, a labelled table).
GIVEN_LABELS = pa.schema(
    [
        _required("encounter_id", _S),
        _required("task", _S),
        _required("value", _S),  # class name, 0/1, or the number that the task's cut-points bin (days)
    ]
)

# Optional: structured fields for baselines, long format. `known_at` says which tasks may read a field.
FIELDS = pa.schema(
    [
        _required("encounter_id", _S),
        _required("field", _S),
        pa.field("number", _F),
        pa.field("text", _S),
        _required("known_at", _S),  # admission | discharge
    ]
)

# Optional: where in the hospital the patient was, one row a stay in a unit.
UNIT_TYPES = ("emergency", "ward", "step_down", "intensive_care", "operating", "other")
UNIT_STAYS = pa.schema(
    [
        _required("encounter_id", _S),
        _required("patient_id", _S),
        pa.field("unit", _S),  # the site's name of the unit
        _required("unit_type", _S),  # UNIT_TYPES
        pa.field("in_time", _T),
        pa.field("out_time", _T),  # null: still there, or unknown
    ]
)

# Optional: procedures, which the planned-return rule of clinical measures needs.
PROCEDURE_VERSIONS = ("ICD-9-CM", "ICD-10-PCS", "CPT", "HCPCS", "other")
PROCEDURES = pa.schema(
    [
        _required("encounter_id", _S),
        _required("patient_id", _S),
        _required("code", _S),  # dots optional, case ignored
        _required("code_version", _S),  # PROCEDURE_VERSIONS
        pa.field("position", _I),  # 1 = principal
        pa.field("performed_time", _T),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "patients": PATIENTS,
    "encounters": ENCOUNTERS,
    "notes": NOTES,
    "diagnoses": DIAGNOSES,
    "claims": CLAIMS,
}
OPTIONAL_TABLES: dict[str, pa.Schema] = {
    "given_labels": GIVEN_LABELS,
    "fields": FIELDS,
    "unit_stays": UNIT_STAYS,
    "procedures": PROCEDURES,
}

# Values that a coded column may take; anything else is refused on read, by row.
CODED: dict[str, dict[str, tuple[str, ...]]] = {
    "patients": {"sex": ("female", "male", "other", "unknown"), "death_source": ("ehr", "registry", "both")},
    "encounters": {
        "encounter_class": ENCOUNTER_CLASSES,
        "admission_type": ADMISSION_TYPES,
        "disposition": DISPOSITIONS,
    },
    "notes": {"note_type": NOTE_TYPES},
    "diagnoses": {"code_version": CODE_VERSIONS, "present_on_admission": ("Y", "N", "U", "W")},
    "claims": {"final_status": FINAL_STATUSES},
    "fields": {"known_at": ("admission", "discharge")},
    "unit_stays": {"unit_type": UNIT_TYPES},
    "procedures": {"code_version": PROCEDURE_VERSIONS},
}
