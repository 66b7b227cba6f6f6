"""The cases of a study's report: by rule, deterministic, and never of real patients unless asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from study_world import HOME, world

from lang1.evaluation.results import data_line
from lang1.records.store import Records
from lang1.reporting.study_schema import Case
from lang1.study.cases import choose
from lang1.study.context import Context


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return world(tmp_path_factory.mktemp("cases"), designs=("grid",), seeds=(1,), resamples=20)


@pytest.fixture(scope="module")
def cases(context: Context) -> list[Case]:
    return choose(context, 6)


def _kinds(case: Case) -> str:
    return case.why.split(":")[0]


def test_every_task_has_each_kind_once(context: Context, cases: list[Case]) -> None:
    assert list(dict.fromkeys(case.task for case in cases)) == context.tasks()
    kinds = {"sure and right", "sure and wrong", "models disagree", "near the middle", "drawn by chance"}
    for task in context.tasks():
        found = Counter(_kinds(case) for case in cases if case.task == task)
        assert found == Counter({*kinds, "far from the oracle"}), task
    assert len({case.example_id for case in cases}) == len(cases)


def test_the_same_study_gives_the_same_cases_and_another_seed_others(context: Context, cases: list[Case]) -> None:
    assert choose(context, 6) == cases
    assert [c.example_id for c in choose(context, 6, seed=1)] != [c.example_id for c in cases]
    assert len(choose(context, 2)) == 2 * len(context.tasks())
    assert choose(context, 0) == []


def test_kinds_mean_what_they_say(context: Context, cases: list[Case]) -> None:
    """Sure is measured against how often each outcome occurs, so that both outcomes can be sure."""
    benchmark = next(c.benchmark for c in context.cells if c.design == "grid" and c.tested_on == HOME)
    for case in cases:
        part = context.part(benchmark, case.task)
        assert part is not None
        share = np.bincount(part.labels, minlength=len(case.options)) / len(part.labels)
        leading = int(np.argmax(np.array(case.answers[0].probabilities) / share))
        if _kinds(case).startswith("sure"):
            assert (leading == case.label) == (_kinds(case) == "sure and right"), case.why
        row = part.examples["example_id"].to_pylist().index(case.example_id)
        assert case.label == part.labels[row]
        assert [len(a.probabilities) for a in case.answers] == [len(case.options)] * len(case.answers)
    labels = {case.label for case in cases if case.task == "readmission"}
    assert labels == {0, 1}, "outcomes alternate"


def test_each_model_stands_there_once_with_the_specialist_first_and_the_oracle_last(cases: list[Case]) -> None:
    for case in cases:
        roles = [answer.role for answer in case.answers]
        assert roles == ["specialist", "self", "generalist", "baseline", "oracle"]
        assert len({answer.model for answer in case.answers}) == len(roles), "names tell them apart"


def test_the_note_is_that_of_the_example(context: Context, cases: list[Case]) -> None:
    bench = next(iter(context.benchmarks.values()))
    rows = {row["example_id"]: row["note_id"] for row in bench.examples().to_pylist()}
    texts = bench.texts([rows[case.example_id] for case in cases])
    assert all(case.note == texts[rows[case.example_id]] and case.note for case in cases)
    assert {case.system for case in cases} == {str(data_line(bench)["name"])}, "as the report's data are named"
    assert all(case.question.endswith("?") and "A." not in case.question for case in cases)


def test_real_patients_are_shown_only_where_that_is_asked(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    bench: Records = next(iter(context.benchmarks.values())).records
    monkeypatch.setitem(bench.__dict__, "meta", bench.meta.model_copy(update={"real": True}))
    assert choose(context, 2) == []
    shown = choose(context, 2, allow_real=True)
    assert shown and all(case.real for case in shown)


def test_a_study_without_main_tables_has_no_cases(tmp_path: Path, context: Context) -> None:
    empty = Context([], {}, {}, context.settings, HOME)
    assert choose(empty) == []
