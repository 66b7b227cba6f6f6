"""How sick a hospital is and how much it writes. Intercepts were fitted to the shares of ``bands.py``."""

from __future__ import annotations

from dataclasses import dataclass

from lang1.simulator.settings import Preset


@dataclass(frozen=True)
class PresetSpec:
    """Numbers of one preset."""

    death_intercept: float
    death_scale: float
    stay_intercepts: tuple[float, float, float, float]
    stay_scale: float
    denial_intercept: float
    denial_scale: float
    return_intercept: float
    return_scale: float
    illness_death: float  # log-odds of death a Charlson point of active conditions, before death_scale
    illness_stay: float  # the same for the stay's classes, before stay_scale
    burden: float  # scales how many chronic conditions patients have
    burden_spread: float  # log-normal spread between patients
    grave: float  # scales how often the groups of weight 6 are among them
    mention_inactive: float  # chance that a condition the patient lacks is named (denied, family, excluded)
    coding: float  # chance that an active condition is coded
    miscoding: float  # chance that a condition named as excluded is coded all the same
    more_stays: float  # chance that a patient comes again after a stay without return
    gap_days: float
    other_encounters: float  # emergency, observation and outpatient visits a patient
    death_after: float  # chance of dying within 30 days of discharge without return
    progress_notes: float
    radiology: float
    pathology: float
    long_notes: bool
    authors: int


PRESETS: dict[Preset, PresetSpec] = {
    "default": PresetSpec(
        death_intercept=-6.70, death_scale=0.75, stay_intercepts=(1.081, -0.680, -0.320, -0.082), stay_scale=0.42,
        denial_intercept=-2.10, denial_scale=0.95, return_intercept=-2.63, return_scale=0.58,
        illness_death=0.45, illness_stay=0.80,
        burden=0.205, burden_spread=1.12, grave=0.22, mention_inactive=0.22, coding=0.88, miscoding=0.05,
        more_stays=0.45, gap_days=420.0, other_encounters=1.5, death_after=0.012, progress_notes=1.5,
        radiology=0.5, pathology=0.06, long_notes=True, authors=8,
    ),
    "high-acuity": PresetSpec(
        death_intercept=-6.10, death_scale=0.72, stay_intercepts=(0.850, -0.038, -0.008, -0.805), stay_scale=0.38,
        denial_intercept=-1.76, denial_scale=0.95, return_intercept=-2.18, return_scale=0.58,
        illness_death=0.50, illness_stay=0.70,
        burden=1.42, burden_spread=0.8, grave=1.0, mention_inactive=0.25, coding=0.94, miscoding=0.03, more_stays=0.5,
        gap_days=420.0, other_encounters=0.15, death_after=0.03, progress_notes=0.5, radiology=0.25, pathology=0.03,
        long_notes=False, authors=3,
    ),
}  # fmt: skip
