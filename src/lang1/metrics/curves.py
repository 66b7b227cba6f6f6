"""Points of the ROC curve, thinned so that a report stays small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang1.metrics.auroc import checked_scores
from lang1.metrics.calibration import Points

MOST_POINTS = 200


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, most: int = MOST_POINTS) -> Points:
    """False positive rate (x) and true positive rate (y), from (0, 0) to (1, 1), at most ``most`` points.

    Thinning keeps the points that lie nearest to even steps along the curve.

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    case = np.asarray(labels).astype(bool)
    values = checked_scores(scores, len(case))
    if case.all() or not case.any():
        return Points([], [], [])
    _, group = np.unique(-values, return_inverse=True)
    y = np.concatenate([[0.0], np.cumsum(np.bincount(group, case)) / case.sum()])
    x = np.concatenate([[0.0], np.cumsum(np.bincount(group, ~case)) / (~case).sum()])
    if len(x) > most:
        along = x + y  # rises with every point, from 0 to 2
        kept = np.unique(np.searchsorted(along, np.linspace(0, 2, most)).clip(0, len(x) - 1))
        kept[0], kept[-1] = 0, len(x) - 1
        x, y = x[kept], y[kept]
    return Points(x.round(5).tolist(), y.round(5).tolist(), [])
