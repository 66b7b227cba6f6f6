"""Rows and curves of one task and split: every model on the same examples and the same resamples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lang1.evaluation.answered import Answered, Part, Scored, Writer, answers_of, number, p_note
from lang1.evaluation.examples import Asked, labels_of
from lang1.evaluation.operating import operating_rows
from lang1.evaluation.predictions import Predictions
from lang1.evaluation.recalibrated import recalibration_rows
from lang1.evaluation.settings import EvaluateSettings
from lang1.evaluation.subgroups import stratum_rows
from lang1.metrics.auroc import MIN_CASES, auroc, class_aurocs, kept_classes, patient_weights, weighted_auroc
from lang1.metrics.bootstrap import (
    attained_share,
    mean_draws,
    rank_draws,
    resample_counts,
    sum_draws,
    task_draws,
)
from lang1.metrics.calibration import (
    Estimate,
    expected_calibration_error,
    in_the_large,
    reliability_curve,
    slope,
    smooth_errors,
)
from lang1.metrics.curves import roc_curve
from lang1.metrics.delong import area_parts
from lang1.metrics.intervals import Interval, percentile, rarer_patients
from lang1.metrics.probability import average_precision, brier_of_shares, brier_rows, log_loss_rows, scaled_brier

TRAINED = ("finetuned", "joint", "few-shot")


def task_rows(
    asked: Asked, made: Sequence[Predictions], task: str, split: str, settings: EvaluateSettings
) -> Scored | None:
    """All rows and curves of a task and split, or None where there are no examples or nobody answered.

    Raises:
        InputError: predictions answer some of the examples and not others, or are malformed.
    """
    found = prepared(asked, made, task, split, settings)
    if found is None:
        return None
    result, part, answered = found
    headline = split == asked.benchmark.headline_split
    for model in answered:
        writer = Writer(result, model.one, part.binary)
        rank_rows(writer, model, part)
        probability_rows(writer, model, part)
        _patients_alike(writer, model, part)
        if model.truncated is not None:
            result.truncated[model.one.key] = float((model.truncated > 0).mean())
        if headline:
            _curves(result, model, part)
            operating_rows(result, model, part, asked, settings)
            recalibration_rows(result, model, part, asked)
    _comparisons(result, answered, part)
    if headline and settings.subgroups:
        trained = [model for model in answered if model.one.regime in TRAINED]
        stratum_rows(result, trained or answered, part, asked, settings)
    return result


def prepared(
    asked: Asked, made: Sequence[Predictions], task: str, split: str, settings: EvaluateSettings
) -> tuple[Scored, Part, list[Answered]] | None:
    """What every number of a task and split is drawn from; None where there are no examples or nobody answered.

    Raises:
        InputError: as for :func:`task_rows`.
    """
    examples = asked.of(task, split)
    labels = labels_of(examples)
    n_classes = asked.n_options()[task]
    ids = examples["example_id"].to_pylist()
    answered = [found for one in made if (found := answers_of(one, ids, n_classes, task, split)) is not None]
    if not answered:
        return None
    subjects = np.asarray(examples["subject_id"].to_numpy(zero_copy_only=False))
    counts = np.bincount(labels, minlength=n_classes)
    binary = n_classes == 2
    judged = [1] if binary else kept_classes(labels, n_classes)
    part = Part(
        examples,
        labels,
        subjects,
        n_classes,
        judged,
        resample_counts(subjects, settings.resamples, settings.seed),
        Interval(settings.interval, rarer_patients(labels, subjects, judged or None)),
    )
    result = Scored(task, split, len(labels), len(part.resamples.counts), counts.tolist(), judged, [], [], {})
    return result, part, answered


def rank_rows(writer: Writer, model: Answered, part: Part) -> None:
    """AUROC and AUPRC of a model, class by class where there are more than two."""
    labels, span = part.labels, part.interval
    by_class = task_draws(labels, model.table, part.resamples, part.judged)
    if part.binary:
        model.auroc = auroc(labels == 1, model.table[:, 1])
        model.draws = by_class[1].auroc
        skew = area_parts(labels == 1, model.table[:, 1], part.subjects).influence
        writer.add("auroc", model.auroc, model.draws, bounds=span.share(model.draws, model.auroc, skew))
        value, draws = average_precision(labels == 1, model.table[:, 1]), by_class[1].average_precision
        model.others["auprc"] = (value, draws)
        writer.add("auprc", value, draws, bounds=span.share(draws, value))
        return
    each = class_aurocs(labels, model.table)
    model.auroc = float(np.mean(list(each.values()))) if each else float("nan")
    model.draws = np.mean([by_class[c].auroc for c in each], axis=0) if each else np.array([np.nan])
    out = [str(c) for c in range(part.n_classes) if c not in each]
    left = f"left out of the macro average for fewer than {MIN_CASES} cases: class {', '.join(out)}" if out else None
    writer.add("auroc", model.auroc, model.draws, bounds=span.share(model.draws, model.auroc), note=left)
    if each:
        weighed = weighted_auroc(each, writer.result.class_counts)
        counts = np.array([writer.result.class_counts[c] for c in each], dtype=np.float64)
        draws = np.average([by_class[c].auroc for c in each], axis=0, weights=counts)
        note = "classes weighed by how often they occur"
        writer.add("auroc_weighted", weighed, draws, bounds=span.share(draws, weighed), note=note)
    for c, value in each.items():
        own = Interval(span.method, rarer_patients(labels, part.subjects, [c]))
        skew = area_parts(labels == c, model.table[:, c], part.subjects).influence
        draws = by_class[c].auroc
        writer.add("auroc_class", value, draws, bounds=own.share(draws, value, skew), class_=c)
        precision, draws = average_precision(labels == c, model.table[:, c]), by_class[c].average_precision
        writer.add("auprc", precision, draws, bounds=own.share(draws, precision), class_=c)


def probability_rows(writer: Writer, model: Answered, part: Part) -> None:
    """Prevalence, Brier, log loss, calibration of a model."""
    labels, span = part.labels, part.interval
    brier, loss = brier_rows(labels, model.table), log_loss_rows(labels, model.table)
    hit = np.stack([(labels == c).astype(np.float64) for c in range(part.n_classes)])
    sums = sum_draws(np.stack([np.ones(len(labels)), brier, loss, *hit]), part.resamples)
    means = sums[1:] / sums[0]
    for c in part.judged:
        share = float(hit[c].mean())
        class_ = None if part.binary else c
        writer.add("prevalence", share, means[2 + c], bounds=span.share(means[2 + c], share), class_=class_)
    for metric, values, draws in (("brier", brier, means[0]), ("log_loss", loss, means[1])):
        value = float(values.mean())
        writer.add(metric, value, draws, bounds=span.difference(draws, value))
    model.others["brier"] = (float(brier.mean()), means[0])
    value = float(scaled_brier(brier.mean(), brier_of_shares(hit.mean(axis=1))))
    draws = scaled_brier(means[0], brier_of_shares(means[2:]))
    writer.add("scaled_brier", value, draws, bounds=span.difference(draws, value))
    writer.add(
        "ece", expected_calibration_error(labels, model.table), note="15 bins; no interval: its draws are biased"
    )
    robust = "cluster-robust interval"
    for c in part.judged:
        class_ = None if part.binary else c
        for metric, fit in (("calibration_in_the_large", in_the_large), ("calibration_slope", slope)):
            found: Estimate = fit(labels == c, model.table[:, c], part.subjects)
            writer.add(metric, found.value, bounds=(found.low, found.high), class_=class_, note=robust)
        gaps = smooth_errors(labels == c, model.table[:, c])
        for metric, value in (("e_avg", gaps.mean), ("e_90", gaps.p90), ("e_max", gaps.largest)):
            writer.add(metric, value, class_=class_, note="to a spline of what happened; no interval")
    if model.option_mass is not None:
        value, draws = float(model.option_mass.mean()), mean_draws(model.option_mass, part.resamples)
        writer.add("option_mass", value, draws, bounds=span.share(draws, value))


def _patients_alike(writer: Writer, model: Answered, part: Part) -> None:
    """The same numbers with every patient counting alike, where some patients have several rows."""
    if not part.binary or len(part.resamples.counts) == len(part.labels):
        return
    weight, case, risk = patient_weights(part.subjects), part.labels == 1, model.table[:, 1]
    draws = rank_draws(case, risk, part.resamples, weight)
    note = "every patient weighs alike"
    for metric, value, drawn in (
        ("auroc_patients", auroc(case, risk, weight), draws.auroc),
        ("auprc_patients", average_precision(case, risk, weight), draws.average_precision),
    ):
        writer.add(metric, value, drawn, bounds=part.interval.share(drawn, value), note=note)
    brier = brier_rows(part.labels, model.table)
    value, drawn = float(np.average(brier, weights=weight)), mean_draws(brier, part.resamples, weight)
    writer.add("brier_patients", value, drawn, bounds=part.interval.difference(drawn, value), note=note)


def _curves(result: Scored, model: Answered, part: Part) -> None:
    for c in part.judged:
        for kind, curve in (("roc", roc_curve), ("calibration", reliability_curve)):
            points = curve(part.labels == c, model.table[:, c])
            if points.x:
                result.curves.append(
                    {
                        "task": result.task,
                        "model": model.one.model,
                        "regime": model.one.regime,
                        "split": result.split,
                        "kind": kind,
                        "class": None if part.binary else str(c),
                        "x": points.x,
                        "y": points.y,
                        "n": points.n,
                    }
                )


def _comparisons(result: Scored, answered: Sequence[Answered], part: Part) -> None:
    """Trained models minus every other, and each model's share of what the oracle attains, on the same resamples."""
    oracle = next((model for model in answered if model.one.regime == "oracle"), None)
    for model in answered:
        writer = Writer(result, model.one, part.binary)
        if oracle is not None and model is not oracle:
            share = float(attained_share(model.auroc, oracle.auroc))
            draws = attained_share(model.draws, oracle.draws)
            note = "(AUROC - 0.5)/(oracle - 0.5), resampled together"
            writer.add("attained_share", share, draws, bounds=percentile(draws), note=note)
        if model.one.regime not in TRAINED:
            continue
        for other in answered:
            if other is model:
                continue
            pairs = {"auroc": ((model.auroc, model.draws), (other.auroc, other.draws))}
            pairs |= {name: (found, other.others[name]) for name, found in model.others.items() if name in other.others}
            for metric, ((mine, my_draws), (theirs, their_draws)) in pairs.items():
                gap, value = my_draws - their_draws, mine - theirs
                p = part.interval.p_value(gap, value)
                bounds = part.interval.difference(gap, value)
                writer.add(metric, value, gap, bounds=bounds, versus=other.one.key, note=p_note(p), p=number(p))
