"""Parts of a test by what is known of its patients, as masks that a context keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lang1.evaluation.answered import Part
from lang1.evaluation.subgroups import LEAST_CASES, strata
from lang1.study.context import Context, Mask, Where


def named(context: Context, benchmark: str, task: str, period: str | None = None) -> dict[str, dict[str, Where]]:
    """By attribute and stratum, which rows of a task's headline split belong to it.

    ``period`` (month, quarter or year): only the period of the prediction time, in such steps. The attributes are
    those of the evaluation's subgroups; ones that do not tell rows apart are left out.
    """
    whole = context.part(benchmark, task)
    if whole is None:
        return {}
    settings = context.settings
    if period is not None:
        settings = settings.model_copy(update={"subgroups": ["period"], "period": period})
    found = strata(context.asked(benchmark), whole.examples, settings)
    made: dict[str, dict[str, Where]] = {}
    for attribute, names in found.items():
        step = f" by {period}" if period is not None else ""
        values = [str(name) for name in np.unique(names.astype(str))]
        made[attribute] = {v: (f"{attribute}{step}: {v}", _mask(np.asarray(names == v))) for v in values}
    return made


def _mask(rows: Mask) -> Callable[[Part], Mask]:
    return lambda part: rows


def too_small(whole: Part, part: Part | None) -> str | None:
    """Why a stratum cannot be judged as the whole is: one class only, or too few of a class; None where it can."""
    if part is None:
        return "no rows"
    counts = np.bincount(part.labels, minlength=part.n_classes)
    rarest = min(min(int(counts[c]), len(part.labels) - int(counts[c])) for c in whole.judged) if whole.judged else 0
    if rarest == 0:
        return "one class only" if part.binary else "a class without cases"
    if rarest < LEAST_CASES:
        return f"fewer than {LEAST_CASES} of a class"
    return None
