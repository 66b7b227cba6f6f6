"""The facts that notes state and that outcomes are drawn from: names by style, frequencies, weights.

Three kinds. *Lists* put every item under one of two or three headings: half of the items are dangerous under the
one, half under the other, so that counting words says little. *Statements* are in the note or not. *Numbers* are
vital signs and age. Some signs bear on nothing.
Lengths of stay take one weight a class (0-2 | 3 | 4-5 | >5 days).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Names = tuple[str, str, str, str]
Four = tuple[float, float, float, float]
NIL: Four = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Sign:
    """A fact: its name in each style, how often it holds, what it adds to each log-odds."""

    names: Names
    share: float = 0.5
    death: float = 0.0
    stay: Four = NIL
    other: float = 0.0  # denial for admission papers, return for discharge facts


# Admission trends: -1 lower, 0 unchanged, +1 higher. `share` is unused.
TRENDS: tuple[Sign, ...] = (
    Sign(("oxygen need", "o2 need", "oxygen use", "o2 flow"), death=1.25),
    Sign(("confusion", "delirium", "confusion", "restlessness"), death=0.5),
    Sign(("pulse", "heart rate", "pulse rate", "rate"), death=0.45),
    Sign(("lactate", "lactate", "lactic acid", "acid"), death=1.15),
    Sign(("swelling", "edema", "swelling", "fluid"), stay=(-0.4, 0.1, 0.4, -0.1)),
    Sign(("bleeding", "bleeding", "oozing", "blood loss"), stay=(0.1, -0.4, 0.4, -0.1)),
    Sign(("urine", "urine output", "urine", "uop"), death=-1.25),
    Sign(("alertness", "alertness", "wakefulness", "attention"), death=-1.15),
    Sign(("pressure", "blood pressure", "bp", "pressure"), death=-0.5),
    Sign(("appetite", "appetite", "intake", "eating"), stay=(0.0, 0.4, -0.1, -0.3)),
    Sign(("strength", "strength", "grip", "strength"), stay=(0.4, 0.0, -0.1, -0.3)),
    Sign(("platelets", "platelets", "plt", "platelet count"), death=-0.45),
)

# Admission statements, written where they hold.
STATEMENTS: tuple[Sign, ...] = (
    Sign(
        ("came from care facility", "from snf", "care facility resident", "lives in facility"),
        0.24,
        1.10,
        (-0.8, 0.0, 0.2, 0.6),
    ),
    Sign(("uses oxygen tank", "o2 tank", "wears oxygen always", "has o2 tank"), 0.20, 1.00),
    Sign(("has central line", "line in place", "has port", "port in place"), 0.22, 0.0, (-0.8, -0.4, 0.0, 1.2)),
    Sign(("fell last week", "recent fall", "fell at home", "had fall"), 0.25, 0.0, (-0.3, 1.2, -0.2, -0.7)),
    Sign(
        ("walks without help", "ambulates alone", "walks unaided", "independent gait"),
        0.38,
        -1.15,
        (0.9, 0.1, -0.3, -0.7),
    ),
    Sign(("works full time", "employed", "still working", "has job"), 0.28, -1.00),
    Sign(("skin is mottled", "mottled skin", "legs mottled", "mottling seen"), 0.18, 1.15),
    Sign(("weight loss noted", "lost weight", "weight loss", "wt loss"), 0.25, 0.90),
    Sign(("open wound seen", "open wound", "wound present", "has wound"), 0.22, 0.0, (-0.9, -0.4, 1.0, 0.3)),
    Sign(
        ("good family support", "family supportive", "family at bedside", "support good"),
        0.40,
        0.0,
        (0.8, 0.3, -0.5, -0.6),
    ),
)

# Plan: -1 held, 0 later, +1 now.
PLANS: tuple[Sign, ...] = (
    Sign(("antibiotics", "iv abx", "antibiotics", "abx"), stay=(-1.8, 0.1, 0.4, 1.3)),
    Sign(("diuretics", "lasix", "water pills", "furosemide"), stay=(-0.1, 0.1, 0.4, -0.4)),
    Sign(("scan", "ct", "imaging", "ct scan"), stay=(0.4, -0.2, 0.1, -0.3)),
    Sign(("therapy", "pt", "physical therapy", "rehab eval"), stay=(-0.5, 1.7, -0.4, -0.8)),
    Sign(("scope", "egd", "endoscopy", "scope"), stay=(0.1, 0.3, -0.4, 0.0)),
    Sign(("drain", "drain", "drainage", "tube"), stay=(-0.4, 0.0, 0.1, 0.3)),
    Sign(("transfusion", "prbc", "blood", "transfusion"), stay=(0.6, -1.4, 1.5, -0.7)),
    Sign(("consult", "consult", "specialist", "consultant"), stay=(1.4, -1.3, -0.7, 0.6)),
)

# Insurance papers: held or lacking; `other` is the log-odds of denial of holding (+) or lacking (-) it.
PAPERS: tuple[Sign, ...] = (
    Sign(("authorization", "auth", "authorization", "prior auth"), 0.55, other=-1.5),
    Sign(("referral", "referral", "referral slip", "referral"), 0.50, other=-0.45),
    Sign(("card", "member card", "insurance card", "id card"), 0.55, other=-0.4),
    Sign(("notice", "admit notice", "payer notice", "notice"), 0.50, other=-1.4),
    Sign(("order", "signed order", "inpatient order", "order"), 0.55, other=-0.5),
    Sign(("lapse letter", "lapse letter", "lapse notice", "lapse"), 0.45, other=1.4),
    Sign(("accident report", "crash report", "accident form", "accident"), 0.50, other=0.45),
    Sign(("work claim", "work comp", "work injury form", "workers comp"), 0.45, other=0.4),
    Sign(("second plan", "other payer", "second policy", "dual plan"), 0.50, other=0.5),
    Sign(("review request", "um review", "review letter", "review"), 0.45, other=1.5),
)
COVERAGE: tuple[Sign, ...] = (
    Sign(
        ("expected to cross two midnights", "two midnights met", "needs two nights", "two mn rule"), 0.40, other=-0.83
    ),
    Sign(("observation was offered first", "obs first", "began as observation", "obs status first"), 0.22, other=1.05),
    Sign(("residence is out of state", "out of state", "lives out of area", "out of area"), 0.12, other=0.90),
    Sign(("case manager reviewed", "cm reviewed", "seen by case manager", "cm saw"), 0.35, other=-0.68),
)

# Discharge trends; `other` is the log-odds of return of going up.
AFTER_TRENDS: tuple[Sign, ...] = (
    Sign(("pain", "pain", "discomfort", "pain"), other=0.35),
    Sign(("cough", "cough", "sputum", "cough")),
    Sign(("leg swelling", "leg edema", "ankle swelling", "ble edema"), other=0.35),
    Sign(("dizziness", "dizziness", "lightheadedness", "dizzy spells")),
    Sign(("weight", "weight", "body weight", "wt"), other=1.0),
    Sign(("creatinine", "creatinine", "creat", "cr")),
    Sign(("walking", "gait", "mobility", "walking"), other=-1.0),
    Sign(("eating", "po intake", "oral intake", "diet")),
    Sign(("understanding", "insight", "understanding", "teach back"), other=-0.95),
    Sign(("energy", "energy", "stamina", "energy")),
    Sign(("hemoglobin", "hgb", "blood count", "hgb")),
    Sign(("saturation", "spo2", "oxygen level", "sat"), other=-0.35),
)
AFTER_STATEMENTS: tuple[Sign, ...] = (
    Sign(("lives alone", "lives alone", "home alone", "alone at home"), 0.30, other=0.65),
    Sign(("missed past visits", "prior no shows", "missed clinic", "no shows"), 0.20, other=0.80),
    Sign(("ride arranged", "ride set", "transport arranged", "has ride"), 0.40, other=-0.58),
    Sign(("nurse will visit", "home rn set", "home nurse arranged", "hh nurse"), 0.35, other=-0.65),
    Sign(("new blood thinner", "new anticoagulant", "started thinner", "new doac"), 0.20, other=0.58),
    Sign(("family was taught", "family taught", "teaching done", "taught family"), 0.40, other=-0.58),
    Sign(("could not afford pills", "cost issue", "cannot pay for drugs", "med cost"), 0.18, other=0.72),
    Sign(("seen here this half year", "recent prior stay", "stayed here recently", "prior admit"), 0.00, other=0.80),
)
PRIOR_STAY = 7  # the statement above that follows from the records and is not drawn

# Follow-up: booked or not; `other` is the log-odds of return of being booked.
BOOKINGS: tuple[Sign, ...] = (
    Sign(("clinic", "pcp visit", "family doctor", "pcp"), 0.55, other=-1.5),
    Sign(("lab draw", "labs", "blood test", "labs"), 0.50, other=-0.4),
    Sign(("pharmacy call", "rx call", "pharmacist call", "rph call"), 0.50, other=-1.2),
    Sign(("infusion", "infusion", "infusion chair", "infusion"), 0.45, other=1.3),
    Sign(("wound clinic", "wound check", "wound nurse", "wound"), 0.50, other=0.4),
    Sign(("transfusion chair", "transfusion", "blood chair", "prbc slot"), 0.45, other=0.5),
)


# Why patients come: name by style, department, ICD-9, ICD-10 (none in the Charlson index), death, stay.
@dataclass(frozen=True)
class Reason:
    """A reason for admission; its codes are the principal diagnosis and lie outside the Charlson index."""

    names: Names
    department: str
    icd9: str
    icd10: str
    share: float
    death: float = 0.0
    stay: Four = NIL
    planned: bool = False


REASONS: tuple[Reason, ...] = (
    Reason(
        ("pneumonia", "pna", "lung infection", "pneumonia"),
        "medicine",
        "486",
        "J18.9",
        0.14,
        0.25,
        (-0.3, 0.1, 0.3, 0.0),
    ),
    Reason(
        ("sepsis", "sepsis", "blood infection", "sepsis"),
        "medicine",
        "038.9",
        "A41.9",
        0.09,
        0.60,
        (-0.5, -0.3, 0.2, 0.5),
    ),
    Reason(
        ("urine infection", "uti", "urinary infection", "uti"),
        "medicine",
        "599.0",
        "N39.0",
        0.10,
        -0.2,
        (0.1, 0.4, 0.0, -0.3),
    ),
    Reason(
        ("chest pain", "cp", "chest pressure", "chest pain"),
        "cardiology",
        "786.50",
        "R07.9",
        0.11,
        -0.5,
        (0.6, 0.0, -0.3, -0.4),
    ),
    Reason(
        ("fainting", "syncope", "passing out", "syncope"),
        "cardiology",
        "780.2",
        "R55",
        0.08,
        -0.4,
        (0.5, 0.2, -0.3, -0.4),
    ),
    Reason(
        ("breathlessness", "sob", "dyspnea", "sob"), "medicine", "786.09", "R06.02", 0.11, 0.3, (-0.2, 0.1, 0.2, -0.1)
    ),
    Reason(
        ("gut bleed", "gib", "gi bleeding", "gi bleed"), "medicine", "578.9", "K92.2", 0.09, 0.2, (-0.2, 0.2, 0.3, -0.2)
    ),
    Reason(
        ("belly pain", "abd pain", "abdominal pain", "abd pain"),
        "surgery",
        "789.00",
        "R10.9",
        0.09,
        -0.2,
        (0.3, 0.1, -0.1, -0.2),
    ),
    Reason(
        ("hip fracture", "hip fx", "broken hip", "hip fx"),
        "surgery",
        "820.8",
        "S72.009A",
        0.06,
        0.1,
        (-0.6, 0.0, 0.4, 0.3),
    ),
    Reason(
        ("skin infection", "cellulitis", "leg infection", "cellulitis"),
        "medicine",
        "682.6",
        "L03.115",
        0.09,
        -0.4,
        (0.0, 0.3, 0.2, -0.3),
    ),
    Reason(("seizure", "seizure", "fits", "sz"), "neurology", "780.39", "R56.9", 0.04, 0.0, (0.2, 0.1, -0.1, -0.1)),
    Reason(
        ("planned chemotherapy", "chemo cycle", "planned chemo", "chemo"),
        "oncology",
        "V58.11",
        "Z51.11",
        0.5,
        -0.3,
        (0.3, 0.2, 0.0, -0.4),
        True,
    ),
    Reason(
        ("planned surgery", "elective surgery", "booked operation", "elective or"),
        "surgery",
        "V58.49",
        "Z48.89",
        0.5,
        -0.6,
        (0.2, 0.3, 0.0, -0.4),
        True,
    ),
    Reason(
        ("rehabilitation course", "acute rehab", "rehab stay", "rehab"),
        "rehabilitation",
        "V57.89",
        "Z51.89",
        0.0,
        -0.5,
        (-0.8, -0.4, 0.0, 0.9),
    ),
    Reason(
        ("dialysis access", "hd access", "dialysis line", "hd line"),
        "dialysis",
        "996.1",
        "T82.49XA",
        0.0,
        0.0,
        (0.5, 0.0, -0.2, -0.3),
    ),
    Reason(
        ("comfort care", "comfort care", "comfort stay", "cmo"),
        "palliative",
        "V66.7",
        "Z51.5",
        0.0,
        1.8,
        (0.3, 0.0, 0.0, -0.2),
    ),
)
REHABILITATION, DIALYSIS, PALLIATIVE = 13, 14, 15

PAYERS: tuple[str, ...] = (
    "Medicare",
    "Medicaid",
    "Harbor PPO",
    "Union HMO",
    "Senior Advantage",
    "Crestline PPO",
    "Self pay",
)
PAYER_DENIAL = np.array([-0.60, -0.10, 0.10, 0.55, 0.70, 0.0, 0.0])
SELF_PAY = 6
MANAGED = np.array([False, False, False, True, True, False, False])  # a missing authorization weighs more with them

CONDITION_DEATH = {1: 0.20, 4: 0.25, 12: 0.25, 13: 0.25, 14: 0.45, 15: 0.60}  # index in CHARLSON: log-odds
CONDITION_RETURN = {1: 0.30, 5: 0.20, 12: 0.30, 14: 0.35, 13: 0.20}

# Strong pairs: (trend, its dangerous sign, statement, log-odds of death when both hold).
DEATH_PAIRS = ((0, 1, 1, 0.8), (1, 1, 0, 0.7), (8, -1, 6, 0.8))
# (discharge trend, its dangerous sign, statement, log-odds of return).
RETURN_PAIRS = ((8, -1, 0, 0.6), (4, 1, 6, 0.6))


def column(signs: tuple[Sign, ...], name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """One attribute of all signs as an array."""
    return np.array([getattr(sign, name) for sign in signs], dtype=np.float64)
