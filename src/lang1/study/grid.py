"""The ``grid:`` block of a study: what is compared, from which ``study/expand.py`` makes the steps.

Everything has a name that shows in step names and in the report. What is left out of the block is not made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from lang1.common.settings import Settings
from lang1.model.config import ImportSettings
from lang1.study.grid_designs import (
    Budget,
    Efficiency,
    Joint,
    Longitudinal,
    Name,
    Seen,
    Single,
    Swaps,
    Systems,
    Trajectory,
    Twins,
)
from lang1.study.prices import known_prices

Part = dict[str, Any]


class HealthSystem(Settings):
    """Records of one health system."""

    records: str = Field(description="its records folder: a step of the study, a folder inside one, or a path")
    truth: str | None = Field(default=None, description="predictions of the true risks (simulated systems); null: none")
    benchmark: Part = Field(default={}, description="settings of its benchmark, over the grid's")


class Mixture(Settings):
    """A pretraining corpus."""

    systems: list[str] | None = Field(
        default=None, description="health systems whose notes enter; null: the home's; []: general text alone"
    )
    settings: Part = Field(default={}, description="settings of the corpus, over the grid's `corpus`")


class Generalist(Settings):
    """A model that others made, zero-shot and finetuned."""

    source: str | None = Field(
        default=None,
        description="a Hugging Face folder, a .gguf file, or the YAML of a server; null: left out, and the report "
        "says so",
    )
    label: str | None = Field(default=None, description="name that a reader sees; null: its name in the grid")
    take: ImportSettings = Field(default=ImportSettings(), description="how a folder is imported")
    zero_shot: bool = True
    shots: tuple[int, ...] = Field(default=(), description="also few-shot with so many solved examples")
    finetuned: dict[str, Part] = Field(
        default={}, description="ways of finetuning by name, each over the grid's `finetune`; e.g. lora: {lora: {}}"
    )
    single: bool = Field(default=False, description="also finetuned on each task alone, in each way")
    notes: int | None = Field(default=None, ge=1, description="notes that it is finetuned on; null: as the main model")
    seeds: list[int] | None = Field(default=None, min_length=1, description="of its finetuning; null: the grid's")
    evaluate: Part = Field(
        default={},
        description="over the grid's `evaluate`; a smaller `limit` asks it the first of the same examples, and it is "
        "compared on these",
    )

    @property
    def server(self) -> bool:
        """Whether it is served, so that it cannot be finetuned here."""
        return self.source is not None and self.source.endswith((".yaml", ".yml"))


class Grid(Settings):
    """The whole block. Parts named like a verb's settings (`pretrain`, `finetune`, `evaluate`) are that verb's."""

    home: str = Field(description="the health system that the main tables are about")
    systems: dict[Name, HealthSystem] = Field(min_length=1, description="health systems by name")
    benchmark: Part = Field(default={}, description="settings of every benchmark")
    corpus: Part = Field(default={}, description="settings of every corpus; the tokenizer's come from `tokenizer`")
    corpora: dict[Name, Mixture] = Field(default={}, description="pretraining mixtures by name")
    tokenizer: str | None = Field(
        default=None, description="the mixture whose tokenizer all corpora share; null: the first"
    )
    pretrain: Part = Field(default={}, description="settings of every pretraining")
    models: dict[Name, Part] = Field(
        default={},
        description="sizes by name: settings of their pretraining, with tokens; `start: NAME` goes on from a model of "
        "`generalists`, on corpora of its tokenizer, and is left out where no folder of that one is given; `finetune` "
        "is laid over the grid's for it, `seeds` stand in the grid's place",
    )
    pretrained: dict[str, list[str]] | None = Field(
        default=None, description="which sizes are pretrained on which mixture; null: every size on every mixture"
    )
    main: dict[Literal["corpus", "model"], str] | None = Field(
        default=None, description="the main model: its mixture and size; null: the last of each"
    )
    finetune: Part = Field(default={}, description="settings of every finetuning")
    evaluate: Part = Field(default={}, description="settings of every scoring and of the report")
    evaluate_others: Part = Field(
        default={}, description="over `evaluate` for all but the main model, baselines and oracle: e.g. fewer splits"
    )
    seeds: list[int] = Field(default=[1], min_length=1, description="of finetuning")
    baselines: list[str] = Field(default=[], description="baselines by name, at every health system")
    baseline: Part = Field(default={}, description="over `evaluate` for the baselines")
    generalists: dict[Name, Generalist] = {}
    joint: Joint | None = Field(default=None, description="finetuned on all tasks; null: none")
    single: Single | None = Field(default=None, description="finetuned on one task alone, scored on all")
    trajectory: Trajectory | None = Field(default=None, description="milestones of one pretraining, zero-shot")
    budget: Budget | None = Field(default=None, description="those milestones × finetuning notes")
    efficiency: Efficiency | None = Field(default=None, description="finetuned on nested sets of notes")
    twins: Twins | None = Field(default=None, description="general text alone against general and clinical text")
    seen: Seen | None = Field(
        default=None, description="a benchmark split by time alone, with patients seen in training"
    )
    across: Systems | None = Field(default=None, description="trained at one health system, tested at each other")
    swaps: Swaps | None = Field(default=None, description="tested on copies of home with one component swapped")
    longitudinal: Longitudinal | None = Field(default=None, description="several notes against one, by token budget")
    prices: Annotated[dict[str, Any], BeforeValidator(known_prices)] = Field(
        default={},
        description="what costs and benefits are reckoned with, over recipes/prices.yaml: values, or a file of them",
    )
    cases: int = Field(default=6, ge=0, description="notes of each task that the report shows whole")
    real_cases: bool = Field(
        default=False, description="show notes of real patients too: whoever gets the report can then read them"
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        _known("home", [self.home], self.systems)
        for name, mixture in self.corpora.items():
            _known(f"corpora.{name}.systems", mixture.systems or (), self.systems)
        if self.tokenizer is not None:
            _known("tokenizer", [self.tokenizer], self.corpora)
        for name in self.models:
            if (start := self.start_of(name)) is not None:
                _known(f"models.{name}.start", [start], self.generalists)
        for corpus, sizes in (self.pretrained or {}).items():
            _known("pretrained", [corpus], self.corpora)
            _known(f"pretrained.{corpus}", sizes, self.models)
        for name, seeds in self._seeds().items():
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{name}: {seeds} holds a seed twice")
        if "limit" in self.evaluate_others and self.evaluate_others["limit"] != self.evaluate.get("limit"):
            raise ValueError("evaluate_others.limit: all must answer the same examples; set evaluate.limit")
        if self.main is not None and set(self.main) != {"corpus", "model"}:
            raise ValueError("main: name its corpus and its model")
        if self.joint is not None and self.joint.models is not None:
            self._check_cells("joint.models", self.joint.models)
        if self.efficiency is not None and self.efficiency.models is not None:
            self._check_cells("efficiency.models", self.efficiency.models)
        if self.efficiency is not None:
            _known("efficiency.generalists", self.efficiency.generalists or (), self.generalists)
        if self.twins is not None:
            _known("twins", [self.twins.general, self.twins.clinical], self.corpora)
        if self.needs_model and not self.cells:
            raise ValueError("a design asks for a model: name corpora and models")
        if self.main is not None and self.main["model"] in self.without_start:
            raise ValueError(f"main: {self._why_not(*self.chosen)}")
        for name, design in self.designs().items():
            chosen = (design.corpus or self.chosen[0], design.model or self.chosen[1])
            if chosen not in self.cells and not (name == "seen"):
                raise ValueError(f"{name}: {self._why_not(*chosen)}")
        if self.budget is not None and self.trajectory is None:
            raise ValueError("budget: it goes over the milestones of `trajectory`, which is not there")
        return self

    def _check_cells(self, name: str, named: dict[str, list[str]]) -> None:
        for corpus, sizes in named.items():
            for size in sizes:
                if (corpus, size) not in self.cells:
                    raise ValueError(f"{name}: {self._why_not(corpus, size)}")

    def _why_not(self, corpus: str, model: str) -> str:
        if model in self.without_start:
            start = self.start_of(model)
            return f"{model} goes on from {start}, of which no folder is given; set grid.generalists.{start}.source"
        return f"{model} is not pretrained on {corpus}; add it to `pretrained`"

    def _seeds(self) -> dict[str, list[int]]:
        parts = {name: getattr(self, name) for name in type(self).model_fields}
        found = {f"{n}.seeds": p.seeds for n, p in parts.items() if getattr(p, "seeds", None) is not None}
        return {"seeds": self.seeds, **found}

    def designs(self) -> dict[str, Any]:
        """The designs that name one corpus and model, by name."""
        named = {n: getattr(self, n) for n in ("single", "trajectory", "budget", "seen", "across", "longitudinal")}
        return {name: design for name, design in named.items() if design is not None}

    @property
    def needs_model(self) -> bool:
        """Whether anything asks for a model of our own."""
        return bool(self.designs()) or any(
            part is not None for part in (self.joint, self.efficiency, self.twins, self.swaps)
        )

    @property
    def cells(self) -> list[tuple[str, str]]:
        """The pretrainings of the grid: mixture and size."""
        everything = {corpus: list(self.models) for corpus in self.corpora}
        declared = everything if self.pretrained is None else self.pretrained
        found = [(corpus, model) for corpus, sizes in declared.items() for model in sizes]
        return [cell for cell in found if cell[1] not in self.without_start]

    def start_of(self, model: str) -> str | None:
        """The generalist that a size goes on from; None: from random weights."""
        return self.models[model].get("start")

    @property
    def without_start(self) -> list[str]:
        """Sizes that go on from a model of which no folder is given, or which is served."""
        starts = {name: self.generalists[start] for name in self.models if (start := self.start_of(name)) is not None}
        return [name for name, model in starts.items() if model.source is None or model.server]

    @property
    def chosen(self) -> tuple[str, str]:
        """The main model; where none is named, the last size on the last mixture."""
        if self.main is not None:
            return self.main["corpus"], self.main["model"]
        return self.cells[-1]


def _known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: '{name}' is not there; there are {', '.join(known) or 'none'}")
