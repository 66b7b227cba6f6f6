"""All notes of a chunk as rows of the notes table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from lang1.simulator import daily_notes, filler, signs
from lang1.simulator.clock import Paperwork
from lang1.simulator.course import DAY, EXPIRED, Patients, Stays
from lang1.simulator.daily import DAYS, SHIFTS, Daily
from lang1.simulator.notes import YEARS_AN_ERA, NoteMaker
from lang1.simulator.presets import PresetSpec
from lang1.simulator.styles import System
from lang1.simulator.tables import Ids
from lang1.simulator.visits import Visits


def notes(
    ids: Ids,
    people: Patients,
    stays: Stays,
    papers: Paperwork,
    visits: Visits,
    system: System,
    spec: PresetSpec,
    rng: np.random.Generator,
    days: Daily | None = None,
) -> pa.Table:
    """The notes table: admission, progress, radiology, pathology and discharge notes, addenda, notes of visits.

    Only notes that were available before the extract's end are in it. With ``days``, progress notes and nurses' notes
    state these, instead of copying from the admission note.
    """
    n = len(stays.admit)
    eras = (stays.admit // (365 * DAY) // YEARS_AN_ERA).tolist()
    female = people.female[stays.patient].tolist()
    maker = NoteMaker(stays, female, eras, system.style, spec.long_notes)
    encounter, who = ids.stays(n), ids.patients(stays.patient)
    admit, leave = stays.admit.tolist(), stays.leave.tolist()
    expired = (stays.disposition == EXPIRED).tolist()
    department = [signs.REASONS[r].department for r in stays.reason.tolist()]
    lasted = np.maximum((stays.leave - stays.admit) // DAY, 0)
    n_progress = np.minimum(rng.poisson(spec.progress_notes, n), lasted).tolist()
    film = (rng.random(n) < spec.radiology).tolist()
    tissue = (rng.random(n) < spec.pathology).tolist()
    u = rng.random((n, 6)).tolist()
    h_there, h_time = papers.admission_there.tolist(), papers.admission_available.tolist()
    d_there, d_signed = papers.discharge_there.tolist(), papers.discharge_signed.tolist()
    d_delay, preliminary = papers.discharge_delay.tolist(), papers.preliminary.tolist()
    addendum, addendum_time = papers.addendum.tolist(), papers.addendum_available.tolist()
    end = ids.end
    # note_id, parent, patient, encounter, type, department, created, signed (None: never), available, text
    rows: list[tuple[Any, ...]] = []
    for i in range(n):
        base, e, p, d, v = encounter[i][1:], encounter[i], who[i], department[i], u[i]
        if h_there[i] and h_time[i] < end:
            t = h_time[i]
            rows.append((f"N{base}A", None, p, e, "history_and_physical", d, t - 30, t - 5, t, maker.admission(i)))
        if film[i] and (t := admit[i] + 250 + int(900 * v[0])) < min(leave[i], end):
            rows.append((f"N{base}R", None, p, e, "radiology", "radiology", t - 20, t - 2, t, filler.radiology(v[1])))
        if tissue[i] and (t := admit[i] + 2000 + int(4000 * v[0])) < min(leave[i], end):
            rows.append((f"N{base}T", None, p, e, "pathology", "pathology", t - 20, t - 2, t, filler.pathology(v[2])))
        for k in range(n_progress[i] if days is None else 0):
            t = admit[i] + (k + 1) * DAY - int(200 * v[3])
            if t < min(leave[i], end):
                copied = maker.writer(i).trend_lines(maker.trends[i])
                text = filler.progress(v[4], copied)
                rows.append((f"N{base}G{k}", None, p, e, "progress", d, t - 30, t - 5, t, text))
        if leave[i] >= end or not d_there[i]:
            continue
        text = maker.discharge(i, expired[i])
        t = leave[i] + d_delay[i]
        if preliminary[i]:
            early = text[: int(len(text) * 0.6)]
            made = max(leave[i] - 240, admit[i] + 245)
            rows.append((f"N{base}E", None, p, e, "discharge_summary", d, made - 5, None, made, early))
        if t < end:
            signed = t - 2 if d_signed[i] else None
            rows.append((f"N{base}D", None, p, e, "discharge_summary", d, leave[i] - 20, signed, t, text))
            if addendum[i] and (t := addendum_time[i]) < end:
                more = filler.addendum(v[5])
                rows.append((f"N{base}X", f"N{base}D", p, e, "discharge_summary", d, t - 9, t - 3, t, more))
    if days is not None:
        _daily_notes(rows, ids, stays, days, system, rng)
    _visit_notes(rows, ids, visits, system, rng)
    return _table(ids, rows)


def _daily_notes(
    rows: list[tuple[Any, ...]], ids: Ids, stays: Stays, days: Daily, system: System, rng: np.random.Generator
) -> None:
    n = len(stays.admit)
    encounter, who = ids.stays(n), ids.patients(stays.patient)
    hour = (stays.admit % DAY // 60).tolist()
    doctor, nurse = stays.author.tolist(), days.author.tolist()
    department = [signs.REASONS[r].department for r in stays.reason.tolist()]
    day_time, day_signs = days.day_time.tolist(), days.day_signs.tolist()
    shift_time, shift_signs = days.shift_time.tolist(), days.shift_signs.tolist()
    u = rng.random((n, DAYS + SHIFTS)).tolist()
    for i in range(n):
        base, e, p, d = encounter[i][1:], encounter[i], who[i], department[i]
        for k, t in enumerate(day_time[i]):
            if t < ids.end:
                text = daily_notes.day(system.style, k + 1, hour[i], day_signs[i][k], doctor[i], u[i][k])
                rows.append((f"N{base}G{k}", None, p, e, "progress", d, t - 30, t - 5, t, text))
        for k, t in enumerate(shift_time[i]):
            if t < ids.end:
                text = daily_notes.shift(system.style, shift_signs[i][k], nurse[i], u[i][DAYS + k])
                rows.append((f"N{base}H{k}", None, p, e, "nursing", d, t - 30, t - 5, t, text))


def _visit_notes(
    rows: list[tuple[Any, ...]], ids: Ids, visits: Visits, system: System, rng: np.random.Generator
) -> None:
    m = len(visits.start)
    names, who = ids.visits(m), ids.patients(visits.patient)
    kind, stop, u = visits.kind.tolist(), visits.stop.tolist(), rng.random(m).tolist()
    stated, said = visits.stated.tolist(), visits.signs.tolist()
    for j in range(m):
        t = stop[j] + 30
        if t >= ids.end:
            continue
        emergency = kind[j] < 2
        if stated[j]:
            text = daily_notes.clinic(system.style, said[j], u[j])
        else:
            text = filler.emergency(u[j]) if emergency else filler.clinic(u[j])
        place = ("emergency", "observation", "clinic")[kind[j]]
        note_type = "emergency" if emergency else "other"
        rows.append((f"N{names[j]}", None, who[j], names[j], note_type, place, t - 30, t - 2, t, text))


def _table(ids: Ids, rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 10
    signed = np.array([-1 if s is None else s for s in columns[7]], dtype=np.int64)
    available = np.array(columns[8], dtype=np.int64)
    available += available % DAY == 0  # a time at midnight reads as a bare date elsewhere
    texts = pa.string()
    return pa.table(
        {
            "note_id": pa.array(columns[0], type=texts),
            "parent_note_id": pa.array(columns[1], type=texts),
            "patient_id": pa.array(columns[2], type=texts),
            "encounter_id": pa.array(columns[3], type=texts),
            "note_type": pa.array(columns[4], type=texts),
            "department": pa.array(columns[5], type=texts),
            "created_time": ids.times(np.array(columns[6], dtype=np.int64)),
            "signed_time": ids.times(signed, signed >= 0),
            "available_time": ids.times(available),
            "text": pa.array(columns[9], type=texts),
        }
    )
