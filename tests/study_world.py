"""A tiny study for tests: two simulated health systems, and cells of every design whose skill is planted.

``world(tmp_path)`` gives a :class:`~lang1.study.context.Context` as ``lang1 study`` would build it. What a cell's
answers are worth is ``skill(cell, task)``: how far the right option's logit is raised above noise of standard
deviation 1, so that 0 is chance, 1 an AUROC near 0.84 and 2 near 0.98 (two options). Half of the noise's variance
belongs to the example and is shared by all cells, half to the cell. ``Effects`` holds what tests plant; ``alike()``
plants nothing.

    context = world(tmp_path)                                     # the paper's story: every claim of it true
    context = world(tmp_path, skill=Effects(twin=0.0))            # general text alone is as good a start
    context = world(tmp_path, designs=("grid", "twins"))          # fewer cells: faster
    context = world(tmp_path, cells=my_cells, skill=my_function)  # any cells
"""

from __future__ import annotations

import atexit
import functools
import math
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from lang1.common.artefact import new_folder
from lang1.evaluation.predictions import KIND, prediction_table, write_predictions
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import TASKS, BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.study.cells import Cell
from lang1.study.context import Context

HOME, AWAY = "riverside", "lakeshore"
# By step: the health system, and how its benchmark is split.
BENCHMARKS = {
    "benchmark": (HOME, "patients-apart"),
    "benchmark-away": (AWAY, "patients-apart"),
    "benchmark-time-only": (HOME, "time-only"),
}
CALENDAR = {
    "train": {"start": "2013-01-01", "end": "2015-12-31"},
    "test_older": {"start": "2016-07-01", "end": "2017-06-30"},
    "test_newest": {"start": "2018-01-01", "end": "2024-12-31"},
}
Skill = Callable[[Cell, str], float]
EVERY = ("grid", "single", "trajectory", "budget", "efficiency", "twins", "seen", "systems", "swaps", "longitudinal")


@functools.cache
def _records() -> dict[str, Path]:
    place = Path(tempfile.mkdtemp(prefix="lang1-study-world-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    settings = SimulatorSettings(patients=350, systems=2, preset="high-acuity", seed=7, workers=1)
    return {folder.name: folder for folder in simulate(place / "simulated", settings)}


@functools.cache
def benchmark(name: str) -> Benchmark:
    """A benchmark by its step, of a system of 350 patients; made once a process, when first asked for."""
    system, policy = BENCHMARKS[name]
    records = _records()[system]
    values = {"calendar": CALENDAR, "policy": policy, "fractions": {"train": 0.25, "val": 0.1, "test": 0.65}}
    out = records.parent.parent / name
    build(records, out, BuildSettings.model_validate(values))
    return Benchmark.open(out)


@dataclass(frozen=True)
class Effects:
    """A skill for every cell and task, from what each part of its making is worth; the defaults tell the paper's story.

    ``twin``: clinical text in pretraining. ``finetuned``: labels of the task itself, all of them; fewer are worth less.
    ``transfer``: labels of another task. ``size``: tenfold parameters. ``specialist``: own models over generalists.
    ``zero_shot``: a model of ours that is not finetuned; a generalist is worth ``generalist_zero_shot``.
    ``tokens``: tenfold tokens of pretraining. ``away``: lost at a health system whose labels it did not see.
    """

    twin: float = 0.3
    finetuned: float = 0.7
    transfer: float = 0.35
    size: float = 0.1
    specialist: float = 0.25
    zero_shot: float = 0.1
    generalist_zero_shot: float = 0.2
    tokens: float = 0.2
    away: float = -0.2
    labels: float = 0.2  # lost with every tenth of the labels
    oracle: float = 1.7
    baseline: float = 0.6

    def __call__(self, cell: Cell, task: str) -> float:
        """The skill of a cell at a task."""
        if cell.role == "oracle":
            return self.oracle
        if cell.role == "baseline":
            return 0.0 if cell.model == "prevalence" else self.baseline
        own = cell.role in ("specialist", "twin")
        value = self.size * math.log10((cell.parameters or 1_000_000) / 1_000_000) if own else 0.0
        value += self.zero_shot if own else self.generalist_zero_shot
        if cell.tokens is not None:
            value += self.tokens * math.log10(cell.tokens / 1_000_000)
        if cell.tasks:
            value += self.finetuned if task in cell.tasks else self.transfer
            value += self.specialist if own else 0.0
            value += self.labels * math.log10((cell.notes or 100) / 100)
        if own and cell.tasks and "clinical" in cell.corpus:
            value += self.twin
        if cell.trained_on and cell.tested_on not in cell.trained_on:
            value += self.away
        return value


def alike() -> Effects:
    """A world in which whatever is made with labels is worth the same, and pretraining and size are worth nothing."""
    return Effects(
        twin=0.0, transfer=-0.2, size=0.0, specialist=0.0, zero_shot=0.2, generalist_zero_shot=0.2, tokens=0.0,
        away=0.0, labels=0.0, baseline=0.9,
    )  # fmt: skip


def world(
    out: Path,
    *,
    skill: Skill | None = None,
    designs: Sequence[str] = EVERY,
    cells: Sequence[Cell] | None = None,
    seeds: Sequence[int] = (1, 2),
    seed_spread: float = 0.03,
    resamples: int = 200,
    splits: Sequence[str] = ("test_newest", "test", "test_older"),
    noise: int = 0,
) -> Context:
    """A context over predictions written under ``out``.

    Args:
        out: an empty folder.
        skill: what each cell is worth at each task; null: ``Effects()``.
        designs: parts of the study to make.
        cells: cells in place of the ready ones.
        seeds: of what is trained.
        seed_spread: standard deviation of a training's luck, in skill.
        resamples: of the patients.
        splits: that the predictions answer.
        noise: seed of all noise.
    """
    made = list(cells) if cells is not None else [c for c in every_cell(seeds) if c.design in designs]
    benchmarks = {name: benchmark(name) for name in dict.fromkeys(c.benchmark for c in made)}
    worth = skill or Effects()
    for cell in made:
        write_cell(out / cell.step, cell, benchmarks[cell.benchmark], worth, seed_spread, splits, noise)
    settings = EvaluateSettings(resamples=resamples, fast=True)
    return Context(made, {c.step: out / c.step for c in made}, benchmarks, settings, HOME)


@functools.cache
def told(story: Literal["paper", "alike"]) -> Context:
    """A whole study in which the paper's story is true, or in which nothing helps; made once a process, two seeds."""
    out = _records()["riverside"].parent.parent / f"told-{story}"
    return world(out, skill=Effects() if story == "paper" else alike(), resamples=100)


def write_cell(
    out: Path, cell: Cell, benchmark: Benchmark, skill: Skill, seed_spread: float, splits: Sequence[str], noise: int = 0
) -> None:
    """Write the predictions folder of a cell."""
    mine = np.random.default_rng([noise, zlib.crc32(cell.step.encode())])
    luck = 0.0 if cell.seed is None else seed_spread * float(mine.normal())
    tables, probabilities = [], []
    for task in benchmark.tasks:
        part = benchmark.examples([task], list(splits))
        shape = (part.num_rows, len(benchmark.cards[task].options))
        shared = np.random.default_rng([noise, zlib.crc32(f"{benchmark.folder.path.name} {task}".encode())])
        logits = math.sqrt(0.5) * (shared.normal(size=shape) + mine.normal(size=shape))
        logits[np.arange(len(logits)), part["label"].to_numpy()] += skill(cell, task) + luck
        if cell.model == "prevalence":
            logits[:] = 0.0
        shares = np.exp(logits)
        tables.append(part)
        probabilities += list(shares / shares.sum(axis=1, keepdims=True))
    examples = pa.concat_tables(tables)
    in_words = cell.role in ("specialist", "twin", "generalist")
    mass = mine.uniform(0.3, 0.6, examples.num_rows) + (0.35 if cell.tasks else 0.0) if in_words else None
    name = cell.label if cell.seed is None else f"{cell.label}, seed {cell.seed}"
    with new_folder(out, KIND, inputs={"benchmark": benchmark.folder}) as draft:
        write_predictions(draft.path, prediction_table(examples, probabilities, name, cell.regime, mass))
        draft.extra.update(model=name, regime=cell.regime, cost={}, training_seed=cell.seed)
        draft.extra["benchmark"] = {"path": str(benchmark.folder.path), "fingerprint": benchmark.folder.fingerprint}


PARAMETERS = {"small": 1_000_000, "large": 10_000_000, "generalist-14m": 14_000_000, "generalist-70b": 70_000_000_000}
NOTES = (10, 30, None)  # the benchmark holds some 60 in train
CORPUS, GENERAL = "clinical+general", "general"


def every_cell(seeds: Sequence[int] = (1, 2)) -> list[Cell]:
    """Cells of every design, in the order in which a study would make them."""
    made: list[Cell] = []
    for one in (_grid, _single, _trajectory, _budget, _efficiency, _twins, _seen, _systems, _swaps, _longitudinal):
        for about in one():
            trained = about["role"] not in ("baseline", "oracle") and about.get("tasks")
            for seed in seeds if trained else (None,):
                parts = [about.get("design", "grid"), about["tested_on"], about["label"], about["regime"]]
                parts += [
                    str(about.get(k)) for k in ("variant", "notes", "tokens", "budget") if about.get(k) is not None
                ]
                parts += [f"seed{seed}"] if seed is not None else []
                step = "-".join(parts).replace(" ", "-").replace("/", "-").replace(",", "")
                made.append(Cell.model_validate({**about, "step": step, "seed": seed}))
    assert len({c.step for c in made}) == len(made)
    return made


def _own(size: str = "large", corpus: str = CORPUS, **more: object) -> dict[str, object]:
    return {
        "role": "specialist", "label": f"Lang1 {size}, {corpus}", "model": size, "parameters": PARAMETERS[size],
        "corpus": corpus, "benchmark": "benchmark", "tested_on": HOME, "pretrained_on": (HOME,), **more,
    }  # fmt: skip


def _generalist(name: str = "generalist-14m", **more: object) -> dict[str, object]:
    return {
        "role": "generalist", "label": name, "model": name, "parameters": PARAMETERS[name], "benchmark": "benchmark",
        "tested_on": HOME, **more,
    }  # fmt: skip


NOT = {"regime": "zero-shot", "tasks": ()}
JOINT = {"regime": "joint", "tasks": TASKS, "trained_on": (HOME,)}


def _grid() -> list[dict[str, object]]:
    made = []
    for corpus in ("clinical", CORPUS):
        for size in ("small", "large"):
            made += [_own(size, corpus, **NOT), _own(size, corpus, **JOINT)]
    made += [_generalist(**NOT), _generalist(**JOINT), _generalist("generalist-70b", **NOT)]
    plain = {"benchmark": "benchmark", "tested_on": HOME, "trained_on": (HOME,)}
    for name in ("prevalence", "tfidf-gbm", "gbm-structured"):
        made.append({"role": "baseline", "label": name, "model": name, "regime": "baseline", **plain})
    made.append({"role": "oracle", "label": "best possible", "regime": "oracle", **plain, "trained_on": ()})
    away = {"benchmark": "benchmark-away", "tested_on": AWAY}
    made.append(_own(**{**JOINT, "trained_on": (AWAY,)}, **away, pretrained_on=(AWAY,)))
    made.append({"role": "oracle", "label": "best possible", "regime": "oracle", **away})
    return made


def _single() -> list[dict[str, object]]:
    alone = {"regime": "finetuned", "trained_on": (HOME,), "design": "single"}
    return [_own(**alone, tasks=(task,), variant=task) for task in TASKS]


def _trajectory() -> list[dict[str, object]]:
    return [_own(**NOT, design="trajectory", tokens=n) for n in (1_000_000, 4_000_000, 16_000_000)]


def _budget() -> list[dict[str, object]]:
    pairs = [(tokens, notes) for tokens in (1_000_000, 4_000_000, 16_000_000) for notes in NOTES]
    return [_own(**JOINT, design="budget", tokens=tokens, notes=notes) for tokens, notes in pairs]


def _efficiency() -> list[dict[str, object]]:
    return [made(**JOINT, design="efficiency", notes=n) for made in (_own, _generalist) for n in NOTES]


def _twins() -> list[dict[str, object]]:
    both = ((GENERAL, "twin"), (CORPUS, "specialist"))
    return [
        _own("large", corpus, **{**JOINT, "role": role}, design="twins", notes=notes, variant=corpus)
        for corpus, role in both
        for notes in NOTES
    ]


def _seen() -> list[dict[str, object]]:
    return [_own(**{**JOINT, "benchmark": "benchmark-time-only"}, design="seen", variant="time-only")]


def _systems() -> list[dict[str, object]]:
    away = {"benchmark": "benchmark-away", "tested_on": AWAY, "design": "systems"}
    kinds = {
        "away": (HOME,),
        "home": (AWAY,),
        "size-matched": (AWAY,),
        "pooled": (HOME, AWAY),
        "leave-one-out": (HOME,),
    }
    return [
        _own(**{**JOINT, **away, "trained_on": trained, "pretrained_on": trained, "variant": kind})
        for kind, trained in kinds.items()
    ]


def _swaps() -> list[dict[str, object]]:
    copy = {"benchmark": "benchmark-away", "design": "swaps"}
    kinds = ("style", "coding", "case mix", "payer", "all")
    return [_own(**{**JOINT, **copy, "tested_on": f"{HOME}, {kind} of {AWAY}", "variant": kind}) for kind in kinds]


def _longitudinal() -> list[dict[str, object]]:
    return [
        _own(**JOINT, design="longitudinal", variant=kind, budget=budget)
        for kind in ("note", "chart")
        for budget in (128, 512)
    ]
