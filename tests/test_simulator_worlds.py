"""Copies of a health system with one component of another, and that nothing changed which was not asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_simulator_oracle import LARGEST_Z
from test_simulator_records import bench

from lang1.common.artefact import open_folder
from lang1.common.errors import SettingsError
from lang1.common.settings import validate_settings
from lang1.records.store import Records, validate
from lang1.simulator.bands import ORACLE_AUROC
from lang1.simulator.copies import COMPONENTS, hospitals
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

FAR: dict[str, Any] = {"contrast": "far", "preset": "high-acuity", "seed": 4, "workers": 1}
SWAPS = ("style", "coding", "case_mix", "payer")
NAMES = {swap: f"riverside-{swap.replace('_', '-')}" for swap in SWAPS}
TABLES = ("patients", "encounters", "notes", "diagnoses", "claims")


def digest(folder: Path) -> str:
    """Of all values of all tables, whatever the version of the file format."""
    hashed = hashlib.sha256()
    for file in sorted(folder.rglob("*.parquet")):
        hashed.update(str(file.relative_to(folder)).encode())
        for row in pq.read_table(file).to_pylist():
            hashed.update(repr(row).encode())
    return hashed.hexdigest()


@pytest.mark.parametrize(
    ("more", "pinned"),
    [
        ({"systems": 2}, "1a59e1c5a41487a297286ce119ce632fb49cb4b387869248449a0a0e5349662a"),
        ({"preset": "high-acuity"}, "fda271198837bd1d68af9b1217f2eae0fd7ddab4c4be26c9f843837686010ee4"),
    ],
)
def test_what_version_1_made_is_still_made(more: dict[str, Any], pinned: str, tmp_path: Path) -> None:
    """Whoever compared models on simulated records can make the same ones; otherwise SIMULATOR_VERSION must change."""
    settings = {"patients": 200, "seed": 3, "chunk_patients": 120, "workers": 1} | more
    simulate(tmp_path / "s", SimulatorSettings.model_validate(settings))
    assert digest(tmp_path / "s") == pinned
    said = open_folder(tmp_path / "s", "simulation").manifest.settings
    assert not {"contrast", "copies", "longitudinal"} & set(said)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("copies") / "out"
    asked = [{}, *({"swap": [swap]} for swap in SWAPS), {"swap": list(SWAPS)}]
    simulate(out, SimulatorSettings.model_validate(FAR | {"patients": 90, "copies": asked}))
    return out


def table(out: Path, system: str, name: str) -> list[dict[str, Any]]:
    return pq.read_table(out / system / name).to_pylist()


def changed(out: Path, one: str, other: str, name: str) -> set[str]:
    """Columns of a table that differ; ``rows`` where the rows do."""
    mine, theirs = table(out, one, name), table(out, other, name)
    if len(mine) != len(theirs):
        return {"rows"}
    return {column for a, b in zip(mine, theirs, strict=True) for column in a if a[column] != b[column]}


def test_names_tell_what_was_swapped_and_each_copy_is_sound(copies: Path) -> None:
    names = ["riverside", "riverside-control", *NAMES.values(), "riverside-all"]
    assert open_folder(copies, "simulation").manifest.extra["systems"] == names
    for name in names:
        records = Records.open(copies / name)
        assert records.meta.system == name
        assert set(validate(records)) <= {"notes created after the patient's death"}
        open_folder(copies / "truth" / name, "predictions")


def test_only_the_component_that_was_swapped_differs(copies: Path) -> None:
    differ = {
        swap: {name: changed(copies, "riverside-control", NAMES[swap], name) for name in TABLES}
        for swap in ("style", "coding", "payer")
    }
    assert differ["coding"] == {name: {"rows"} if name == "diagnoses" else set() for name in TABLES}
    assert not any(differ["style"][name] for name in TABLES if name != "notes")
    assert differ["style"]["notes"] in ({"text"}, {"text", "available_time", "signed_time"}, {"rows"})
    assert not differ["payer"]["patients"] and not differ["payer"]["diagnoses"]
    assert differ["payer"]["encounters"] == {"payer"} and differ["payer"]["notes"] == {"text"}
    for mine, theirs in zip(
        table(copies, "riverside-control", "notes"), table(copies, NAMES["payer"], "notes"), strict=True
    ):
        ours, others = mine["text"].split("\n"), theirs["text"].split("\n")
        assert all(
            a == b or {a.split()[0], b.split()[0]} <= {"Payer", "Pyaer"} for a, b in zip(ours, others, strict=True)
        )


def test_no_copy_shares_a_patient_with_its_original(copies: Path) -> None:
    ids = {
        name: {row["patient_id"] for row in table(copies, name, "patients")}
        for name in ("riverside", "riverside-control", *NAMES.values(), "riverside-all")
    }
    home = ids.pop("riverside")
    assert all(not home & other for other in ids.values())
    for name in ("riverside-style", "riverside-coding", "riverside-payer"):
        assert ids[name] == ids["riverside-control"]
    assert not ids["riverside-case-mix"] & ids["riverside-control"]
    assert ids["riverside-case-mix"] == ids["riverside-all"]  # the same other people
    prefixes = [s.prefix for s in hospitals(SimulatorSettings(systems=64))]
    assert len(set(prefixes)) == 64 and all(prefix[-1].isdigit() for prefix in prefixes)


def test_components_are_taken_whole() -> None:
    settings = SimulatorSettings.model_validate(
        FAR | {"systems": 3, "copies": [{"of": 1, "swap": ["payer"], "donor": 2}]}
    )
    home, donor, other, copy = hospitals(settings)
    assert copy.name == "lakeshore-payer-of-hillcrest"
    fields = {field for fields in COMPONENTS.values() for field in fields}
    for field in fields:
        source = other if field in COMPONENTS["payer"] else donor
        assert np.array_equal(getattr(copy, field), getattr(source, field)), field
    assert copy.facilities == donor.facilities != home.facilities


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([{"swap": ["style"], "donor": 0}], "cannot take style from itself"),
        ([{"swap": ["style", "payer"]}, {"swap": ["payer", "style"]}], "twice"),
        ([{"swap": ["colour"]}], "swap"),
    ],
)
def test_copies_that_make_no_sense_are_refused(wrong: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        validate_settings(SimulatorSettings, {"copies": wrong}, "settings")


def test_each_copys_oracle_is_its_own(tmp_path: Path) -> None:
    """Chances fit the outcomes that the copy's own tables tell; they are about as good as at home, and other ones."""
    module, out = bench(), tmp_path / "out"
    asked = [{}, *({"swap": [swap]} for swap in ("coding", "payer", "case_mix"))]
    simulate(out, SimulatorSettings.model_validate(FAR | {"patients": 1000, "systems": 1, "copies": asked}))
    control = module.frames(out, "riverside-control")
    bears_on = {"coding": ["comorbidity"], "payer": ["insurance_denial"], "case_mix": list(ORACLE_AUROC)}
    for swap, tasks in bears_on.items():
        for task in tasks:
            found = module.frames(out, NAMES[swap])[task]
            assert module.calibration_z(found.y, found.p) < LARGEST_Z, (swap, task)
            low, high = ORACLE_AUROC[task]
            assert low - 0.06 < module.auroc(found.y, found.p) < high + 0.04, (swap, task)
            if swap == "case_mix":
                continue
            # Home's chances of the very same stays are wrong here.
            same = dict(zip(control[task].encounters, control[task].p, strict=True))
            rows = [i for i, e in enumerate(found.encounters) if e in same]
            theirs = np.array([same[found.encounters[i]] for i in rows])
            assert module.calibration_z(found.y[rows], theirs) > LARGEST_Z, (swap, task)
            assert module.auroc(found.y[rows], theirs) < module.auroc(found.y[rows], found.p[rows]) - 0.02, (swap, task)
