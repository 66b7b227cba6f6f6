"""What a hospital could run in place of each other: the options among a study's cells, with what each one takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow.compute as pc

from lang1.study.cells import Cell
from lang1.study.context import Context, Group
from lang1.study.costing import Footprint, Kind
from lang1.study.footprint import Lineage, Scoring, Stage, lineage, scoring

NOT_ASKED = "paid interface, not asked"
Unknown = Literal["lost", "training", "tokens"]
Role = Literal["specialist", "generalist", "baseline"]
# Baselines that look for leaks; nobody would act on them.
CHECKS = ("prevalence", "note-length", "metadata", "payer")
KINDS: dict[Kind, str] = {
    "baseline": "rules or boosting",
    "api": "zero-shot, paid interface",
    "zero_shot": "zero-shot, own machines",
    "finetuned": "finetuned generalist",
    "continued": "continued pretraining",
    "specialist": "specialist from scratch",
}


@dataclass(frozen=True)
class Option:
    """One way to have the answers.

    Attributes:
        kind: of its making.
        label: as a reader sees it.
        groups: by task, the cells whose answers it gives; empty where it is reckoned without having been asked.
        footprint: what it takes.
        unknown: what of it is not recorded: ``lost`` (a folder is gone), ``training``, ``tokens``.
    """

    kind: Kind
    label: str
    groups: Mapping[str, Group]
    footprint: Footprint
    unknown: frozenset[Unknown] = frozenset()

    @property
    def role(self) -> Role:
        """The colour of its marks."""
        if self.kind == "baseline":
            return "baseline"
        return "specialist" if self.kind in ("specialist", "continued") else "generalist"

    @property
    def parameters(self) -> int:
        """Weights of its largest model."""
        return max((one.parameters or 0 for one in self.footprint.scorings), default=0)

    @property
    def clinical(self) -> bool:
        """Whether its pretraining saw notes."""
        return any(group.about.pretrained_on for group in self.groups.values())

    @property
    def shown_kind(self) -> str:
        """Its kind in words."""
        if self.kind == "specialist" and not self.clinical:
            return "from scratch, general text alone"
        return KINDS[self.kind]

    @property
    def notes(self) -> float:
        """Notes that it was finetuned on; infinity for all."""
        notes = [group.about.notes for group in self.groups.values()]
        return min((math.inf if one is None else float(one) for one in notes), default=math.inf)

    @property
    def joint(self) -> bool:
        """Whether one model answers all tasks."""
        return self.footprint.models == 1


def options(context: Context) -> list[Option]:
    """All options whose cells are there, by kind, the larger later."""
    tasks = context.tasks()
    made: list[Option] = []
    for group in context.select(design="grid", tested_on=context.home, role=["baseline", "generalist", "specialist"]):
        about = group.about
        if about.role == "baseline":
            found = (
                None if about.model in CHECKS else _made(context, "baseline", about.label, dict.fromkeys(tasks, group))
            )
        elif about.tasks:
            ours = context.home in about.trained_on and len(about.tasks) > 1
            found = _trained(context, about, about.label, dict.fromkeys(about.tasks, group)) if ours else None
        else:
            kind: Kind = "api" if _served(context, group) else "zero_shot"
            asked = dict.fromkeys(tasks, group)
            found = _made(context, kind, about.label, asked) if about.role == "generalist" else None
        made += [found] if found is not None else []
    made += _several(context)
    # Labels tell options apart; of those that are called alike, what differs is said.
    for told in (lambda one: KINDS[one.kind], _regime, _notes_learned, _step):
        labels = [one.label for one in made]
        said = {label: {told(one) for one in made if one.label == label} for label in labels}
        made = [replace(one, label=f"{one.label} ({told(one)})") if len(said[one.label]) > 1 else one for one in made]
    order = list(KINDS)
    return sorted(made, key=lambda one: (order.index(one.kind), one.parameters, one.footprint.models))


def _regime(option: Option) -> str:
    return next(iter(option.groups.values())).about.regime


def _step(option: Option) -> str:
    return next(iter(option.groups.values())).cells[0].step


def _notes_learned(option: Option) -> str:
    notes = next(iter(option.groups.values())).about.notes
    return "all notes" if notes is None else f"{notes:,} notes"


def _several(context: Context) -> list[Option]:
    """Options of one model a task: cells finetuned on one task alone, gathered by their start."""
    gathered: dict[tuple[object, ...], dict[str, Group]] = {}
    for group in context.select(design="single", tested_on=context.home, role=["generalist", "specialist"]):
        about = group.about
        if len(about.tasks) == 1 and context.home in about.trained_on:
            way = about.variant if about.role == "generalist" else ""
            key = (about.role, about.model, about.corpus, about.pretrained_on, about.notes, way)
            gathered.setdefault(key, {})[about.tasks[0]] = group
    made = []
    for groups in gathered.values():
        about = next(iter(groups.values())).about
        if len(groups) > 1:
            parts = [about.model, about.corpus, about.variant if about.role == "generalist" else ""]
            name = ", ".join(part for part in parts if part)
            made.append(_trained(context, about, f"{name}: {len(groups)} single models", groups))
    return made


def _trained(context: Context, about: Cell, label: str, groups: Mapping[str, Group]) -> Option:
    if about.role == "generalist":
        return _made(context, "finetuned", label, groups)
    stages = lineage(context.predictions(next(iter(groups.values())).cells[0])).stages
    went_on = any(stage.kind == "pretraining" and stage.start for stage in stages)
    return _made(context, "continued" if went_on else "specialist", label, groups)


def _made(context: Context, kind: Kind, label: str, groups: Mapping[str, Group]) -> Option:
    each = list(dict.fromkeys(groups.values()))
    stages: dict[str, Stage] = {}
    scorings: list[Scoring] = []
    unknown: set[Unknown] = set()
    for group in each:
        cell = group.cells[0]  # repeats of other seeds are there for the intervals: a hospital trains one
        predictions = context.predictions(cell)
        behind: Lineage = lineage(predictions)
        if behind.lost:
            unknown.add("lost")
        for stage in behind.stages:
            # A generalist's own pretraining was its makers' to pay, also where a study made one itself.
            if kind in ("specialist", "continued") or stage.kind == "finetuning":
                stages[stage.fingerprint] = stage
        found = scoring(predictions, _notes(context, cell), cell.parameters)
        scorings.append(found.for_one_note() if len(each) > 1 else found)
    if kind in ("finetuned", "specialist", "continued") and not stages:
        unknown.add("training")
    if any(one.tokens is None for one in scorings) and kind != "baseline":
        unknown.add("tokens")
    models = len(groups) if kind == "baseline" else len(each)
    footprint = Footprint(kind, tuple(stages.values()), tuple(scorings), models, len(groups))
    return Option(kind, label, groups, footprint, frozenset(unknown))


def _served(context: Context, group: Group) -> bool:
    cost = context.predictions(group.cells[0]).folder.manifest.extra.get("cost") or {}
    return bool(cost.get("device") == "server")


def _notes(context: Context, cell: Cell) -> int:
    """Notes that a cell's answers are about."""
    examples = context.benchmarks[cell.benchmark].examples()
    answered = context.predictions(cell).table["example_id"]
    asked = examples.filter(pc.is_in(examples["example_id"], value_set=answered.combine_chunks()))
    return int(pc.count_distinct(asked["note_id"]).as_py())


def unasked_api(of: Sequence[Option], tasks: int) -> Option | None:
    """A paid interface that reads as many tokens as the generalist (else the specialist) did: cost without benefit."""
    if any(one.kind == "api" for one in of):
        return None
    read = [one for one in of if one.kind in ("zero_shot", "finetuned") and _tokens(one)]
    read = read or [one for one in of if one.joint and _tokens(one)]
    if not read:
        return None
    like = replace(read[-1].footprint.scorings[0], device="not asked", seconds=0.0, flops=None, parameters=None)
    return Option("api", f"{NOT_ASKED}, tokens of {read[-1].label}", {}, Footprint("api", (), (like,), 1, tasks))


def _tokens(option: Option) -> bool:
    return option.footprint.scorings[0].tokens is not None


def representative(of: Sequence[Option], *kinds: Kind) -> Option | None:
    """Of the first kind that is there, the largest joint model that saw notes, chosen before any result;
    the largest where none is joint."""
    for kind in kinds:
        found = [one for one in of if one.kind == kind]
        if found:
            return max(found, key=lambda one: (one.joint, one.clinical, one.parameters, one.notes))
    return None
