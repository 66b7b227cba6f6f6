"""What acting on a model's risks would mean on the headline split: operating points and net benefit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc

from lang1.evaluation.answered import Answered, Part, Scored, number
from lang1.evaluation.examples import Asked
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.bootstrap import sum_draws
from lang1.metrics.operating import net_benefit, operating_point, threshold_at_rate

CURVE_POINTS = 50


def operating_rows(result: Scored, model: Answered, part: Part, asked: Asked, settings: EvaluateSettings) -> None:
    """Operating points of a binary task at the alert rates and thresholds asked for, and its net-benefit curve.

    Intervals are of a fixed threshold: the patients are drawn again, the threshold is not.
    """
    if not part.binary or not 0 < result.class_counts[1] < result.n:
        return
    case, risk = part.labels == 1, model.table[:, 1]
    days, encounters = span(asked, result.task, result.split)
    wanted = [("alert rate", rate, threshold_at_rate(risk, rate)) for rate in settings.alert_rates]
    wanted += [("threshold", at, at) for at in settings.alert_thresholds]
    for kind, at, threshold in wanted:
        point = operating_point(case, risk, threshold)
        alert = risk >= threshold
        columns = np.stack([np.ones(len(case)), case, ~case, alert, ~alert, case & alert, ~case & ~alert])
        every, cases, others, alerts, rest, hits, clear = sum_draws(columns.astype(np.float64), part.resamples)
        found: dict[str, Any] = {
            "task": result.task,
            "model": model.one.model,
            "regime": model.one.regime,
            "split": result.split,
            "kind": kind,
            "at": at,
            "threshold": number(threshold),
            "alerts_per_100": 100 * point.alert_rate,
            "alerts_per_day": None if days is None else point.alert_rate * encounters / days,
            "n": result.n,
            "events": result.class_counts[1],
        }
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, draws in (
                ("alert_rate", alerts / every),
                ("sensitivity", hits / cases),
                ("specificity", clear / others),
                ("ppv", hits / alerts),
                ("npv", clear / rest),
            ):
                value = getattr(point, name)
                low, high = part.interval.share(draws, value)
                found |= {name: number(value), f"{name}_low": number(low), f"{name}_high": number(high)}
        result.operating.append(found)
    risks = np.linspace(*settings.decision_range, CURVE_POINTS)
    result.curves.append(
        {
            "task": result.task,
            "model": model.one.model,
            "regime": model.one.regime,
            "split": result.split,
            "kind": "net_benefit",
            "class": None,
            "x": risks.round(6).tolist(),
            "y": net_benefit(case, risk, risks).tolist(),
            "n": [],
        }
    )


def span(asked: Asked, task: str, split: str) -> tuple[float | None, int]:
    """Days from the first to the last prediction of a whole split, and its encounters; None without calendar dates.

    Of the whole split even where a limit scores a part of it: a day's alerts are of all its encounters.
    """
    whole = asked.benchmark.examples([task], [split])
    times = whole["prediction_time"].drop_null()
    if asked.benchmark.records.time_basis != "calendar" or len(times) < 2:
        return None, whole.num_rows
    first, last = (datetime.fromisoformat(str(pc.min(times))), datetime.fromisoformat(str(pc.max(times))))
    days = (last - first).total_seconds() / 86_400
    return (days if days >= 1 else None), whole.num_rows
