"""The case browser of a study's report: cases by task, filtered without a script, each with a way on and back."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

from lang1.reporting import plots
from lang1.reporting.numbers import percent, plural
from lang1.reporting.study_schema import Case, CaseAnswer, Study
from lang1.reporting.study_words import CASE_ROLES

REAL = "The case browser of this page holds {n} of real patients, note text included: whoever has the page has it."
MARKERS = {"specialist": "circle", "self": "circle", "generalist": "square", "baseline": "diamond", "oracle": "bar"}


def browser(study: Study) -> dict[str, Any]:
    """Cases grouped by task in the order of the study's tasks, with neighbours; a warning where patients are real."""
    titles = {task.task: task.title or task.task for task in study.tasks}
    order = {name: place for place, name in enumerate(dict.fromkeys([*titles, *(c.task for c in study.cases)]))}
    ordered = sorted(study.cases, key=lambda case: order[case.task])
    made = [_case(case, k, titles.get(case.task, case.task)) for k, case in enumerate(ordered, 1)]
    for before, after in pairwise(made):
        before["next"], after["previous"] = after["id"], before["id"]
    groups = [
        {"place": k, "title": title, "cases": list(found)}
        for k, (title, found) in enumerate(groupby(made, key=lambda case: case["title"]))
    ]
    for group in groups:
        for case in group["cases"]:
            case["group"] = group["place"]
    real = [case for case in study.cases if is_real(case, study)]
    warning = REAL.format(n=plural(len(real), "case")) if real else ""
    return {"groups": groups, "all": made, "warning": warning}


def is_real(case: Case, study: Study) -> bool:
    """Whether a case is of a real patient; unless its system is known to be simulated, any real data makes it so."""
    simulated = {d.name for d in study.data if not d.real}
    return case.real or (any(d.real for d in study.data) and case.system not in simulated)


def _case(case: Case, number: int, title: str) -> dict[str, Any]:
    return {
        "id": f"case-{number}",
        "number": number,
        "title": title,
        "c": case,
        "options": [(text, place == case.label) for place, text in enumerate(case.options)],
        "answers": [_answer(answer, case) for answer in case.answers],
        "previous": "",
        "next": "",
    }


def _answer(answer: CaseAnswer, case: Case) -> dict[str, Any]:
    role = CASE_ROLES[answer.role]
    most = max(answer.probabilities, default=0.0)
    return {
        "swatch": plots.swatch(role, MARKERS[answer.role]),
        "role": role,
        "model": answer.model,
        "cells": [
            {"text": percent(p), "share": min(max(p, 0.0), 1.0), "most": p == most, "true": place == case.label}
            for place, p in enumerate(answer.probabilities)
        ],
    }
