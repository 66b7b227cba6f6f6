"""Makes the steps and cells of a study's grid; what is asked for twice under one name and meaning is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lang1.common.errors import SettingsError
from lang1.remede.names import TASKS
from lang1.study.cells import Cell
from lang1.study.grid import Grid
from lang1.study.spec import StepSpec
from lang1.training.settings import PretrainSettings

Part = Mapping[str, Any]
# Settings of a corpus that train its tokenizer, and mean nothing where it takes another's.
OF_TOKENIZER = ("vocab_size", "digits", "tokenizer_sample_bytes")
# What stands under a size's name without being a setting of its pretraining.
BESIDE_PRETRAINING = ("start", "finetune", "seeds")


def over(*parts: Part) -> dict[str, Any]:
    """Settings laid over one another, the later ones winning; sections are merged, field by field.

    A section that is named by its ``kind`` (an optimizer, a schedule) is replaced as a whole when the kind changes.
    """
    made: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            below = made.get(name)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                other_kind = "kind" in value and value["kind"] != below.get("kind")
                made[name] = dict(value) if other_kind else over(below, value)
            else:
                made[name] = value
    return made


@dataclass(frozen=True)
class Start:
    """A model to score or to finetune: its step, and what cells say of it."""

    step: str
    label: str
    about: Mapping[str, Any] = field(default_factory=dict)  # fields of Cell

    @property
    def size(self) -> str:
        """Its name among the grid's sizes; empty for a model that others made, which may bear the same name."""
        return "" if self.about.get("role") == "generalist" else str(self.about.get("model", ""))

    def with_(self, **fields: Any) -> Start:
        """The same step, said otherwise."""
        return Start(self.step, self.label, {**self.about, **fields})


class Maker:
    """Adds steps under readable names and remembers the cells that they stand for."""

    def __init__(self, grid: Grid, taken: Mapping[str, StepSpec], source: str) -> None:
        self.grid, self.source = grid, source
        self.taken = taken
        self.steps: dict[str, StepSpec] = {}
        self.cells: list[Cell] = []

    def add(self, name: str, kind: str, inputs: Mapping[str, Any], settings: Part, otherwise: str = "") -> str:
        """Add a step and return its name; under a name that means something else already, ``NAME-otherwise``."""
        step = StepSpec.model_validate({"step": kind, "from": dict(inputs), "settings": dict(settings)})
        if name in self.taken:
            raise SettingsError(f"{self.source}: step '{name}' has a name that the grid gives; name it otherwise.")
        there = self.steps.get(name)
        if there is not None and there != step:
            if not otherwise:
                raise SettingsError(f"{self.source}: grid: two different steps would be called '{name}'.")
            return self.add(f"{name}-{otherwise}", kind, inputs, settings)
        self.steps[name] = step
        return name

    # Benchmarks and corpora

    def tasks(self, settings: Part) -> tuple[str, ...]:
        """The tasks of a benchmark of these settings."""
        return tuple(settings.get("tasks") or TASKS)

    def benchmark_settings(self, system: str) -> dict[str, Any]:
        """Those of a health system's main benchmark."""
        return over(self.grid.benchmark, self.grid.systems[system].benchmark)

    def benchmark(self, system: str) -> str:
        """A health system's main benchmark. Bins that are fitted are fitted at home and hold everywhere."""
        settings = self.benchmark_settings(system)
        inputs = {"records": self.grid.systems[system].records}
        return self.add(f"benchmark-{system}", "remede", *self._same_bins(inputs, settings, system == self.grid.home))

    def copy_benchmark(self, name: str, records: str, settings: Part) -> str:
        """A benchmark of other records that has home's bins."""
        return self.add(f"benchmark-{name}", "remede", *self._same_bins({"records": records}, settings, False))

    def _same_bins(self, inputs: dict[str, Any], settings: Part, home: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        made = dict(settings)
        if made.get("fit_cut_points") and not home:
            made.pop("fit_cut_points")
            inputs = {**inputs, "cut_points": self.benchmark(self.grid.home)}
        return inputs, made

    def pool(self, systems: Sequence[str], name: str) -> tuple[str, str]:
        """Records of several health systems as one, and their benchmark; folds of patients stay as they are alone."""
        records = self.add(
            f"records-{name}",
            "pool",
            {"records": [self.grid.systems[s].records for s in systems]},
            {"names": list(systems)},
        )
        return records, self.copy_benchmark(name, records, self.benchmark_settings(self.grid.home))

    def guarded_by(self, systems: Sequence[str]) -> tuple[list[str], str, str]:
        """Records of these health systems, the benchmark that guards them, and a suffix for names; home's has none."""
        if not systems or list(systems) == [self.grid.home]:
            own = [self.grid.systems[self.grid.home].records] if systems else []
            return own, self.benchmark(self.grid.home), ""
        if len(systems) == 1:
            return [self.grid.systems[systems[0]].records], self.benchmark(systems[0]), f"-{systems[0]}"
        name = "pooled" if set(systems) == set(self.grid.systems) else f"pooled-{'-'.join(systems)}"
        records, benchmark = self.pool(systems, name)
        return [records], benchmark, f"-{name}"

    def systems_of(self, corpus: str) -> list[str]:
        """The health systems of a mixture as it is declared."""
        systems = self.grid.corpora[corpus].systems
        return [self.grid.home] if systems is None else list(systems)

    def imported(self, generalist: str) -> str:
        """The step that takes in the folder of a model that others made."""
        given = self.grid.generalists[generalist]
        settings = given.take.model_dump(mode="json", exclude_defaults=True)
        return self.add(f"generalist-{generalist}", "import", {"source": given.source}, settings)

    def corpus(
        self, corpus: str, systems: Sequence[str], benchmark: str = "", suffix: str = "", start: str | None = None
    ) -> str:
        """The corpus of a mixture, of other health systems or against another benchmark where they are given.

        ``start`` is the generalist whose tokenizer it is made with.
        """
        records, guard, of = self.guarded_by(systems)
        if list(systems) == self.systems_of(corpus):
            of = ""  # a mixture that is declared of several needs no other name
        inputs: dict[str, Any] = {"records": records, "benchmark": benchmark or guard}
        first = self.grid.tokenizer or next(iter(self.grid.corpora))
        settings = over(self.grid.corpus, self.grid.corpora[corpus].settings)
        if start is not None:
            inputs["tokenizer"] = self.imported(start)
            suffix = f"{suffix}-for-{start}"
        elif corpus != first or suffix or of:
            inputs["tokenizer"] = f"{self.corpus(first, self.systems_of(first))}/tokenizer/tokenizer.json"
        if "tokenizer" in inputs:
            settings = {name: value for name, value in settings.items() if name not in OF_TOKENIZER}
        return self.add(f"corpus-{corpus}{of}{suffix}", "corpus", inputs, settings)

    # Models

    def pretrain_settings(self, model: str) -> dict[str, Any]:
        """Those of a size."""
        made = over(self.grid.pretrain, self.grid.models[model])
        return {name: value for name, value in made.items() if name not in BESIDE_PRETRAINING}

    def pretrained(
        self,
        corpus: str,
        model: str,
        *,
        systems: Sequence[str] | None = None,
        seed: int | None = None,
        benchmark: str = "",
        suffix: str = "",
    ) -> Start:
        """A pretraining of the grid, or the same on notes of other health systems, against another benchmark, anew."""
        of = self.systems_of(corpus) if systems is None else list(systems)
        guard, base = benchmark or self.guarded_by(of)[1], self.grid.start_of(model)
        made_of = self.corpus(corpus, of, benchmark, suffix, base)
        settings = self.pretrain_settings(model)
        if (corpus, model) == self.on_path and systems is None and seed is None:
            settings["milestone_every"] = self.milestones(model)[0]
        if seed is not None:
            settings["seed"] = seed
        again = f"-seed{seed}" if seed is not None else ""
        name = f"pretrained-{made_of.removeprefix('corpus-')}-{model}{again}"
        inputs = {"corpus": made_of, "benchmark": guard}
        inputs |= {"start": self.imported(base)} if base is not None else {}
        step = self.add(name, "pretrain", inputs, settings)
        about = {"role": "specialist", "model": model, "corpus": corpus, "pretrained_on": tuple(of)}
        return Start(step, f"{model}, {corpus}", about)

    @property
    def on_path(self) -> tuple[str, str] | None:
        """Mixture and size whose pretraining the trajectory follows."""
        path, (corpus, model) = self.grid.trajectory, self.grid.chosen if self.grid.cells else ("", "")
        return None if path is None else (path.corpus or corpus, path.model or model)

    def milestones(self, model: str) -> list[int]:
        """Steps of the trajectory's milestones, at even distances; those of the last may lie short of the end."""
        assert self.grid.trajectory is not None
        steps, _ = self.steps_of(model)
        count = self.grid.trajectory.milestones
        if steps < count:
            raise SettingsError(f"{self.source}: grid.trajectory: {count} milestones in {steps} steps of pretraining.")
        every = steps // count
        return [every * i for i in range(1, count + 1)]

    def steps_of(self, model: str) -> tuple[int, int]:
        """Steps of a size's pretraining, and tokens of one."""
        settings = PretrainSettings.model_validate(self.pretrain_settings(model))
        tokens = settings.sequence_length * settings.sequences_per_step
        return -(-settings.tokens // tokens), tokens

    def milestone(self, start: Start, model: str, number: int) -> Start:
        """The model after the ``number``-th of the trajectory's milestones; the last is the finished one."""
        places = self.milestones(model)
        steps, tokens = self.steps_of(model)
        if number == len(places):
            return start.with_(tokens=steps * tokens)
        at = places[number - 1]
        step = self.add(f"{start.step}-step{at}", "milestone", {"model": start.step}, {"step": at})
        return Start(step, start.label, {**start.about, "tokens": at * tokens})

    def finetuned(
        self,
        start: Start,
        benchmark: str,
        systems: Sequence[str],
        settings: Part,
        seed: int,
        *,
        tasks: Sequence[str],
        alone: bool = False,
        notes: int | None = None,
        design: str,
        way: str = "",
    ) -> Start:
        """A finetuning; cells say which tasks, notes and seed."""
        of_model = self.grid.models.get(start.size, {}).get("finetune", {})
        made = over(self.grid.finetune, of_model, settings, {"seed": seed})
        made |= {"max_notes": notes} if notes is not None else {}
        made |= {"tasks": list(tasks)} if alone else {}
        home = self.benchmark(self.grid.home)
        parts = [
            f"finetuned-{start.step.removeprefix('pretrained-').removeprefix('generalist-')}",
            *([] if benchmark == home else [f"on-{benchmark.removeprefix('benchmark-')}"]),
            *([way.replace(" ", "-")] if way else []),
            tasks[0] if alone else "joint",
            *([] if notes is None else [f"{notes}notes"]),
        ]
        stem, inputs = "-".join(parts), {"model": start.step, "benchmark": benchmark}
        there = self.steps.get(f"{stem}-seed{seed}")
        if there is not None and there.settings != made:
            stem = f"{stem}-{design}"
        step = self.add(f"{stem}-seed{seed}", "finetune", inputs, made)
        about = {"tasks": tuple(tasks), "notes": notes, "seed": seed, "trained_on": tuple(systems)}
        return Start(step, start.label, {**start.about, **about})

    # Scores

    def score(
        self, model: Start, benchmark: str, settings: Part, *, kind: str = "evaluate", regime: str = "", **about: Any
    ) -> Cell:
        """Score a model at a benchmark, and remember the cell. ``about`` fills its further fields.

        No scoring asks more examples than the grid's ``evaluate`` does; one that asks fewer says so in its cell.
        """
        settings, fewer = self._limited(settings)
        about |= {"limit": fewer} if fewer is not None else {}
        tasks = model.about.get("tasks", ())
        regime = regime or ("zero-shot" if not tasks else "joint" if len(tasks) > 1 else "finetuned")
        label = str(about.pop("label", model.label))
        seed = model.about.get("seed")
        made = over(settings, {"regime": regime, "name": label if seed is None else f"{label}, seed {seed}"})
        shots = f"-{settings['shots']}shot" if settings.get("shots") else ""
        name = f"{model.step}{shots}-at-{benchmark.removeprefix('benchmark-')}"
        role = {"generalist": "folder", "evaluate": "model"}[kind]
        step = self.scored(name, kind, {role: model.step, "benchmark": benchmark}, made)
        shown = "few-shot" if shots else regime
        return self.cell(step, label, benchmark, shown, **{**model.about, **about})

    def _limited(self, settings: Part) -> tuple[Part, int | None]:
        most, own = self.grid.evaluate.get("limit"), settings.get("limit")
        if own is None or own == most:
            return over(settings, {} if most is None else {"limit": most}), None
        if most is not None and own > most:
            return over(settings, {"limit": most}), None
        return settings, int(own)

    def scored(self, name: str, kind: str, inputs: Mapping[str, Any], settings: Part) -> str:
        """A step that scores. A wider scoring of the same thing, asked for before or after, serves both."""
        there = self.steps.get(name)
        if there is not None and there.settings != dict(settings):
            same = {"name", "splits", "recalibrate"}
            mine = {k: v for k, v in settings.items() if k not in same}
            theirs = {k: v for k, v in there.settings.items() if k not in same}
            if mine == theirs and there.inputs == dict(inputs):
                wide = {k: v for k, v in there.settings.items() if k not in ("splits", "recalibrate")}
                wide |= {"recalibrate": True} if any(s.get("recalibrate") for s in (settings, there.settings)) else {}
                one, other = there.settings.get("splits"), settings.get("splits")
                wide |= {} if one is None or other is None else {"splits": list(dict.fromkeys([*one, *other]))}
                self.steps[name] = there.model_copy(update={"settings": wide})
                return name
        return self.add(name, kind, inputs, settings)

    def cell(self, step: str, label: str, benchmark: str, regime: str, **about: Any) -> Cell:
        """Remember what a predictions step stands for."""
        fields = {"tested_on": self.grid.home, **about}
        made = Cell.model_validate({"step": step, "label": label, "benchmark": benchmark, "regime": regime, **fields})
        if made not in self.cells:
            self.cells.append(made)
        return made
