"""Which codes of a MEDS dataset mean what: templates that a user can change, and what the shipped ones take.

A template is a code in which ``{field}`` stands for any text, such as ``DIAGNOSIS//ICD//{version}//{code}``. It must
fit the whole code; of several the first counts. The shipped templates are those of the MEDS extraction of MIMIC-IV
 (PyPI mimic-iv-meds 0.2), of OMOP (``Visit/IP``, ``ICD10CM/I50.9`` with an ``end`` column) and
of the MEDS test data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator, model_validator

from lang1.common.settings import Settings
from lang1.records.readers import mimic_codes as mimic
from lang1.records.schema import (
    ADMISSION_TYPES,
    CODE_VERSIONS,
    DISPOSITIONS,
    ENCOUNTER_CLASSES,
    NOTE_TYPES,
    PROCEDURE_VERSIONS,
)

FIELD = re.compile(r"\{(\w+)\}")
FIELDS = (
    "admission_type", "admission_source", "department", "facility", "disposition", "version", "code", "unit", "value",
    "note_type", "event", "rest",
)  # fmt: skip


class EncounterCodes(Settings):
    """One kind of encounter.

    Attributes:
        encounter_class: inpatient, observation, emergency or outpatient.
        starts: templates of the event that begins it; may hold ``{admission_type}``, ``{admission_source}``,
            ``{department}``, ``{facility}``.
        ends: templates of the event that ends it; may hold ``{disposition}``. None: the beginning has the end in
            ``end_columns``.
        part_of_admission: such an encounter that touches an admission is part of it and not kept (the emergency visit
            before an admission).
    """

    encounter_class: str
    starts: tuple[str, ...] = Field(min_length=1)
    ends: tuple[str, ...] = ()
    part_of_admission: bool = False

    @field_validator("encounter_class")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ENCOUNTER_CLASSES:
            raise ValueError(f"'{value}' is no class of encounters, expected one of {', '.join(ENCOUNTER_CLASSES)}")
        return value


class UnitCodes(Settings):
    """Stays in units: events that move to a ``{unit}`` and last until the next one, or events that begin and end."""

    starts: tuple[str, ...] = Field(min_length=1)
    ends: tuple[str, ...] = ()


class MedsCodes(Settings):
    """What the codes mean. A mapping that is given is laid over the shipped one, a list replaces it.

    Attributes:
        encounters: kinds of encounters.
        birth, death: templates.
        sex, race, ethnicity, payer: templates with ``{value}``.
        diagnoses, procedures: template with ``{code}`` to code version; ``{version}`` is then looked up in
            ``diagnosis_versions`` or ``procedure_versions``.
        notes: template to note type; ``{note_type}`` is then looked up in ``note_types``.
        units: the first kind of which there are events counts.
        classes: encounter class by ``{admission_type}``, where it is another than that of the template.
        admission_types, dispositions, note_types, sexes: the source's words to ours, case ignored.
    """

    encounters: tuple[EncounterCodes, ...]
    birth: tuple[str, ...]
    death: tuple[str, ...]
    sex: tuple[str, ...]
    race: tuple[str, ...]
    ethnicity: tuple[str, ...]
    payer: tuple[str, ...]
    diagnoses: dict[str, str]
    procedures: dict[str, str]
    notes: dict[str, str]
    units: tuple[UnitCodes, ...]
    classes: dict[str, str]
    admission_types: dict[str, str]
    dispositions: dict[str, str]
    note_types: dict[str, str]
    sexes: dict[str, str]
    diagnosis_versions: dict[str, str]
    procedure_versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _over_shipped(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        merged: dict[str, Any] = dict(SHIPPED)
        for name, value in given.items():
            shipped = SHIPPED.get(name)
            if isinstance(value, Mapping) and isinstance(shipped, Mapping):
                # The user's templates are asked first.
                own = {str(theirs): ours for theirs, ours in value.items()}
                merged[name] = own | {theirs: ours for theirs, ours in shipped.items() if theirs not in own}
            else:
                merged[name] = value
        return merged

    @model_validator(mode="after")
    def _sound(self) -> MedsCodes:
        for name, allowed in _WORDS.items():
            for theirs, ours in getattr(self, name).items():
                if ours not in allowed:
                    raise ValueError(f"{name}: '{theirs}' is mapped to '{ours}', expected one of {', '.join(allowed)}")
        for template, _, _ in self.templates():
            for part in FIELD.findall(template):
                if part not in FIELDS:
                    raise ValueError(f"'{template}': unknown field '{part}', expected one of {', '.join(FIELDS)}")
        return self

    def templates(self) -> Iterator[tuple[str, str, int]]:
        """All templates as ``(template, kind, number of the rule)``, in the order in which they are asked."""
        for number, kind in enumerate(self.encounters):
            yield from ((template, "start", number) for template in kind.starts)
            yield from ((template, "end", number) for template in kind.ends)
        for name in ("birth", "death", "sex", "race", "ethnicity", "payer"):
            yield from ((template, name, 0) for template in getattr(self, name))
        for name in ("diagnoses", "procedures", "notes"):
            yield from ((template, name, 0) for template in getattr(self, name))
        for number, unit in enumerate(self.units):
            yield from ((template, "unit_start", number) for template in unit.starts)
            yield from ((template, "unit_end", number) for template in unit.ends)


@dataclass(frozen=True)
class Known:
    """A code that a template fits."""

    code: str
    kind: str
    rule: int
    fields: Mapping[str, str] = field(default_factory=dict)


def classify(codes: Iterable[str], meaning: MedsCodes) -> list[Known]:
    """The codes that a template fits, with what its fields hold; in the order given."""
    compiled = [
        (template.split("{")[0], _pattern(template), template, kind, rule)
        for template, kind, rule in meaning.templates()
    ]
    found = []
    for code in codes:
        for start, pattern, template, kind, rule in compiled:
            if code.startswith(start) and (match := pattern.fullmatch(code)) is not None:
                found.append(Known(code, kind, rule, _worded(match.groupdict(), template, kind, rule, meaning)))
                break
    return found


def _pattern(template: str) -> re.Pattern[str]:
    # A field does not begin with a slash: HCPCS/{code} is another scheme than HCPCS//{name}.
    parts = FIELD.split(template)  # text, field, text, field, …
    return re.compile(
        "".join(f"(?P<{part}>(?!/).*?)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts)), re.DOTALL
    )


def _worded(said: dict[str, str], template: str, kind: str, rule: int, meaning: MedsCodes) -> dict[str, str]:
    """What a code says in our words: only what the records need."""
    if kind == "start":
        own = _looked_up(meaning.classes, said.get("admission_type")) or meaning.encounters[rule].encounter_class
        said["encounter_class"] = own
        said["our_type"] = _looked_up(meaning.admission_types, said.get("admission_type")) or "unknown"
    elif kind == "end":
        said["our_disposition"] = _looked_up(meaning.dispositions, said.get("disposition")) or "unknown"
    elif kind == "sex":
        said["value"] = _looked_up(meaning.sexes, said.get("value")) or "unknown"
    elif kind in ("diagnoses", "procedures"):
        version = getattr(meaning, kind)[template]
        known = meaning.diagnosis_versions if kind == "diagnoses" else meaning.procedure_versions
        said["our_version"] = version if version != "{version}" else _looked_up(known, said.get("version")) or ""
    elif kind == "notes":
        note_type = meaning.notes[template]
        said["our_note_type"] = (
            note_type
            if note_type != "{note_type}"
            else _looked_up(meaning.note_types, said.get("note_type")) or "other"
        )
    return said


def _looked_up(words: Mapping[str, str], said: str | None) -> str | None:
    if said is None:
        return None
    lowered = said.strip().lower()
    return next((ours for theirs, ours in words.items() if theirs.lower() == lowered), None)


SHIPPED: dict[str, Any] = {
    "encounters": (
        {
            "encounter_class": "inpatient",
            "starts": (
                "HOSPITAL_ADMISSION//{admission_type}//{admission_source}",
                "HOSPITAL_ADMISSION//{admission_type}",
                "HOSPITAL_ADMISSION",
                "ADMISSION//{department}",
                "ADMISSION",
            ),
            "ends": (
                "HOSPITAL_DISCHARGE//{disposition}",
                "HOSPITAL_DISCHARGE",
                "DISCHARGE//{disposition}",
                "DISCHARGE",
            ),
        },
        {"encounter_class": "inpatient", "starts": ("Visit/IP", "Visit/ERIP", "Visit/51", "Visit/61")},
        {
            "encounter_class": "emergency",
            "starts": ("ED_REGISTRATION//{rest}", "ED_REGISTRATION"),
            "ends": ("ED_OUT//{rest}", "ED_OUT"),
            "part_of_admission": True,
        },
        {"encounter_class": "emergency", "starts": ("Visit/ER",)},
        {"encounter_class": "outpatient", "starts": ("Visit/OP",)},
    ),
    "birth": ("MEDS_BIRTH",),
    "death": ("MEDS_DEATH",),
    "sex": ("GENDER//{value}", "SEX//{value}", "Gender/{value}"),
    "race": ("RACE//{value}", "Race/{value}"),
    "ethnicity": ("ETHNICITY//{value}", "Ethnicity/{value}"),
    "payer": ("INSURANCE//{value}",),
    "diagnoses": {
        "DIAGNOSIS//ICD//{version}//{code}": "{version}",
        "ICD9CM/{code}": "ICD-9-CM",
        "ICD10CM/{code}": "ICD-10-CM",
        "ICD10/{code}": "ICD-10",
        "ICD9CM//{code}": "ICD-9-CM",
        "ICD10CM//{code}": "ICD-10-CM",
    },
    "procedures": {
        "PROCEDURE//ICD//{version}//{code}": "{version}",
        "ICD9Proc/{code}": "ICD-9-CM",
        "ICD10PCS/{code}": "ICD-10-PCS",
        "CPT4/{code}": "CPT",
        "HCPCS/{code}": "HCPCS",
    },
    "notes": {
        "NOTE//{note_type}//{rest}": "{note_type}",
        "NOTE//{note_type}": "{note_type}",
        "STANFORD_NOTE/{note_type}": "{note_type}",
        "DISCHARGE_SUMMARY": "discharge_summary",
        "RADIOLOGY_REPORT": "radiology",
    },
    "units": (
        {"starts": ("TRANSFER_TO//{event}//{unit}",)},
        {"starts": ("ICU_ADMISSION//{unit}", "ICU_ADMISSION"), "ends": ("ICU_DISCHARGE//{unit}", "ICU_DISCHARGE")},
    ),
    "classes": dict.fromkeys(mimic.OBSERVATION_TYPES, "observation"),
    "admission_types": mimic.ADMISSION_TYPES,
    "dispositions": mimic.DISPOSITIONS,
    "note_types": {
        "discharge summary": "discharge_summary",
        "discharge": "discharge_summary",
        "ds": "discharge_summary",
        "h&p": "history_and_physical",
        "history and physical": "history_and_physical",
        "admission": "history_and_physical",
        "admission note": "history_and_physical",
        "progress": "progress",
        "progress note": "progress",
        "radiology": "radiology",
        "rr": "radiology",
        "pathology": "pathology",
        "consult": "consult",
        "nursing": "nursing",
        "nursing note": "nursing",
        "operative": "operative",
        "emergency": "emergency",
        "ed": "emergency",
        "case management": "case_management",
        **{
            kind: kind
            for kind in NOTE_TYPES
            if kind not in ("progress", "radiology", "pathology", "consult", "nursing")
        },
    },
    "sexes": {"F": "female", "M": "male", "female": "female", "male": "male", "other": "other"},
    "diagnosis_versions": {"9": "ICD-9-CM", "10": "ICD-10-CM"},
    "procedure_versions": {"9": "ICD-9-CM", "10": "ICD-10-PCS"},
}
_WORDS: dict[str, tuple[str, ...]] = {
    "classes": ENCOUNTER_CLASSES,
    "admission_types": ADMISSION_TYPES,
    "dispositions": DISPOSITIONS,
    "note_types": NOTE_TYPES,
    "sexes": ("female", "male", "other", "unknown"),
    "diagnosis_versions": CODE_VERSIONS,
    "procedure_versions": PROCEDURE_VERSIONS,
    "diagnoses": (*CODE_VERSIONS, "{version}"),
    "procedures": (*PROCEDURE_VERSIONS, "{version}"),
    "notes": (*NOTE_TYPES, "{note_type}"),
}
