"""Which conditions the simulator knows, their codes, and the exact distribution of the Charlson class.

Groups and prefixes: Quan et al. 2005 (ICD-9-CM and ICD-10), weights: Charlson et al. 1987. The simulator only uses
codes that fall into exactly one group, so that the class of a stay is a function of which groups were coded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

COMORBIDITY_EDGES = (0, 2, 4, 7)  # classes 0 | 1-2 | 3-4 | 5-7 | >7


@dataclass(frozen=True)
class Condition:
    """A condition: what notes call it (one name a style), its codes, its Charlson weight (0: not in the index)."""

    names: tuple[str, str, str, str]
    icd9: tuple[str, ...]
    icd10: tuple[str, ...]
    weight: int
    share: float  # relative frequency among the chronically ill


CHARLSON: tuple[Condition, ...] = (
    Condition(("infarct", "old mi", "myocardial infarction", "prior infarct"), ("412",), ("I25.2",), 1, 0.09),
    Condition(("heart failure", "chf", "cardiac failure", "hf"), ("428.0", "428.22"), ("I50.9", "I50.22"), 1, 0.15),
    Condition(("artery disease", "pad", "claudication", "pvd"), ("443.9", "440.21"), ("I73.9", "I70.219"), 1, 0.09),
    Condition(("stroke", "cva", "brain infarct", "old stroke"), ("438.9", "434.91"), ("I69.30", "I63.9"), 1, 0.10),
    Condition(("dementia", "memory loss", "alzheimer", "dementia"), ("290.0", "294.10"), ("F03.90", "G30.9"), 1, 0.08),
    Condition(("copd", "emphysema", "chronic bronchitis", "copd"), ("496", "491.21"), ("J44.9", "J44.1"), 1, 0.17),
    Condition(("arthritis", "ra", "lupus", "rheumatoid"), ("714.0", "710.0"), ("M06.9", "M32.9"), 1, 0.05),
    Condition(("ulcer", "pud", "peptic ulcer", "stomach ulcer"), ("533.90", "531.70"), ("K27.9", "K25.7"), 1, 0.05),
    Condition(("hepatitis", "hcv", "chronic hepatitis", "hep c"), ("571.40", "573.3"), ("K73.9", "K76.0"), 1, 0.06),
    Condition(("diabetes", "dm", "dm2", "sugar"), ("250.00", "250.02"), ("E11.9", "E11.65"), 1, 0.15),
    Condition(
        ("neuropathy", "dm foot", "retinopathy", "dm nerve"), ("250.60", "250.50"), ("E11.40", "E11.319"), 2, 0.10
    ),
    Condition(
        ("paralysis", "hemiplegia", "paraplegia", "weak side"), ("342.90", "344.1"), ("G81.90", "G82.20"), 2, 0.04
    ),
    Condition(
        ("nephropathy", "ckd", "renal failure", "kidney failure"), ("585.3", "585.9"), ("N18.3", "N18.9"), 2, 0.15
    ),
    Condition(("cancer", "lymphoma", "carcinoma", "tumor"), ("153.9", "162.9"), ("C18.9", "C34.90"), 2, 0.11),
    Condition(
        ("cirrhosis", "varices", "liver failure", "eso varices"), ("572.3", "456.1"), ("K76.6", "I85.00"), 3, 0.05
    ),
    Condition(("metastases", "mets", "spread cancer", "metastasis"), ("197.7", "198.5"), ("C78.7", "C79.51"), 6, 0.05),
    Condition(("aids", "hiv", "hiv disease", "immunodeficiency"), ("042",), ("B20",), 6, 0.03),
)
# (mild, severe): where both are coded only the severe one counts.
HIERARCHY: tuple[tuple[int, int], ...] = ((9, 10), (8, 14), (13, 15))
_PAIRED = {index for pair in HIERARCHY for index in pair}

OTHER: tuple[Condition, ...] = (
    Condition(("hypertension", "htn", "high pressure", "htn"), ("401.9",), ("I10",), 0, 0.40),
    Condition(("reflux", "gerd", "heartburn", "gerd"), ("530.81",), ("K21.9",), 0, 0.22),
    Condition(("lipids", "hld", "cholesterol", "lipid"), ("272.4",), ("E78.5",), 0, 0.30),
    Condition(("thyroid", "hypothyroid", "low thyroid", "thyroid"), ("244.9",), ("E03.9",), 0, 0.14),
    Condition(("prostate", "bph", "large prostate", "bph"), ("600.00",), ("N40.0",), 0, 0.10),
    Condition(("gout", "gout", "podagra", "gout"), ("274.9",), ("M10.9",), 0, 0.09),
    Condition(("depression", "mdd", "low mood", "depressed"), ("311",), ("F32.9",), 0, 0.16),
    Condition(("migraine", "headaches", "migraine", "migraines"), ("346.90",), ("G43.909",), 0, 0.08),
    Condition(("anemia", "low hgb", "anaemia", "anemic"), ("285.9",), ("D64.9",), 0, 0.18),
    Condition(("glaucoma", "eye pressure", "glaucoma", "eye dz"), ("365.9",), ("H40.9",), 0, 0.07),
    Condition(("osteoporosis", "thin bones", "osteopenia", "bone loss"), ("733.00",), ("M81.0",), 0, 0.10),
    Condition(("anxiety", "gad", "nerves", "anxious"), ("300.00",), ("F41.9",), 0, 0.15),
)
# Acquired in hospital, never in the index: (ICD-9, ICD-10).
ACQUIRED: tuple[tuple[str, str], ...] = (("996.64", "T83.511A"), ("707.03", "L89.159"), ("008.45", "A04.72"))


def score(coded: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Charlson score of coded groups ``(n, 17)`` with the hierarchy applied; 1987 weights."""
    weights = np.array([c.weight for c in CHARLSON])
    counted = coded.copy()
    for mild, severe in HIERARCHY:
        counted[:, mild] &= ~coded[:, severe]
    return np.asarray(counted.astype(np.int64) @ weights, dtype=np.int64)


def to_class(scores: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Class index 0..4 of Charlson scores."""
    return np.searchsorted(np.array(COMORBIDITY_EDGES), scores, side="left").astype(np.int64)


def class_probabilities(coded_probability: F64) -> F64:
    """Exact P(class) given each group's independent chance of being coded: ``(n, 17)`` to ``(n, 5)``.

    Scores are convolved group by group, the hierarchical pairs as one unit; above 7 they share a last bin.
    """
    n = len(coded_probability)
    top = COMORBIDITY_EDGES[-1] + 1
    distribution = np.zeros((n, top + 1))
    distribution[:, 0] = 1.0
    units: list[list[tuple[int, F64]]] = [
        [(CHARLSON[g].weight, coded_probability[:, g])] for g in range(len(CHARLSON)) if g not in _PAIRED
    ]
    for mild, severe in HIERARCHY:
        p_severe = coded_probability[:, severe]
        units.append(
            [(CHARLSON[severe].weight, p_severe), (CHARLSON[mild].weight, coded_probability[:, mild] * (1 - p_severe))]
        )
    for unit in units:
        rest = 1.0 - sum((p for _, p in unit), np.zeros(n))
        updated = distribution * rest[:, None]
        for weight, p in unit:
            moved = distribution * p[:, None]
            updated[:, weight:] += moved[:, : top + 1 - weight]
            updated[:, top] += moved[:, top + 1 - weight :].sum(axis=1)
        distribution = updated
    edges = [0, *(e + 1 for e in COMORBIDITY_EDGES)]
    return np.add.reduceat(distribution, edges, axis=1)
