"""What the simulator must be, written down before it was calibrated; ``tests/test_simulator_bands.py`` holds it.

Binary tasks: AUROC of class 1. Others: macro one-vs-rest AUROC over classes with at least 20 cases.
"""

from __future__ import annotations

# Oracle AUROC by task, both presets.
ORACLE_AUROC: dict[str, tuple[float, float]] = {
    "readmission": (0.75, 0.82),
    "mortality": (0.90, 0.96),
    "length_of_stay": (0.75, 0.85),
    "comorbidity": (0.92, 0.99),
    "insurance_denial": (0.82, 0.90),
}
# No word or phrase (1-3-gram) separates any class from the rest better than this, comorbidity aside.
NGRAM_AUROC_BELOW = 0.65
# TF-IDF (word 1-2-grams) + logistic regression on 100,000 encounters stays at least this far below the oracle.
TFIDF_GAP_AT_LEAST = 0.03

# Shares of the classes: of the paper's 2024 test for `default`, of our choosing for the demo's sicker hospital.
SHARES: dict[str, dict[str, tuple[float, ...]]] = {
    "default": {
        "readmission": (0.887, 0.113),
        "mortality": (0.982, 0.018),
        "length_of_stay": (0.456, 0.145, 0.160, 0.239),
        "comorbidity": (0.684, 0.217, 0.068, 0.029, 0.002),
        "insurance_denial": (0.861, 0.139),
    },
    "high-acuity": {
        "readmission": (0.83, 0.17),
        "mortality": (0.92, 0.08),
        "length_of_stay": (0.28, 0.20, 0.24, 0.28),
        "comorbidity": (0.22, 0.25, 0.21, 0.19, 0.13),
        "insurance_denial": (0.83, 0.17),
    },
}
# How far a share may lie from its aim: the larger of the two; for binary tasks the relative one of the rarer class.
SHARE_TOLERANCE = 0.02
SHARE_TOLERANCE_RELATIVE = 0.25
