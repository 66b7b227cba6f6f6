"""Subgroups of patients and periods on the headline split: each one's figures, and the gaps between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.common.errors import ArtefactError
from lang1.common.identity import read_patient_hashes
from lang1.evaluation.answered import Answered, Part, Scored, Writer, number, p_note
from lang1.evaluation.examples import Asked
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import Floats, auroc, class_aurocs
from lang1.metrics.bootstrap import Resamples, rank_draws, sum_draws, task_draws
from lang1.metrics.intervals import Interval, rarer_patients
from lang1.metrics.probability import brier_rows

UNKNOWN = "unknown"
AGE_EDGES = (18, 45, 65, 80)
# Attributes with more values than this keep the most frequent ones; the others are one stratum.
MOST_VALUES = 12
# A stratum with fewer cases (or non-cases) has no AUROC worth an interval: it is named and left out.
LEAST_CASES = 10

Names = npt.NDArray[np.object_]  # [N], the stratum of each row within an attribute


@dataclass(frozen=True)
class _Judged:
    """One stratum of one model: value and draws by metric, and its size."""

    name: str
    n: int
    events: int | None
    patients_less_one: float
    figures: dict[str, tuple[float, Floats]]


def stratum_rows(
    result: Scored, models: Sequence[Answered], part: Part, asked: Asked, settings: EvaluateSettings
) -> None:
    """Rows of every stratum that can be judged, gaps to the attribute's largest stratum, and who was left out.

    The gap of a stratum is its figure minus the reference's, both in the same resamples, so that patients in both
    count in both. Periods are compared with the first one.
    """
    attributes = strata(asked, part.examples, settings)
    for model in models:
        own = dict(attributes)
        seen = trained_on(model, part)
        if seen is not None:
            own["text trained on"] = seen
        writer = Writer(result, model.one, part.binary)
        for attribute, names in own.items():
            judged = []
            for name in _ordered(names):
                inside = names == name
                found = _judge(f"{attribute}: {name}", model, part, inside)
                if isinstance(found, _Judged):
                    judged.append(found)
                else:
                    result.strata_left_out.append({"model": model.one.key, **found, "task": result.task})
            _write(writer, attribute, judged, part.interval)


def strata(asked: Asked, examples: pa.Table, settings: EvaluateSettings) -> dict[str, Names]:
    """By attribute, the stratum of each example; attributes that do not tell rows apart are left out.

    Age, payer and department are as registered at the encounter, sex, race, ethnicity and area as the patient's row
    says, ``history`` says whether an earlier encounter of the patient is in the records, ``period`` is that of the
    prediction time (records with true dates only).
    """
    found = _attributes(asked, examples, settings.period)
    made: dict[str, Names] = {}
    for attribute in settings.subgroups:
        names = np.array([UNKNOWN if value is None else str(value) for value in found[attribute]], dtype=object)
        values, counts = np.unique(names.astype(str), return_counts=True)
        if attribute != "period" and len(values) > MOST_VALUES:
            kept = set(values[np.argsort(-counts, kind="stable")[: MOST_VALUES - 1]])
            names = np.array([n if n in kept else f"{len(values) - len(kept)} others" for n in names], dtype=object)
            values = np.unique(names.astype(str))
        if len(values) > 1:
            made[attribute] = names
    return made


def _attributes(asked: Asked, examples: pa.Table, period: str) -> dict[str, list[Any]]:
    records = asked.benchmark.records
    asking = examples.select(["encounter_id", "prediction_time"])
    asking = asking.append_column("position", pa.array(range(asking.num_rows), pa.int64()))
    calendar = records.time_basis == "calendar"
    birth = "year(e.admit_time) - p.birth_year" if calendar else "NULL"
    order = {"ordinal": "o.sequence < e.sequence", "none": "NULL"}.get(
        records.time_basis, "o.admit_time < e.admit_time"
    )
    if records.time_basis == "within_stay":
        order = "o.sequence < e.sequence"
    when = {
        "month": "strftime(a.prediction_time, '%Y-%m')",
        "quarter": "year(a.prediction_time)::VARCHAR || '-Q' || quarter(a.prediction_time)",
        "year": "year(a.prediction_time)::VARCHAR",
    }[period]
    bands = [f"WHEN age < {edge} THEN '{band}'" for edge, band in zip(AGE_EDGES, _bands(), strict=False)]
    with records.connect() as connection:
        connection.register("asked", asking)
        table = connection.sql(f"""
            WITH found AS (
                SELECT a.position, coalesce(e.age_at_admission, {birth})::DOUBLE AS age, p.sex, p.race, p.ethnicity,
                    p.area, e.payer, e.department, {when if calendar else "NULL"} AS period,
                    bool_or({order}) AS seen_before
                FROM asked a JOIN encounters e USING (encounter_id)
                LEFT JOIN patients p ON p.patient_id = e.patient_id
                LEFT JOIN encounters o ON o.patient_id = e.patient_id AND o.encounter_id <> e.encounter_id
                GROUP BY ALL
            )
            SELECT CASE {" ".join(bands)} WHEN age IS NOT NULL THEN '{_bands()[-1]}' END AS age, sex, race, ethnicity,
                area, payer, department, CASE WHEN seen_before THEN 'returning' ELSE 'first encounter' END AS history,
                period
            FROM found ORDER BY position""").to_arrow_table()
    assert table.num_rows == examples.num_rows
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
    if records.time_basis == "none":
        columns["history"] = [None] * table.num_rows
    return columns


def _bands() -> list[str]:
    inner = [f"{low} to {high - 1}" for low, high in pairwise(AGE_EDGES)]
    return [f"under {AGE_EDGES[0]}", *inner, f"{AGE_EDGES[-1]} and over"]


def trained_on(model: Answered, part: Part) -> Names | None:
    """Whether the model was trained on text of each row's patient; None where its folder is gone or all are alike."""
    ref = model.one.folder.manifest.inputs.get("model")
    if ref is None or not Path(ref.path).is_dir():
        return None
    try:
        seen = np.isin(part.subjects, read_patient_hashes(Path(ref.path)))
    except ArtefactError:
        return None
    return np.where(seen, "yes", "no").astype(object) if 0 < seen.sum() < len(seen) else None


def _ordered(names: Names) -> list[str]:
    return [str(name) for name in np.unique(names.astype(str))]


def _judge(name: str, model: Answered, part: Part, inside: npt.NDArray[np.bool_]) -> _Judged | dict[str, Any]:
    labels, table = part.labels[inside], model.table[inside]
    counts = np.bincount(labels, minlength=part.n_classes)
    n, events = len(labels), int(counts[1]) if part.binary else None
    if part.binary:
        rarer = int(min(counts[0], counts[1]))
        if rarer < LEAST_CASES:
            why = "one class only" if rarer == 0 else f"fewer than {LEAST_CASES} of a class"
            return {"stratum": name, "n": n, "events": events, "reason": why}
        kept = [1]
    else:
        kept = [c for c in part.judged if min(counts[c], n - counts[c]) >= LEAST_CASES]
        if kept != part.judged or not kept:
            return {"stratum": name, "n": n, "events": None, "reason": f"a class with fewer than {LEAST_CASES} cases"}
    inner = Resamples(part.resamples.counts, part.resamples.row_patient[inside])
    figures: dict[str, tuple[float, Floats]] = {}
    if part.binary:
        figures["auroc"] = auroc(labels == 1, table[:, 1]), rank_draws(labels == 1, table[:, 1], inner).auroc
    else:
        each = class_aurocs(labels, table, LEAST_CASES)
        drawn = task_draws(labels, table, inner, kept)
        figures["auroc"] = float(np.mean([each[c] for c in kept])), np.mean([drawn[c].auroc for c in kept], axis=0)
    columns = [np.ones(n), brier_rows(labels, table)]
    metrics = ["brier"]
    if part.binary:
        columns += [(labels == 1).astype(np.float64), table[:, 1] - (labels == 1)]
        metrics += ["prevalence", "stated_minus_observed"]
    sums = sum_draws(np.stack(columns), inner)
    with np.errstate(invalid="ignore", divide="ignore"):
        for place, metric in enumerate(metrics, start=1):
            figures[metric] = float(columns[place].mean()), sums[place] / sums[0]
    return _Judged(name, n, events, rarer_patients(labels, part.subjects[inside], kept), figures)


def _write(writer: Writer, attribute: str, judged: Sequence[_Judged], span: Interval) -> None:
    for one in judged:
        own = Interval(span.method, one.patients_less_one)
        for metric, (value, draws) in one.figures.items():
            bounded = own.share if metric in ("auroc", "prevalence") else own.difference
            bounds = bounded(draws, value)
            writer.add(metric, value, draws, bounds=bounds, n=one.n, events=one.events, stratum=one.name)
    if len(judged) < 2:
        return
    reference = judged[0] if attribute == "period" else max(judged, key=lambda one: one.n)
    gaps = product([one for one in judged if one is not reference], ("auroc", "stated_minus_observed"))
    for one, metric in gaps:
        if metric not in one.figures:
            continue
        value = one.figures[metric][0] - reference.figures[metric][0]
        draws = one.figures[metric][1] - reference.figures[metric][1]
        own = Interval(span.method, min(one.patients_less_one, reference.patients_less_one))
        p = own.p_value(draws, value)
        writer.add(
            f"{metric}_gap",
            value,
            draws,
            bounds=own.difference(draws, value),
            n=one.n,
            events=one.events,
            stratum=one.name,
            reference=reference.name,
            note=p_note(p),
            p=number(p),
        )
