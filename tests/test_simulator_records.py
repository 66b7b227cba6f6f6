"""Simulated records: same bytes whatever the workers, awkward cases, codes, notes that do not tell the outcome."""

from __future__ import annotations

import importlib.util
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from lang1.common.artefact import content_fingerprint, open_folder
from lang1.common.errors import ArtefactError, SettingsError
from lang1.common.settings import validate_settings
from lang1.records.store import Records, validate
from lang1.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from lang1.simulator.simulate import simulate

ROOT = Path(__file__).parents[1]
SETTINGS = SimulatorSettings(patients=900, systems=2, seed=3, chunk_patients=350, workers=1)


def bench() -> Any:
    """The measuring script, which derives labels from the five tables alone."""
    spec = importlib.util.spec_from_file_location("bench_simulate", ROOT / "benchmarks" / "simulate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sim") / "out"
    simulate(out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def db(made: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for table in ("patients", "encounters", "notes", "diagnoses", "claims"):
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{made}/riverside/{table}/*.parquet')")
    return connection


def one(db: duckdb.DuckDBPyConnection, sql: str) -> Any:
    row = db.execute(sql).fetchone()
    assert row is not None
    return row[0]


def test_same_bytes_whatever_the_workers(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    simulate(again, SETTINGS.model_copy(update={"workers": 2}))
    assert content_fingerprint(again) == content_fingerprint(made)
    assert open_folder(again, "simulation").fingerprint == open_folder(made, "simulation").fingerprint
    for file in made.rglob("manifest.json"):  # the manifests too
        assert file.read_bytes() == (again / file.relative_to(made)).read_bytes()


def test_another_seed_makes_other_patients(made: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "b", SETTINGS.model_copy(update={"seed": 4, "systems": 1}))
    texts = [pq.read_table(p / "riverside" / "notes")["text"].to_pylist() for p in (made, tmp_path / "b")]
    assert texts[0][:50] != texts[1][:50]


def test_folders_and_manifests(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == ["lakeshore", "manifest.json", "riverside", "truth"]
    for name in ("riverside", "lakeshore"):
        records = Records.open(made / name)
        # No overlapping stays, no orphans; late notes and addenda of the dead are as in life.
        assert set(validate(records)) <= {"notes created after the patient's death"}
        assert records.meta.system == name and not records.meta.real and records.time_basis == "calendar"
        assert records.meta.complete_through["encounters"].key == "admit_time"
        assert records.folder.manifest.extra["simulator_version"] == SIMULATOR_VERSION
        truth = open_folder(made / "truth" / name, "predictions")
        assert truth.manifest.extra["model"] == "oracle"


def test_truth_lies_apart(made: Path) -> None:
    """No file of a records folder names a risk."""
    for file in (made / "riverside").rglob("*.parquet"):
        assert not [c for c in pq.read_schema(file).names if c.startswith("p_") or "prob" in c]


def test_refuses_to_overwrite_and_names_bad_settings(made: Path) -> None:
    with pytest.raises(ArtefactError, match="exists already"):
        simulate(made, SETTINGS)
    with pytest.raises(SettingsError, match="preset"):
        validate_settings(SimulatorSettings, {"preset": "mild"}, "settings")


def test_awkward_cases_are_there(db: duckdb.DuckDBPyConnection) -> None:
    inpatient = "FROM encounters WHERE encounter_class = 'inpatient'"
    cases = {
        "deaths in hospital": f"SELECT count(*) {inpatient} AND disposition = 'expired'",
        "hospice": f"SELECT count(*) {inpatient} AND disposition = 'hospice'",
        "transfers in": f"SELECT count(*) {inpatient} AND admission_source LIKE 'transfer%'",
        "other departments": f"SELECT count(DISTINCT department) - 2 {inpatient} "
        "AND department IN ('rehabilitation', 'dialysis', 'palliative')",
        "still admitted": f"SELECT count(*) {inpatient} AND discharge_time IS NULL",
        "planned": f"SELECT count(*) {inpatient} AND admission_type = 'elective'",
        "addenda": "SELECT count(*) FROM notes WHERE parent_note_id IS NOT NULL",
        "unsigned": "SELECT count(*) FROM notes WHERE signed_time IS NULL",
        "uncoded": f"SELECT count(*) {inpatient} AND discharge_time IS NOT NULL "
        "AND encounter_id NOT IN (SELECT encounter_id FROM diagnoses)",
        "unresolved": "SELECT count(*) FROM claims WHERE final_status = 'pending' AND final_time IS NULL",
        "overturned": "SELECT count(*) FROM claims WHERE final_status = 'denied_overturned'",
        "upheld": "SELECT count(*) FROM claims WHERE final_status = 'denied_upheld'",
        "second payers": "SELECT count(*) FROM claims WHERE coverage_order = 2",
        "late admission notes": "SELECT count(*) FROM notes JOIN encounters USING (encounter_id) "
        "WHERE note_type = 'history_and_physical' AND available_time > discharge_time",
        "no discharge note": f"SELECT count(*) {inpatient} AND discharge_time IS NOT NULL AND encounter_id NOT IN "
        "(SELECT encounter_id FROM notes WHERE note_type = 'discharge_summary')",
        "deaths after discharge": "SELECT count(*) FROM patients WHERE death_source = 'registry'",
        **{
            kind: f"SELECT count(*) FROM encounters WHERE encounter_class = '{kind}'"
            for kind in ("emergency", "observation", "outpatient")
        },
        **{
            kind: f"SELECT count(*) FROM notes WHERE note_type = '{kind}'"
            for kind in ("progress", "radiology", "pathology")
        },
    }
    absent = [name for name, sql in cases.items() if one(db, sql) < 1]
    assert not absent
    returns = """
        WITH s AS (SELECT *, lead(admit_time) OVER (PARTITION BY patient_id ORDER BY admit_time) AS next,
                   lead(admission_type) OVER (PARTITION BY patient_id ORDER BY admit_time) AS kind
                   FROM encounters WHERE encounter_class = 'inpatient')
        SELECT count(*) FILTER (next < discharge_time + INTERVAL 30 DAY AND kind = 'elective'),
               count(*) FILTER (next < discharge_time + INTERVAL 30 DAY AND kind <> 'elective'),
               count(*) FILTER (next < discharge_time + INTERVAL 5 HOUR AND disposition <> 'transfer_acute') FROM s"""
    planned, unplanned, at_once = db.execute(returns).fetchone() or (0, 0, 0)
    assert planned > 0 and unplanned > planned and at_once == 0


def test_codes_change_with_october_2015_and_keep_their_order(db: duckdb.DuckDBPyConnection) -> None:
    rows = db.execute(
        "SELECT code_version, min(discharge_time), max(discharge_time) FROM diagnoses JOIN encounters "
        "USING (encounter_id) GROUP BY 1"
    ).fetchall()
    spans = {version: (first, last) for version, first, last in rows}
    assert spans["ICD-9-CM"][1] < datetime(2015, 10, 1) <= spans["ICD-10-CM"][0]
    positions = db.execute("SELECT list(position ORDER BY position) FROM diagnoses GROUP BY encounter_id").fetchall()
    assert all(p == list(range(1, len(p) + 1)) for (p,) in positions)
    assert one(db, "SELECT count(*) FROM diagnoses WHERE position = 1 AND present_on_admission <> 'Y'") == 0
    assert one(db, "SELECT count(*) FROM diagnoses WHERE present_on_admission = 'N'") > 0


def test_adjustment_codes_are_group_and_number(db: duckdb.DuckDBPyConnection) -> None:
    codes = [c for (c,) in db.execute("SELECT DISTINCT unnest(adjustment_codes) FROM claims").fetchall()]
    assert codes and all(re.fullmatch(r"(CO|PR|OA)-\d{1,3}", c) for c in codes)
    paid = "SELECT count(*) FROM claims WHERE final_status = 'denied_upheld' AND paid <> 0"
    assert one(db, paid) == 0
    # A denial takes an appeal's time, whether upheld or overturned.
    assert (
        one(db, "SELECT count(*) FROM claims WHERE final_status LIKE 'denied%' AND final_time <= first_remit_time") == 0
    )


def test_eligible_notes_do_not_tell_what_came_after(db: duckdb.DuckDBPyConnection) -> None:
    told = re.compile(
        r"expired|died|deceased|length of stay|los\b|readmi|denied claim|discharged to|hospice|\b(19|20)\d\d\b", re.I
    )
    rows = db.execute(
        "SELECT text FROM notes JOIN encounters USING (encounter_id) WHERE encounter_class = 'inpatient' AND "
        "(note_type = 'history_and_physical' OR (note_type = 'discharge_summary' AND disposition <> 'expired'))"
    ).fetchall()
    assert len(rows) > 1000
    hits = {m.group(0) for (text,) in rows if (m := told.search(text))}
    assert not hits


def test_systems_differ_in_style_and_payers(made: Path) -> None:
    first = {}
    for name in ("riverside", "lakeshore"):
        db = duckdb.connect()
        texts = db.execute(
            f"SELECT text FROM read_parquet('{made}/{name}/notes/*.parquet') WHERE note_type = 'history_and_physical'"
        ).fetchall()
        first[name] = {text.split("\n")[0].upper() for (text,) in texts}
    assert first["riverside"].isdisjoint(first["lakeshore"])


def test_days_of_stay_stay_below_a_month(db: duckdb.DuckDBPyConnection) -> None:
    longest, shortest = db.execute(
        "SELECT max(discharge_time::DATE - admit_time::DATE), min(discharge_time - admit_time) FROM encounters "
        "WHERE encounter_class = 'inpatient'"
    ).fetchone() or (None, None)
    assert longest <= 29
    assert shortest.total_seconds() >= 5 * 3600  # so that the admission note, there within 4 h, is always in time
