"""The oracle is exact: against brute force, against chance, and against outcomes read from the tables alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_simulator_records import bench

from lang1.simulator import charlson, risk
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

# With some 200 bins looked at, |z| above 4.2 comes by chance once in 200 runs; the seed is fixed besides.
LARGEST_Z = 4.2


@given(st.lists(st.floats(0, 1), min_size=17, max_size=17), st.lists(st.integers(0, 16), min_size=5, max_size=5))
@settings(max_examples=40, deadline=None)
def test_comorbidity_classes_against_enumeration(p: list[float], free: list[int]) -> None:
    """Five groups keep their chance, the others are certain; all 32 outcomes are enumerated."""
    q = np.array([x if g in free else round(x) for g, x in enumerate(p)])
    expected = np.zeros(5)
    groups = sorted(set(free))
    for outcome in itertools.product((0, 1), repeat=len(groups)):
        coded = q.copy()
        chance = 1.0
        for g, x in zip(groups, outcome, strict=True):
            coded[g] = x
            chance *= q[g] if x else 1 - q[g]
        total = sum(c.weight for c, x in zip(charlson.CHARLSON, coded, strict=True) if x)
        for mild, severe in charlson.HIERARCHY:
            if coded[mild] and coded[severe]:
                total -= charlson.CHARLSON[mild].weight
        expected[0 if total == 0 else 1 if total <= 2 else 2 if total <= 4 else 3 if total <= 7 else 4] += chance
    assert charlson.class_probabilities(q[None])[0] == pytest.approx(expected, abs=1e-12)


def test_codes_fall_into_their_own_group() -> None:
    """By the measuring script's own transcription of the published prefixes."""
    module = bench()
    for condition in charlson.CHARLSON:
        for version, codes in (("ICD-9-CM", condition.icd9), ("ICD-10-CM", condition.icd10)):
            for code in codes:
                assert module.charlson([("e", code, version)])["e"] == condition.weight, code
    from lang1.simulator.signs import REASONS

    neutral = [(c, "ICD-9-CM") for o in charlson.OTHER for c in o.icd9] + [(r.icd9, "ICD-9-CM") for r in REASONS]
    neutral += [(c, "ICD-10-CM") for o in charlson.OTHER for c in o.icd10] + [(r.icd10, "ICD-10-CM") for r in REASONS]
    neutral += [(nine, "ICD-9-CM") for nine, _ in charlson.ACQUIRED]
    neutral += [(ten, "ICD-10-CM") for _, ten in charlson.ACQUIRED]
    for code, version in neutral:
        assert module.charlson([("e", code, version)])["e"] == 0, code


@pytest.mark.parametrize(("first", "delay"), [(360, 100), (360, 2000), (1560, 4320)])
def test_return_given_neither_back_nor_dead(first: int, delay: int) -> None:
    rng = np.random.default_rng(1)
    n, p, dying = 400_000, 0.3, 0.2
    back = rng.random(n) < p
    when = risk.return_minutes(rng.random(n), np.full(n, first))
    dies = ~back & (rng.random(n) < dying)
    death = risk.RETURN_FIRST + rng.random(n) * (risk.RETURN_LAST - risk.RETURN_FIRST)
    there = np.where(back, when > delay, ~(dies & (death <= delay)))
    expected = back[there].mean()
    got = risk.return_eligible(np.array([p]), np.array([first]), np.array([delay]), dying)[0]
    assert got == pytest.approx(expected, abs=4 * np.sqrt(0.25 / n))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("oracle") / "out"
    simulate(out, SimulatorSettings(patients=9000, preset="high-acuity", seed=11, workers=2))
    return bench(), out


def test_oracle_is_calibrated(large: tuple[Any, Path]) -> None:
    module, out = large
    for task, f in module.frames(out, "riverside").items():
        assert np.allclose(f.p.sum(axis=1), 1.0)
        assert module.calibration_z(f.y, f.p) < LARGEST_Z, task


def test_oracle_is_calibrated_in_groups_it_does_not_read(large: tuple[Any, Path]) -> None:
    """Were an outcome drawn from anything but written facts, some other cut of the stays would show it."""
    import duckdb

    module, out = large
    rows = duckdb.execute(
        f"""
        SELECT encounter_id, sex, race, e.facility, e.admission_type, hour(e.admit_time) // 6, year(e.admit_time),
               e.disposition IN ('home', 'home_health')
        FROM read_parquet('{out}/riverside/encounters/*.parquet') e
        JOIN read_parquet('{out}/riverside/patients/*.parquet') USING (patient_id)"""
    ).fetchall()
    cuts = {row[0]: row[1:] for row in rows}
    for task, f in module.frames(out, "riverside").items():
        y, p = f.y, f.p
        groups = [cuts[e] for e in f.encounters]
        for which in range(6 if task != "readmission" else 7):  # the way home is known only at discharge
            for value in {g[which] for g in groups}:
                rows_in = np.array([g[which] == value for g in groups])
                for c in range(p.shape[1]):
                    spread = np.sqrt((p[rows_in, c] * (1 - p[rows_in, c])).sum())
                    if spread > 2:
                        z = ((y[rows_in] == c).sum() - p[rows_in, c].sum()) / spread
                        assert abs(z) < LARGEST_Z, (task, which, value, c, z)
