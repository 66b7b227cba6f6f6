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
(``./my-records``, ``/data/records``). What a study takes from outside and a user replaces stands under ``inputs`` with
a name (``inputs: {records: ./records}``), is referred to by that name, and is changed by ``inputs.records=/data/x``.
``variants`` are named lists of overrides (``STEP.field=value``).
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
    inputs: dict[str, str] = {}
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
    settings = {name: step.settings for name, step in spec.steps.items()}
    given = dict(spec.inputs)
    for override in [o for o in chosen if o.startswith("inputs.")]:
        chosen.remove(override)
        name, _, path = override.removeprefix("inputs.").partition("=")
        if name not in given:
            raise SettingsError(f"'{override}': {file} has no input '{name}'; it has {', '.join(given) or 'none'}.")
        given[name] = path
    spec = _resolved(spec.model_copy(update={"inputs": given}), file)
    for override in chosen:
        name = override.partition("=")[0].partition(".")[0]
        if name not in settings:
            raise SettingsError(f"'{override}': {file} has no step '{name}'; it has {', '.join(settings)}.")
        if "." not in override.partition("=")[0]:
            raise SettingsError(f"'{override}': expected STEP.field=value.")
    changed = apply_overrides(settings, chosen)
    steps = {name: step.model_copy(update={"settings": changed[name]}) for name, step in spec.steps.items()}
    return spec.model_copy(update={"steps": steps})


def _resolved(spec: StudySpec, file: Path) -> StudySpec:
    """Put the paths of the study's inputs in the place of their names."""
    for name in spec.inputs:
        if name in spec.steps:
            raise SettingsError(f"{file}: '{name}' is an input and a step; name one otherwise.")

    def path(reference: str) -> str:
        name, slash, rest = reference.partition("/")
        return f"{spec.inputs[name]}{slash}{rest}" if name in spec.inputs else reference

    steps = {}
    for name, step in spec.steps.items():
        inputs = {
            r: [path(v) for v in value] if isinstance(value, list) else path(value) for r, value in step.inputs.items()
        }
        steps[name] = step.model_copy(update={"inputs": inputs})
    return spec.model_copy(update={"steps": steps})
