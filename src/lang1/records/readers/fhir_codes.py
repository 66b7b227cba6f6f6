"""What the codes of FHIR, HL7 v3 and NUBC mean in our words: numbers and codes, with words of our own.

Sources: HL7 v3 ActEncounterCode and ActPriority, the HL7 code systems discharge-disposition, admit-source and
diagnosis-role, NUBC patient discharge status (UB-04 form locator 17) and priority of admission (locator 14), the OMB
race and ethnicity categories of US Core, LOINC document types. Codes are compared in lower case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from lang1.records.readers import omop_concepts
from lang1.records.readers.fhir_values import Coding, Concept

CLASSES = {
    "imp": "inpatient",
    "acute": "inpatient",
    "nonac": "inpatient",
    "inpatient": "inpatient",
    "obsenc": "observation",
    "obs": "observation",
    "emer": "emergency",
    "emergency": "emergency",
    "amb": "outpatient",
    "ss": "outpatient",
    "hh": "outpatient",
    "vr": "outpatient",
    "fld": "outpatient",
    "prenc": "outpatient",
    "outpatient": "outpatient",
    "ambulatory": "outpatient",
    "home": "outpatient",
    "virtual": "outpatient",
    "field": "outpatient",
    "daytime": "outpatient",
}
# In order: "hospital outpatient visit" and "outpatient in a bed" are no stays.
CLASS_WORDS = {
    r"outpatient|ambulator|office|telephone|virtual|day (case|surgery)|clinic|\bhov\b": "outpatient",
    r"observation|\bobs\b": "observation",
    r"emergency|\bed\b|\ber\b": "emergency",
    r"inpatient|hospitali[sz]": "inpatient",
}

STILL_PATIENT = "still_patient"
DISPOSITIONS = {
    "home": "home",
    "alt-home": "home",
    "other-hcf": "other",  # any other healthcare facility: not known to be acute
    "hosp": "hospice",
    "long": "long_term_care",
    "aadvice": "against_advice",
    "exp": "expired",
    "psy": "psychiatric",
    "rehab": "rehabilitation",
    "snf": "skilled_nursing",
    "oth": "other",
}
_UB04 = {
    "home": (1, 81),
    "transfer_acute": (2, 5, 43, 66, 82, 85, 88, 94),
    "skilled_nursing": (3, 61, 83, 89),
    "long_term_care": (4, 63, 64, 84, 91, 92),
    "home_health": (6, 8, 86),
    "against_advice": (7,),
    "other": (9, 21, 69, 70, 87, 95),
    "expired": (20, 40, 41, 42),
    STILL_PATIENT: (30,),
    "hospice": (50, 51),
    "rehabilitation": (62, 90),
    "psychiatric": (65, 93),
}
UB04_DISPOSITIONS = {str(number): ours for ours, numbers in _UB04.items() for number in numbers}
DISPOSITION_WORDS = {
    r"expired|\bdied\b|\bdead\b|deceased|\bdeath\b": "expired",
    r"hospice": "hospice",
    r"against (medical )?advice|\bama\b|eloped|left without|left before": "against_advice",
    r"still (a )?patient|remains in hospital": STILL_PATIENT,
    r"rehab": "rehabilitation",
    r"psych|mental|behaviou?ral": "psychiatric",
    r"skilled|\bsnf\b|swing bed": "skilled_nursing",
    r"long[- ]?term|\bltac?h?\b|nursing (home|facility)|custodial|intermediate care|\bicf\b": "long_term_care",
    r"home health|home care services|home (with|w/) ?(home )?(health|services?|care|iv)|\bvna\b": "home_health",
    r"assisted living|court|law enforcement|jail|prison|other": "other",
    r"acute|short[- ]?term|(another|general|federal|cancer|children'?s|critical access) hospital"
    r"|transfer\w* to .*hospital": "transfer_acute",
    r"\bhome\b|self[- ]care|routine discharge|private residence": "home",
}

ADMISSION_TYPES = {
    "em": "emergency",
    "s": "emergency",
    "a": "urgent",
    "cr": "urgent",
    "rr": "urgent",
    "t": "urgent",
    "ur": "urgent",
    "el": "elective",
    "p": "elective",
    "r": "elective",
}
NUBC_ADMISSION_TYPES = {"1": "emergency", "2": "urgent", "3": "elective", "4": "newborn", "5": "emergency"}
ADMISSION_WORDS = {
    r"newborn|\bborn\b": "newborn",
    r"emergen|trauma|\bstat\b": "emergency",
    r"urgent|asap": "urgent",
    r"elective|routine|scheduled|planned": "elective",
}
BORN = "born"  # of admit-source

RACE = {
    "2106-3": "White",
    "2054-5": "Black",
    "2028-9": "Asian",
    "1002-5": "Native American",
    "2076-8": "Pacific Islander",
    "2131-1": "Other",
}
ETHNICITY = {"2135-2": "Hispanic", "2186-5": "Not Hispanic"}
SEX = {"male": "male", "female": "female", "other": "other", "unknown": "unknown"}

# By the system's URI or OID, the first that matches counts. Only the first three code diagnoses for labels.
DIAGNOSIS_SYSTEMS = {
    r"icd-?10-?cm|113883\.6\.90$|mimic-diagnosis-icd10": "ICD-10-CM",
    r"icd-?9|113883\.6\.(103|42|2)$": "ICD-9-CM",
    r"icd-?10(?!.*(pcs|ops))|113883\.6\.3(\.\d)?$": "ICD-10",
}
PROCEDURE_SYSTEMS = {
    r"icd-?10-?pcs|113883\.6\.4$|cms\.gov.*icd10|mimic-procedure-icd10": "ICD-10-PCS",
    r"icd-?9|113883\.6\.(104|42)$": "ICD-9-CM",
    r"\bcpt\b|ama-assn|113883\.6\.12$": "CPT",
    r"hcpcs|113883\.6\.(14|285)$": "HCPCS",
}

# LOINC document types beside those that the OMOP reader knows.
NOTE_LOINC = omop_concepts.NOTE_LOINC | {
    "11490-0": "discharge_summary",
    "11492-6": "history_and_physical",
    "34116-4": "history_and_physical",
    "34774-0": "history_and_physical",
    "34745-0": "nursing",
    "34744-3": "nursing",
    "78390-2": "nursing",
    "34815-1": "nursing",
    "28623-9": "nursing",
    "34109-9": "other",
    "18733-6": "progress",
    "28575-3": "progress",
    "54094-8": "emergency",
    "68604-8": "radiology",
    "18725-2": "other",
    "11502-2": "other",
    "22034-3": "pathology",
    "22637-3": "pathology",
    "34103-2": "consult",
    "34133-9": "other",
    "18761-7": "other",
    "64297-5": "other",
    "51847-2": "other",
    "51848-0": "other",
}
NOTE_TITLES = {r"\bnurs(e|ing)\b(?! home)": "nursing", **omop_concepts.NOTE_TITLES}
REPORT_CATEGORIES = {
    "rad": "radiology",
    "lp29684-5": "radiology",
    "imaging": "radiology",
    "ct": "radiology",
    "mri": "radiology",
    "rus": "radiology",
    "pat": "pathology",
    "sp": "pathology",
    "cp": "pathology",
    "lp7839-6": "pathology",
}

UNIT_KINDS = {
    "er": "emergency",
    "icu": "intensive_care",
    "ccu": "intensive_care",
    "pedicu": "intensive_care",
    "pednicu": "intensive_care",
    "or": "operating",
}


class Meanings:
    """Turns concepts into our words, and counts what has none."""

    def __init__(self) -> None:
        self.unmapped: dict[str, Counter[str]] = {}

    def of(
        self,
        what: str,
        concept: Concept,
        own: Mapping[str, str],
        codes: Mapping[str, str],
        words: Mapping[str, str],
        default: str | None,
    ) -> str | None:
        """The meaning by the site's own mapping, then by code, then by the words; ``default``, counted, for others."""
        if not concept:
            return None
        said = [one.lower() for one in concept.said()]
        for one in said:
            if one in own:
                return own[one]
        for coding in concept.codings:
            found = codes.get(coding.code.lower()) if coding.code else None
            if found is not None:
                return found
        for pattern, ours in words.items():
            if any(re.search(pattern, one) for one in said):
                return ours
        self.count(what, concept, default)
        return default

    def count(self, what: str, concept: Concept, default: str | None) -> None:
        """Count a concept that has no meaning here."""
        word = f"{concept.words() or '(no words)'} (taken as {default or 'unknown'})"
        self.unmapped.setdefault(what, Counter())[word[:120]] += 1

    def count_systems(self, concept: Concept) -> None:
        """Count the systems of a diagnosis that has no code for labels."""
        systems = sorted({coding.system for coding in concept.codings if coding.system}) or ["(no code)"]
        self.unmapped.setdefault("Condition.code, by system", Counter())[f"{', '.join(systems)[:120]} (not used)"] += 1


def disposition_codes(concept: Concept) -> Mapping[str, str]:
    """The meanings of disposition codes: NUBC's numbers only where the system is NUBC's, or none is named."""
    numbers = {
        coding.code: UB04_DISPOSITIONS[coding.code.lstrip("0")]
        for coding in concept.codings
        if coding.code and coding.code.lstrip("0") in UB04_DISPOSITIONS and _nubc(coding)
    }
    return DISPOSITIONS | numbers if numbers else DISPOSITIONS


def admission_codes(concept: Concept) -> Mapping[str, str]:
    """The meanings of priorities, with NUBC's numbers where the system is NUBC's."""
    if any(coding.system and _nubc(coding) for coding in concept.codings):
        return ADMISSION_TYPES | NUBC_ADMISSION_TYPES
    return ADMISSION_TYPES


def _nubc(coding: Coding) -> bool:
    return not coding.system or bool(re.search(r"nubc|ub-?04|discharge-?status", coding.system, re.IGNORECASE))


def version(system: str | None, systems: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    """The code version of a system, null for one that is not known."""
    if not system:
        return None
    if system.lower() in own:
        return own[system.lower()]
    return next((ours for pattern, ours in systems.items() if re.search(pattern, system, re.IGNORECASE)), None)


def coded(
    concept: Concept, systems: Mapping[str, str], own: Mapping[str, str], allowed: tuple[str, ...]
) -> list[tuple[str, str]]:
    """The ``(code, version)`` of a concept in the first of ``systems`` that it is coded in; several where it has them.

    One diagnosis is often coded in ICD-9 and ICD-10 side by side; only one of the two counts.
    """
    found: dict[str, list[str]] = {}
    for coding in concept.codings:
        if coding.code and (its := version(coding.system, systems, own)) in allowed and its:
            found.setdefault(its, []).append(coding.code.upper())
    for its in dict.fromkeys([*systems.values(), *own.values()]):
        if its in found:
            return [(code, its) for code in dict.fromkeys(found[its])]
    return []
