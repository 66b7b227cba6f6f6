"""The oracle: for every encounter that a task could ask of, the chances its outcome was drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.common.identity import patient_hash
from lang1.common.predictions import PREDICTIONS, example_id
from lang1.simulator import charlson, risk, signs
from lang1.simulator.clock import PROMPT_WITHIN, Paperwork
from lang1.simulator.course import HOSPICE, Stays
from lang1.simulator.daily import Daily, outcome_chances
from lang1.simulator.oracle_daily import questions
from lang1.simulator.presets import PresetSpec
from lang1.simulator.risk import F64, Bool
from lang1.simulator.tables import Ids

ORACLE, NEWEST_NOTE = "oracle", "oracle-newest-note"
_NOT_INDEX = (signs.REHABILITATION, signs.DIALYSIS, signs.PALLIATIVE)


By_task = dict[str, tuple[Bool, npt.NDArray[Any], F64]]  # rows asked (n,), when (n,), probabilities (n, classes)


def oracle(
    ids: Ids, stays: Stays, papers: Paperwork, unresolved: Bool, spec: PresetSpec, days: Daily | None = None
) -> dict[str, pa.Table]:
    """Oracle predictions of a chunk, in the public prediction schema, by task and encounter; by who reads what.

    ``oracle``: admission tasks, chances given the admission note. Readmission: given the discharge note and that
    neither return nor death came before it. With ``days`` the tasks of a longitudinal world too, given all notes so
    far, and ``oracle-newest-note``: those given the newest note alone. No row where a task could not be asked.
    """
    end = ids.end
    over = stays.leave < end
    admission = papers.admission_there & ~papers.admission_late & (papers.admission_available < end)
    available = stays.leave + papers.discharge_delay
    index = over & papers.discharge_there & papers.discharge_signed & (papers.discharge_delay <= PROMPT_WITHIN)
    index &= (stays.disposition < HOSPICE) & (stays.p_return > 0) & (available < end)
    index &= ~np.isin(stays.reason, _NOT_INDEX)
    p_return = risk.return_eligible(stays.p_return, stays.first_return, papers.discharge_delay, spec.death_after)
    p_class = charlson.class_probabilities(stays.p_coded)
    claim = (stays.payer != signs.SELF_PAY) & ~unresolved
    by_task: By_task = {
        "readmission": (index, available, _binary(p_return)),
        "mortality": (admission, papers.admission_available, _binary(stays.p_death)),
        "length_of_stay": (admission, papers.admission_available, stays.p_stay),
        "comorbidity": (admission & over & papers.coded, papers.admission_available, p_class),
        "insurance_denial": (admission & over & claim, papers.admission_available, _binary(stays.p_denial)),
    }
    if days is None:
        return {ORACLE: _predictions(ids, stays, by_task, ORACLE)}
    ends = outcome_chances(stays, spec)
    whole, single = questions(stays, days, ends, admission, papers.admission_available, end)
    # Tasks of one note are told the same either way.
    one: By_task = {**by_task, **{task: (rows, when, _binary(p)) for task, (rows, when, p) in single.items()}}
    by_task |= {task: (rows, when, _binary(p)) for task, (rows, when, p) in whole.items()}
    # Who reads the discharge note alone knows of the year before what is true on average over all stays.
    for found, p_late in ((by_task, stays.p_late), (one, np.full(len(over), stays.p_late.mean()))):
        p = risk.return_eligible(
            stays.p_return, stays.first_return, papers.discharge_delay, spec.death_after, later=p_late
        )
        found["return_90d"] = (index, available, _binary(p))
    return {
        ORACLE: _predictions(ids, stays, by_task, ORACLE),
        NEWEST_NOTE: _predictions(ids, stays, one, NEWEST_NOTE),
    }


def _predictions(ids: Ids, stays: Stays, by_task: By_task, model: str) -> pa.Table:
    encounter, who = ids.stays(len(stays.admit)), ids.patients(stays.patient)
    subject = np.array([patient_hash(p) for p in who], dtype=np.int64)
    parts = []
    for task, (rows, when, p) in by_task.items():
        chosen = np.flatnonzero(rows)
        names = [encounter[i] for i in chosen.tolist()]
        k = len(chosen)
        flat = p[chosen] / p[chosen].sum(axis=1, keepdims=True)
        offsets = np.arange(k + 1, dtype=np.int32) * p.shape[1]
        parts.append(
            pa.table(
                {
                    "example_id": pa.array([example_id(task, e) for e in names], type=pa.string()),
                    "task": pa.array([task] * k, type=pa.string()),
                    "encounter_id": pa.array(names, type=pa.string()),
                    "subject_id": subject[chosen],
                    "prediction_time": ids.times(when[chosen]),
                    "model": pa.array([model] * k, type=pa.string()),
                    "regime": pa.array(["oracle"] * k, type=pa.string()),
                    "probabilities": pa.ListArray.from_arrays(offsets, flat.ravel()),
                    "option_mass": pa.nulls(k, pa.float64()),
                    "truncated": pa.nulls(k, pa.int64()),
                },
            ).cast(PREDICTIONS)
        )
    return pa.concat_tables(parts)


def _binary(p: F64) -> F64:
    return np.column_stack([1 - p, p])
