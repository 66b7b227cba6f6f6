"""The simulator is not a toy: the bands of ``lang1.simulator.bands`` at a size that a test can bear.

``benchmarks/simulate.py`` holds the same at 100,000 encounters.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from test_simulator_records import bench

from lang1.simulator import bands, charlson, course
from lang1.simulator.presets import PRESETS
from lang1.simulator.settings import Preset, SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.simulator.styles import system

TFIDF_TRAIN = 6000


@pytest.mark.parametrize("preset", list(bands.SHARES))
@pytest.mark.parametrize("index", [0, 3])
def test_shares_and_oracle_lie_in_their_bands(preset: str, index: int) -> None:
    module = bench()
    settings = SimulatorSettings.model_validate({"preset": preset, "patients": 25_000})
    spec = PRESETS[cast(Preset, preset)]
    _, stays = course.run(settings.patients, settings, spec, system(index), np.random.default_rng(5))
    days = stays.leave // course.DAY - stays.admit // course.DAY
    at_risk = stays.p_return > 0

    def two(p: np.ndarray) -> np.ndarray:
        return np.column_stack([1 - p, p])

    drawn = {
        "readmission": (stays.returned[at_risk].astype(int), two(stays.p_return[at_risk])),
        "mortality": ((stays.disposition == course.EXPIRED).astype(int), two(stays.p_death)),
        "length_of_stay": (np.select([days <= 2, days == 3, days <= 5], [0, 1, 2], 3), stays.p_stay),
        "comorbidity": (
            charlson.to_class(charlson.score(stays.coded)),
            charlson.class_probabilities(stays.p_coded),
        ),
        "insurance_denial": (stays.denied.astype(int), two(stays.p_denial)),
    }
    for task, (y, p) in drawn.items():
        low, high = bands.ORACLE_AUROC[task]
        assert low <= module.auroc(y, p) <= high, task
        for c, aim in enumerate(bands.SHARES[preset][task]):
            allowed = max(bands.SHARE_TOLERANCE_RELATIVE * aim, bands.SHARE_TOLERANCE if c else 0.04)
            if task in ("mortality", "readmission", "insurance_denial"):
                allowed = bands.SHARE_TOLERANCE_RELATIVE * min(aim, 1 - aim)
            assert abs((y == c).mean() - aim) <= allowed, (task, c)


@pytest.mark.slow
@pytest.mark.parametrize("preset", list(bands.SHARES))
def test_no_phrase_gives_it_away_and_tfidf_stays_behind(preset: str, tmp_path: Path) -> None:
    module = bench()
    settings = SimulatorSettings.model_validate({"preset": preset, "patients": 5000, "seed": 21, "workers": 2})
    simulate(tmp_path / "sim", settings)
    found = module.frames(tmp_path / "sim", "riverside")
    for task, r in module.judge(found, TFIDF_TRAIN).items():
        f = found[task]
        # Among thousands of phrases the best of a small sample wins by luck: only classes with many cases are asked.
        if task != "comorbidity" and min(np.bincount(f.y, minlength=f.p.shape[1])) >= 500:
            assert r["best_ngram_auroc"] < bands.NGRAM_AUROC_BELOW, (task, r["best_ngram"])
        assert r["tfidf_gap"] >= bands.TFIDF_GAP_AT_LEAST, task
        assert r["tfidf_auroc"] > 0.52, f"{task}: the words alone should say something"
