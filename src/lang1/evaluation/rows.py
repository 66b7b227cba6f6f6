"""Rows and curves of one task and split: every model on the same examples and the same resamples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lang1.common.errors import InputError
from lang1.evaluation.examples import Asked, labels_of
from lang1.evaluation.predictions import Predictions, place_of, probability_matrix
from lang1.evaluation.scorers.linear import Ints
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import MIN_CASES, Floats, auroc, class_aurocs, kept_classes
from lang1.metrics.bootstrap import (
    RankDraws,
    Resamples,
    attained_share,
    interval,
    mean_draws,
    resample_counts,
    task_draws,
    two_sided_p,
)
from lang1.metrics.calibration import Estimate, expected_calibration_error, in_the_large, reliability_curve, slope
from lang1.metrics.curves import roc_curve
from lang1.metrics.probability import average_precision, brier_rows, log_loss_rows

TRAINED = ("finetuned", "joint", "few-shot")


@dataclass
class Answered:
    """One model's probabilities on the examples at hand, and its AUROC in each resample."""

    one: Predictions
    table: Floats  # [N, C]
    option_mass: Floats | None  # [N]
    truncated: Ints | None  # [N]
    auroc: float = float("nan")
    draws: Floats = field(default_factory=lambda: np.empty(0))  # [R]


@dataclass
class Scored:
    """What is known about one task and split."""

    task: str
    split: str
    n: int
    patients: int
    class_counts: list[int]
    judged: list[int]  # classes with enough cases
    rows: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    truncated: dict[str, float]  # share of notes that were cut, by model|regime


def task_rows(
    asked: Asked, made: Sequence[Predictions], task: str, split: str, settings: EvaluateSettings
) -> Scored | None:
    """All rows and curves of a task and split, or None where there are no examples or nobody answered.

    Raises:
        InputError: predictions answer some of the examples and not others, or are malformed.
    """
    examples = asked.of(task, split)
    labels = labels_of(examples)
    n_classes = asked.n_options()[task]
    ids = examples["example_id"].to_pylist()
    answered = [found for one in made if (found := _answered(one, ids, n_classes, task, split)) is not None]
    if not answered:
        return None
    subjects = np.asarray(examples["subject_id"].to_numpy(zero_copy_only=False))
    resamples = resample_counts(subjects, settings.resamples, settings.seed)
    counts = np.bincount(labels, minlength=n_classes)
    binary = n_classes == 2
    judged = [1] if binary else kept_classes(labels, n_classes)
    headline = split == asked.benchmark.headline_split
    result = Scored(task, split, len(labels), len(resamples.counts), counts.tolist(), judged, [], [], {})
    for model in answered:
        writer = _Writer(result, model.one, None if binary else counts)
        by_class = task_draws(labels, model.table, resamples, judged)
        _ranks(writer, model, labels, by_class, binary)
        _probabilities(writer, model, labels, resamples, subjects, judged, binary)
        if model.truncated is not None:
            result.truncated[model.one.key] = float((model.truncated > 0).mean())
        if headline:
            _curves(result, model, labels, judged, binary)
    _comparisons(result, answered, binary)
    return result


class _Writer:
    """Appends rows that share task, split and model."""

    def __init__(self, result: Scored, one: Predictions, class_counts: Ints | None) -> None:
        self.result, self.one, self.class_counts = result, one, class_counts
        seed = one.folder.manifest.extra.get("training_seed")
        self.seed = seed if isinstance(seed, int) else None

    def add(
        self,
        metric: str,
        value: float,
        draws: Floats | None = None,
        *,
        bounds: tuple[float, float] | None = None,
        class_: int | None = None,
        versus: str | None = None,
        note: str | None = None,
    ) -> None:
        """Bounds come from the draws unless given; ``sd`` is the draws', since the paper gives ± 1.96 SD."""
        low, high = bounds or interval(draws if draws is not None else [])
        usable = draws[np.isfinite(draws)] if draws is not None else np.empty(0)
        events: int | None = None
        if class_ is not None:
            events = self.result.class_counts[class_]
        elif self.class_counts is None:
            events = self.result.class_counts[1]
        self.result.rows.append(
            {
                "task": self.result.task,
                "model": self.one.model,
                "regime": self.one.regime,
                "metric": metric,
                "value": _number(value),
                "low": _number(low),
                "high": _number(high),
                "sd": float(usable.std(ddof=1)) if len(usable) > 1 else None,
                "n": self.result.n,
                "events": events,
                "split": self.result.split,
                "stratum": None,
                "class": None if class_ is None else str(class_),
                "versus": versus,
                "seed": self.seed,
                "note": note,
            }
        )


def _ranks(writer: _Writer, model: Answered, labels: Ints, by_class: dict[int, RankDraws], binary: bool) -> None:
    if binary:
        model.auroc = auroc(labels == 1, model.table[:, 1])
        model.draws = by_class[1].auroc
        writer.add("auroc", model.auroc, model.draws)
        value = average_precision(labels == 1, model.table[:, 1])
        writer.add("auprc", value, by_class[1].average_precision)
        return
    each = class_aurocs(labels, model.table)
    model.auroc = float(np.mean(list(each.values()))) if each else float("nan")
    model.draws = np.mean([by_class[c].auroc for c in each], axis=0) if each else np.array([np.nan])
    out = [str(c) for c in range(len(writer.result.class_counts)) if c not in each]
    left = f"left out of the macro average for fewer than {MIN_CASES} cases: class {', '.join(out)}" if out else None
    writer.add("auroc", model.auroc, model.draws, note=left)
    for c, value in each.items():
        writer.add("auroc_class", value, by_class[c].auroc, class_=c)
    for c in each:
        precision = average_precision(labels == c, model.table[:, c])
        writer.add("auprc", precision, by_class[c].average_precision, class_=c)


def _probabilities(
    writer: _Writer,
    model: Answered,
    labels: Ints,
    resamples: Resamples,
    subjects: Any,
    judged: list[int],
    binary: bool,
) -> None:
    def mean_row(metric: str, values: Floats, class_: int | None = None) -> None:
        writer.add(metric, float(values.mean()), mean_draws(values, resamples), class_=class_)

    for c in judged:
        mean_row("prevalence", (labels == c).astype(np.float64), None if binary else c)
    mean_row("brier", brier_rows(labels, model.table))
    mean_row("log_loss", log_loss_rows(labels, model.table))
    writer.add(
        "ece", expected_calibration_error(labels, model.table), note="15 bins; no interval: its draws are biased"
    )
    robust = "cluster-robust interval"
    for c in judged:
        for metric, fit in (("calibration_in_the_large", in_the_large), ("calibration_slope", slope)):
            found: Estimate = fit(labels == c, model.table[:, c], subjects)
            bounds = (found.low, found.high)
            writer.add(metric, found.value, bounds=bounds, class_=None if binary else c, note=robust)
    if model.option_mass is not None:
        mean_row("option_mass", model.option_mass)


def _curves(result: Scored, model: Answered, labels: Ints, judged: list[int], binary: bool) -> None:
    for c in judged:
        for kind, curve in (("roc", roc_curve), ("calibration", reliability_curve)):
            points = curve(labels == c, model.table[:, c])
            if points.x:
                result.curves.append(
                    {
                        "task": result.task,
                        "model": model.one.model,
                        "regime": model.one.regime,
                        "split": result.split,
                        "kind": kind,
                        "class": None if binary else str(c),
                        "x": points.x,
                        "y": points.y,
                        "n": points.n,
                    }
                )


def _comparisons(result: Scored, answered: Sequence[Answered], binary: bool) -> None:
    """Trained models minus every other, and each model's share of what the oracle attains, on the same resamples."""
    counts = None if binary else np.asarray(result.class_counts)
    oracle = next((model for model in answered if model.one.regime == "oracle"), None)
    for model in answered:
        writer = _Writer(result, model.one, counts)
        if oracle is not None and model is not oracle:
            share = float(attained_share(model.auroc, oracle.auroc))
            draws = attained_share(model.draws, oracle.draws)
            writer.add("attained_share", share, draws, note="(AUROC - 0.5)/(oracle - 0.5), resampled together")
        if model.one.regime not in TRAINED:
            continue
        for other in answered:
            if other is not model:
                gap = model.draws - other.draws
                writer.add(
                    "auroc",
                    model.auroc - other.auroc,
                    gap,
                    versus=other.one.key,
                    note=_p_value(two_sided_p(gap)),
                )


def _answered(one: Predictions, ids: Sequence[str], n_classes: int, task: str, split: str) -> Answered | None:
    if not ids:
        return None
    place = place_of(one.table, ids)
    lacking = np.flatnonzero(place < 0)
    if len(lacking) == len(ids):
        return None
    if len(lacking):
        raise InputError(
            f"{one.folder.path}: {len(lacking)} of {len(ids)} examples of {task}, {split} are missing, first "
            f"{ids[lacking[0]]}; make the predictions with the same tasks, splits and limit."
        )
    rows = one.table.take(place)
    mass = rows["option_mass"]
    cut = rows["truncated"]
    return Answered(
        one,
        probability_matrix(rows["probabilities"], n_classes, ids, str(one.folder.path)),
        None if mass.null_count else np.asarray(mass.to_numpy(zero_copy_only=False), dtype=np.float64),
        None if cut.null_count else np.asarray(cut.to_numpy(zero_copy_only=False), dtype=np.int64),
    )


def _p_value(p: float) -> str | None:
    return None if math.isnan(p) else f"p = {p:.3g}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
