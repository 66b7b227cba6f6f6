"""Every figure that the Lang1 paper publishes for its own hospital, as data, for reading beside one's own.

Source: Jiang, Chen, Han et al., arXiv 2511.13703 (2025); structured baselines: NYUTron, Nature 619:357 (2023). All are
AUROC on the paper's test of 2024 at NYU Langone unless said otherwise; kept here as 0 to 1. ``STATED``: printed in the
text or a table. ``READ``: read off a published figure, give or take 0.002.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lang1.study.cells import Cell

Mark = Literal["stated", "read off a figure"]
STATED: Mark = "stated"
READ: Mark = "read off a figure"

# The columns of the paper's tables, by our names of the tasks.
TASKS = ("readmission", "mortality", "insurance_denial", "length_of_stay", "comorbidity")
# Its main model, which our own main model stands beside.
MAIN = "Lang1-1B"


@dataclass(frozen=True)
class Published:
    """One published AUROC, 0 to 1, and how sure its digits are."""

    value: float
    mark: Mark


def _rows(mark: Mark, order: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, Published]]:
    return {
        name: {t: Published(round(v / 100, 4), mark) for t, v in zip(order, values, strict=True)}
        for name, values in rows.items()
    }


PARAMETERS = {
    "Lang1-100M": 101_000_000,
    "Lang1-1B": 1_100_000_000,
    "Lang1-7B": 6_740_000_000,
    "MedMobile-3.8B": 3_800_000_000,
    "Llama-3.2-1B": 1_240_000_000,
    "Llama-2-7B": 6_740_000_000,
    "Llama-3.3-70B Chat": 70_600_000_000,
    "R1-Distill-Llama-70B": 70_600_000_000,
    "DeepSeek R1 671B": 671_000_000_000,
    "GPT-4o (sampled)": None,
}

ZERO_SHOT = _rows(
    READ,
    TASKS,
    {
        "Lang1-1B": (48.2, 56.0, 57.6, 54.2, 53.6),
        "MedMobile-3.8B": (40.2, 29.9, 36.6, 57.0, 56.1),
        "Llama-3.2-1B": (55.9, 62.0, 37.8, 49.0, 52.4),
        "Llama-2-7B": (59.0, 45.3, 40.4, 53.6, 48.6),
        "Llama-3.3-70B Chat": (70.6, 94.0, 62.0, 65.3, 63.6),
        "R1-Distill-Llama-70B": (69.5, 94.2, 62.3, 66.8, 63.3),
        "DeepSeek R1 671B": (66.4, 94.2, 60.4, 70.5, 71.1),
        "GPT-4o (sampled)": (58.1, 69.8, 49.4, 65.5, 54.7),
    },
)

FINETUNED = _rows(
    READ,
    TASKS,
    {
        "Llama-3.2-1B": (71.5, 94.5, 85.0, 73.4, 88.5),
        "R1-Distill-Llama-70B": (72.0, 91.5, 82.3, 70.4, 86.6),
        "Lang1-100M": (74.9, 93.3, 84.1, 72.2, 88.0),
        "Lang1-1B": (76.6, 95.9, 86.0, 77.2, 90.3),
        "Lang1-7B": (77.2, 95.8, 86.1, 77.6, 90.5),
    },
)

NONE, ALL = "none", "all"
# Lang1-1B; row: finetuned on; column: tested on.
TRANSFER = _rows(
    STATED,
    ("readmission", "mortality", "length_of_stay", "comorbidity", "insurance_denial"),
    {
        NONE: (48, 56, 55, 54, 43),
        "readmission": (77, 84, 64, 77, 57),
        "mortality": (70, 96, 64, 80, 58),
        "length_of_stay": (63, 47, 77, 65, 58),
        "comorbidity": (69, 78, 63, 90, 61),
        "insurance_denial": (50, 30, 52, 51, 87),
        ALL: (76, 95, 76, 90, 88),
    },
)

# MIMIC-III, a hospital elsewhere, by how the model was made; the task's order is the paper's.
MIMIC: dict[str, dict[str, dict[str, Published]]] = {
    model: _rows(STATED, ("readmission", "mortality", "length_of_stay"), rows)
    for model, rows in {
        "Lang1-1B": {"zero-shot": (51.6, 44.3, 50.1), "away": (66.4, 83.7, 65.2), "there": (67.7, 85.5, 64.8)},
        "Llama-3.2-1B": {"zero-shot": (45.5, 42.7, 54.8), "away": (60.8, 83.1, 61.6), "there": (58.3, 77.3, 55.2)},
    }.items()
}

# Lang1-1B on readmission: all patients of the test, and those not seen in training alone.
SEEN = {"all": Published(0.765, STATED), "unseen": Published(0.770, STATED)}

# Gradient boosting on structured fields (NYUTron).
STRUCTURED = _rows(
    STATED,
    ("readmission", "mortality", "length_of_stay", "insurance_denial"),
    {"gradient boosting on structured fields": (74.5, 87.5, 66.4, 72.6)},
)["gradient boosting on structured fields"]

_STRUCTURED_NAMES = ("gbm-structured", "lace-and-kin")


def same_model(cell: Cell, main: Cell | None = None) -> str | None:
    """The paper's name of the model that a cell stands beside; None where it has no such model.

    Our main model stands beside the paper's main one, our others beside those of their size where they have its name,
    and a generalist beside the one whose name it bears.
    """
    if cell.role in ("specialist", "twin"):
        if main is not None and (cell.model, cell.corpus) == (main.model, main.corpus):
            return MAIN
        size = re.sub(r"^lang1-", "", cell.model.lower())
        return next((n for n in ("Lang1-100M", "Lang1-7B") if n.lower() == f"lang1-{size}"), None)
    if cell.role == "generalist":
        wanted = _plain(cell.model) + " " + _plain(cell.label)
        return next((name for name in PARAMETERS if not name.startswith("Lang1") and _key(name) in wanted), None)
    return None


def of_cell(cell: Cell, main: Cell | None = None) -> dict[str, float]:
    """The paper's AUROC by task for what a cell of the main tables is: zero-shot, finetuned, or a baseline."""
    if cell.role == "baseline":
        found = STRUCTURED if cell.model in _STRUCTURED_NAMES else {}
    else:
        table = ZERO_SHOT if cell.regime == "zero-shot" else FINETUNED if cell.regime in ("finetuned", "joint") else {}
        found = table.get(same_model(cell, main) or "", {})
    return {task: published.value for task, published in found.items()}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _key(name: str) -> str:
    return _plain(re.sub(r"\(.*\)|Chat", "", name))
