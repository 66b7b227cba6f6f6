"""Settings of the simulator, and its version."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from lang1.common.settings import Settings
from lang1.simulator.leaks import LEAKS

# Changes with anything that alters a simulated byte or risk; then everything compared before is run again.
SIMULATOR_VERSION = "1"

Preset = Literal["default", "high-acuity"]


class SimulatorSettings(Settings):
    """What to simulate. Same settings (``workers`` aside) and same version: same bytes."""

    patients: int = Field(default=5000, ge=1, description="patients in each health system")
    systems: int = Field(default=1, ge=1, le=64, description="health systems")
    seed: int = Field(default=1, ge=0)
    preset: Preset = "default"
    start_year: int = Field(default=2013, ge=2005, le=2030)
    end_date: date = Field(default=date(2024, 12, 31), description="last day of the extract")
    chunk_patients: int = Field(default=2000, ge=1, le=20_000, description="patients made at a time: bounds memory")
    leaks: tuple[str, ...] = Field(default=(), description="flaws to plant, see simulator/leaks.py; none is sound data")
    identifiers: bool = Field(default=False, description="write names, dates and numbers into the notes")
    workers: int | None = Field(default=None, ge=1, description="processes; null: one a core, at most 8")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.end_date.year < self.start_year:
            raise ValueError(f"end_date {self.end_date} lies before start_year {self.start_year}")
        for name in self.leaks:
            if name not in LEAKS:
                raise ValueError(f"leaks: unknown '{name}'; known are {', '.join(LEAKS)}")
        return self
