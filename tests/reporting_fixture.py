"""A realistic ``results.json`` made from simulated scores: five tasks, eight competitors, three splits."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score, roc_curve

SPLITS = {"test": 900, "test_older": 1000, "test_newest": 1204}
# model, regime, how far its scores separate the classes as a share of the oracle's
MODELS = [
    ("lang1-nano", "zero-shot", 0.08),
    ("lang1-nano", "joint", 0.80),
    ("prevalence", "baseline", 0.0),
    ("note-length", "baseline", 0.15),
    ("metadata", "baseline", 0.33),
    ("tfidf-lr", "baseline", 0.74),
    ("gbm-structured", "baseline", 0.79),
    ("oracle", "oracle", 1.0),
]
TASKS: list[dict[str, Any]] = [
    {
        "task": "readmission",
        "title": "30-day readmission",
        "question": "Will this patient be back in hospital, unplanned or planned, within 30 days of this discharge?",
        "options": ["No", "Yes"],
        "note_type": "discharge_summary",
        "definition": "1 if the patient is admitted again for any cause within 30 days of discharge. Deaths and "
        "hospice at the index stay are not eligible; contiguous transfers are one episode.",
        "headline_split": "test_newest",
        "caveat": None,
    },
    {
        "task": "mortality",
        "title": "In-hospital death",
        "question": "Will this patient die during this hospital stay?",
        "options": ["No", "Yes"],
        "note_type": "history_and_physical",
        "definition": "1 if the discharge disposition is expired.",
        "headline_split": "test_newest",
        "caveat": "High-acuity preset: about 8 % of stays end in death.",
    },
    {
        "task": "length_of_stay",
        "title": "Length of stay",
        "question": "How many days will this patient stay in hospital?",
        "options": ["0 to 2 days", "3 days", "4 or 5 days", "more than 5 days"],
        "note_type": "history_and_physical",
        "definition": "Days from admission to discharge, cut into four bins.",
        "headline_split": "test_newest",
        "caveat": None,
    },
    {
        "task": "comorbidity",
        "title": "Comorbidity",
        "question": "In which range does this patient's Charlson comorbidity index lie?",
        "options": ["0", "1 to 2", "3 to 4", "5 to 7", "above 7"],
        "note_type": "history_and_physical",
        "definition": "Charlson index of 1987 from the codes of the stay, cut into five bins.",
        "headline_split": "test_newest",
        "caveat": None,
    },
    {
        "task": "denial",
        "title": "Insurance denial",
        "question": "Will the insurer's first decision on the claim for this stay be a denial?",
        "options": ["No", "Yes"],
        "note_type": "history_and_physical",
        "definition": "1 if the primary claim is denied at first, whatever an appeal brings.",
        "headline_split": "test_newest",
        "caveat": None,
    },
]
RATES = {
    "readmission": [0.86, 0.14],
    "mortality": [0.92, 0.08],
    "length_of_stay": [0.40, 0.17, 0.20, 0.23],
    "comorbidity": [0.60, 0.25, 0.10, 0.04, 0.01],
    "denial": [0.86, 0.14],
}
REACH = {"readmission": 1.15, "mortality": 2.2, "length_of_stay": 1.3, "comorbidity": 2.6, "denial": 1.6}


def make_results(seed: int = 7) -> dict[str, Any]:
    """The results object; the same seed gives the same numbers."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    attrition: list[dict[str, Any]] = []
    for task in TASKS:
        rates = RATES[task["task"]]
        for split, n in {"train": 9000, "val": 700, **SPLITS}.items():
            labels = random.choice(len(rates), size=n, p=rates)
            for k, option in enumerate(task["options"]):
                number = int((labels == k).sum())
                shares.append(
                    {"task": task["task"], "split": split, "class": str(k), "label": option, "n": number}
                    | {"share": number / n}
                )
            if split in SPLITS:
                _score(task, split, labels, random, rows, curves)
        left = [41200, 38011, 36902, 31120, 30984, 12804]
        rules = [
            "Inpatient stays",
            "The eligible note was available in time",
            "Alive and in hospital at prediction time",
            "Whole horizon inside the complete data",
            "Contiguous transfers joined to one episode",
            "Patients kept apart between splits",
        ]
        for order, (rule, count) in enumerate(zip(rules, left, strict=True), 1):
            attrition.append(
                {"task": task["task"], "order": order, "rule": rule, "rows": count}
                | {"patients": int(count * 0.62), "outcomes": int(count * rates[-1])}
            )
    return {
        "lang1_results": 1,
        "title": "A small specialist against its peers, on simulated admissions",
        "subtitle": "Demo study: one health system, five questions of hospital operations",
        "data": [
            {
                "name": "Simulated system A",
                "real": False,
                "description": "A simulated high-acuity hospital (death about 8 %), notes of about 200 tokens.",
                "licence": "Apache-2.0",
                "patients": 20000,
                "encounters": 41200,
                "notes": 163400,
                "time_basis": "calendar",
                "period": "2023–2024",
            }
        ],
        "tasks": [dict(task) for task in TASKS],
        "rows": rows,
        "curves": curves,
        "attrition": attrition,
        "shares": shares,
        "learning": _learning(random),
        "cost": [
            {"step": "pretrain", "model": "lang1-nano", "parameters": 4_212_480, "tokens": 6_553_600}
            | {"seconds": 212.4, "device": "CPU, 2 threads"},
            {"step": "finetune", "model": "lang1-nano", "parameters": 4_212_480, "tokens": 2_211_000}
            | {"seconds": 131.0, "device": "CPU, 2 threads"},
            {"step": "evaluate", "model": "tfidf-lr", "parameters": 91_204, "tokens": None}
            | {"seconds": 9.6, "device": "CPU, 2 threads"},
        ],
        "settings": {
            "simulate": {"patients": 20000, "systems": 1, "seed": 11, "preset": "high-acuity"},
            "pretrain": {"model": {"name": "lang1-nano", "layers": 4}, "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]}},
        },
        "fingerprints": {"records": "4f1c" * 16, "benchmark": "90ab" * 16, "model": "77de" * 16},
        "versions": {"lang1": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "warnings": [
            {"level": "warn", "text": "In-hospital death has 98 outcomes in test; intervals under 100 are wide."},
            {
                "level": "info",
                "text": "Comorbidity: class “above 7” has under 20 cases in test and is left out of the macro.",
            },
        ],
    }


def _score(
    task: dict[str, Any],
    split: str,
    labels: np.ndarray,
    random: np.random.Generator,
    rows: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> None:
    """Scores of every competitor on one split, and the rows and curves that follow from them."""
    name, classes = task["task"], len(task["options"])
    signal = random.normal(size=len(labels)) + REACH[name] * (labels if classes == 2 else labels * 0.7)
    base: dict[str, Any] = {"task": name, "split": split, "stratum": None, "class": None, "versus": None, "seed": 1}
    found: dict[str, tuple[float, float]] = {}
    for model, regime, skill in MODELS:
        if model == "gbm-structured" and name != "readmission":
            continue
        mixed = skill * signal + (1 - skill) * random.normal(size=len(labels)) * 1.6
        row = {**base, "model": model, "regime": regime, "n": len(labels)}
        row["events"] = int(labels.sum()) if classes == 2 else None
        kept = [k for k in range(classes) if (labels == k).sum() >= 20] if classes > 2 else [1]
        aurocs, errors = [], []
        for k in kept:
            truth = (labels == k).astype(int)
            score = -np.abs(mixed - np.median(mixed[labels == k])) if classes > 2 else mixed
            if model == "prevalence":
                score = np.zeros(len(labels))
            auroc = float(roc_auc_score(truth, score))
            error = float(np.sqrt(auroc * (1 - auroc) / min(truth.sum(), len(truth) - truth.sum()))) * 0.9
            aurocs.append(auroc)
            errors.append(error)
            if classes > 2:
                one = {
                    "metric": "auroc_class",
                    "value": auroc,
                    "low": auroc - 1.96 * error,
                    "high": auroc + 1.96 * error,
                }
                rows.append({**row, **one, "class": str(k), "events": int(truth.sum()), "note": None})
            _curves(task, split, model, regime, str(k) if classes > 2 else None, truth, score, rows, row, curves)
        for k in set(range(classes)) - set(kept) if classes > 2 else ():
            one = {"metric": "auroc_class", "value": None, "low": None, "high": None, "note": "under 20 cases"}
            rows.append({**row, **one, "class": str(k), "events": int((labels == k).sum())})
        value, error = float(np.mean(aurocs)), float(np.mean(errors))
        flat = model == "prevalence"
        found[f"{model}|{regime}"] = (value, error)
        note = "class “above 7” left out (under 20 cases)" if len(kept) < classes > 2 else None
        rows.append(
            {**row, "metric": "auroc", "value": value, "note": note}
            | {
                "low": value if flat else value - 1.96 * error,
                "high": value if flat else min(1.0, value + 1.96 * error),
            }
        )
    oracle = found["oracle|oracle"][0]
    for key, (value, error) in found.items():
        model, regime = key.split("|")
        row = {**base, "model": model, "regime": regime, "n": len(labels), "events": None, "note": None}
        if regime != "oracle":
            share = (value - 0.5) / (oracle - 0.5)
            half = 1.96 * error * 0.7 / (oracle - 0.5) if model != "prevalence" else 0.0
            rows.append({**row, "metric": "attained_share", "value": share, "low": share - half, "high": share + half})
        mine, own = found["lang1-nano|joint"]
        if key not in ("lang1-nano|joint", "oracle|oracle"):
            gap, half = mine - value, 1.96 * 0.6 * np.hypot(own, error)
            p = float(np.exp(-((gap / (half / 1.96)) ** 2) / 2))
            rows.append(
                {**row, "model": "lang1-nano", "regime": "joint", "metric": "auroc", "versus": key}
                | {"value": gap, "low": gap - half, "high": gap + half, "note": f"p={p:.4f}"}
            )


def _curves(
    task: dict[str, Any],
    split: str,
    model: str,
    regime: str,
    name: str | None,
    truth: np.ndarray,
    score: np.ndarray,
    rows: list[dict[str, Any]],
    row: dict[str, Any],
    curves: list[dict[str, Any]],
) -> None:
    if split != "test_newest":
        return
    spread = score.std() or 1.0
    rate = truth.mean()
    risk = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) - 0.25 + 1.1 * (score - score.mean()) / spread)))
    if regime == "zero-shot":
        risk = 0.45 + 0.1 * (score - score.mean()) / spread / 3
    if model == "prevalence":
        risk = np.full(len(truth), rate)
    common = {"task": task["task"], "model": model, "regime": regime, "split": split, "class": name}
    if model != "prevalence":
        false, true, _ = roc_curve(truth, score)
        curves.append({**common, "kind": "roc", "x": false.tolist(), "y": true.tolist(), "n": []})
        observed, stated = calibration_curve(truth, np.clip(risk, 0, 1), n_bins=10, strategy="quantile")
        sizes = [len(truth) // 10] * len(observed)
        curves.append({**common, "kind": "calibration", "x": stated.tolist(), "y": observed.tolist(), "n": sizes})
    if name is not None:
        return
    risk = np.clip(risk, 1e-6, 1 - 1e-6)
    figures = {
        "auprc": float(average_precision_score(truth, risk)),
        "prevalence": float(rate),
        "brier": float(brier_score_loss(truth, risk)),
        "log_loss": float(log_loss(truth, risk)),
        "ece": float(abs(risk.mean() - rate)),
        "calibration_in_the_large": float(rate - risk.mean()),
        "calibration_slope": None if model == "prevalence" else 0.91,
    }
    if model.startswith("lang1"):
        figures["option_mass"] = 0.998 if regime == "joint" else 0.31
    for metric, value in figures.items():
        ends = metric not in ("prevalence", "option_mass", "log_loss") and value is not None
        low, high = sorted((value * 0.9, value * 1.1)) if ends and value is not None else (None, None)
        rows.append({**row, "metric": metric, "value": value, "low": low, "high": high, "note": None})


def _learning(random: np.random.Generator) -> list[dict[str, Any]]:
    tokens = np.linspace(0.05e6, 6.5e6, 60)
    loss = 2.1 + 4.9 * np.exp(-tokens / 0.9e6) + random.normal(0, 0.03, 60)
    made = [
        {"run": "lang1-nano", "stage": "pretrain", "metric": "loss", "unit": "tokens"}
        | {"x": tokens.tolist(), "y": loss.tolist()},
    ]
    for source, shift in (("notes", -0.2), ("general", 0.9)):
        made.append(
            {"run": "lang1-nano", "stage": "pretrain", "metric": f"val_loss:{source}", "unit": "tokens"}
            | {"x": tokens[::6].tolist(), "y": (loss[::6] + shift).tolist()}
        )
    steps = np.linspace(0.1e6, 2.2e6, 12)
    made.append(
        {"run": "lang1-nano", "stage": "finetune", "metric": "loss", "unit": "tokens"}
        | {"x": steps.tolist(), "y": (0.35 + 0.5 * np.exp(-steps / 0.5e6)).tolist()}
    )
    ends = {"readmission": 0.69, "mortality": 0.88, "length_of_stay": 0.73, "comorbidity": 0.89, "denial": 0.77}
    for task, best in ends.items():
        rise = 0.5 + (best - 0.5) * (1 - np.exp(-steps / 0.4e6)) + random.normal(0, 0.006, 12)
        made.append(
            {"run": "lang1-nano", "stage": "finetune", "metric": f"val_auroc:{task}", "unit": "tokens"}
            | {"x": steps.tolist(), "y": rise.tolist()}
        )
    return made
