"""Who is compared with whom: a study's main model, its rivals, and how they are named and coloured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lang1.reporting.numbers import count
from lang1.study.cells import Cell
from lang1.study.context import Context, Group

TRAINED = ["joint", "finetuned"]
OWN = ["specialist", "twin"]
FigureRole = Literal["specialist", "self", "generalist", "baseline", "oracle", "paper"]


def main_model(context: Context) -> tuple[str, str] | None:
    """Mixture and size of the main model: as the grid names it, else the last that the main tables hold.

    It is chosen before anything is scored, so that no table flatters it.
    """
    named = context.grid.get("main")
    if isinstance(named, dict) and {"corpus", "model"} <= set(named):
        return str(named["corpus"]), str(named["model"])
    found = _trained(context) or context.select(design="grid", tested_on=context.home, role="specialist")
    return (found[-1].about.corpus, found[-1].about.model) if found else None


def _trained(context: Context) -> list[Group]:
    return context.select(design="grid", tested_on=context.home, role="specialist", regime=TRAINED)


def main_specialist(context: Context) -> Group | None:
    """The main model finetuned on home's labels: on all of them where there is such a one, else on the most."""
    named = main_model(context)
    found = [g for g in _trained(context) if (g.about.corpus, g.about.model) == named]
    return max(found, key=_labels) if found else None


def like(context: Context, main: Group, other: Group) -> Group:
    """The main model finetuned on as many notes as another model was, where the study holds it; else itself."""
    about = main.about
    sized = context.select(design="efficiency", tested_on=context.home, role="specialist", regime=TRAINED)
    found = [
        g
        for g in [*_trained(context), *sized]
        if (g.about.corpus, g.about.model) == (about.corpus, about.model) and g.about.notes == other.about.notes
    ]
    return found[0] if found else main


def on_equal_labels(one: Group, other: Group) -> bool:
    """Whether two models were finetuned on as many notes."""
    return one.about.notes == other.about.notes


def zero_shot(context: Context, **fields: Any) -> list[Group]:
    """Home's models that were not finetuned: own ones and generalists, few-shot ones too."""
    return context.select(
        design="grid",
        tested_on=context.home,
        role=["specialist", "generalist"],
        regime=["zero-shot", "few-shot"],
        **fields,
    )


def finetuned(context: Context, role: str) -> list[Group]:
    """Home's finetuned models of a role."""
    return context.select(design="grid", tested_on=context.home, role=role, regime=TRAINED)


def baselines(context: Context) -> list[Group]:
    """Home's baselines that learned something, so without stating the prevalence."""
    found = context.select(design="grid", tested_on=context.home, role="baseline")
    return [g for g in found if g.about.model != "prevalence"]


def oracle(context: Context, benchmark: str | None = None) -> Group | None:
    """The true risks on a benchmark (null: home's), where the simulator gives them."""
    found = context.select(role="oracle")
    fits = [g for g in found if (g.about.benchmark == benchmark if benchmark else _is_home(context, g.about))]
    return fits[0] if fits else None


def _is_home(context: Context, about: Cell) -> bool:
    return about.design == "grid" and about.tested_on == context.home


def _labels(group: Group) -> float:
    return float("inf") if group.about.notes is None else group.about.notes


def role(group: Group, main: Group | None = None) -> FigureRole:
    """The colour of a group: our main model, others of ours, generalists, baselines, the oracle."""
    if group.about.role in OWN:
        same = main is None or (group.about.corpus, group.about.model) == (main.about.corpus, main.about.model)
        return "specialist" if same else "self"
    return group.about.role  # type: ignore[return-value]


def name(group: Group, among: Sequence[Group] = ()) -> str:
    """A group as a reader sees it; with its notes or regime where others have the same label."""
    label = group.label
    alike = [g for g in among if g.label == label and g.about != group.about]
    if alike and any(g.about.regime != group.about.regime for g in alike):
        label = f"{label}, {group.about.regime}"
    if alike and any(g.about.notes != group.about.notes for g in alike):
        label = f"{label}, {notes(group.about.notes)}"
    return label


def notes(number: int | None) -> str:
    """``1,000 notes``, ``all notes``."""
    return "all notes" if number is None else f"{count(number)} notes"
