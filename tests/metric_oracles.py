"""What independent packages say of the same inputs: asked where they are installed, frozen for where they are not.

Freeze again, in an environment that has all of them: python tests/metric_oracles.py
"""

from __future__ import annotations

import json
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

FROZEN = Path(__file__).parent / "data" / "metric_oracles.json"
THRESHOLDS = [0.02, 0.05, 0.1, 0.2, 0.5, 0.8]
FAMILIES = {
    "plain": [0.01, 0.04, 0.03, 0.005, 0.2],
    "tied": [0.02, 0.02, 0.02, 0.5, 0.5],
    "one": [0.3],
    "bounds": [0.0, 1.0, 0.5, 0.0],
    "large": np.linspace(1e-6, 0.2, 80).round(6).tolist(),
}


def made(n: int, seed: int, digits: int | None = None, rate: float = 0.3) -> dict[str, Any]:
    """Outcomes and two models' risks; ``digits`` rounds them, so that they tie."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < rate).astype(int)
    y[:2], y[2:4] = 1, 0
    a, b = (1 / (1 + np.exp(-(rng.normal(size=n) + shift * y - 1))) for shift in (1.5, 0.8))
    if digits is not None:
        a, b = a.round(digits), b.round(digits)
    return {"y": y, "a": a, "b": b}


def small() -> dict[str, dict[str, Any]]:
    """Inputs that are frozen."""
    return {
        "untied": made(60, 1),
        "tied": made(60, 2, 1),
        "rare": made(80, 3, 2, 0.03),
        "separated": {
            "y": np.array([0, 0, 1, 1, 0, 1]),
            "a": np.array([0.1, 0.2, 0.8, 0.9, 0.3, 0.7]),
            "b": np.array([0.1, 0.6, 0.5, 0.9, 0.3, 0.7]),
        },
        "constant": {
            "y": np.array([0, 1, 0, 1, 1, 0, 0]),
            "a": np.full(7, 0.4),
            "b": np.array([0.1, 0.6, 0.5, 0.9, 0.3, 0.7, 0.2]),
        },
    }


def delong_mlstatkit(data: dict[str, Any]) -> dict[str, float]:
    """z (of b minus a there) and p of the paired test."""
    package = import_module("MLstatkit")
    z, p = package.Delong_test(data["y"], data["a"], data["b"], return_ci=False, return_auc=False)[:2]
    return {"z": float(z), "p": float(p)}


def delong_confidenceinterval(data: dict[str, Any]) -> dict[str, float]:
    """AUROC of ``a`` with DeLong's plain interval."""
    package = import_module("confidenceinterval")
    value, (low, high) = package.roc_auc_score(data["y"].tolist(), data["a"].tolist(), method="delong")
    return {"value": float(value), "low": float(low), "high": float(high)}


def net_benefit_dcurves(data: dict[str, Any]) -> list[float]:
    """Net benefit of ``a`` at ``THRESHOLDS``."""
    pandas, package = import_module("pandas"), import_module("dcurves")
    table = package.dca(
        data=pandas.DataFrame({"y": data["y"], "a": data["a"]}), outcome="y", modelnames=["a"], thresholds=THRESHOLDS
    )
    return [float(v) for v in table[table["model"] == "a"].sort_values("threshold")["net_benefit"]]


def ece_torchmetrics(data: dict[str, Any]) -> float:
    """ECE of ``a`` in 15 bins of equal width."""
    torch = import_module("torch")
    package = import_module("torchmetrics.functional.classification")
    said = torch.tensor(data["a"], dtype=torch.float64)
    return float(package.binary_calibration_error(said, torch.tensor(data["y"]), n_bins=15, norm="l1"))


def ece_multiclass_torchmetrics(labels: Any, table: Any) -> float:
    """ECE of the top class, 15 bins."""
    torch = import_module("torch")
    package = import_module("torchmetrics.functional.classification")
    found = package.multiclass_calibration_error(
        torch.tensor(table, dtype=torch.float64), torch.tensor(labels), num_classes=table.shape[1], n_bins=15
    )
    return float(found)


def corrected_statsmodels(p_values: list[float]) -> dict[str, list[float]]:
    """Adjusted p-values of Holm and Benjamini-Hochberg."""
    package = import_module("statsmodels.stats.multitest")
    return {
        ours: [float(p) for p in package.multipletests(p_values, method=theirs)[1]]
        for ours, theirs in (("holm", "holm"), ("bh", "fdr_bh"))
    }


def _freeze() -> None:
    frozen: dict[str, Any] = {"inputs": {}, "answers": {}}
    for name, data in small().items():
        frozen["inputs"][name] = {key: value.tolist() for key, value in data.items()}
        answers: dict[str, Any] = {
            "net_benefit": net_benefit_dcurves(data),
            "ece": ece_torchmetrics(data),
            "delong": delong_confidenceinterval(data),
        }
        if name not in ("separated", "constant"):  # a variance of 0 there: the packages divide by it
            answers["test"] = delong_mlstatkit(data)
        frozen["answers"][name] = answers
    frozen["families"] = {name: corrected_statsmodels(p) for name, p in FAMILIES.items()}
    packages = ("MLstatkit", "confidenceinterval", "dcurves", "torchmetrics", "statsmodels")
    frozen["versions"] = {name: metadata.version(name) for name in packages}
    FROZEN.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _freeze()
