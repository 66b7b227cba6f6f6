"""Recalibration of a model on the headline split by maps fitted on validation, before and after."""

from __future__ import annotations

import numpy as np

from lang1.evaluation.answered import Answered, Part, Scored, answers_of, number
from lang1.evaluation.examples import Asked, labels_of
from lang1.metrics.auroc import Floats, task_auroc
from lang1.metrics.calibration import expected_calibration_error, in_the_large, slope, smooth_errors
from lang1.metrics.probability import brier_rows, log_loss_rows
from lang1.metrics.recalibration import METHODS, fit_recalibration

FITTED_ON = "val"


def recalibration_rows(result: Scored, model: Answered, part: Part, asked: Asked) -> None:
    """What each map does to the model's figures; nothing where the predictions hold no validation rows."""
    if FITTED_ON not in asked.splits or result.split == FITTED_ON:
        return
    examples = asked.of(result.task, FITTED_ON)
    found = answers_of(model.one, examples["example_id"].to_pylist(), part.n_classes, result.task, FITTED_ON)
    if found is None:
        return
    labels = labels_of(examples)
    before = _figures(part, model.table)
    for method in METHODS:
        fitted = fit_recalibration(method, labels, found.table)
        after = _figures(part, fitted(model.table)) if fitted is not None else {}
        for metric, value in before.items():
            result.recalibration.append(
                {
                    "task": result.task,
                    "model": model.one.model,
                    "regime": model.one.regime,
                    "split": result.split,
                    "method": method,
                    "metric": metric,
                    "before": number(value),
                    "after": number(after.get(metric, float("nan"))),
                    "fitted_on": len(labels),
                    "fitted_events": int((labels == 1).sum()) if part.binary else None,
                }
            )


def _figures(part: Part, table: Floats) -> dict[str, float]:
    labels = part.labels
    found = {
        "auroc": task_auroc(labels, table),
        "brier": float(brier_rows(labels, table).mean()),
        "log_loss": float(log_loss_rows(labels, table).mean()),
        "ece": expected_calibration_error(labels, table),
    }
    if part.binary:
        risk = np.asarray(table[:, 1])
        found |= {
            "e_avg": smooth_errors(labels, risk).mean,
            "calibration_in_the_large": in_the_large(labels, risk).value,
            "calibration_slope": slope(labels, risk).value,
        }
    return found
