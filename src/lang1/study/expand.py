"""From a study's ``grid:`` block to ordinary steps, the list of cells, and the step that writes the report."""

from __future__ import annotations

from lang1.common.errors import SettingsError
from lang1.common.settings import validate_settings
from lang1.study import expand_across as across
from lang1.study import expand_designs as designs
from lang1.study.grid import Grid
from lang1.study.maker import Maker, over
from lang1.study.spec import StepSpec, StudySpec

REPORT = "study-report"
TRAINED = ("pretrain", "finetune", "import")


def expand(spec: StudySpec, source: str = "study") -> StudySpec:
    """The study with its grid written out as steps; without a grid as it is.

    Raises:
        SettingsError: a grid that does not hold together, or names of steps that clash.
    """
    if spec.grid is None:
        return spec
    grid = validate_settings(Grid, spec.grid, f"{source}: grid")
    make = Maker(grid, spec.steps, source)
    left_out = designs.references(make)
    if grid.cells and grid.needs_model:
        designs.zero_shots(make)
    if grid.joint is not None:
        designs.joint(make, grid.joint)
    left_out += designs.generalists(make)
    if grid.single is not None:
        designs.single(make, grid.single)
    if grid.twins is not None:
        designs.twins(make, grid.twins)
    if grid.efficiency is not None:
        designs.efficiency(make, grid.efficiency)
    if grid.trajectory is not None:
        designs.trajectory(make, grid.trajectory)
    if grid.budget is not None:
        designs.budget(make, grid.budget)
    if grid.seen is not None:
        designs.seen(make, grid.seen)
    if grid.across is not None:
        left_out += across.across(make, grid.across)
    if grid.swaps is not None:
        across.swaps(make, grid.swaps)
    if grid.longitudinal is not None:
        designs.longitudinal(make, grid.longitudinal)
    if not make.cells:
        raise SettingsError(f"{source}: grid: nothing to judge: name baselines, a truth, a generalist or a design.")
    if REPORT in spec.steps:
        raise SettingsError(f"{source}: step '{REPORT}' is the grid's own; name it otherwise.")
    steps = {**spec.steps, **make.steps, REPORT: _report(spec, make, left_out)}
    return spec.model_copy(update={"steps": steps, "grid": None})


def _report(spec: StudySpec, make: Maker, left_out: list[str]) -> StepSpec:
    scored = list(dict.fromkeys(cell.step for cell in make.cells))
    inputs = {
        "predictions": scored,
        "benchmarks": list(dict.fromkeys(cell.benchmark for cell in make.cells)),
        "models": [name for name, step in make.steps.items() if step.step in TRAINED],
    }
    judged = {k: v for k, v in make.grid.evaluate.items() if k != "splits"}
    settings = over(
        judged,
        {
            "title": spec.title,
            "subtitle": spec.subtitle,
            "home": make.grid.home,
            "cases": make.grid.cases,
            "real_cases": make.grid.real_cases,
            "cells": [cell.model_dump(mode="json", exclude_defaults=True) for cell in make.cells],
            "grid": make.grid.model_dump(mode="json"),
            "notes": left_out,
        },
    )
    return StepSpec.model_validate({"step": REPORT, "from": inputs, "settings": settings})
