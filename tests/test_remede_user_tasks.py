"""Tasks that are a card and one SQL file, driven through the command line: the three that ship, and a user's own."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_remede_world import Rows, dc, hp, labels, population, settings, stay, write

from lang1.cli.main import main
from lang1.evaluation.predict_benchmark import evaluate_baseline
from lang1.evaluation.results import collect, write_results
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark

SETTINGS = settings().model_dump(mode="json")


@pytest.fixture
def lang1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command line; returns the exit code."""
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(SETTINGS))

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["lang1", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def build(lang1: Any, tmp_path: Path, *overrides: str) -> int:
    folder = tmp_path / "out"
    code = lang1(
        "remede", "build", str(tmp_path / "records"), str(folder), *overrides, "--config", str(tmp_path / "build.yaml")
    )
    return int(code)


def left(benchmark: Benchmark) -> dict[str, str]:
    return {row["encounter_id"]: row["rule"] for row in benchmark.left_out().to_pylist()}


def unit(encounter: str, kind: str, start: str | None, end: str | None) -> dict[str, Any]:
    row = {"encounter_id": encounter, "patient_id": encounter.lower(), "unit_type": kind}
    times = {"in_time": start, "out_time": end}
    return row | {name: datetime.fromisoformat(time) if time else None for name, time in times.items()}


def test_icu_transfer_within_48_hours(tmp_path: Path, lang1: Any) -> None:
    """The note of each stay is available on 2 January at 12:00; the window closes on 4 January at 12:00."""
    units = {
        "MOVED": [("ward", "2020-01-02 09:00", "2020-01-03 08:00"), ("intensive_care", "2020-01-03 08:00", None)],
        "LASTMINUTE": [("intensive_care", "2020-01-04 12:00", None)],
        "TOOLATE": [("intensive_care", "2020-01-04 12:01", None)],
        "ATONCE": [("intensive_care", "2020-01-02 12:00", "2020-01-05 12:00")],
        "ALREADY": [("intensive_care", "2020-01-02 10:00", None)],
        "BEFORE": [("intensive_care", "2020-01-02 10:00", "2020-01-02 11:00")],
        "AGAIN": [
            ("intensive_care", "2020-01-02 10:00", "2020-01-02 11:00"),
            ("intensive_care", "2020-01-03 10:00", "2020-01-03 12:00"),
        ],
        "STEPDOWN": [("step_down", "2020-01-03 10:00", "2020-01-03 12:00")],
        "UNTIMED": [("intensive_care", None, None)],
        "WARD": [],
        "OPEN": [],
        "NONOTE": [("intensive_care", "2020-01-03 08:00", None)],
        "GONE": [],
    }
    ends = {"OPEN": None, "GONE": "2020-01-02 11:00"}
    write(
        tmp_path / "records",
        {
            "encounters": [
                stay(name, name.lower(), "2020-01-02 08:00", ends.get(name, "2020-01-09 10:00")) for name in units
            ],
            "notes": [hp(name, name.lower(), "2020-01-02 12:00") for name in units if name != "NONOTE"],
            "unit_stays": [unit(name, *row) for name, rows in units.items() for row in rows],
        },
    )
    assert build(lang1, tmp_path, "tasks=[icu_transfer_48h]") == 0
    benchmark = Benchmark.open(tmp_path / "out")
    yes, no = ("MOVED", "LASTMINUTE", "AGAIN"), ("TOOLATE", "BEFORE", "STEPDOWN", "WARD", "OPEN")
    assert labels(benchmark) == {f"icu_transfer_48h:{name}": int(name in yes) for name in (*yes, *no)}
    found = left(benchmark)
    for name in ("ATONCE", "ALREADY"):
        assert found[name] == "not in intensive care when the note became available"
    assert "observable" in found["UNTIMED"] and "alive and in hospital" in found["GONE"]
    assert found["NONOTE"].startswith("has a history and physical note")
    row = next(r for r in benchmark.examples().to_pylist() if r["encounter_id"] == "MOVED")
    assert row["index_time"] == row["prediction_time"] == datetime(2020, 1, 2, 12)
    assert row["horizon_end"] == datetime(2020, 1, 4, 12)
    assert benchmark.questions()["icu_transfer_48h"].startswith("\n\nQuestion: Will this patient be moved")


def test_the_window_stands_in_the_card(tmp_path: Path, lang1: Any) -> None:
    late = [unit("A", "intensive_care", "2020-01-05 12:00", None), unit("B", "ward", "2020-01-02 12:00", None)]
    notes = [hp(name, name.lower(), "2020-01-02 12:00") for name in "AB"]
    stays = [stay(name, name.lower(), "2020-01-02 08:00", "2020-01-09 10:00") for name in "AB"]
    write(tmp_path / "records", {"encounters": stays, "notes": notes, "unit_stays": late})
    edit = "cards.icu_transfer_48h.constants.window_hours=72"
    assert build(lang1, tmp_path, "tasks=[icu_transfer_48h]", edit) == 0
    assert labels(Benchmark.open(tmp_path / "out")) == {"icu_transfer_48h:A": 1, "icu_transfer_48h:B": 0}


def test_discharge_to_other_than_home(tmp_path: Path, lang1: Any, capsys: pytest.CaptureFixture[str]) -> None:
    places = {
        "HOME": "home",
        "HELPED": "home_health",
        "NURSED": "skilled_nursing",
        "REHAB": "rehabilitation",
        "HOSPICE": "hospice",
        "ELSEWHERE": "other",
        "UNKNOWN": "unknown",
        "NULL": None,
        "DIED": "expired",
        "LEFT": "against_advice",
    }
    write(
        tmp_path / "records",
        {
            "encounters": [
                *(stay(n, n.lower(), "2020-01-02 08:00", "2020-01-09 10:00", disposition=d) for n, d in places.items()),
                stay("OPEN", "open", "2020-01-02 08:00", None, disposition=None),
                stay("NEW", "new", "2024-12-20 08:00", "2024-12-24 10:00"),
            ],
            "notes": [
                *(hp(name, name.lower(), "2020-01-02 12:00") for name in (*places, "OPEN")),
                hp("NEW", "new", "2024-12-20 12:00"),
            ],
        },
    )
    assert build(lang1, tmp_path, "tasks=[discharge_not_home]") == 0
    benchmark = Benchmark.open(tmp_path / "out")
    yes, no = ("NURSED", "REHAB", "HOSPICE", "ELSEWHERE"), ("HOME", "HELPED")
    assert labels(benchmark) == {f"discharge_not_home:{name}": int(name in yes) for name in (*yes, *no)}
    found = left(benchmark)
    assert found["DIED"].startswith("did not die in hospital (policy")
    assert found["LEFT"].startswith("did not leave against advice (policy")
    assert all("observable" in found[name] for name in ("UNKNOWN", "NULL", "OPEN"))
    assert "inside the complete data" in found["NEW"]
    table = {entry["rule"]: entry for entry in benchmark.manifest.extra["observability"]}
    assert [(entry["reads"], entry["n_left"]) for entry in table.values()] == [
        ("policy", 1),
        ("policy", 1),
        ("observability", 3),
    ]
    assert {entry["n_kept"] for entry in table.values()} == {6}


def test_return_to_the_emergency_department(tmp_path: Path, lang1: Any) -> None:
    """Each patient is discharged on 5 January at 10:00; the note is available at 12:00, but for SLOW a day later."""
    returns = {
        "BACK": ("emergency", "2020-01-08 03:00"),
        "DAY7": ("emergency", "2020-01-12 10:00"),
        "DAY8": ("emergency", "2020-01-12 10:01"),
        "ADMITTED": ("inpatient", "2020-01-08 03:00"),
        "CLINIC": ("outpatient", "2020-01-08 03:00"),
        "ATONCE": ("emergency", "2020-01-05 11:00"),
        "SLOW": ("emergency", "2020-01-05 18:00"),
        "EARLIER": ("emergency", "2020-01-01 05:00"),
        "NEVER": None,
    }
    encounters: Rows = []
    for name, visit in returns.items():
        encounters.append(stay(name, name.lower(), "2020-01-01 08:00", "2020-01-05 10:00"))
        if visit:
            kind, at = visit
            end = datetime.fromisoformat(at) + timedelta(hours=5)
            encounters.append(stay(f"{name}2", name.lower(), at, end, encounter_class=kind))
    encounters += [
        stay("DIED", "died", "2020-01-01 08:00", "2020-01-05 10:00", disposition="expired"),
        stay("MOVED", "moved", "2020-01-01 08:00", "2020-01-05 10:00", disposition="transfer_acute"),
        stay("LATE", "late", "2024-12-20 08:00", "2024-12-26 10:00"),
        stay("LATE2", "late", "2024-12-27 08:00", "2024-12-27 10:00", encounter_class="emergency"),
        stay("GONE", "gone", "2020-01-01 08:00", "2020-01-05 10:00"),
    ]
    asked = [*returns, "DIED", "MOVED", "GONE"]
    notes = [dc(name, name.lower(), "2020-01-06 12:00" if name == "SLOW" else "2020-01-05 12:00") for name in asked] + [
        dc("LATE", "late", "2024-12-26 12:00")
    ]
    dead = [{"patient_id": "gone", "death_time": datetime(2020, 1, 5, 11), "death_source": "ehr"}]
    write(tmp_path / "records", {"patients": dead, "encounters": encounters, "notes": notes})
    assert build(lang1, tmp_path, "tasks=[ed_return_7d]") == 0
    benchmark = Benchmark.open(tmp_path / "out")
    yes, no = ("BACK", "DAY7"), ("DAY8", "ADMITTED", "CLINIC", "EARLIER", "NEVER")
    assert labels(benchmark) == {f"ed_return_7d:{name}": int(name in yes) for name in (*yes, *no)}
    found = left(benchmark)
    for name in ("ATONCE", "SLOW"):
        assert found[name].startswith("not back in hospital")
    assert found["DIED"] == "discharged alive" and found["GONE"] == "alive when the note became available"
    assert found["MOVED"] == "not discharged to: transfer_acute"
    # Symmetric: the return of LATE is in the extract and does not make it count.
    assert "inside the complete data" in found["LATE"]
    row = next(r for r in benchmark.examples().to_pylist() if r["encounter_id"] == "NEVER")
    assert (row["index_time"], row["horizon_end"]) == (datetime(2020, 1, 5, 10), datetime(2020, 1, 12, 10))


def test_without_any_emergency_visit_nothing_is_observable(
    tmp_path: Path, lang1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"encounters": [stay("A", "a", "2020-01-01 08:00", "2020-01-05 10:00")]}
    write(tmp_path / "records", {**tables, "notes": [dc("A", "a", "2020-01-05 12:00")]})
    assert build(lang1, tmp_path, "tasks=[ed_return_7d]") == 2
    assert "none left after 'the outcome is observable" in capsys.readouterr().err


CARD = {
    "task": "long_stay",
    "title": "A stay of a week and more",
    "rule": "sql",
    "sql": "long_stay.sql",
    "kind": "multiclass",
    "definition": "How long will the stay last?",
    "note_type": "history_and_physical",
    "question_template": "How long will this patient stay?",
    "options": ["up to a week", "up to two weeks", "longer"],
    "cut_points": [7, 14],
    "prediction": {"earliest": "admission", "in_hospital": True, "words": "At the H&P."},
    "eligibility": [{"words": "adults", "keep": "age_at_admission >= adult"}],
    "censoring": {"anchor": "admission", "tables": ["encounters"], "observation_days": 60, "words": "60 days."},
    "constants": {"adult": 18},
    "label_source": "Days between admission and discharge.",
}
QUERY = "SELECT encounter_id, date_diff('day', admit_time, discharge_time) AS value FROM asked;\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a user's card and SQL file, and records for it."""
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "long_stay.yaml").write_text(yaml.safe_dump(CARD))
    (folder / "long_stay.sql").write_text(QUERY)
    lengths = {"A": 3, "B": 7, "C": 8, "D": 20, "CHILD": 2}
    write(
        tmp_path / "records",
        {
            "encounters": [
                stay(
                    n,
                    n,
                    "2020-01-02 08:00",
                    f"2020-01-{2 + d:02} 10:00",
                    age_at_admission=5.0 if n == "CHILD" else 50.0,
                )
                for n, d in lengths.items()
            ],
            "notes": [hp(name, name, "2020-01-02 12:00") for name in lengths],
        },
    )
    return folder


def test_a_users_own_task(tmp_path: Path, own: Path, lang1: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(lang1, tmp_path, "tasks=[length_of_stay, long_stay]", f"card_dir={own}") == 0
    assert "A stay of a week and more (long_stay)" in capsys.readouterr().out
    benchmark = Benchmark.open(tmp_path / "out")
    assert benchmark.tasks == ["length_of_stay", "long_stay"]
    mine = {name: label for name, label in labels(benchmark).items() if name.startswith("long_stay")}
    assert mine == {"long_stay:A": 0, "long_stay:B": 0, "long_stay:C": 1, "long_stay:D": 2}
    assert left(benchmark)["CHILD"] == "adults"
    # The benchmark keeps the query with the card, so it opens without the user's folder.
    (own / "long_stay.sql").unlink()
    card = Benchmark.open(tmp_path / "out").cards["long_stay"]
    assert card.query == QUERY and card.cut_points == (7, 14)


def test_from_build_to_report(tmp_path: Path, lang1: Any) -> None:
    """A task that is none of the five is scored and reported like any other; what the records lack stands with it."""
    tables = population(80)
    limits = [{"task": "discharge_not_home", "reason": "the dispositions are invented"}]
    for number, row in enumerate(tables["encounters"]):
        row["disposition"] = "home" if number % 3 else "skilled_nursing"
    write(tmp_path / "records", tables, limits=limits)
    chosen = {"calendar": None, "fractions": {"train": 0.5, "val": 0.1, "test": 0.4}}
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(chosen))
    assert build(lang1, tmp_path, "tasks=[discharge_not_home]", "mark_unsupported=[discharge_not_home]") == 0
    asked = EvaluateSettings(resamples=20, fast=True)
    evaluate_baseline("note-length", tmp_path / "out", tmp_path / "predictions", asked)
    found = collect(tmp_path / "out", [tmp_path / "predictions"], asked)
    write_results(tmp_path / "results", found)
    assert lang1("report", str(tmp_path / "results" / "results.json"), str(tmp_path / "report.html")) == 0
    (task,) = found["tasks"]
    assert task["title"] == "Discharge to other than home" and "Will this patient be discharged" in task["question"]
    assert task["caveat"].startswith("Not supported by these records: the dispositions are invented. ")
    assert any(row["task"] == "discharge_not_home" and row["metric"] == "auroc" for row in found["rows"])
    assert "Discharge to other than home" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT encounter_id, lenght AS value FROM asked", "long_stay.sql .*lenght"),
        ("SELECT encounter_id FROM", "long_stay.sql .*syntax error"),
        ("SELECT encounter_id FROM asked", "gives no column 'value'"),
        ("SELECT encounter_id, 1 AS value, 2 AS other FROM asked", "a column 'other', which nothing reads"),
        ("SELECT encounter_id, 'yes' AS value FROM asked", "type VARCHAR"),
        ("SELECT encounter_id, -1 AS value FROM asked", "encounter 'A' has value -1"),
        ("SELECT encounter_id, 1 AS value FROM asked, range(2)", "'A' more than once"),
        ("SELECT encounter_id, 1 AS value FROM asked; SELECT 1", "2 statements"),
        ("DELETE FROM asked", "Only SELECT"),
        ("SELECT encounter_id, 1 AS value FROM read_csv('x.csv')", r"reads read_csv\(\)"),
        ("SELECT encounter_id, 1 AS value FROM 'x.parquet'", "reads 'x.parquet'"),
        ("SELECT encounter_id, 1 AS value FROM asked WHERE random() > 0.5", "random changes"),
        ("SELECT encounter_id, 1 AS value FROM asked WHERE admit_time < current_date", "current_date changes"),
    ],
)
def test_a_query_that_cannot_be_used(
    tmp_path: Path, own: Path, lang1: Any, capsys: pytest.CaptureFixture[str], query: str, says: str
) -> None:
    (own / "long_stay.sql").write_text(query)
    assert build(lang1, tmp_path, "tasks=[long_stay]", f"card_dir={own}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "long_stay.sql (task 'long_stay')" in error
    assert re.search(says, error), error
    assert not (tmp_path / "out").exists()


def test_a_query_with_common_table_expressions(tmp_path: Path, own: Path, lang1: Any) -> None:
    query = "WITH d AS (SELECT encounter_id AS e, 3 AS v FROM encounters) SELECT e AS encounter_id, v AS value FROM d"
    (own / "long_stay.sql").write_text(query)
    assert build(lang1, tmp_path, "tasks=[long_stay]", f"card_dir={own}") == 0
    assert set(labels(Benchmark.open(tmp_path / "out")).values()) == {0}


def test_a_card_whose_eligibility_reads_the_future_is_refused(
    tmp_path: Path, own: Path, lang1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    card = CARD | {"eligibility": [{"words": "stayed a night", "keep": "discharge_time > admit_time + INTERVAL 1 DAY"}]}
    (own / "long_stay.yaml").write_text(yaml.safe_dump(card))
    assert build(lang1, tmp_path, "tasks=[long_stay]", f"card_dir={own}") == 2
    error = capsys.readouterr().err
    assert "long_stay.yaml: rule 'stayed a night': eligibility reads 'discharge_time', which is known" in error


def test_bounded_subqueries_pass(tmp_path: Path, own: Path, lang1: Any) -> None:
    """No stay in the year before: reads other stays, up to the prediction time."""
    keep = """NOT EXISTS (SELECT 1 FROM encounters e WHERE e.patient_id = asked.patient_id
        AND e.encounter_id <> asked.encounter_id AND e.discharge_time <= prediction_time
        AND e.discharge_time > asked.admit_time - INTERVAL 365 DAY)"""
    card = CARD | {"eligibility": [{"words": "no stay in the year before", "keep": keep}]}
    (own / "long_stay.yaml").write_text(yaml.safe_dump(card))
    tables = {
        "encounters": [
            stay("FIRST", "p", "2020-01-01 08:00", "2020-01-05 10:00"),
            stay("SECOND", "p", "2020-03-01 08:00", "2020-03-05 10:00"),
            stay("THIRD", "p", "2022-03-01 08:00", "2022-03-05 10:00"),
        ],
        "notes": [hp("FIRST", "p", "2020-01-02"), hp("SECOND", "p", "2020-03-02"), hp("THIRD", "p", "2022-03-02")],
    }
    write(tmp_path / "more", tables)
    config = str(tmp_path / "build.yaml")
    arguments = (str(tmp_path / "more"), str(tmp_path / "out"), "tasks=[long_stay]", f"card_dir={own}")
    assert lang1("remede", "build", *arguments, "--config", config) == 0
    assert set(labels(Benchmark.open(tmp_path / "out"))) == {"long_stay:FIRST", "long_stay:THIRD"}


def test_a_predicate_that_duckdb_refuses(
    tmp_path: Path, own: Path, lang1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    card = CARD | {"eligibility": [{"words": "odd", "keep": "admit_time + 'x' > 3"}]}
    (own / "long_stay.yaml").write_text(yaml.safe_dump(card))
    assert build(lang1, tmp_path, "tasks=[long_stay]", f"card_dir={own}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "long_stay.yaml: rule 'odd':" in error
