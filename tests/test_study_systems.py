"""Several health systems, swapped components and charts over time: what a study says of them is what was planted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chart_world import charts
from study_world import AWAY, HOME, JOINT, _own, every_cell, world

from lang1.evaluation.predict_benchmark import import_predictions
from lang1.evaluation.settings import EvaluateSettings
from lang1.reporting.study_schema import Analysis, Table, Value
from lang1.study.analyses.drivers import drivers
from lang1.study.analyses.joint import Joint, Side, combined_by_task
from lang1.study.analyses.longitudinal import longitudinal
from lang1.study.analyses.registry import ANALYSES
from lang1.study.analyses.systems import systems
from lang1.study.cells import Cell
from lang1.study.context import MEAN, Context


def cells(rows: list[dict[str, Any]], seeds: tuple[int, ...] = (1, 2)) -> list[Cell]:
    made = [{**row, "step": f"c{k}-{seed}", "seed": seed} for k, row in enumerate(rows) for seed in seeds]
    return [Cell.model_validate(row) for row in made]


def small(out: Path, **more: Any) -> Context:
    """A world of one split and few resamples."""
    return world(out, **{"resamples": 80, "splits": ("test_newest",), **more})


def table(found: Analysis, name: str) -> Table:
    return next(one for one in found.tables if one.id == name)


def value(cell: Any) -> Value:
    assert isinstance(cell, Value) and cell.value is not None
    return cell


def skill_by_variant(**lost: float) -> Any:
    return lambda cell, task: 1.7 if cell.role == "oracle" else 1.2 - lost.get(cell.variant.replace(" ", "_"), 0.0)


def swapped(*variants: str, control: str | None = "control") -> list[Cell]:
    """The same model on copies, whose patients are those of one benchmark; without a control home's own patients."""
    copy = {**JOINT, "benchmark": "benchmark-away", "design": "swaps"}
    rows = [_own(**{**copy, "tested_on": f"{HOME}-{v}", "variant": v}) for v in variants]
    if control is not None:
        rows.append(_own(**{**copy, "tested_on": f"{HOME}-{control}", "variant": control}))
    oracles = [c for c in every_cell() if c.role == "oracle"]
    return [*cells(rows), *oracles, *(c for c in every_cell() if c.design == "grid" and c.tasks and c.model == "large")]


def test_trained_elsewhere_is_behind_where_that_was_planted(tmp_path: Path) -> None:
    def worth(cell: Cell, task: str) -> float:
        return (
            1.7 if cell.role == "oracle" else {"away": 0.4, "leave-one-out": 0.4, "pooled": 1.9}.get(cell.variant, 1.2)
        )

    found = systems(small(tmp_path, skill=worth, designs=("grid", "systems")))
    assert found is not None and found.verdict == "mixed"
    assert re.search(r"trained at another alone: clearly behind, −0\.\d", found.sentence)
    assert re.search(r"trained at all together: clearly ahead, \+0\.\d", found.sentence)
    rows = table(found, "systems-against-own").rows
    assert {row["tested"] for row in rows} == {AWAY} and {row["trained"] for row in rows} > {HOME}
    assert any(row["trained"] == "best possible" for row in table(found, "systems").rows)
    assert "Left open" in found.paper and any("simulated" in one for one in found.caveats)


def test_a_matrix_of_systems(tmp_path: Path) -> None:
    both = [("benchmark", HOME), ("benchmark-away", AWAY)]
    rows = [
        _own(**{**JOINT, "design": "systems", "benchmark": b, "tested_on": at, "trained_on": (of,), "variant": v})
        for of in (HOME, AWAY)
        for b, at in both
        for v in (["home"] if of == at else ["away"])
    ]
    found = systems(small(tmp_path, cells=cells(rows), skill=lambda c, t: 1.3 if c.variant == "home" else 0.5))
    assert found is not None
    (figure,) = found.figures
    assert figure.kind == "matrix" and figure.x.names == [HOME, AWAY] == figure.y.names
    at = {(p.label, p.x): p.y for p in figure.series[0].points}
    assert at[HOME, HOME] is not None and min(at[HOME, HOME], at[AWAY, AWAY]) > max(at[HOME, AWAY], at[AWAY, HOME])
    assert re.search("trained at another alone: of 2 comparisons clearly behind in 2", found.sentence)
    assert found.verdict == "clear"


def test_the_component_that_costs_is_named(tmp_path: Path) -> None:
    lost = skill_by_variant(style=0.9, payer=0.35, all=1.1)
    found = drivers(small(tmp_path, cells=swapped("payer", "coding", "style", "all"), skill=lost))
    assert found is not None
    assert re.search(
        r"style has the largest loss that is clear \(mean attained share over tasks −0\.\d", found.sentence
    )
    assert "coding: no clear loss" in found.sentence and "all together: −0." in found.sentence
    ranked = [row["swapped"] for row in table(found, "swaps-share").rows]
    assert ranked == ["all", "style", "payer", "coding"]
    assert [row["patients"] for row in table(found, "swaps-lost").rows] == ["the same"] * 4
    share = value(table(found, "swaps-share").rows[1][MEAN])
    drop = value(next(r for r in table(found, "swaps-lost").rows if r["swapped"] == "style")[MEAN])
    best = value(next(r for r in table(found, "swaps").rows if r["what"] == "best possible")[MEAN])
    assert share.value == pytest.approx((drop.value or 0) / ((best.value or 0) - 0.5), abs=0.03)


def test_a_component_that_costs_one_task_alone_is_named_with_it(tmp_path: Path) -> None:
    def worth(cell: Cell, task: str) -> float:
        return 0.2 if (cell.variant, task) == ("payer", "insurance_denial") else 1.2 if cell.role != "oracle" else 1.7

    found = drivers(small(tmp_path, cells=swapped("payer", "coding"), skill=worth, seed_spread=0.0))
    assert found is not None and found.sentence.endswith("Clear losses by task: payer on insurance denial.")


def test_where_nothing_costs_nothing_is_named(tmp_path: Path) -> None:
    found = drivers(small(tmp_path, cells=swapped("style", "coding"), skill=skill_by_variant(), seed_spread=0.0))
    assert found is not None and found.verdict == "undecided"
    assert "none clearly costs" in found.sentence and "undecided" in found.sentence


def test_without_a_control_home_itself_is_one_with_other_patients(tmp_path: Path) -> None:
    context = small(tmp_path, cells=swapped("style", control=None), skill=skill_by_variant(style=0.8))
    found = drivers(context)
    assert found is not None and any("Other patients than the control's" in one for one in found.caveats)
    (row,) = table(found, "swaps-lost").rows
    assert row["patients"] == "others"
    # Unpaired: the interval is as wide as two independent ones make it.
    gap = value(row[MEAN])
    copy, home = context.select(design="swaps")[0], context.select(design="grid", model="large", tested_on=HOME)[-1]
    widths = [(v.high or 0) - (v.low or 0) for g in (copy, home) if (v := context.auroc(g, MEAN)) is not None]
    assert (gap.high or 0) - (gap.low or 0) == pytest.approx(np.hypot(*widths), rel=0.35)


def test_joint_figures_are_those_of_the_context(tmp_path: Path) -> None:
    context = small(tmp_path, cells=swapped("style", "coding"), skill=skill_by_variant(style=0.5), resamples=500)
    one, other = context.select(design="swaps")[:2]
    joint = Joint(context, [one, other])
    for task in [*joint.tasks(), MEAN]:
        mine, theirs = joint.value(Side(one), task), context.auroc(one, task)
        assert value(mine).value == pytest.approx(value(theirs).value)
        assert value(mine).low == pytest.approx(value(theirs).low, abs=0.02), task
        paired = combined_by_task({"": {task: joint.repeats(Side(one), task, Side(other))}})[""][task]
        assert value(paired).value == pytest.approx(value(context.difference(one, other, task)).value)
    assert joint.shared_patients(one, other, "mortality") == 1


def test_the_chart_beats_the_note_and_risks_get_surer(tmp_path: Path) -> None:
    """The true risks stand in for models: those given the chart for one that reads it, and so on."""
    sim, benchmarks = charts()
    truth = sim / "truth"
    made, folders = [], {}
    kinds = {"note": f"{HOME}-newest-note", "chart": HOME}
    for name, of in kinds.items():
        for role, budget in (("oracle", None), ("specialist", 256), ("specialist", 512)):
            # A budget of 256 tokens is worth one note.
            file = truth / (kinds["note"] if budget == 256 else of)
            step = f"{role}-{name}-{budget}"
            about = {"label": f"Lang1, {name}", "benchmark": name, "tested_on": HOME, "design": "longitudinal"}
            regime = "oracle" if role == "oracle" else "joint"
            tasks = () if role == "oracle" else tuple(benchmarks[name].tasks)
            about |= {"variant": name, "budget": budget, "role": role, "regime": regime, "tasks": tasks, "step": step}
            made.append(Cell.model_validate(about))
            folders[step] = import_predictions(file, benchmarks[name].folder.path, tmp_path / step, EvaluateSettings())
    settings = EvaluateSettings(resamples=100, fast=True)
    found = longitudinal(Context(made, folders, benchmarks, settings, HOME))
    assert found is not None
    assert "Reading chart instead of one note, at 512 tokens, is clearly ahead on" in found.sentence
    assert "it attains 1.00 of what the chart allows" in found.sentence
    assert "Asked again of the same stays, in-hospital mortality reading chart: clearly better" in found.sentence
    rows = {(r["input"], value(r["budget"]).value): r for r in table(found, "longitudinal-against-note").rows}
    assert value(rows["chart", 256.0]["deterioration_72h"]).value == 0.0
    gap = value(rows["chart", 512.0]["mortality_day_2"])
    assert gap.low is not None and gap.low > 0.05
    assert value(rows["chart", 512.0]["mortality"]).value == 0.0  # one note, either way
    shares = {
        (r["input"], value(r["budget"]).value): r for r in table(found, "longitudinal-share").rows if "budget" in r
    }
    assert value(shares["note", 512.0]["mortality_day_2"]).value < 0.8  # type: ignore[operator]
    assert value(shares["chart", 512.0][MEAN]).value == pytest.approx(1.0)
    days = {(r["input"], r["model"]): r for r in table(found, "longitudinal-updates").rows}
    assert value(days["chart", "Lang1, chart"]["day3"]).n == value(days["chart", "Lang1, chart"]["day0"]).n
    assert [f.id for f in found.figures] == [f"longitudinal-{t}" for t in benchmarks["chart"].tasks]


def test_they_are_registered_and_silent_without_cells(tmp_path: Path) -> None:
    context = small(tmp_path, designs=("grid",))
    for analysis in (systems, drivers, longitudinal):
        assert analysis in ANALYSES and analysis(context) is None
