"""Records of several health systems as one: rows, facilities, folds, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lang1.common.artefact import MANIFEST, read_json, write_json
from lang1.common.errors import InputError, SettingsError
from lang1.common.identity import read_patient_hashes
from lang1.records.pooling import PoolSettings, pool
from lang1.records.store import Records, validate
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

TABLES = ("patients", "encounters", "notes", "diagnoses", "claims")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pool") / "world"
    simulate(out, SimulatorSettings(patients=300, systems=2, preset="high-acuity", seed=3, workers=1))
    return out


@pytest.fixture(scope="module")
def pooled(world: Path) -> Path:
    return pool([world / "riverside", world / "lakeshore"], world.parent / "pooled")


def test_every_row_is_there_once_and_facilities_say_whose_they_are(world: Path, pooled: Path) -> None:
    parts = {name: Records.open(world / name) for name in ("riverside", "lakeshore")}
    whole = Records.open(pooled)
    validate(whole)
    for table in TABLES:
        with whole.connect() as connection:
            rows = connection.sql(f"SELECT * FROM {table}").to_arrow_table()
        both = []
        for name, one in parts.items():
            with one.connect() as connection:
                found = connection.sql(f"SELECT * FROM {table}").to_arrow_table().to_pylist()
            if table == "encounters":
                found = [{**row, "facility": f"{name}: {row['facility']}"} for row in found]
            both += found
        assert rows.to_pylist() == both, table
    assert whole.meta.system == "riverside + lakeshore" and not whole.meta.real
    assert whole.meta.complete_through == parts["riverside"].meta.complete_through


def test_a_patient_is_held_out_in_the_pool_as_in_the_own_benchmark(world: Path, pooled: Path) -> None:
    settings = BuildSettings.model_validate(
        {"calendar": "demo", "fractions": {"train": 0.5, "val": 0.1, "test": 0.4}, "tasks": ["mortality"]}
    )
    alone = [Benchmark.open(build(world / name, world.parent / f"b-{name}", settings)) for name in
             ("riverside", "lakeshore")]  # fmt: skip
    together = Benchmark.open(build(pooled, world.parent / "b-pooled", settings))
    folds = {row["patient_id"]: row["fold"] for one in alone for row in one.folds().to_pylist()}
    assert folds == {row["patient_id"]: row["fold"] for row in together.folds().to_pylist()}
    held_out = [read_patient_hashes(one.folder.path) for one in alone]
    assert np.array_equal(np.unique(np.concatenate(held_out)), read_patient_hashes(together.folder.path))
    ids = {e for one in alone for e in one.examples()["example_id"].to_pylist()}
    assert ids == set(together.examples()["example_id"].to_pylist())


def test_the_earliest_end_of_an_extract_is_the_pools(world: Path, tmp_path: Path) -> None:
    early = copy(world / "lakeshore", tmp_path / "early")
    change(early, lambda extra: extra["complete_through"]["encounters"].update(through="2020-06-30T23:59:59"))
    change(early, lambda extra: extra["vital_status"].update(source="ehr", through="2021-01-01T00:00:00"))
    meta = Records.open(pool([world / "riverside", early], tmp_path / "out", PoolSettings(names=["a", "b"]))).meta
    assert meta.complete_through["encounters"].through.year == 2020
    assert meta.system == "a + b" and meta.vital_status.through is not None and meta.vital_status.through.year == 2021
    assert meta.vital_status.source == "none"  # learnt in different ways: neither's word holds for both


def test_what_cannot_be_one_is_refused(world: Path, tmp_path: Path) -> None:
    mine, twin = world / "riverside", copy(world / "riverside", tmp_path / "twin")
    with pytest.raises(InputError, match=r"pool: patients: patient_id 'PRI0.*' is in a and in b: give each"):
        pool([mine, twin], tmp_path / "out", PoolSettings(names=["a", "b"]))
    assert not (tmp_path / "out").exists()
    other = copy(world / "lakeshore", tmp_path / "other")
    change(other, lambda extra: extra["complete_through"]["encounters"].update(key="discharge_time"))
    with pytest.raises(InputError, match="encounters is complete by admit_time and discharge_time"):
        pool([mine, other], tmp_path / "out")
    change(other, lambda extra: extra.update(time_basis="shifted"))
    with pytest.raises(InputError, match="time_basis is calendar and shifted"):
        pool([mine, other], tmp_path / "out")
    for names in (["a"], ["a", "a"]):
        with pytest.raises(SettingsError, match="give each its own"):
            pool([mine, world / "lakeshore"], tmp_path / "out", PoolSettings(names=names))


def copy(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    return out


def change(folder: Path, edit) -> None:  # type: ignore[no-untyped-def]
    manifest = read_json(folder / MANIFEST)
    edit(manifest["extra"])
    write_json(folder / MANIFEST, manifest)
