"""The opening paragraph says what the paired intervals decide, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from lang1.reporting.answer import answer, verdict
from lang1.reporting.index import Index
from lang1.reporting.schema import Row, validate_results

SPECIALIST = {"model": "nano", "regime": "joint"}


def _row(task: str, metric: str = "auroc", value: float | None = 0.8, **more: Any) -> dict[str, Any]:
    return {"task": task, "metric": metric, "value": value, "split": "test", "n": 500, **SPECIALIST, **more}


def _results(rows: list[dict[str, Any]], real: bool = False) -> Index:
    names = dict.fromkeys(row["task"] for row in rows)
    return Index(
        validate_results(
            {
                "lang1_results": 1,
                "title": "t",
                "data": [{"name": "d", "real": real, "patients": 10}],
                "tasks": [{"task": n, "title": n.upper(), "headline_split": "test"} for n in names],
                "rows": rows,
            }
        )
    )


def _paired(task: str, value: float, low: float, high: float, versus: str = "nano|zero-shot") -> dict[str, Any]:
    return _row(task, value=value, low=low, high=high, versus=versus, note="p=0.01")


OWN = {"model": "nano", "regime": "zero-shot"}


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (0.01, 0.05, "higher", "ahead"),
        (-0.05, -0.01, "higher", "behind"),
        (-0.01, 0.05, "higher", "undecided"),
        (0.0, 0.05, "higher", "undecided"),
        (0.01, 0.05, "lower", "behind"),
        (-0.05, -0.01, "lower", "ahead"),
        (None, 0.05, "higher", "not compared"),
    ],
)
def test_the_interval_decides(low: float | None, high: float, better: str, expected: str) -> None:
    row = Row(task="a", model="m", regime="joint", metric="auroc", value=0.02, low=low, high=high)
    assert verdict(row, better) == expected


def test_no_row_is_no_verdict() -> None:
    assert verdict(None) == "not compared"


@pytest.mark.parametrize(
    ("low", "high", "ending"),
    [(0.01, 0.03, "ahead."), (-0.03, -0.01, "behind."), (-0.01, 0.03, "undecided.")],
)
def test_one_task_names_the_difference_and_its_verdict(low: float, high: float, ending: str) -> None:
    text = " ".join(answer(_results([_row("a", low=0.75, high=0.85), _row("a", **OWN), _paired("a", 0.02, low, high)])))
    assert "On 500 held-out simulated admissions, nano (finetuned jointly) answers one question" in text
    assert "AUROC of 0.800 (0.750–0.850)" in text
    assert text.endswith(ending)


def test_several_tasks_are_counted_by_verdict() -> None:
    rows = [_row(t, value=v) for t, v in (("a", 0.7), ("b", 0.8), ("c", 0.9))] + [_row(t, **OWN) for t in "abc"]
    rows += [_paired("a", 0.1, 0.05, 0.15), _paired("b", 0.0, -0.1, 0.1), _paired("c", -0.1, -0.15, -0.05)]
    text = " ".join(answer(_results(rows, real=True)))
    assert "0.700 (A) to 0.900 (C)" in text
    assert "ahead on 1 (A), undecided on 1 (B) and behind on 1 (C)" in text
    assert "real admissions" in text


def test_all_ahead_is_said_in_one_phrase_with_the_range_of_differences() -> None:
    rows = [_row(t) for t in "ab"] + [_row(t, **OWN) for t in "ab"]
    rows += [_paired("a", 0.1, 0.05, 0.15), _paired("b", 0.2, 0.1, 0.3)]
    assert "it is ahead on all 2 (differences +0.100 to +0.200)" in " ".join(answer(_results(rows)))


def test_a_comparison_made_on_some_tasks_is_not_stretched_to_all() -> None:
    rows = [_row(t) for t in "ab"] + [_row("a", model="tfidf-lr", regime="baseline")]
    rows += [_paired("a", 0.1, 0.05, 0.15, "tfidf-lr|baseline")]
    text = " ".join(answer(_results(rows)))
    assert "TF-IDF + logistic regression (A only)" in text
    assert "on all" not in text


def test_a_difference_without_interval_decides_nothing() -> None:
    rows = [_row("a"), _row("a", **OWN), _row("a", value=0.3, versus="nano|zero-shot")]
    text = " ".join(answer(_results(rows)))
    assert "has no interval" in text
    assert "ahead" not in text


def test_without_paired_rows_nothing_is_compared() -> None:
    text = " ".join(answer(_results([_row("a", value=0.9), _row("a", value=0.5, **OWN)])))
    assert "ompared" not in text and "ahead" not in text


def test_without_a_specialist_there_is_no_verdict() -> None:
    assert "no specialist to judge" in " ".join(answer(_results([_row("a", **OWN)])))


def test_attained_share_is_told_where_there_is_an_oracle() -> None:
    rows = [_row("a"), _row("a", "attained_share", 0.63), _row("b"), _row("b", "attained_share", 0.81)]
    assert "63\u202f% (A) to 81\u202f% (B)" in " ".join(answer(_results(rows)))
