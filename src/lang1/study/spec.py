"""A study: a named graph of steps, declared in YAML.

```yaml
title: One hospital, five tasks
steps:
  hospital:   {step: simulate, settings: {patients: 1000}}
  benchmark:  {step: remede, from: {records: hospital/riverside}}
  corpus:     {step: corpus, from: {records: [hospital/riverside], benchmark: benchmark}}
variants:
  smoke: [hospital.patients=200]
```

``from`` names other steps, or folders inside their output (``hospital/riverside``), or paths outside the study
(``./my-records``, ``/data/records``). ``variants`` are named lists of overrides (``STEP.field=value``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, apply_overrides, read_yaml, validate_settings


class StepSpec(Settings):
    """One step: its kind, its inputs by role, its settings."""

    step: str
    inputs: dict[str, str | list[str]] = Field(default={}, alias="from")
    settings: dict[str, Any] = {}


class StudySpec(Settings):
    """A whole study; see the module's docstring."""

    title: str = "Study"
    steps: dict[str, StepSpec]
    variants: dict[str, list[str]] = {}


def load_study(file: Path, overrides: Iterable[str] = (), variants: Iterable[str] = ()) -> StudySpec:
    """Read a study file and apply variants, then overrides ``STEP.field=value``.

    Raises:
        SettingsError: bad file, unknown variant, or an override of a step that the study does not have.
    """
    values = read_yaml(file)
    spec = validate_settings(StudySpec, values, source=str(file))
    chosen: list[str] = []
    for variant in variants:
        if variant not in spec.variants:
            known = ", ".join(sorted(spec.variants)) or "none"
            raise SettingsError(f"{file}: no variant '{variant}'; this study has: {known}.")
        chosen += spec.variants[variant]
    chosen += list(overrides)
    if not chosen:
        return spec
    settings = {name: step.settings for name, step in spec.steps.items()}
    for override in chosen:
        name = override.partition("=")[0].partition(".")[0]
        if name not in settings:
            raise SettingsError(f"'{override}': {file} has no step '{name}'; it has {', '.join(settings)}.")
        if "." not in override.partition("=")[0]:
            raise SettingsError(f"'{override}': expected STEP.field=value.")
    changed = apply_overrides(settings, chosen)
    steps = {name: step.model_copy(update={"settings": changed[name]}) for name, step in spec.steps.items()}
    return spec.model_copy(update={"steps": steps})
