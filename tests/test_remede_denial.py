"""Denial labels: golden frames from the text of 837 and 835 files, the site's own lag, the payer's baseline."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from test_remede_golden import lang1
from test_remede_world import Rows, hp, labels, settings, stay, when, write
from x12_text import claims_837, joined, remits_835

from lang1.common.errors import InputError, SettingsError
from lang1.evaluation.predict_benchmark import evaluate_baseline
from lang1.evaluation.settings import EvaluateSettings
from lang1.records.readers.x12_adjudication import DENIAL_REASONS, load_reasons
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build

CASES = yaml.safe_load(Path(__file__).with_name("test_remede_golden_denial.yaml").read_text(encoding="utf-8"))
TASKS = {"expect": "insurance_denial", "final": "insurance_denial_final", "clinical": "insurance_denial_clinical"}
WORLDS = sorted({tuple(case.get("settings", ())) for case in CASES})


@dataclass
class World:
    """What the command line made of all cases with the same settings; ids begin with the case's number."""

    claims: dict[str, dict[str, Any]]
    benchmark: Benchmark
    labels: dict[str, int]
    left: dict[str, str]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], World]:
    return {given: world(given, tmp_path_factory.mktemp("world")) for given in WORLDS}


def world(given: tuple[str, ...], tmp_path: Path) -> World:
    row = {"claim_id": "known", "encounter_id": "known", "patient_id": "known", "coverage_order": 1}
    tables: dict[str, Rows] = {
        "encounters": [stay("known", "known", "2015-01-01 10:00", "2015-01-05 10:00")],
        "notes": [hp("known", "known", "2015-01-01 12:00")],
        "claims": [row | {"final_status": "paid"}],
    }
    folder = tmp_path / "edi"
    folder.mkdir()
    for number, case in enumerate(CASES):
        if tuple(case.get("settings", ())) == given:
            situation(f"{number:02d}", case, tables, folder)
    write(tmp_path / "base", tables, complete_through={})
    feed = () if any(one.startswith("feed_end") for one in given) else ("feed_end=2020-12-31",)
    place = tmp_path / "records"
    assert lang1("ingest", "x12", str(folder), str(place), f"records={tmp_path / 'base'}", *feed, *given) == 0
    config = {
        "calendar": {"train": {"start": "2000-01-01", "end": "2030-12-31"}},
        "fractions": {"train": 1.0, "val": 0.0, "test": 0.0},
        "tasks": list(TASKS.values()),
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config))
    assert lang1("remede", "build", str(place), str(tmp_path / "out"), "--config", str(tmp_path / "build.yaml")) == 0
    benchmark = Benchmark.open(tmp_path / "out")
    claims = {row["claim_id"]: row for row in pq.read_table(place / "claims").to_pylist()}
    left = {f"{row['task']}:{row['encounter_id']}": row["rule"] for row in benchmark.left_out().to_pylist()}
    return World(claims, benchmark, labels(benchmark), left)


def situation(prefix: str, case: dict[str, Any], tables: dict[str, Rows], folder: Path) -> None:
    """Add a case's encounters and files."""
    for name in sorted({row[0] for row in [*case["claims"], *case["remits"]]}):
        encounter, patient = f"{prefix}{name}", f"p{prefix}{name}"
        tables["encounters"].append(stay(encounter, patient, "2020-01-01 10:00", "2020-01-05 10:00"))
        tables["notes"].append(hp(encounter, patient, str(case.get("notes", {}).get(name, "2020-01-01 12:00"))))

    def named(name: str, more: dict[str, Any]) -> dict[str, Any]:
        return {"record": f"p{prefix}{name}"} | more | {"id": prefix + more.get("id", name)}

    for number, (name, more) in enumerate(case["claims"]):
        text = joined(claims_837([named(name, more)], submitted=str(more.get("submitted", "2020-01-15"))))
        (folder / f"{prefix}-{number:02d}.837").write_text(text)
    by_file: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, day, status, charge, paid, more in case["remits"]:
        row = named(name, {"status": status, "charge": charge, "paid": paid} | more)
        by_file.setdefault((str(day), more.get("payer", "FIRST MUTUAL")), []).append(row)
    # Named against the order of their dates: the order of answers is that of dates, not of files.
    for number, ((day, payer), rows) in enumerate(sorted(by_file.items(), reverse=True)):
        (folder / f"{prefix}-{number:02d}.835").write_text(joined(remits_835(rows, day=day, payer=payer)))


def at(value: Any) -> datetime | None:
    return when(str(value)) if value is not None else None


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number]["name"])
def test_golden_frame(number: int, worlds: dict[tuple[str, ...], World]) -> None:
    case, prefix = CASES[number], f"{number:02d}"
    made = worlds[tuple(case.get("settings", ()))]
    claims = {name[2:]: row for name, row in made.claims.items() if name.startswith(prefix)}
    assert {claim: row["final_status"] for claim, row in claims.items()} == case["status"]
    for claim, codes in case.get("codes", {}).items():
        assert claims[claim]["adjustment_codes"] == codes
    for claim, times in case.get("times", {}).items():
        assert [claims[claim][f"{name}_time"] for name in ("submitted", "first_remit", "final")] == [*map(at, times)]
    for field, task in TASKS.items():
        start = f"{task}:{prefix}"
        found = {name.removeprefix(start): label for name, label in made.labels.items() if name.startswith(start)}
        if field in case or field != "clinical":
            assert found == case.get(field, {}), task
    for example, rule in case.get("left", {}).items():
        task, _, encounter = example.partition(":")
        assert rule in made.left[f"{task}:{prefix}{encounter}"]


def test_there_are_enough_situations() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) >= 25


def test_denials_for_other_reasons_are_told_by_bucket(worlds: dict[tuple[str, ...], World]) -> None:
    (told,) = [line for line in worlds[()].benchmark.notices if "denials for other reasons" in line]
    assert "insurance_denial_clinical" in told and "timely_filing 1" in told and "coverage 1" in told


def claims_world(out: Path, rows: list[tuple[str, str, int, int | None]], **columns: Any) -> Path:
    """Stays of 2020-01-01 to 2020-01-05: name, status, day submitted after discharge, days to the answer."""
    discharge = datetime(2020, 1, 5, 10)
    tables: dict[str, Rows] = {"encounters": [], "notes": [], "claims": []}
    for name, status, submitted, lag in rows:
        sent = discharge + timedelta(days=submitted)
        answered = sent + timedelta(days=lag) if lag is not None else None
        tables["encounters"].append(stay(name, f"p{name}", "2020-01-01 10:00", "2020-01-05 10:00"))
        tables["notes"].append(hp(name, f"p{name}", "2020-01-01 12:00"))
        claim = {"claim_id": name, "encounter_id": name, "patient_id": f"p{name}", "coverage_order": 1}
        times = {"submitted_time": sent, "first_remit_time": answered, "final_time": answered}
        tables["claims"].append(claim | times | {"final_status": status} | columns)
    return write(out, tables, complete_through={"claims": {"through": "2020-12-31", "key": "submitted_time"}})


def built(records: Path, out: Path, task: str = "insurance_denial", **own: Any) -> Benchmark:
    build(records, out, settings(tasks=(task,), cards={task: {"constants": own}}))
    return Benchmark.open(out)


def test_the_lag_is_the_sites_own_and_treats_all_outcomes_alike(tmp_path: Path) -> None:
    # 100 claims, lags 1 to 100 days, every fifth a denial: the 95th percentile is 95 days. Submitted by 2020-07-04.
    early = [(f"E{lag:03d}", "denied_upheld" if lag % 5 == 0 else "paid", 10, lag) for lag in range(1, 101)]
    day = (datetime(2020, 12, 31) - datetime(2020, 1, 5)).days - 95  # submitted then, 95 days are left
    late = [
        ("in-time-paid", "paid", day, 90),
        ("in-time-denied", "denied_overturned", day, 90),
        ("too-late-paid", "paid", day + 1, 20),
        ("too-late-denied", "denied_upheld", day + 1, 20),
        ("unanswered", "pending", 10, None),
    ]
    records = claims_world(tmp_path / "records", early + late)
    benchmark = built(records, tmp_path / "out", lag="p95")
    assert any("of 101 claims submitted by 2020-07-04, 100 were decided" in n for n in benchmark.notices)
    assert any("within 95 days" in n for n in benchmark.notices)
    found = {name.partition(":")[2]: label for name, label in labels(benchmark).items()}
    assert {name: label for name, label in found.items() if not name.startswith("E")} == {
        "in-time-paid": 0,
        "in-time-denied": 1,
    }
    assert "E095" in found and "E096" not in found and "E100" not in found  # paid and denied alike
    left = {row["encounter_id"]: row["rule"] for row in benchmark.left_out().to_pylist()}
    assert "at least 95 days before the end" in left["too-late-paid"] == left["too-late-denied"]
    assert "paid or denied" in left["unanswered"] and "settled within 95 days of submission" in left["E100"]


def test_too_few_claims_for_a_lag_are_refused(tmp_path: Path) -> None:
    records = claims_world(tmp_path / "records", [(f"E{lag}", "paid", 10, lag) for lag in range(1, 20)])
    with pytest.raises(InputError, match=r"19 claims were submitted by 2020-07-04 and decided.*lag=fixed"):
        built(records, tmp_path / "out", lag="p95")


def test_the_lag_falls_to_what_the_card_asks_at_least(tmp_path: Path) -> None:
    records = claims_world(tmp_path / "records", [(f"E{lag}", "paid", 10, lag) for lag in range(1, 21)])
    benchmark = built(records, tmp_path / "out", lag="p95", least_claims=20)
    assert any("within 19 days" in notice for notice in benchmark.notices)
    assert len(labels(benchmark)) == 19


def test_buckets_may_be_ones_own_and_must_exist(tmp_path: Path) -> None:
    records = claims_world(
        tmp_path / "records", [("A", "denied_upheld", 10, 30), ("B", "paid", 10, 30)], adjustment_codes=["CO-B7"]
    )
    benchmark = built(records, tmp_path / "mine", buckets=["provider"], reasons={"provider": ["B7"]})
    assert labels(benchmark) == {"insurance_denial:A": 1, "insurance_denial:B": 0}
    benchmark = built(records, tmp_path / "shipped", buckets=["authorization"])
    assert labels(benchmark) == {"insurance_denial:B": 0}
    assert any("in no bucket 1 (of 1 denials)" in notice for notice in benchmark.notices)
    with pytest.raises(SettingsError, match="unknown bucket 'authorisation'; buckets are medical_necessity"):
        built(records, tmp_path / "typo", buckets=["authorisation"])


def test_buckets_need_codes(tmp_path: Path) -> None:
    records = claims_world(tmp_path / "records", [("A", "denied_upheld", 10, 30), ("B", "paid", 10, 30)])
    with pytest.raises(InputError, match="no denied claim carries adjustment codes"):
        built(records, tmp_path / "out", "insurance_denial_clinical")


def test_notes_of_case_management_are_no_input(tmp_path: Path) -> None:
    records = claims_world(tmp_path / "records", [("A", "denied_upheld", 10, 30)])
    card = {"insurance_denial": {"note_type": "case_management"}}
    with pytest.raises(InputError, match="case_management"):  # there is none in these records
        build(records, tmp_path / "none", settings(tasks=("insurance_denial",), cards=card))
    tables: dict[str, Rows] = {
        "encounters": [stay("A", "a", "2020-01-01 10:00", "2020-01-05 10:00")],
        "notes": [{**hp("A", "a", "2020-01-01 12:00"), "note_type": "case_management"}],
        "claims": [
            {"claim_id": "A", "encounter_id": "A", "patient_id": "a", "coverage_order": 1, "final_status": "paid"}
        ],
    }
    write(tmp_path / "managed", tables)
    with pytest.raises(SettingsError, match=r"'case_management' speak of the insurer's decision"):
        build(tmp_path / "managed", tmp_path / "out", settings(tasks=("insurance_denial",), cards=card))


def test_the_shipped_reasons_are_numbers_apart() -> None:
    reasons = load_reasons()
    assert {"medical_necessity", "authorization"} <= set(reasons.buckets)
    assert len(set(reasons.numbers)) == len(reasons.numbers)
    text = DENIAL_REASONS.read_text(encoding="utf-8")
    assert "list_date" in text


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ('buckets: {a: ["50"], b: ["50"]}', "code 50 is in two buckets"),
        ('buckets: {a: ["22"]}', "code 22 is in a bucket and under other_payer"),
        ('buckets: {a: ["not covered"]}', "buckets.a.0"),
        ("settled: [45]", "settled.0"),
    ],
)
def test_reasons_that_contradict_themselves_are_refused(tmp_path: Path, edit: str, says: str) -> None:
    whole = yaml.safe_load(DENIAL_REASONS.read_text(encoding="utf-8")) | yaml.safe_load(edit)
    (tmp_path / "reasons.yaml").write_text(yaml.safe_dump(whole))
    with pytest.raises(SettingsError, match=says):
        load_reasons(tmp_path / "reasons.yaml")


def test_the_payer_alone_is_a_baseline(tmp_path: Path) -> None:
    draw = random.Random(1)
    tables: dict[str, Rows] = {"encounters": [], "notes": [], "claims": []}
    for number in range(600):
        name, payer = f"E{number}", ("strict", "mild")[number % 2]
        denied = draw.random() < (0.6 if payer == "strict" else 0.1)
        tables["encounters"].append(stay(name, f"p{name}", "2020-01-01 10:00", "2020-01-05 10:00", payer=payer))
        tables["notes"].append(hp(name, f"p{name}", "2020-01-01 12:00"))
        claim = {"claim_id": name, "encounter_id": name, "patient_id": f"p{name}", "coverage_order": 1}
        # What the claim says of its payer gives the answer away here; the baseline must read the registration.
        tables["claims"].append(
            claim | {"final_status": "denied_upheld" if denied else "paid", "payer": "denies" if denied else "pays"}
        )
    records = write(tmp_path / "records", tables)
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    build(records, tmp_path / "benchmark", settings(tasks=("insurance_denial",), fractions=fractions))
    asked = EvaluateSettings(resamples=10, fast=True)
    place = evaluate_baseline("payer", tmp_path / "benchmark", tmp_path / "payer", asked)
    found = pq.read_table(place / "predictions.parquet").to_pylist()
    by_payer: dict[int, set[float]] = {}
    for row in found:
        by_payer.setdefault(int(row["encounter_id"][1:]) % 2, set()).add(round(row["probabilities"][1], 6))
    assert all(len(values) == 1 for values in by_payer.values())  # one risk a payer, whatever else is known
    (strict,), (mild,) = by_payer[0], by_payer[1]
    assert strict == pytest.approx(0.6, abs=0.1) and mild == pytest.approx(0.1, abs=0.1)


def test_the_discharge_summary_may_be_read_instead(tmp_path: Path) -> None:
    tables: dict[str, Rows] = {
        "encounters": [stay("A", "a", "2020-01-01 10:00", "2020-01-05 10:00")],
        "notes": [{**hp("A", "a", "2020-01-05 12:00"), "note_type": "discharge_summary"}],
        "claims": [
            {"claim_id": "A", "encounter_id": "A", "patient_id": "a", "coverage_order": 1, "final_status": "paid"}
        ],
    }
    write(tmp_path / "records", tables)
    edit = {"note_type": "discharge_summary", "prediction": {"earliest": "discharge", "in_hospital": False}}
    build(
        tmp_path / "records", tmp_path / "out", settings(tasks=("insurance_denial",), cards={"insurance_denial": edit})
    )
    (row,) = Benchmark.open(tmp_path / "out").examples().to_pylist()
    assert (row["label"], row["prediction_time"]) == (0, datetime(2020, 1, 5, 12))
