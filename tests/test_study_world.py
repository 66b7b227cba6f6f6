"""The study fixture: what is planted is there, and it is the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_world import EVERY, HOME, Effects, every_cell, world

from lang1.study.context import Context


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return world(tmp_path_factory.mktemp("world"), designs=("grid", "twins"))


def test_every_design_has_cells() -> None:
    assert {cell.design for cell in every_cell()} == set(EVERY)


def test_skill_orders_the_cells(small: Context) -> None:
    for task in small.tasks():
        best, joint, zero, chance = (
            small.auroc(small.select(design="grid", tested_on=HOME, **fields)[-1], task)
            for fields in (
                {"role": "oracle"},
                {"role": "specialist", "regime": "joint"},
                {"role": "specialist", "regime": "zero-shot"},
                {"model": "prevalence"},
            )
        )
        assert best and joint and zero and chance
        assert best.value > joint.value > zero.value
        assert chance.value == 0.5


def test_same_settings_give_the_same_figures(small: Context, tmp_path: Path) -> None:
    again = world(tmp_path, designs=("twins",))
    for one, other in zip(small.select(design="twins"), again.select(), strict=True):
        assert small.auroc(one, "mortality") == again.auroc(other, "mortality")


def test_effects_can_be_taken_out(tmp_path: Path) -> None:
    flat = world(tmp_path, designs=("twins",), skill=Effects(twin=0.0), seed_spread=0.0)
    general, clinical = flat.select(notes=None, variant=["general", "clinical+general"])
    found = flat.difference(clinical, general, "length_of_stay")
    assert found and found.low < 0 < found.high
