"""What MIMIC's words mean in ours, for MIMIC-III and MIMIC-IV alike, and the SQL that the two readers share.

Values are those of the data dictionaries (mimic.mit.edu) and of the tables themselves; case is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from lang1.records.store import quoted

FACILITY = "Beth Israel Deaconess Medical Center"

ADMISSION_TYPES = {
    "EMERGENCY": "emergency",
    "EW EMER.": "emergency",
    "DIRECT EMER.": "emergency",
    "EU OBSERVATION": "emergency",
    "URGENT": "urgent",
    "ELECTIVE": "elective",
    "SURGICAL SAME DAY ADMISSION": "elective",
    "NEWBORN": "newborn",
    # Their words tell how the patient was admitted, not how urgently.
    "OBSERVATION ADMIT": "other",
    "DIRECT OBSERVATION": "other",
    "AMBULATORY OBSERVATION": "other",
}
# Visits under observation that never became an admission: a day or less, without a place of discharge. OBSERVATION
# ADMIT is not among them: those patients were admitted, and stay as long as others (median 116 hours in the open demo).
OBSERVATION_TYPES = ("EU OBSERVATION", "DIRECT OBSERVATION", "AMBULATORY OBSERVATION")

DIED = ("DIED", "DEAD/EXPIRED")
DISPOSITIONS = {
    "HOME": "home",
    "HOME WITH HOME IV PROVIDR": "home_health",
    "HOME HEALTH CARE": "home_health",
    "SNF": "skilled_nursing",
    "SNF-MEDICAID ONLY CERTIF": "skilled_nursing",
    "SKILLED NURSING FACILITY": "skilled_nursing",
    "REHAB": "rehabilitation",
    "REHAB/DISTINCT PART HOSP": "rehabilitation",
    "CHRONIC/LONG TERM ACUTE CARE": "long_term_care",
    "LONG TERM CARE HOSPITAL": "long_term_care",
    "ICF": "long_term_care",
    "ASSISTED LIVING": "other",
    "PSYCH FACILITY": "psychiatric",
    "DISCH-TRAN TO PSYCH HOSP": "psychiatric",
    "ACUTE HOSPITAL": "transfer_acute",
    "SHORT TERM HOSPITAL": "transfer_acute",
    "DISC-TRAN CANCER/CHLDRN H": "transfer_acute",
    "DISC-TRAN TO FEDERAL HC": "transfer_acute",
    "HEALTHCARE FACILITY": "other",
    "OTHER FACILITY": "other",
    "HOSPICE": "hospice",
    "HOSPICE-HOME": "hospice",
    "HOSPICE-MEDICAL FACILITY": "hospice",
    "AGAINST ADVICE": "against_advice",
    "LEFT AGAINST MEDICAL ADVI": "against_advice",
    "LEFT AGAINST MEDICAL ADVICE": "against_advice",
    **dict.fromkeys(DIED, "expired"),
}
ED_DISPOSITIONS = {
    "HOME": "home",
    "ADMITTED": "other",  # to this hospital: the stay is an encounter of its own
    "TRANSFER": "transfer_acute",
    "LEFT WITHOUT BEING SEEN": "against_advice",
    "LEFT AGAINST MEDICAL ADVICE": "against_advice",
    "ELOPED": "against_advice",
    "EXPIRED": "expired",
    "OTHER": "other",
}
SEX = {"F": "female", "M": "male"}

# Groups by how the value begins (US Office of Management and Budget 1997: Europe and the Middle East count as White).
RACES = {
    "WHITE": "White",
    "PORTUGUESE": "White",
    "MIDDLE EASTERN": "White",
    "BLACK": "Black",
    "ASIAN": "Asian",
    "AMERICAN INDIAN": "Native American",
    "NATIVE HAWAIIAN": "Pacific Islander",
    "MULTI": "Other",
    "OTHER": "Other",
    "CARIBBEAN": "Other",
    "SOUTH AMERICAN": "Other",
}

SERVICES = {
    "CMED": "cardiology",
    "CSURG": "cardiac surgery",
    "DENT": "dental",
    "ENT": "ear, nose and throat",
    "EYE": "ophthalmology",
    "GU": "urology",
    "GYN": "gynecology",
    "MED": "medicine",
    "NB": "newborn",
    "NBB": "newborn",
    "NMED": "neurology",
    "NSURG": "neurosurgery",
    "OBS": "obstetrics",
    "OMED": "oncology",
    "ORTHO": "orthopedics",
    "PSURG": "plastic surgery",
    "PSYCH": "psychiatry",
    "SURG": "surgery",
    "TRAUM": "trauma",
    "TSURG": "thoracic surgery",
    "VSURG": "vascular surgery",
}

# By the name of the unit, the first pattern that fits; a unit that none fits is a ward.
UNIT_TYPES = (
    ("emergency", ("%emergency department%",)),
    ("step_down", ("%stepdown%", "%step-down%", "%intermediate%", "special care nursery%")),
    ("intensive_care", ("%intensive care%", "%icu%", "%coronary care unit%", "csru", "ccu")),
    ("operating", ("pacu%", "operating room%")),
    ("other", ("discharge lounge", "unknown")),
)

# MIMIC-III, by category; a physician's note whose description says "admission" is the H&P.
NOTE_CATEGORIES = {
    "Discharge summary": "discharge_summary",
    "Physician": "progress",
    "Nursing": "nursing",
    "Nursing/other": "nursing",
    "Radiology": "radiology",
    "Consult": "consult",
    "Case Management": "case_management",
    "Social Work": "other",
    "Echo": "other",
    "ECG": "other",
    "Respiratory": "other",
    "Nutrition": "other",
    "Rehab Services": "other",
    "Pharmacy": "other",
    "General": "other",
}
NOTE_TYPES = {"DS": "discharge_summary", "AD": "discharge_summary", "RR": "radiology", "AR": "radiology"}

# What a rendered admission note says of the laboratory (item ids are the same in MIMIC-III and MIMIC-IV).
LABS = {
    "51301": "white cells",
    "51222": "hemoglobin",
    "51265": "platelets",
    "50983": "sodium",
    "50971": "potassium",
    "50882": "bicarbonate",
    "51006": "urea nitrogen",
    "50912": "creatinine",
    "50931": "glucose",
    "50813": "lactate",
    "50885": "bilirubin",
    "50862": "albumin",
    "51237": "INR",
    "51003": "troponin T",
}


def renamed(column: str, words: Mapping[str, str]) -> str:
    """SQL: a value in our words, case ignored, or as it is where there are none."""
    cases = " ".join(f"WHEN {quoted(theirs.upper())} THEN {quoted(ours)}" for theirs, ours in words.items())
    return f"CASE upper({column}) {cases} ELSE {column} END"


def race_group(column: str) -> str:
    """SQL: the group of a recorded race; null where it is not known, or says only "Hispanic"."""
    cases = " ".join(f"WHEN upper({column}) LIKE {quoted(f'{start}%')} THEN {quoted(r)}" for start, r in RACES.items())
    return f"CASE {cases} END"


def is_hispanic(column: str) -> str:
    """SQL: whether a recorded race says Hispanic."""
    return f"(upper({column}) LIKE 'HISPANIC%')"


def unit_type(column: str) -> str:
    """SQL: the type of a unit by its name."""
    cases = " ".join(
        f"WHEN {' OR '.join(f'{column} ILIKE {quoted(pattern)}' for pattern in patterns)} THEN {quoted(kind)}"
        for kind, patterns in UNIT_TYPES
    )
    return f"CASE {cases} ELSE 'ward' END"
