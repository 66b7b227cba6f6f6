"""A longitudinal simulated world and its two benchmarks, made once a process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lang1.remede.benchmark import Benchmark
from lang1.remede.build import BuildSettings, build
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

CARDS = ("deterioration_72h", "mortality_day_1", "mortality_day_2", "mortality_day_3", "return_90d")
FIVE = ("readmission", "mortality", "length_of_stay", "comorbidity", "insurance_denial")


@functools.cache
def charts() -> tuple[Path, dict[str, Benchmark]]:
    """The folder of a simulation, and by input its benchmark: ``chart`` (of all tasks too) and ``note``."""
    place = Path(tempfile.mkdtemp(prefix="lang1-charts-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    world = {"patients": 650, "preset": "high-acuity", "longitudinal": True, "seed": 3, "workers": 1}
    (records,) = simulate(place / "sim", SimulatorSettings.model_validate(world))
    plain: dict[str, Any] = {"calendar": None, "fractions": {"train": 0.2, "val": 0.1, "test": 0.7}}
    plain["tasks"] = ["mortality", *CARDS]
    single = {task: {"inputs": {"select": "single", "days": None}} for task in CARDS}
    for name, more in (("chart", {}), ("note", {"cards": single})):
        build(records, place / name, BuildSettings.model_validate(plain | more))
    return place / "sim", {name: Benchmark.open(place / name) for name in ("chart", "note")}
