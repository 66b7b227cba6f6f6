"""The answer in the text: detectors of phrases, numbers, sections, codes and dates, judged by how well each tells."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.remede.audit.detectors import Detector, dates, load
from lang1.remede.audit.effects import area_loss, corrected, difference_low, hit_auroc, share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.material import Material, TaskRows
from lang1.remede.audit.textmodel import text_scores
from lang1.reporting.numbers import fixed, percent, plural, signed

TEXT, DATES = "answer_text", "answer_dates"
# Fewer hits than this are told, and never fail: no effect can be measured on them.
LEAST_HITS = 5
EXCERPTS, AROUND = 5, 40
Spans = dict[int, list[tuple[int, int]]]
T = TypeVar("T")


@dataclass
class _Task:
    rows: TaskRows
    texts: list[str]
    masked: Spans
    scanned: dict[tuple[str, str], Any]  # what a detector found in an input, kept for the tasks that read it too

    def scan(self, name: str, find: Callable[[str], T]) -> Iterator[tuple[int, T]]:
        """What ``find`` says of each text, by row; empty answers are passed over."""
        for place, (key, text) in enumerate(zip(self.rows.inputs, self.texts, strict=True)):
            if (name, key) not in self.scanned:
                self.scanned[name, key] = find(text)
            if self.scanned[name, key]:
                yield place, self.scanned[name, key]


def check(material: Material) -> list[Finding]:
    """Findings of all detectors of all tasks, then one a task about what masking the hits costs a text model."""
    detectors = load(material.settings.detectors)
    findings: list[Finding] = []
    scanned: dict[tuple[str, str], Any] = {}
    for rows in material.tasks.values():
        task = _Task(rows, material.texts(list(rows.inputs)), {}, scanned)
        asked = {name: detector for name, detector in detectors.items() if detector.asks(rows.card)}
        found = [_detector(material, task, name, detector, len(asked)) for name, detector in asked.items()]
        found.append(_codes(material, task))
        findings += [finding for finding in found if finding is not None]
        findings.append(_masking(material, task, asked))
        findings.append(_outcome_dates(material, task))
    return findings


def _detector(material: Material, task: _Task, name: str, detector: Detector, of: int) -> Finding | None:
    rows = task.rows
    hits: dict[int, list[tuple[int, int, float | None]]] = {}
    for place, spans in task.scan(name, detector.spans):
        hits[place] = spans
        task.masked.setdefault(place, []).extend((a, b) for a, b, _ in spans)
    if not hits:
        return None
    hit = np.zeros(len(rows.ids), dtype=bool)
    hit[list(hits)] = True
    figures, worst = _association(rows, hit, corrected(material.settings.confidence, of * rows.card.classes))
    figures |= {"detector": name, "hits": int(hit.sum()), "notes": len(hit)}
    share_of = f"{plural(int(hit.sum()), 'note')} of {len(hit):,} state {detector.words}"
    bad, limit = False, told("detector_risk_difference", material.threshold("detector_risk_difference", rows.task))
    if detector.finds == "phrase":
        strong = material.threshold("detector_auroc", rows.task)
        bad = figures["risk_difference_low"] > limit["value"] or figures["auroc_low"] > strong.value
        share_of += f"; among them '{rows.card.options[worst]}' has a share of {percent(figures['share_with'])}"
        share_of += f", among the others {percent(figures['share_without'])}"
    elif detector.finds == "number":
        limit = told("stated_agreement", material.threshold("stated_agreement", rows.task))
        figures |= _agreement(rows, hits, material.settings.confidence)
        bad = figures["agreement_low"] > figures["agreement_by_chance"] + limit["value"]
        share_of += f", {percent(figures['agreement'])} of them rightly"
    else:
        limit = told("forbidden_section", material.threshold("forbidden_section", rows.task))
        found = share(int(hit.sum()), len(hit), material.settings.confidence)
        figures |= found.figures("share")
        bad = found.low > limit["value"]
        share_of = f"{plural(int(hit.sum()), 'note')} of {len(hit):,} hold {detector.words}"
    verdict = graded(bad and int(hit.sum()) >= LEAST_HITS, "fail", "warn")
    ids = first([str(rows.ids[place]) for place in hits])
    numbers = (22,) if rows.card.rule_name == "insurance_denial" else (1,)
    numbers = (2,) if name == "late_text" else numbers
    excerpts = _excerpts(material, task, {p: [(a, b) for a, b, _ in s] for p, s in hits.items()})
    return Finding(TEXT, numbers, rows.task, verdict, share_of + ".", int(hit.sum()), ids, figures, limit, excerpts)


def _association(rows: TaskRows, hit: npt.NDArray[np.bool_], level: float) -> tuple[dict[str, Any], int]:
    """How well a hit tells a class: the figures of the class that it tells best, and that class."""
    best: tuple[float, int, dict[str, Any]] | None = None
    by_label = {
        rows.card.options[c]: float(hit[rows.labels == c].mean()) if (rows.labels == c).any() else math.nan
        for c in range(rows.card.classes)
    }
    for c in range(rows.card.classes):
        case = rows.labels == c
        one, n_one = int((hit & case).sum()), int(case.sum())
        two, n_two = int((hit & ~case).sum()), int((~case).sum())
        with_it, without = one + two, len(hit) - one - two
        low = float(difference_low(one, with_it, n_one - one, without, level)) if with_it and without else -1.0
        far = float(difference_low(one, n_one, two, n_two, level)) if n_one and n_two else -1.0
        figures = {
            "hit_rate_by_label": by_label,
            "share_with": one / with_it if with_it else math.nan,
            "share_without": (n_one - one) / without if without else math.nan,
            "risk_difference_low": low,
            "auroc": float(hit_auroc(one, n_one, two, n_two)),
            "auroc_low": 0.5 + far / 2,
        }
        if best is None or low > best[0]:
            best = (low, c, figures)
    assert best is not None
    return best[2], best[1]


def _agreement(rows: TaskRows, hits: dict[int, list[tuple[int, int, float | None]]], level: float) -> dict[str, float]:
    """Whether stated numbers give the right class, beside what chance would."""
    cuts = rows.card.cut_points or ()
    places = list(hits)
    stated = np.array([int(np.searchsorted(cuts, hits[p][-1][2] or 0.0, side="left")) for p in places])
    right = int((stated == rows.labels[places]).sum())
    classes = rows.card.classes
    of_stated = np.bincount(stated, minlength=classes)[:classes] / len(places)
    of_true = np.bincount(rows.labels, minlength=classes) / len(rows.labels)
    found = share(right, len(places), level)
    return found.figures("agreement") | {"agreement_by_chance": float(of_stated @ of_true)}


def _codes(material: Material, task: _Task) -> Finding | None:
    """Notes that list the diagnosis codes of their own stay."""
    rows = task.rows
    material.connection.register("asked", pa.table({"example_id": pa.array(rows.ids.tolist(), pa.string())}))
    own = dict(
        material.sql("""
            SELECT a.example_id, list(DISTINCT upper(d.code) ORDER BY upper(d.code)) FROM asked a
            JOIN examples e USING (example_id) JOIN diagnoses d USING (encounter_id) GROUP BY 1""")
    )
    material.connection.unregister("asked")
    if not own:
        return None
    hits: Spans = {}
    for place, (name, text) in enumerate(zip(rows.ids, task.texts, strict=True)):
        codes = own.get(name)
        if not codes:
            continue
        forms = {form for code in codes for form in (code, code.replace(".", ""), _dotted(code)) if len(form) >= 3}
        found = [m.span() for m in _CODE.finditer(text) if m[0] in forms]
        # One code alone may be a code that the patient has carried for years.
        if len({text[a:b].replace(".", "") for a, b in found}) >= min(2, len(codes)):
            hits[place] = found
    if not hits:
        return None
    for place, spans in hits.items():
        task.masked.setdefault(place, []).extend(spans)
    limit = material.threshold("own_codes", rows.task)
    found_share = share(len(hits), len(rows.ids), material.settings.confidence)
    verdict = graded(found_share.low > limit.value and len(hits) >= LEAST_HITS, "fail", "warn")
    said = (
        f"{plural(len(hits), 'note')} of {len(rows.ids):,} list diagnosis codes of their own stay, which are assigned "
        "after it."
    )
    ids = first([str(rows.ids[p]) for p in hits])
    figures = found_share.figures("share") | {"detector": "own_codes", "hits": len(hits)}
    told_limit = told("own_codes", limit)
    return Finding(
        TEXT, (1, 4), rows.task, verdict, said, len(hits), ids, figures, told_limit, _excerpts(material, task, hits)
    )


_CODE = re.compile(r"\b(?:[A-TV-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?|\d{3}(?:\.?\d{1,2})?|[VE]\d{2,3}(?:\.?\d{1,2})?)\b")


def _dotted(code: str) -> str:
    bare = code.replace(".", "")
    return f"{bare[:3]}.{bare[3:]}" if len(bare) > 3 else bare


def _masking(material: Material, task: _Task, asked: Mapping[str, Detector]) -> Finding:
    """What a text model loses when the hits are cut out of all notes, train and held-out."""
    rows, limit = task.rows, material.threshold("masked_change", task.rows.task)
    numbers = (22,) if rows.card.rule_name == "insurance_denial" else (1,)
    if len(task.masked) < LEAST_HITS:
        few = f" (only {plural(len(task.masked), 'note')} hit)" if task.masked else ""
        said = (
            f"None of {plural(len(asked) + 1, 'detector')} of the answer hits the text of "
            f"{plural(len(rows.ids), 'note')}{few}."
        )
        return Finding(TEXT, numbers, rows.task, "pass", said, len(task.masked), (), {"notes": len(rows.ids)})
    classes = rows.classes(material.settings.least_cases)
    if not classes:
        said = "Too few cases in train or held-out notes to measure what the hits are worth to a text model."
        return Finding(TEXT, numbers, rows.task, "not_applicable", said, len(task.masked))
    cut = [_without(text, task.masked.get(place, [])) for place, text in enumerate(task.texts)]
    before, after = text_scores(rows, task.texts), text_scores(rows, cut)
    level = corrected(material.settings.confidence, len(classes))
    held, settings = rows.held, material.settings
    losses = {
        c: area_loss(
            rows.labels[held] == c, before[held, c], after[held, c], rows.patients[held], level, settings.resamples
        )
        for c in classes
    }
    c, worst = max(losses.items(), key=lambda pair: pair[1].low)
    verdict = graded(worst.low > limit.value, "fail", "pass")
    said = (
        f"With the hits cut out of {plural(len(task.masked), 'note')}, the AUROC of a text model for "
        f"'{rows.card.options[c]}' changes by {signed(-worst.value)}."
    )
    figures = worst.figures("auroc_lost") | {"class": rows.card.options[c], "notes_masked": len(task.masked)}
    return Finding(TEXT, numbers, rows.task, verdict, said, len(task.masked), (), figures, told("masked_change", limit))


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]} {text[end:]}"
    return text


def _outcome_dates(material: Material, task: _Task) -> Finding:
    """Notes that hold the very date of a discharge, death or return that lies ahead."""
    rows = task.rows
    if not material.timed:
        return Finding(DATES, (1,), rows.task, "not_applicable", "The records have no dates.")
    material.connection.register("asked", pa.table({"example_id": pa.array(rows.ids.tolist(), pa.string())}))
    ahead: dict[str, tuple[date, set[date]]] = {}
    for name, asked_on, *later in material.sql("""
            SELECT a.example_id, x.prediction_time::DATE, e.discharge_time::DATE, p.death_time::DATE,
                (SELECT min(f.admit_time)::DATE FROM encounters f WHERE f.patient_id = x.patient_id
                    AND f.encounter_class = 'inpatient' AND f.admit_time > x.prediction_time)
            FROM asked a JOIN examples x USING (example_id) JOIN encounters e USING (encounter_id)
            LEFT JOIN patients p ON p.patient_id = x.patient_id"""):
        if asked_on is not None:
            ahead[name] = (asked_on, {day for day in later if day is not None and day > asked_on})
    material.connection.unregister("asked")
    hits: Spans = {}
    future, pairs = 0, []
    apart: dict[int, int] = {}  # days from the question to its outcome dates, counted over all rows
    for asked_on, days in ahead.values():
        for day in days:
            apart[(day - asked_on).days] = apart.get((day - asked_on).days, 0) + 1
    for place, known in task.scan("dates", dates):
        if rows.ids[place] not in ahead:
            continue
        asked_on, days = ahead[rows.ids[place]]
        later_dates = [(d, a, b) for d, a, b in known if d > asked_on]
        future += bool(later_dates)
        pairs += [(d - asked_on).days for d, _, _ in {d[0]: d for d in later_dates}.values()]
        if found := [(a, b) for d, a, b in later_dates if d in days]:
            hits[place] = found
    limit = material.threshold("outcome_dates", rows.task)
    asked = len(ahead)
    by_chance = sum(apart.get(gap, 0) for gap in pairs) / max(asked, 1) ** 2
    found_share = share(len(hits), asked, material.settings.confidence)
    bad = found_share.low > by_chance + limit.value and len(hits) >= LEAST_HITS
    figures = found_share.figures("share") | {"by_chance": by_chance, "notes_with_later_dates": future, "notes": asked}
    ids = first([str(rows.ids[p]) for p in hits])
    if bad:
        said = (
            f"{plural(len(hits), 'note')} of {asked:,} hold the very date of a discharge, death or return that lies "
            "ahead "
            f"({percent(found_share.value)}; {percent(by_chance)} would by chance)."
        )
    else:
        said = (
            f"{plural(future, 'note')} of {asked:,} hold a date after the question; {len(hits)} of them that of a "
            "discharge, "
            f"death or return ({fixed(100 * by_chance, 1)} % would by chance)."
        )
    verdict = graded(bad, "fail", graded(bool(hits), "warn", "pass"))
    excerpts = _excerpts(material, task, hits)
    told_limit = told("outcome_dates", limit)
    return Finding(DATES, (1,), rows.task, verdict, said, len(hits), ids, figures, told_limit, excerpts)


def _excerpts(material: Material, task: _Task, spans: Spans) -> tuple[str, ...]:
    if not material.settings.show_text:
        return ()
    shown = []
    for place in sorted(spans)[:EXCERPTS]:
        start, end = spans[place][0]
        text = " ".join(task.texts[place][max(0, start - AROUND) : min(end, start + 120) + AROUND].split())
        shown.append(f"{task.rows.ids[place]}: … {text} …")
    return tuple(shown)
