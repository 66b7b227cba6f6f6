"""What the codes of the Diabetes 130-US hospitals data mean, in the records' vocabulary and in a note's words.

The meanings are those of ``IDs_mapping.csv``, which ships beside the data. None: not recorded.
"""

from __future__ import annotations

# admission_type_id: (admission_type of the records, words). A trauma centre's admission is an emergency.
ADMISSION_TYPES: dict[int, tuple[str, str | None]] = {
    1: ("emergency", "emergency"),
    2: ("urgent", "urgent"),
    3: ("elective", "elective"),
    4: ("newborn", "newborn"),
    5: ("unknown", None),
    6: ("unknown", None),
    7: ("emergency", "trauma center"),
    8: ("unknown", None),
}

# admission_source_id: words.
ADMISSION_SOURCES: dict[int, str | None] = {
    1: "physician referral",
    2: "clinic referral",
    3: "health plan referral",
    4: "transfer from another hospital",
    5: "transfer from a skilled nursing facility",
    6: "transfer from another health care facility",
    7: "emergency room",
    8: "court or law enforcement",
    9: None,
    10: "transfer from a critical access hospital",
    11: "normal delivery",
    12: "premature delivery",
    13: "sick newborn",
    14: "birth outside the hospital",
    15: None,
    17: None,
    18: "transfer from another home health agency",
    19: "readmission to the same home health agency",
    20: None,
    21: None,
    22: "transfer within the same hospital",
    23: "born inside this hospital",
    24: "born outside this hospital",
    25: "transfer from an ambulatory surgery center",
    26: "transfer from hospice",
}

# discharge_disposition_id: (disposition of the records, words of the discharge note).
# In-hospital death is code 11 alone. Codes 19-21 (10 stays) are billing codes for deaths under hospice care, at home,
# in another facility or at an unknown place: kept as hospice, without a mortality label, since the place is unsure.
DISPOSITIONS: dict[int, tuple[str, str | None]] = {
    1: ("home", "home"),
    2: ("transfer_acute", "another short term hospital"),
    3: ("skilled_nursing", "skilled nursing facility"),
    4: ("long_term_care", "intermediate care facility"),
    5: ("other", "another type of inpatient care"),
    6: ("home_health", "home with home health service"),
    7: ("against_advice", "left against medical advice"),
    8: ("home_health", "home with intravenous therapy service"),
    9: ("other", "admitted as inpatient to this hospital"),
    10: ("transfer_acute", "neonatal aftercare at another hospital"),
    11: ("expired", None),
    12: ("other", "expected to return for outpatient services"),
    13: ("hospice", None),
    14: ("hospice", None),
    15: ("skilled_nursing", "swing bed in this hospital"),
    16: ("other", "outpatient services at another institution"),
    17: ("other", "outpatient services at this institution"),
    18: ("unknown", "not recorded"),
    19: ("hospice", None),
    20: ("hospice", None),
    21: ("hospice", None),
    22: ("rehabilitation", "rehabilitation facility"),
    23: ("long_term_care", "long term care hospital"),
    24: ("long_term_care", "nursing facility"),
    25: ("unknown", "not recorded"),
    26: ("unknown", "not recorded"),
    27: ("other", "federal health care facility"),
    28: ("psychiatric", "psychiatric hospital"),
    29: ("transfer_acute", "critical access hospital"),
    30: ("other", "another health care institution"),
}
IN_HOSPITAL_DEATH = (11,)
DEATH_PLACE_UNSURE = (19, 20, 21)
NOT_ELIGIBLE_FOR_READMISSION = (11, 13, 14, 19, 20, 21)  # death or hospice: no return can be expected

# payer_code: words. The source has no key to them; codes without a plain reading keep their letters.
PAYERS: dict[str, str] = {
    "MC": "Medicare",
    "MD": "Medicaid",
    "HM": "health maintenance organization",
    "SP": "self pay",
    "BC": "Blue Cross",
    "CM": "commercial",
    "OG": "other government",
    "PO": "preferred provider organization",
    "CH": "military",
    "WC": "workers compensation",
    "OT": "other",
    "SI": "self insured",
}

RACES: dict[str, str] = {
    "Caucasian": "Caucasian",
    "AfricanAmerican": "African American",
    "Hispanic": "Hispanic",
    "Asian": "Asian",
    "Other": "other",
}

# The chapters of ICD-9-CM by the first three digits: (last category of the chapter, words). 240-279 holds diabetes
# among thyroid, lipid and electrolyte disorders: a chapter's word is not a Charlson group.
CHAPTERS: tuple[tuple[int, str], ...] = (
    (139, "infectious"),
    (239, "neoplasm"),
    (279, "endocrine or metabolic"),
    (289, "blood"),
    (319, "mental"),
    (389, "nervous system"),
    (459, "circulatory"),
    (519, "respiratory"),
    (579, "digestive"),
    (629, "genitourinary"),
    (679, "pregnancy"),
    (709, "skin"),
    (739, "musculoskeletal"),
    (759, "congenital"),
    (779, "perinatal"),
    (799, "symptom"),
    (999, "injury or poisoning"),
)
CHAPTER_V = "other health status"
CHAPTER_E = "external cause"

DRUGS: tuple[str, ...] = (
    "metformin",
    "repaglinide",
    "nateglinide",
    "chlorpropamide",
    "glimepiride",
    "acetohexamide",
    "glipizide",
    "glyburide",
    "tolbutamide",
    "pioglitazone",
    "rosiglitazone",
    "acarbose",
    "miglitol",
    "troglitazone",
    "tolazamide",
    "examide",
    "citoglipton",
    "insulin",
    "glyburide-metformin",
    "glipizide-metformin",
    "glimepiride-pioglitazone",
    "metformin-rosiglitazone",
    "metformin-pioglitazone",
)
DRUG_CHANGES: dict[str, str] = {"Steady": "steady", "Up": "increased", "Down": "reduced"}
A1C: dict[str, str] = {"None": "not measured", "Norm": "normal", ">7": "above 7 percent", ">8": "above 8 percent"}
GLUCOSE: dict[str, str] = {"None": "not measured", "Norm": "normal", ">200": "above 200", ">300": "above 300"}
