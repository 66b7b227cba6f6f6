"""When every column that a card's rules may read is known: the declared tables that the linter goes by."""

from __future__ import annotations

from lang1.remede.cohort import Known

# When each column of the asked row is known. Tasks declare the columns that they alone add (``Cohort.columns``).
KNOWN: dict[str, Known] = {
    "encounter_id": "admission",
    "patient_id": "admission",
    "admit_time": "admission",
    "admit_day": "admission",
    "admission_type": "admission",
    "admission_source": "admission",
    "department": "admission",
    "facility": "admission",
    "payer": "admission",
    "age_at_admission": "admission",
    "horizon_days": "admission",
    "note_id": "prediction",
    "usable_at": "prediction",
    "prediction_time": "prediction",
    "discharge_time": "discharge",
    "discharge_day": "discharge",
    "disposition": "discharge",
    "left_alive": "discharge",
    "died_in_hospital": "discharge",
    "end_time": "discharge",
    "index_time": "discharge",
    "death_time": "after",
    "death_day": "after",
    "died_at": "after",
    "by_day": "after",
    "horizon_end": "after",
    "value": "after",
    "given_class": "after",
}
# What a censoring rule may read: anchors, not outcomes.
ANCHORS = ("admit_time", "admit_day", "discharge_time", "discharge_day", "index_time", "prediction_time", "horizon_end")

ALWAYS, NEVER, CODED = "always", "never", "coded"
# When each column of a table is known: the time in the same row from which on, ``always``, ``never`` in time, or
# ``coded``: no time stands in the row, so it is known with the discharge of an encounter that the query joins.
EVENTS: dict[str, dict[str, str]] = {
    "patients": {
        **dict.fromkeys(("patient_id", "birth_year", "sex", "race", "ethnicity", "area"), ALWAYS),
        "death_time": "death_time",
        "death_source": NEVER,
    },
    "encounters": {
        **dict.fromkeys(("encounter_id", "patient_id", "sequence", "encounter_class", "admit_time"), "admit_time"),
        **dict.fromkeys(("admission_type", "admission_source", "department", "facility"), "admit_time"),
        **dict.fromkeys(("age_at_admission", "payer"), "admit_time"),
        **dict.fromkeys(("discharge_time", "disposition", "year_low", "year_high"), "discharge_time"),
    },
    "notes": {
        **dict.fromkeys(("note_id", "parent_note_id", "patient_id", "encounter_id", "note_type"), "available_time"),
        **dict.fromkeys(("department", "created_time", "available_time", "text"), "available_time"),
        "signed_time": "signed_time",
    },
    "diagnoses": dict.fromkeys(
        ("encounter_id", "patient_id", "code", "code_version", "position", "present_on_admission"), CODED
    ),
    "claims": {
        **dict.fromkeys(("claim_id", "encounter_id", "patient_id", "payer", "coverage_order"), "submitted_time"),
        **dict.fromkeys(("submitted_time", "charge"), "submitted_time"),
        "first_remit_time": "first_remit_time",
        **dict.fromkeys(("final_time", "final_status", "adjustment_codes", "paid"), "final_time"),
    },
    "given_labels": dict.fromkeys(("encounter_id", "task", "value"), NEVER),
    "fields": dict.fromkeys(("encounter_id", "field", "number", "text", "known_at"), CODED),
    "unit_stays": {
        **dict.fromkeys(("encounter_id", "patient_id", "unit", "unit_type", "in_time"), "in_time"),
        "out_time": "out_time",
    },
    "procedures": dict.fromkeys(
        ("encounter_id", "patient_id", "code", "code_version", "position", "performed_time"), "performed_time"
    ),
}
# A later time of a row that has come says that the earlier ones have.
EARLIER = {
    "discharge_time": ("admit_time",),
    "final_time": ("submitted_time", "first_remit_time"),
    "first_remit_time": ("submitted_time",),
    "out_time": ("in_time",),
}
