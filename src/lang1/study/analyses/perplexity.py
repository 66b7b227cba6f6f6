"""Does a model that is less surprised by the right letter also rank patients better (the paper's perplexity figure)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from lang1.reporting.numbers import fixed, plural
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import lower_first, said, tally
from lang1.study.cells import Cell
from lang1.study.context import Context

DESIGNS = ["grid", "trajectory", "budget", "efficiency", "single"]
LEAST_MODELS = 5  # the interval's formula needs more than three
# Probabilities under this are counted as this, so that one answer cannot make a perplexity infinite.
FLOOR = 1e-12


def answer_perplexity(context: Context, cell: Cell, task: str) -> float | None:
    """exp(−mean log p) of the right letter, p over the whole vocabulary; None for models that answer without words.

    p is the letter's share among the options times the options' share of all next tokens.
    """
    found = context.judge(cell, task)
    if found is None or found.answered.option_mass is None:
        return None
    right = found.answered.table[np.arange(len(found.part.labels)), found.part.labels]
    chance = np.maximum(found.answered.option_mass * right, FLOOR)
    return math.exp(-float(np.log(chance).mean()))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Value | None:
    """Spearman's with its interval (Fisher's z; variance of Bonett & Wright, Psychometrika 2000); None for too few."""
    if len(x) < LEAST_MODELS or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    rho = float(stats.spearmanr(x, y).statistic)
    if abs(rho) >= 1 - 1e-12:
        return Value(value=rho, n=len(x), note="perfect order: no interval")
    reach = 1.959963984540054 * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    low, high = math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)
    return Value(value=rho, low=low, high=high, n=len(x))


def perplexity(context: Context) -> Analysis | None:
    """Every model of ours on home's benchmark, task by task."""
    tasks = context.tasks()
    groups = context.select(design=DESIGNS, tested_on=context.home, role="specialist")
    if not tasks or not groups:
        return None
    names = making.titles(context, tasks)
    rows: list[making.Row] = []
    found: dict[str, list[tuple[float, float, str]]] = {task: [] for task in tasks}
    for group in groups:
        row: making.Row = {"model": _name(group.about)}
        for task in tasks:
            each = [answer_perplexity(context, cell, task) for cell in group.cells]
            known = [one for one in each if one is not None]
            ranked = context.judged(group, task)
            if known and ranked:
                surprise, score = float(np.mean(known)), float(np.mean([j.auroc for j in ranked]))
                row[f"{task}-perplexity"] = Value(value=surprise)
                row[f"{task}-auroc"] = Value(value=score)
                found[task].append((surprise, score, _name(group.about)))
        if len(row) > 1:
            rows.append(row)
    correlations = {t: rank_correlation([x for x, _, _ in f], [y for _, y, _ in f]) for t, f in found.items()}
    if not any(correlations.values()):
        return None
    told: list[making.Row] = [{"task": names[t], "models": Value(value=float(len(found[t]))), "rho": c} for t, c in correlations.items()]  # fmt: skip # noqa: E501
    heads = [Column(key="model", label="Model")]
    for task in tasks:
        heads.append(Column(key=f"{task}-perplexity", label=f"{names[task]}: perplexity", kind="number"))
        heads.append(Column(key=f"{task}-auroc", label="AUROC", kind="auroc"))
    columns = [
        Column(key="task", label="Task"),
        Column(key="models", label="Models", kind="count"),
        Column(key="rho", label="Spearman's rank correlation", kind="number"),
    ]
    sides = tally({lower_first(names[t]): c for t, c in correlations.items()})
    return Analysis(
        id="perplexity",
        title="Surprise at the right answer",
        question="Does a model that finds the right letter less surprising also tell patients apart better?",
        sentence=_sentence(sides.known, correlations, said(sides, ahead="clearly rising", behind="clearly falling")),
        verdict=sides.verdict,
        caveats=[
            *making.caveats(context, groups, tasks),
            "The models share pretrainings, labels and patients, so they are fewer than they look, and the intervals "
            "too narrow.",
        ],
        paper="The paper plots the same over its checkpoints; we hold no figures of it.",
        tables=[
            making.table("perplexity", "Rank correlation of answer perplexity and AUROC over models", columns, told),
            making.table("perplexity-models", "Every model", heads, rows),
        ],
        figures=[_figure(names, found)],
    )


def _name(about: Cell) -> str:
    more = []
    if about.tokens is not None:
        more.append(f"{about.tokens:,} tokens")
    if about.tasks:
        more.append(", ".join(about.tasks) if len(about.tasks) == 1 else "all tasks")
        more.append(parties.notes(about.notes))
    return ", ".join([about.label, *more])


def _sentence(known: int, found: Mapping[str, Value | None], words: str) -> str:
    if not known:
        return "Too few models, or a perfect order, so that no interval can be given."
    values = [v.value for v in found.values() if v is not None and v.value is not None]
    models = max(v.n or 0 for v in found.values() if v is not None)
    return (
        f"Over {plural(models, 'model')}, AUROC with rising perplexity is {words}; the rank correlations lie between "
        f"{fixed(min(values), 2)} and {fixed(max(values), 2)}."
    )


def _figure(names: Mapping[str, str], found: Mapping[str, Sequence[tuple[float, float, str]]]) -> Figure:
    series = [
        Series(name=names[t], role="specialist", points=[Point(x=x, y=y, label=name) for x, y, name in points])
        for t, points in found.items()
        if points
    ]
    return Figure(
        id="perplexity",
        kind="scatter",
        title="Answer perplexity and AUROC",
        x=Axis(label="perplexity of the right letter", scale="log"),
        y=Axis(label="AUROC"),
        series=series,
        lines=making.CHANCE,
    )
