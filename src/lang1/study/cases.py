"""Which examples a study's report shows whole: a choice by rule, the same for the same study.

A case shows how a model reads. Chosen by hand it would mislead, so each kind is drawn at random (by a fixed seed)
among the examples that are most of that kind, and one kind is chance alone. "Sure" is measured against how often each
outcome occurs: a risk of 40 % is sure where 10 % have the outcome, though it stays below one half.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lang1.metrics.auroc import Floats
from lang1.reporting.numbers import percent
from lang1.reporting.study_schema import Case, CaseAnswer
from lang1.reporting.words import REGIME_WORDS
from lang1.study.cells import Cell
from lang1.study.context import Context, Group, Judged, within
from lang1.text.questions import question_text

MOST = 0.05  # a kind is drawn from this share of the examples, those that are most of it …
AT_LEAST = 5  # … or from so many


@dataclass(frozen=True)
class Model:
    """A model that answers the cases, by its first training; ``table`` are its probabilities of a task ``[N, C]``."""

    cell: Cell
    role: str
    judged: Judged

    @property
    def table(self) -> Floats:
        return self.judged.answered.table


def choose(context: Context, limit_per_task: int = 6, allow_real: bool = False, seed: int = 0) -> list[Case]:
    """Cases of the home's main benchmark on its headline split, at most so many a task.

    Kinds in turn: sure and right, sure and wrong, models disagree, near the middle, drawn by chance, far from the
    oracle (where there is one); outcomes alternate as far as there are examples of each. No example stands there
    twice. Notes of real patients are read only where ``allow_real`` says so; else there are no cases of them.
    """
    benchmark = next((c.benchmark for c in context.cells if c.design == "grid" and c.tested_on == context.home), None)
    if benchmark is None or limit_per_task < 1:
        return []
    bench = context.benchmarks[benchmark]
    real = bench.records.meta.real
    if real and not allow_real:
        return []
    made: list[tuple[str, Case]] = []
    for task in bench.tasks:
        models = _models(context, benchmark, task)
        if not models:
            continue
        part = models[0].judged.part
        card, named = bench.cards[task], _names(models)
        notes = part.examples["note_id"].to_pylist()
        ids = part.examples["example_id"].to_pylist()
        for row, why in _picked(
            models, part.labels, limit_per_task, np.random.default_rng([seed, zlib.crc32(task.encode())])
        ):
            answers = [
                CaseAnswer.model_validate(
                    {"model": named[m.cell.step], "role": m.role, "probabilities": [float(p) for p in m.table[row]]}
                )
                for m in models
            ]
            case = Case(
                example_id=ids[row],
                system=bench.records.meta.system,
                task=task,
                note="",
                question=question_text(card.question_template),
                options=list(card.options),
                label=int(part.labels[row]),
                answers=answers,
                why=why,
                real=real,
            )
            made.append((notes[row], case))
    texts = bench.texts(note for note, _ in made)
    return [case.model_copy(update={"note": texts[note]}) for note, case in made]


def _models(context: Context, benchmark: str, task: str) -> list[Model]:
    """The best specialist first, then its like before finetuning, the best generalist and baseline, and the oracle."""
    groups = context.select(design="grid", benchmark=benchmark)
    trained = ["finetuned", "joint"]

    def best(role: str, regimes: Sequence[str] | None = None, model: str | None = None) -> Model | None:
        found = [
            (value, group)
            for group in groups
            if group.about.role == role and (regimes is None or group.about.regime in regimes)
            if model is None or (group.about.model == model)
            if (value := _skill(context, group, task)) is not None
        ]
        if not found:
            return None
        group = max(found, key=lambda pair: pair[0])[1]
        cell = min(group.cells, key=lambda c: (c.seed is not None, c.seed or 0))
        judged = context.judge(cell, task)
        return None if judged is None else Model(cell, role, judged)

    first = best("specialist", trained) or best("specialist")
    made = [first]
    if first is not None and first.cell.regime in trained:
        before = best("specialist", ["zero-shot"], first.cell.model) or best("specialist", ["zero-shot"])
        made.append(None if before is None else Model(before.cell, "self", before.judged))
    made += [best("generalist", trained) or best("generalist"), best("baseline"), best("oracle")]
    known = [model for model in made if model is not None]
    where = within([model.cell for model in known])  # examples that all of them answered
    again = [(model, context.judge(model.cell, task, where=where)) for model in known]
    return [replace(model, judged=judged) for model, judged in again if judged is not None]


def _names(models: Sequence[Model]) -> dict[str, str]:
    """Their labels by step, with the regime where two share a label."""
    labels = [m.cell.label for m in models]
    return {
        m.cell.step: label if labels.count(label) == 1 else f"{label}, {REGIME_WORDS[m.cell.regime]}"
        for m, label in zip(models, labels, strict=True)
    }


def _skill(context: Context, group: Group, task: str) -> float | None:
    found = [judged.auroc for cell in group.cells if (judged := context.judge(cell, task)) is not None]
    return float(np.mean(found)) if found else None


def _picked(models: Sequence[Model], labels: np.ndarray, limit: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Rows with why they were chosen."""
    main = models[0].table
    others = [m.table for m in models[1:] if m.role not in ("oracle", "self")]
    oracle = next((m.table for m in models if m.role == "oracle"), None)
    rows, classes = np.arange(len(labels)), main.shape[1]
    share = np.bincount(labels, minlength=classes) / len(labels)
    lift = main / np.where(share > 0, share, 1.0)
    lift = lift / np.maximum(lift.sum(axis=1, keepdims=True), 1e-12)
    ordered = np.sort(lift, axis=1)
    leader, margin = lift.argmax(axis=1), ordered[:, -1] - ordered[:, -2]
    right = leader == labels

    def stated(row: int) -> str:
        stated, common = float(main[row, labels[row]]), float(share[labels[row]])
        return f"{percent(stated)} for what happened, which {percent(common)} have"

    kinds: list[tuple[str, Floats | None, Callable[[int], str]]] = [
        ("sure and right", np.where(right, margin, -np.inf), stated),
        ("sure and wrong", np.where(~right, margin, -np.inf), stated),
    ]
    if others:
        apart = np.max([np.abs(main - other).sum(axis=1) / 2 for other in others], axis=0)
        kinds.append(("models disagree", apart, lambda row: f"{percent(float(apart[row]))} of probability apart"))
    kinds.append(("near the middle", -margin, stated))
    kinds.append(("drawn by chance", None, stated))
    if oracle is not None:
        gap = np.abs(main - oracle).sum(axis=1) / 2
        kinds.append(("far from the oracle", gap, lambda row: f"{percent(float(gap[row]))} of probability apart"))

    taken: list[tuple[int, str]] = []
    for turn in range(limit):
        name, score, said = kinds[turn % len(kinds)]
        row = _draw(rows, labels, score, {r for r, _ in taken}, turn, classes, rng)
        if row is not None:
            taken.append((row, f"{name}: {said(row)}"))
    return taken


def _draw(
    rows: np.ndarray,
    labels: np.ndarray,
    score: Floats | None,
    taken: set[int],
    turn: int,
    classes: int,
    rng: np.random.Generator,
) -> int | None:
    """One row at random among those that are most of a kind, of the class whose turn it is where it has any."""
    free = np.array([r not in taken for r in rows]) & (np.isfinite(score) if score is not None else True)
    for step in range(classes):
        of_class = np.flatnonzero(free & (labels == (classes - 1 - turn - step) % classes))
        if not len(of_class):
            continue
        if score is None:
            return int(rng.choice(np.flatnonzero(free)))
        most = of_class[np.argsort(-score[of_class], kind="stable")]
        return int(rng.choice(most[: max(AT_LEAST, int(MOST * len(most)))]))
    return None
