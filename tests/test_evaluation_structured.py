"""Structured baselines: only what was known at prediction time enters, and the values are those of a plain loop."""

from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from evaluation_toy import make_benchmark, make_records

from lang1.evaluation.examples import asked
from lang1.evaluation.scorers import structured
from lang1.evaluation.scorers.baselines import BASELINES
from lang1.evaluation.scorers.history import COLUMNS, OF_RULE, history
from lang1.evaluation.scorers.searched import search
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import auroc
from lang1.records.store import Records
from lang1.remede.charlson import load
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

TABLES = ("patients", "encounters", "diagnoses", "claims", "unit_stays")
CUT = datetime(2018, 7, 1)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    settings = SimulatorSettings.model_validate({"patients": 150, "preset": "high-acuity", "seed": 3})
    (folder,) = simulate(tmp_path_factory.mktemp("s") / "h", settings)
    return Records.open(folder)


def tables(records: Records) -> duckdb.DuckDBPyConnection:
    """The records as tables that can be changed."""
    with records.connect() as source:
        found = {name: source.sql(f"SELECT * FROM {name}").to_arrow_table() for name in TABLES}
    connection = duckdb.connect()
    for name, table in found.items():
        connection.register("arriving", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM arriving")
        connection.unregister("arriving")
    return connection


def examples(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Questions at discharge or half a day after admission, all before the cut; some stays go on after it."""
    return connection.sql(f"""
        SELECT encounter_id, least(CASE WHEN hash(encounter_id) % 2 = 0 THEN discharge_time
            ELSE admit_time + INTERVAL 12 HOUR END, TIMESTAMP '{CUT}') AS prediction_time
        FROM encounters WHERE encounter_class = 'inpatient' AND admit_time < TIMESTAMP '{CUT}' - INTERVAL 1 DAY
        ORDER BY encounter_id""").to_arrow_table()


def test_planted_future_data_change_nothing(records: Records) -> None:
    connection = tables(records)
    asking = examples(connection)
    before = history(connection, asking, "calendar")
    assert before.num_rows == asking.num_rows > 50 and before.column_names == list(COLUMNS)
    informed = {name for name in COLUMNS if len(set(before[name].to_pylist())) > 1}
    assert {"lace", "charlson_before", "stays_before", "denied_before", "payer_denied_share", "days_so_far"} <= informed
    # Afterwards every patient comes back many times, is coded with everything, and every claim is denied.
    connection.execute(f"""
        INSERT INTO encounters BY NAME SELECT * REPLACE (
            'later-' || encounter_id AS encounter_id, 'emergency' AS encounter_class,
            TIMESTAMP '{CUT}' + INTERVAL 1 HOUR AS admit_time, TIMESTAMP '{CUT}' + INTERVAL 3 HOUR AS discharge_time)
        FROM encounters""")
    connection.execute("""
        INSERT INTO diagnoses BY NAME SELECT 'later-' || encounter_id AS encounter_id, patient_id, 'C78.0' AS code,
            'ICD-10-CM' AS code_version FROM encounters WHERE encounter_id NOT LIKE 'later-%'""")
    # The codes of the stay itself, and of stays that have not ended, are the future too.
    connection.register("asking", asking.append_column("latest", asking["prediction_time"]))
    connection.execute("""
        INSERT INTO diagnoses BY NAME SELECT a.encounter_id, e.patient_id, 'B20' AS code, 'ICD-10-CM' AS code_version
        FROM (SELECT encounter_id FROM asking GROUP BY ALL HAVING encounter_id IN (
            SELECT arg_max(encounter_id, admit_time) FROM encounters WHERE encounter_id NOT LIKE 'later-%'
            GROUP BY patient_id)) a JOIN encounters e USING (encounter_id)""")
    connection.execute(f"""
        UPDATE claims SET final_status = 'denied_upheld' WHERE final_time > TIMESTAMP '{CUT}'""")
    connection.execute(f"""
        INSERT INTO claims BY NAME SELECT * REPLACE ('later-' || claim_id AS claim_id, 'denied_upheld' AS final_status,
            TIMESTAMP '{CUT}' + INTERVAL 1 DAY AS final_time) FROM claims""")
    connection.execute(f"""
        UPDATE encounters SET discharge_time = TIMESTAMP '{CUT}' + INTERVAL 99 DAY, disposition = 'expired'
        WHERE discharge_time > TIMESTAMP '{CUT}'""")
    connection.execute("""
        INSERT INTO unit_stays BY NAME SELECT encounter_id, e.patient_id, 'intensive_care' AS unit_type,
            prediction_time + INTERVAL 1 MINUTE AS in_time FROM asking JOIN encounters e USING (encounter_id)""")
    assert history(connection, asking, "calendar").equals(before)


def test_values_are_those_of_a_plain_loop(records: Records) -> None:
    connection = tables(records)
    asking = examples(connection)
    found = history(connection, asking, "calendar").to_pylist()
    stays = connection.sql("SELECT * FROM encounters").to_arrow_table().to_pylist()
    by_id = {e["encounter_id"]: e for e in stays}
    codes: dict[str, list[tuple[str, str]]] = {}
    for d in connection.sql("SELECT * FROM diagnoses").to_arrow_table().to_pylist():
        codes.setdefault(d["encounter_id"], []).append((d["code_version"], d["code"]))
    claims = connection.sql("SELECT * FROM claims").to_arrow_table().to_pylist()
    index = load()
    for row, ask in zip(found, asking.to_pylist(), strict=True):
        own, t = by_id[ask["encounter_id"]], ask["prediction_time"]
        others = [e for e in stays if e["patient_id"] == own["patient_id"] and e is not own]
        ended = [e for e in others if e["discharge_time"] is not None and e["discharge_time"] <= t]
        inpatient = [e for e in ended if e["encounter_class"] == "inpatient"]
        assert row["stays_before"] == len(inpatient)
        known = [e for e in ended if e["discharge_time"] <= t - timedelta(days=7)]
        charlson = index.score(pair for e in known for pair in codes.get(e["encounter_id"], ()))
        assert row["charlson_before"] == charlson
        visits = sum(
            e["encounter_class"] == "emergency"
            and own["admit_time"] - timedelta(days=182) < e["admit_time"] < own["admit_time"]
            for e in ended
        )
        assert row["ed_visits_6m"] == visits
        end = min(t, own["discharge_time"] or t)
        days = (end - own["admit_time"]).total_seconds() / 86_400
        assert row["days_so_far"] == pytest.approx(days, abs=0.001)
        points = int(days) if days < 4 else 4 if days < 7 else 5 if days < 14 else 7
        emergent = own["admission_type"] in ("emergency", "urgent")
        assert row["lace"] == points + 3 * emergent + (5 if charlson >= 4 else charlson) + min(visits, 4)
        mine = [
            c
            for c in claims
            if c["patient_id"] == own["patient_id"]
            and c["encounter_id"] != own["encounter_id"]
            and c["final_time"] is not None
            and c["final_time"] <= t
        ]
        assert row["claims_before"] == len(mine)
        assert row["denied_before"] == sum(c["final_status"].startswith("denied") for c in mine)
        paid = [
            c["final_status"].startswith("denied")
            for c in claims
            if c["payer"] == own["payer"]
            and c["coverage_order"] == 1
            and c["final_status"] != "pending"
            and c["final_time"] is not None
            and c["final_time"] <= t
        ]
        assert row["payer_claims"] == (len(paid) or None)
        if paid:
            assert row["payer_denied_share"] == pytest.approx(np.mean(paid))


def test_records_without_times_say_little_and_nothing_wrong(tmp_path: Path) -> None:
    records = Records.open(make_records(tmp_path / "r", 20))
    with records.connect() as connection:
        asking = connection.sql(
            "SELECT encounter_id, NULL::TIMESTAMP AS prediction_time FROM encounters ORDER BY ALL"
        ).to_arrow_table()
        found = history(connection, asking, "ordinal")
    earlier = dict(zip(asking["encounter_id"].to_pylist(), found["stays_before"].to_pylist(), strict=True))
    assert earlier["e1-0"] == 0 and earlier["e1-1"] == 1
    for name in ("lace", "charlson_before", "ed_visits_6m", "claims_before", "payer_claims", "admission_hour"):
        assert found[name].null_count == found.num_rows, name
    assert set(OF_RULE) == {"readmission", "mortality", "length_of_stay", "comorbidity", "insurance_denial"}
    assert {c for names in OF_RULE.values() for c in names} <= set(COLUMNS)


@pytest.mark.parametrize("name", ["tfidf-gbm", "lace-and-kin"])
def test_new_baselines_learn_and_repeat(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "search", partial(search, draws=2))
    bench = make_benchmark(make_records(tmp_path / "records", 260), tmp_path / "benchmark")
    settings = EvaluateSettings(tasks=["readmission"] if name == "tfidf-gbm" else ["readmission", "mortality"], seed=1)
    chosen = asked(bench, settings)
    made, again = BASELINES[name](chosen, settings), BASELINES[name](chosen, settings)
    task = "readmission" if name == "tfidf-gbm" else "mortality"
    table = made.probabilities[task]
    assert table.sum(axis=1) == pytest.approx(1) and np.array_equal(table, again.probabilities[task])
    if name == "tfidf-gbm":
        assert auroc(chosen.of(task)["label"].to_numpy() == 1, table[:, 1]) > 0.55
        assert "terms" in made.chosen[task]
    else:  # ordinal records hold no times: LACE has nothing to read there, and that is counted
        assert made.left_out["readmission: the records hold none of its structured fields"] > 0
        assert "empty in these records" in made.chosen[task]


def test_the_search_keeps_patients_apart_and_repeats() -> None:
    rng = np.random.default_rng(0)
    who = rng.integers(0, 90, 300)
    x = rng.normal(size=(300, 3))
    y = (x[:, 0] + 0.5 * rng.normal(size=300) > 0.6).astype(np.int64)
    one, two = (search(x, y, who, 2, [False] * 3, seed=4, draws=3) for _ in range(2))
    assert one.told == two.told and np.array_equal(one.probabilities(x), two.probabilities(x))
    assert search(x, y, who, 2, [False] * 3, seed=5, draws=3).told != one.told
    # A column that names the patient, and labels that belong to patients: nothing to learn once patients are apart.
    patients = rng.permutation(90)
    owned = (patients % 2)[who].astype(np.int64)
    found = search(who[:, None].astype(float), owned, who, 2, [False], seed=4, draws=3)
    assert float(found.told.split("folds ")[1].split(",")[0]) < 0.7
    assert auroc(owned == 1, found.probabilities(who[:, None].astype(float))[:, 1]) > 0.6
