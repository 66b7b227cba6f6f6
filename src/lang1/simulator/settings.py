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
Component = Literal["style", "coding", "case_mix", "payer"]


class Copy(Settings):
    """A health system that equals another but for the components named, which it takes from a third.

    Attributes:
        of: index of the system that is copied; its patients are others.
        swap: what is taken from the donor: style (how and how fast notes are written), coding (which conditions are
            coded, and what is coded wrongly), case_mix (who comes, why, how ill), payer (who is insured where, and what
            insurers deny for). Empty: a control that differs in its patients alone.
        donor: index of the system that the components are taken from.
    """

    of: int = Field(default=0, ge=0, le=63)
    swap: tuple[Component, ...] = ()
    donor: int = Field(default=1, ge=0, le=63)


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
    contrast: Literal["near", "far"] = Field(
        default="near", description="how much coding, case mix and payers of the systems after the first differ from it"
    )
    copies: tuple[Copy, ...] = Field(
        default=(), description="systems with some components of another, besides `systems`"
    )
    longitudinal: bool = Field(
        default=False, description="daily notes, clinic notes and unit stays that bear on what follows"
    )
    workers: int | None = Field(default=None, ge=1, description="processes; null: one a core, at most 8")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.end_date.year < self.start_year:
            raise ValueError(f"end_date {self.end_date} lies before start_year {self.start_year}")
        for name in self.leaks:
            if name not in LEAKS:
                raise ValueError(f"leaks: unknown '{name}'; known are {', '.join(LEAKS)}")
        for copy in self.copies:
            if copy.swap and copy.of == copy.donor:
                raise ValueError(f"copies: system {copy.of} cannot take {', '.join(copy.swap)} from itself")
        if len({(copy.of, copy.donor if copy.swap else 0, frozenset(copy.swap)) for copy in self.copies}) < len(
            self.copies
        ):
            raise ValueError("copies: one of them is there twice")
        return self
