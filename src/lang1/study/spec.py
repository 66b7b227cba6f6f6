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
``variants`` are named lists of overrides (``STEP.field=value``). A ``grid`` block (``study/grid.py``) declares what is
compared; the steps that it stands for are made from it, and overrides reach into it as ``grid.path.to.field=value``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    subtitle: str = ""
    inputs: dict[str, str] = {}
    steps: dict[str, StepSpec] = {}
    grid: dict[str, Any] | None = Field(default=None, description="what is compared; study/grid.py")
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
    for override in chosen:
        if "." not in override.partition("=")[0]:
            raise SettingsError(f"'{override}': expected STEP.field=value.")
    of_inputs, of_grid, of_steps = (
        [o for o in chosen if o.startswith("inputs.")],
        [o for o in chosen if o.startswith("grid.")],
        [o for o in chosen if not o.startswith(("inputs.", "grid."))],
    )
    given = dict(spec.inputs)
    for override in of_inputs:
        name, _, path = override.removeprefix("inputs.").partition("=")
        if name not in given:
            raise SettingsError(f"'{override}': {file} has no input '{name}'; it has {', '.join(given) or 'none'}.")
        given[name] = path
    spec = _resolved(expanded(spec.model_copy(update={"inputs": given}), of_grid, file), file)
    settings = {name: step.settings for name, step in spec.steps.items()}
    for override in of_steps:
        name = override.partition("=")[0].partition(".")[0]
        if name not in settings:
            raise SettingsError(f"'{override}': {file} has no step '{name}'; it has {', '.join(settings)}.")
    changed = apply_overrides(settings, of_steps)
    steps = {name: step.model_copy(update={"settings": changed[name]}) for name, step in spec.steps.items()}
    return spec.model_copy(update={"steps": steps})


def expanded(spec: StudySpec, overrides: Sequence[str], file: Path) -> StudySpec:
    """The study with overrides of its grid applied and the grid written out as steps.

    Raises:
        SettingsError: overrides of a grid that the study does not have, or a grid that does not hold together.
    """
    if spec.grid is None:
        if overrides:
            raise SettingsError(f"'{overrides[0]}': {file} has no grid.")
        return spec
    if "grid" in spec.steps:
        raise SettingsError(f"{file}: a step cannot be called 'grid' beside a grid.")
    from lang1.study.expand import expand  # which makes specs

    grid = apply_overrides({"grid": spec.grid}, overrides)["grid"]
    return expand(spec.model_copy(update={"grid": grid}), str(file))


def only(spec: StudySpec, names: Sequence[str], source: str = "study") -> StudySpec:
    """The study with these steps and those that they need, directly or not.

    Raises:
        SettingsError: an unknown step.
    """
    wanted: dict[str, None] = {}
    ask = list(names)
    while ask:
        name = ask.pop()
        if name in wanted:
            continue
        if name not in spec.steps:
            raise SettingsError(f"{source}: no step '{name}'; `--plan` lists all of them.")
        wanted[name] = None
        given = spec.steps[name].inputs.values()
        references = [one for value in given for one in (value if isinstance(value, list) else [value])]
        ask += [step for one in references if (step := one.split("/")[0]) in spec.steps]
    return spec.model_copy(update={"steps": {name: step for name, step in spec.steps.items() if name in wanted}})


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
