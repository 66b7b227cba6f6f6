"""Cards: which there are, what the linter refuses, what records must support, and how unobserved rows are compared."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from test_remede_world import Rows, dc, hp, labels, population, settings, stay, write

from lang1.common.errors import InputError, SettingsError
from lang1.records.schema import OPTIONAL_TABLES, TABLES
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.card import Card, load_card, read_card, shipped_cards, write_card
from lang1.remede.cohort import Rule
from lang1.remede.known import EVENTS
from lang1.remede.lint import lint
from lang1.remede.names import TASKS, in_order
from lang1.remede.observability import IMBALANCE, imbalances
from lang1.remede.settings import BuildSettings
from lang1.remede.summary import summary_lines


def card_of(task: str, **edits: Any) -> Card:
    return load_card(task, None, edits)


def eligible(task: str, keep: str) -> list[str]:
    """What the linter says of a predicate as an eligibility rule of a shipped task."""
    return [str(finding) for finding in lint(card_of(task), [Rule("the rule", keep)])]


# Which cards there are.


def test_shipped_cards_are_those_that_are_tasks() -> None:
    names = shipped_cards()
    assert names[:5] == TASKS
    assert {"icu_transfer_48h", "discharge_not_home", "ed_return_7d"} <= set(names)
    assert not {"calendars", "charlson"} & set(names)
    assert in_order(["ed_return_7d", "mortality", "readmission"]) == ("readmission", "mortality", "ed_return_7d")


@pytest.mark.parametrize("task", shipped_cards())
def test_every_shipped_card_is_sound_and_survives_its_file(task: str, tmp_path: Path) -> None:
    card = load_card(task)
    assert lint(card) == []
    assert card.question().endswith("Answer:")
    write_card(tmp_path / "card.yaml", card)
    assert read_card(tmp_path / "card.yaml") == card


def test_a_card_that_names_its_rule_is_a_task_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    folder.mkdir()
    edit = {"based_on": "readmission", "title": "Return within 90 days", "horizon_days": 90}
    (folder / "readmission_90d.yaml").write_text(yaml.safe_dump(edit | {"censoring": {"observation_days": 90}}))
    card = load_card("readmission_90d", folder)
    assert (card.task, card.rule_name, card.horizon_days) == ("readmission_90d", "readmission", 90)
    assert card.censoring.open_stay_allowance_days == load_card("readmission").censoring.open_stay_allowance_days
    tables = {
        "encounters": [
            stay("A", "p", "2020-01-01 10:00", "2020-01-05 10:00"),
            stay("B", "p", "2020-03-01 10:00", "2020-03-05 10:00"),
        ],
        "notes": [dc("A", "p", "2020-01-05 12:00")],
    }
    write(tmp_path / "r", tables)
    build(tmp_path / "r", tmp_path / "b", settings(tasks=["readmission_90d", "readmission"], card_dir=str(folder)))
    benchmark = Benchmark.open(tmp_path / "b")
    assert benchmark.tasks == ["readmission", "readmission_90d"]
    assert labels(benchmark) == {"readmission:A": 0, "readmission_90d:A": 1}


def test_a_card_with_a_shipped_name_edits_it(tmp_path: Path) -> None:
    (tmp_path / "readmission.yaml").write_text("horizon_days: 60\n")
    assert load_card("readmission", tmp_path).horizon_days == 60
    assert load_card("readmission", tmp_path, {"horizon_days": 14}).horizon_days == 14


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("mine", "based_on: readmision\ntitle: x\n", "'based_on' is 'readmision', expected one of readmission"),
        ("mine", "based_on: readmission\n", "'title' is missing"),
        ("mine", "task: mine\ntitle: x\n", "'kind' is missing"),
        ("readmission", "based_on: mortality\n", "it edits the shipped card"),
        ("mine", "based_on: readmission\ntitle: x\ntask: other\n", "'task' is 'other', expected 'mine'"),
        (
            "mine",
            "based_on: ed_return_7d\ntitle: x\nsql: nowhere.sql\n",
            "'sql' is 'nowhere.sql', which cannot be read",
        ),
        ("mine", "based_on: readmission\ntitle: x\nrule: sql\n", "go together"),
        ("mine", "based_on: mortality\ntitle: x\nsupported_by: {needs: [vitals]}\n", "'vitals': no such table"),
        (
            "mine",
            "based_on: mortality\ntitle: x\nsupported_by: {needs: [notes.mood]}\n",
            "'notes.mood': no such column",
        ),
    ],
)
def test_cards_that_cannot_be_used(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(SettingsError) as error:
        load_card(name, tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_unknown_tasks_and_rules(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'readmision'; tasks are readmission, .*; did you mean 'readmission'\?"):
        load_card("readmision")
    (tmp_path / "frailty.yaml").write_text("based_on: mortality\ntitle: x\n")
    with pytest.raises(SettingsError, match="did you mean 'frailty'"):
        BuildSettings(tasks=("frality",), card_dir=tmp_path)
    with pytest.raises(SettingsError, match="unknown task 'los'"):
        BuildSettings(mark_unsupported=("los",))
    records = write(tmp_path / "r", {"encounters": [stay("A", "a", "2020-01-01", "2020-01-05")], "notes": []})
    with pytest.raises(SettingsError, match="'rule' is 'vibes', expected one of readmission"):
        build(records, tmp_path / "b", settings(tasks=["mortality"], cards={"mortality": {"rule": "vibes"}}))


# The linter.


def test_every_column_of_the_records_is_classified() -> None:
    assert {table: set(columns) for table, columns in EVENTS.items()} == {
        table: set(schema.names) for table, schema in (TABLES | OPTIONAL_TABLES).items()
    }
    for table, columns in EVENTS.items():
        assert set(columns.values()) <= {*TABLES.keys(), *columns, "always", "never", "coded"}, table


FUTURE = [
    "discharge_time IS NOT NULL",
    "discharge_time > prediction_time",
    "NOT (discharge_time <= prediction_time)",
    "coalesce(discharge_time > prediction_time, false)",
    "coalesce(discharge_time <= prediction_time, true)",
    "discharge_time IS NULL OR discharge_time <= prediction_time",
    "discharge_time IS NOT NULL OR discharge_time > prediction_time",
    "discharge_time IS NULL OR died_at > prediction_time",
    "coalesce(discharge_day > prediction_time, true)",
    "coalesce(discharge_time > prediction_time + INTERVAL 1 DAY, true)",
    "coalesce(discharge_time > prediction_time - INTERVAL (-1) DAY, true)",
    "coalesce(discharge_time > died_at, true)",
    "disposition <> 'hospice'",
    "coalesce(death_time > admit_time + INTERVAL 1 YEAR, true)",
    "NOT died_in_hospital",
    "date_diff('hour', admit_time, discharge_time) > 24",
    "value IS NOT NULL",
    "horizon_end < now()",
    "EXISTS (SELECT 1 FROM diagnoses d WHERE d.encounter_id = asked.encounter_id)",
    "encounter_id IN (SELECT encounter_id FROM claims)",
    "EXISTS (SELECT 1 FROM unit_stays u WHERE u.encounter_id = asked.encounter_id)",
    "EXISTS (SELECT 1 FROM unit_stays u WHERE u.in_time >= prediction_time)",
    "EXISTS (SELECT 1 FROM unit_stays u WHERE u.in_time <= prediction_time OR u.unit = 'x')",
    "EXISTS (SELECT 1 FROM unit_stays u WHERE u.in_time <= u.out_time)",
    "EXISTS (SELECT 1 FROM unit_stays u WHERE u.in_time <= prediction_time AND u.out_time IS NULL)",
    "EXISTS (SELECT 1 FROM unit_stays u LEFT JOIN encounters e ON u.in_time <= prediction_time)",
    "(SELECT max(e.disposition) FROM encounters e WHERE e.admit_time <= prediction_time) = 'home'",
    "EXISTS (SELECT 1 FROM claims c WHERE c.submitted_time <= prediction_time AND c.final_status = 'paid')",
    "EXISTS (SELECT 1 FROM notes n WHERE n.created_time <= prediction_time)",
    "EXISTS (SELECT 1 FROM diagnoses d, encounters e WHERE e.discharge_time <= prediction_time)",
    "EXISTS (SELECT 1 FROM diagnoses d, encounters e WHERE e.discharge_time <= prediction_time"
    " AND d.encounter_id = asked.encounter_id)",
    "EXISTS (SELECT 1 FROM given_labels g WHERE g.encounter_id = asked.encounter_id)",
    "EXISTS (SELECT 1 FROM patients p WHERE p.patient_id = asked.patient_id AND p.death_time IS NULL)",
    "3 < (SELECT count(*) FROM (SELECT * FROM encounters) x)",
    "patient_id IN (SELECT patient_id FROM patients UNION SELECT patient_id FROM claims)",
    "coalesce(discharge_time > prediction_time - INTERVAL '1 day -9 days', true)",
    "EXISTS (SELECT 1 FROM read_csv('x.csv'))",
    "EXISTS (SELECT 1 FROM stays)",
    "EXISTS (WITH x AS (SELECT 1) SELECT * FROM x)",
    "mood = 'good'",
    "admit_time > (",
    "true); SELECT (1",
]
PAST = [
    "admit_time IS NOT NULL AND payer <> 'x' AND age_at_admission >= 18",
    "coalesce(discharge_time > prediction_time, true)",
    "coalesce(prediction_time < discharge_time, true)",
    "coalesce(died_at <= prediction_time, false) IS FALSE",
    "discharge_time IS NULL OR discharge_time > prediction_time",
    "discharge_time > prediction_time OR discharge_time IS NULL",
    "NOT (discharge_time IS NOT NULL AND discharge_time <= prediction_time)",
    "coalesce(discharge_time > prediction_time - INTERVAL 2 HOUR, true)",
    "coalesce(asked.death_time > asked.admit_time, true)",
    "NOT EXISTS (SELECT 1 FROM unit_stays u WHERE u.in_time <= asked.prediction_time AND u.unit_type = 'ward')",
    "EXISTS (SELECT 1 FROM unit_stays WHERE in_time <= prediction_time AND coalesce(out_time > prediction_time, true))",
    "EXISTS (SELECT 1 FROM unit_stays u WHERE u.in_time BETWEEN asked.admit_time AND prediction_time)",
    "3 > (SELECT count(*) FROM encounters e WHERE e.patient_id = asked.patient_id AND e.admit_time < asked.admit_time)",
    "EXISTS (SELECT * FROM encounters e WHERE e.discharge_time <= prediction_time AND e.disposition = 'home')",
    "EXISTS (SELECT 1 FROM diagnoses d JOIN encounters e USING (encounter_id)"
    " WHERE e.discharge_time <= prediction_time AND d.code LIKE 'C%')",
    "EXISTS (SELECT 1 FROM diagnoses d JOIN encounters e ON d.encounter_id = e.encounter_id"
    " AND e.discharge_time <= prediction_time)",
    "EXISTS (SELECT 1 FROM notes n WHERE prediction_time >= n.available_time AND n.text LIKE '%x%')",
    "EXISTS (SELECT 1 FROM claims c WHERE c.final_time <= prediction_time AND c.charge > 3)",
    "EXISTS (SELECT 1 FROM patients p WHERE p.patient_id = asked.patient_id AND p.sex = 'female')",
    "patient_id IN (SELECT patient_id FROM patients UNION SELECT e.patient_id FROM encounters e"
    " WHERE e.admit_time <= prediction_time)",
    "1 < (SELECT max(n) FROM (SELECT count(*) AS n FROM encounters e WHERE e.admit_time <= prediction_time) x)",
]


@pytest.mark.parametrize("keep", FUTURE)
def test_eligibility_that_reads_the_future_is_refused(keep: str) -> None:
    assert eligible("mortality", keep)


@pytest.mark.parametrize("keep", PAST)
def test_eligibility_that_reads_the_past_passes(keep: str) -> None:
    assert eligible("mortality", keep) == []


def test_what_is_known_at_discharge_may_be_read_then() -> None:
    at_discharge = "disposition = 'home' AND discharge_time IS NOT NULL AND NOT died_in_hospital"
    assert eligible("readmission", at_discharge) == []
    assert {finding.column for finding in lint(card_of("mortality"), [Rule("x", at_discharge)])} == {
        "disposition",
        "discharge_time",
        "died_in_hospital",
    }
    assert eligible("readmission", "coalesce(died_at > discharge_time, true)") == []
    assert eligible("readmission", "died_at IS NULL")


def test_a_finding_names_card_rule_and_column_and_what_to_do() -> None:
    (line,) = eligible("mortality", "discharge_time > prediction_time")
    assert line.startswith(
        "mortality.yaml: rule 'the rule': eligibility reads 'discharge_time', which is known at disc"
    )
    assert "coalesce(discharge_time > prediction_time, true)" in line and "observability" in line
    (line,) = eligible("mortality", "EXISTS (SELECT 1 FROM procedures)")
    assert "bound it with performed_time <= prediction_time" in line


def test_rules_that_look_ahead_must_say_so() -> None:
    card = card_of("mortality")
    for reads in ("observability", "policy"):
        assert lint(card, [Rule("x", "NOT died_in_hospital", reads=reads)]) == []
    (finding,) = lint(card, [Rule("x", "coalesce(value = 1, false) OR admit_time <= '2020-01-01'", reads="censoring")])
    assert finding.column == "value" and "anchor alone" in finding.why


def test_an_exclusion_by_disposition_is_refused_before_discharge() -> None:
    (finding,) = lint(card_of("length_of_stay", exclusions={"dispositions": ["hospice"]}))
    assert finding.column == "disposition"
    assert lint(card_of("readmission", exclusions={"dispositions": ["against_advice"]})) == []


TIMES = st.one_of(st.none(), st.integers(-48, 48))


@given(
    st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=8), st.sampled_from([k for k in PAST if "SELECT" not in k])
)
@examples(max_examples=60, deadline=None)
def test_what_passes_does_not_change_with_the_future(times: list[tuple[int | None, int | None]], keep: str) -> None:
    """Against the data: nulling all that happens after the prediction time leaves every answer as it was."""
    now = datetime(2020, 1, 10)

    def at(hours: int | None, truncated: bool) -> str:
        unknown = hours is None or (truncated and hours > 0)
        return "NULL::TIMESTAMP" if unknown else f"TIMESTAMP '{now}' + INTERVAL ({hours}) HOUR"

    answers = []
    with duckdb.connect(":memory:") as connection:
        for truncated in (False, True):
            union = " UNION ALL ".join(
                f"SELECT {n} AS n, TIMESTAMP '{now}' AS prediction_time, TIMESTAMP '2020-01-05' AS admit_time,"
                f" 'p' AS payer, 50.0 AS age_at_admission, {at(end, truncated)} AS discharge_time,"
                f" {at(death, truncated)} AS died_at,"
                f" {at(death, truncated)} AS death_time"
                for n, (end, death) in enumerate(times)
            )
            sql = f"SELECT n, ({keep}) IS TRUE FROM ({union}) AS asked ORDER BY n"
            answers.append(connection.execute(sql).fetchall())
    assert answers[0] == answers[1]


# What records support.


def test_what_records_declare_unsupported(tmp_path: Path) -> None:
    tables = population(40)
    limits = [{"task": "readmission", "reason": "The extract holds only patients who were in intensive care."}]
    write(tmp_path / "r", tables, limits=limits)
    for task in ("readmission", "readmission_cms_like"):  # variants share the limit
        with pytest.raises(InputError, match=f"task '{task}' is not supported: The extract holds only") as error:
            build(tmp_path / "r", tmp_path / "b", settings(tasks=[task]))
        assert f"mark_unsupported=[{task}]" in str(error.value)
    build(tmp_path / "r", tmp_path / "aside", settings())
    aside = Benchmark.open(tmp_path / "aside")
    assert "readmission" not in aside.tasks and aside.manifest.extra["marks"] == []
    assert any(notice.startswith("Task 'readmission' is left aside:") for notice in aside.notices)
    build(tmp_path / "r", tmp_path / "marked", settings(mark_unsupported="all"))
    marked = Benchmark.open(tmp_path / "marked")
    assert "readmission" in marked.tasks
    reason = "The extract holds only patients who were in intensive care"
    assert marked.manifest.extra["marks"] == [{"task": "readmission", "reason": reason}]
    assert any("readmission" in line and reason in line for line in summary_lines(marked))


def test_what_a_card_needs(tmp_path: Path) -> None:
    write(tmp_path / "r", population(20))
    with pytest.raises(InputError, match="task 'icu_transfer_48h' is not supported: the records hold no unit_stays"):
        build(tmp_path / "r", tmp_path / "b", settings(tasks=["icu_transfer_48h"]))
    wary = {"mortality": {"supported_by": {"warns": ["patients.death_time"], "words": "Deaths outside are missed."}}}
    build(tmp_path / "r", tmp_path / "b", settings(tasks=["mortality"], cards=wary))
    said = "Task 'mortality': the records hold no patients.death_time. Deaths outside are missed."
    assert said in Benchmark.open(tmp_path / "b").notices


def test_completeness_that_nobody_declared_can_be_marked(tmp_path: Path) -> None:
    write(tmp_path / "r", population(20), complete_through={})
    with pytest.raises(InputError, match="does not say through when 'encounters' is complete"):
        build(tmp_path / "r", tmp_path / "b", settings(tasks=["mortality"]))
    build(tmp_path / "r", tmp_path / "b", settings(tasks=["mortality"], mark_unsupported=["mortality"]))
    benchmark = Benchmark.open(tmp_path / "b")
    assert benchmark.manifest.extra["marks"][0]["task"] == "mortality"
    assert not any("inside the complete data" in row["rule"] for row in benchmark.ledger)


# Label observability.


def uncoded(patients: int) -> dict[str, Rows]:
    """Stays without codes are those of older patients with another payer; every fifth has none."""
    tables: dict[str, Rows] = {"patients": [], "encounters": [], "notes": [], "diagnoses": []}
    for n in range(patients):
        name, without = f"E{n:03}", n % 5 == 0
        tables["patients"].append({"patient_id": name, "sex": "female" if n % 2 else "male"})
        more = {
            "payer": "self-pay" if without else "plan",
            "age_at_admission": 80.0 - n % 3 if without else 50.0 + n % 3,
        }
        tables["encounters"].append(
            stay(name, name, f"20{15 + n % 4}-03-01 08:00", f"20{15 + n % 4}-03-05 08:00", **more)
        )
        tables["notes"].append(hp(name, name, f"20{15 + n % 4}-03-01 10:00", text="x" * (100 + n % 7)))
        if not without:
            row = {"encounter_id": name, "patient_id": name, "code": "I10", "code_version": "ICD-10-CM"}
            tables["diagnoses"].append(row)
    # Nobody could have asked about this one, so it is no unobserved row.
    tables["encounters"].append(stay("NONOTE", "E000", "2019-03-01 08:00", "2019-03-05 08:00"))
    return tables


def test_unobserved_rows_are_counted_and_compared(tmp_path: Path) -> None:
    write(tmp_path / "r", uncoded(100))
    build(tmp_path / "r", tmp_path / "b", settings(tasks=["comorbidity"]))
    benchmark = Benchmark.open(tmp_path / "b")
    by_rule = {entry["rule"]: entry for entry in benchmark.manifest.extra["observability"]}
    entry = by_rule["has at least one diagnosis code"]
    assert (entry["task"], entry["reads"], entry["n_left"], entry["n_kept"]) == ("comorbidity", "observability", 20, 80)
    rows = {(row["name"], row["level"]): row for row in entry["covariates"]}
    # By hand, from the rows as they were written.
    left = np.array([80.0 - n % 3 for n in range(100) if n % 5 == 0])
    kept = np.array([50.0 + n % 3 for n in range(100) if n % 5])
    age = rows["age", None]
    assert age["share_or_mean_left"] == pytest.approx(left.mean(), abs=1e-4)
    assert age["share_or_mean_kept"] == pytest.approx(kept.mean(), abs=1e-4)
    smd = (left.mean() - kept.mean()) / np.sqrt((left.var() + kept.var()) / 2)
    assert age["smd"] == pytest.approx(smd, abs=1e-3)
    assert rows["payer", "self-pay"]["smd"] is None and rows["payer", "self-pay"]["share_or_mean_left"] == 1
    assert rows["sex", "female"]["smd"] == 0
    length = np.array([100 + n % 7 for n in range(100) if n % 5 == 0])
    assert rows["note_characters", None]["share_or_mean_left"] == pytest.approx(length.mean(), abs=1e-4)
    assert all(abs(row["smd"]) > IMBALANCE for row in imbalances(entry) if row["smd"] is not None)
    (line,) = [line for line in summary_lines(benchmark) if line.startswith("Left out by 'has at least one")]
    assert "20 rows that could have been asked, unlike the 80 kept" in line and "mean age" in line
    open_stays = by_rule["discharged by the end of the data (else the outcome is not observable)"]
    assert open_stays["n_left"] == 0 and open_stays["covariates"] == []


def test_the_comparison_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    tables = uncoded(60)
    write(tmp_path / "one", tables)
    write(tmp_path / "two", {name: rows[::-1] for name, rows in tables.items()})
    found = []
    for name in ("one", "two"):
        build(tmp_path / name, tmp_path / f"{name}-b", settings(tasks=["comorbidity"]))
        found.append(Benchmark.open(tmp_path / f"{name}-b").manifest.extra["observability"])
    assert found[0] == found[1]
