"""Concepts of the OMOP standard vocabularies that the records' coded columns follow from: ids and codes only, no terms.

Sources: OMOP CDM 5.3 and 5.4 (ohdsi.github.io/CommonDataModel), the PCORnet and PEDSnet conventions for visits and
discharge, the FHIR to OMOP guide of HL7 for dispositions, the ``Note Type`` vocabulary and its LOINC counterparts.
"""

from __future__ import annotations

SEX = {"8507": "male", "8532": "female", "8521": "other", "8570": "other", "8551": "unknown"}

RACE = {
    "8527": "White",
    "8516": "Black",
    "8515": "Asian",
    "8557": "Pacific Islander",
    "8657": "Native American",
    "8522": "Other",
}
ETHNICITY = {"38003563": "Hispanic", "38003564": "Not Hispanic"}

# visit_concept_id -> encounter class. Everything else counts as outpatient, counted.
VISIT_CLASSES = {
    "9201": "inpatient",
    "262": "inpatient",  # emergency room and inpatient
    "8717": "inpatient",
    "8920": "inpatient",
    "8970": "inpatient",
    "8971": "inpatient",
    "32037": "inpatient",  # intensive care
    "38004277": "inpatient",
    "38004279": "inpatient",
    "38004284": "inpatient",
    "38004285": "inpatient",
    "38004311": "inpatient",  # inpatient hospice
    "581379": "inpatient",
    "9203": "emergency",
    "8870": "emergency",
    "8782": "emergency",  # urgent care
    "581385": "observation",
    "9202": "outpatient",
    "8756": "outpatient",
    "8883": "outpatient",  # ambulatory surgery
    "8940": "outpatient",
    "5083": "outpatient",
    "32036": "outpatient",
    "38004207": "outpatient",
    "38004228": "outpatient",
    "38004515": "outpatient",
    "38004519": "outpatient",
    "581399": "outpatient",
    "581476": "outpatient",
    "581477": "outpatient",
    "581478": "outpatient",
    "42898160": "outpatient",  # not a hospital
}
EMERGENCY_ADMISSION = ("262", "9203", "8870")

# discharged_to (5.4) or discharge_to (5.3) -> disposition.
DISPOSITIONS = {
    "8536": "home",
    "581476": "home",
    "8615": "home",  # assisted living
    "8602": "home",
    "9202": "home",
    "38004519": "home_health",
    "8863": "skilled_nursing",
    "8676": "long_term_care",
    "8827": "long_term_care",
    "8951": "long_term_care",
    "8970": "long_term_care",
    "38004198": "long_term_care",
    "38004277": "long_term_care",
    "42898160": "long_term_care",
    "8920": "rehabilitation",
    "38004285": "rehabilitation",
    "38004526": "rehabilitation",
    "8971": "psychiatric",
    "8913": "psychiatric",
    "38004284": "psychiatric",
    "8717": "transfer_acute",
    "9201": "transfer_acute",
    "38004279": "transfer_acute",
    "38004515": "transfer_acute",
    "32254": "transfer_acute",
    "32276": "transfer_acute",
    "581379": "transfer_acute",
    "8546": "hospice",
    "38004311": "hospice",
    "4021968": "against_advice",
    "40482021": "against_advice",
    "32216": "against_advice",
    "4216643": "expired",
    "4161979": "expired",
    "434489": "expired",
    "32218": "expired",
    "8844": "other",
    "8870": "other",
    "9203": "other",
    "38003619": "other",
    "38004307": "other",
    "33007": "other",
}
STILL_PATIENT = "32220"

# death_type_concept_id -> where the death was learnt.
DEATH_SOURCES = {
    "32817": "ehr",
    "32818": "ehr",
    "32827": "ehr",
    "32519": "ehr",
    "32810": "ehr",
    "38003565": "ehr",
    "38003566": "ehr",
    "38003567": "ehr",
    "38003568": "ehr",
    "38003569": "ehr",
    "32815": "registry",
    "32879": "registry",
    "32885": "registry",
    "255": "registry",
}

# vocabulary_id -> code version.
DIAGNOSIS_VOCABULARIES = {
    "ICD9CM": "ICD-9-CM",
    "ICD10CM": "ICD-10-CM",
    "ICD10": "ICD-10",
    "ICD10GM": "ICD-10",
    "ICD10CN": "ICD-10",
    "KCD7": "ICD-10",
    "CIM10": "ICD-10",
}
PROCEDURE_VOCABULARIES = {
    "ICD9Proc": "ICD-9-CM",
    "ICD10PCS": "ICD-10-PCS",
    "CPT4": "CPT",
    "HCPCS": "HCPCS",
}

# Statuses and (older) types of a condition. A problem list is not what a stay was coded with; an admitting or a
# preliminary diagnosis is not what it was coded with in the end.
PRINCIPAL_STATUS = ("32902", "32903")
PRINCIPAL_TYPES = ("38000183", "38000199", "44786627")
FIRST_POSITION_TYPES = ("38000184", "38000200", "44786628")  # the next 14 ids of the first two follow in order
NOT_CODED_TYPES = ("32840", "38000245", "42898140")
NOT_FINAL_STATUS = ("32890", "32899", "32901", "32907", "4203942", "4033240")

# visit_detail_concept_id -> unit type.
UNIT_TYPES = {
    "32037": "intensive_care",
    "581379": "intensive_care",
    "4148981": "intensive_care",
    "8870": "emergency",
    "9203": "emergency",
    "4134563": "operating",
}

# note_class_concept_id or note_type_concept_id -> note type: the Note Type vocabulary, then LOINC classes.
NOTE_TYPES = {
    "44814637": "discharge_summary",
    "44814638": "history_and_physical",
    "44814639": "progress",
    "44814641": "radiology",
    "44814642": "pathology",
    "44814644": "nursing",
    "44814646": "emergency",
    "3020091": "discharge_summary",
    "40770449": "history_and_physical",
    "46235057": "radiology",
    "40763624": "pathology",
    "3046947": "nursing",
    "3029201": "emergency",
}
# The same by LOINC code, where the extract has a concept table that says which concept it is.
NOTE_LOINC = {
    "18842-5": "discharge_summary",
    "28655-9": "discharge_summary",
    "34105-7": "discharge_summary",
    "34106-5": "discharge_summary",
    "34117-2": "history_and_physical",
    "47039-3": "history_and_physical",
    "34094-3": "history_and_physical",
    "11506-3": "progress",
    "34130-5": "progress",
    "34131-3": "progress",
    "11488-4": "consult",
    "34099-2": "consult",
    "34140-4": "consult",
    "11504-8": "operative",
    "28570-0": "operative",
    "18748-4": "radiology",
    "18726-0": "radiology",
    "11526-1": "pathology",
    "60567-5": "pathology",
    "34746-8": "nursing",
    "28651-8": "nursing",
    "34111-5": "emergency",
    "34878-9": "emergency",
    "28568-4": "emergency",
    "51846-4": "emergency",
}
# Titles, as regular expressions, case ignored; the first that matches counts.
NOTE_TITLES = {
    r"addend": "other",
    r"discharge (summ|note|report|narrative)|death summ": "discharge_summary",
    r"\bh ?& ?p\b|history (and|&) physical|admission (note|h)|admit note": "history_and_physical",
    r"radiolog|x-?ray|\bct\b|\bmri?\b|ultrasound|imaging": "radiology",
    r"patholog|cytolog": "pathology",
    r"operative|op note|procedure note|surgery note": "operative",
    r"consult": "consult",
    r"nurs": "nursing",
    r"emergency|\bed\b (note|provider|physician)": "emergency",
    r"case manage|social work|utili[sz]ation": "case_management",
    r"progress": "progress",
}
