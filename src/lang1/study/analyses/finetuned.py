"""Finetuned models beside generalists, baselines and what can be attained at all (the paper's main table)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lang1.metrics.bootstrap import attained_share
from lang1.metrics.over_seeds import Pooled, over_seeds
from lang1.reporting.numbers import fixed, plural
from lang1.reporting.study_schema import Analysis, Column, Value
from lang1.study import paper
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import Tally, lower_first, said, tally, together
from lang1.study.analyses.zero_shot import published
from lang1.study.context import Context, Group, as_value, within


def attained(context: Context, group: Group, best: Group, task: str) -> Value | None:
    """(AUROC − 0.5)/(oracle − 0.5), both resampled together; None where either cannot be judged.

    The interval is plain and may reach over 1: on few patients a model can be luckier than the true risks.
    """
    models, oracles = context.judged(group, task), context.judged(best, task, where=within([group.about]))
    if not models or not oracles or not oracles[0].auroc > 0.5:
        return None
    top = oracles[0]
    values = [float(attained_share(one.auroc, top.auroc)) for one in models]
    draws = [attained_share(one.draws, top.draws) for one in models]
    pooled = context.pooled(group, task) if any(cell.seed is not None for cell in group.cells) else None
    if pooled is not None:
        pooled = Pooled(pooled.variance / (top.auroc - 0.5) ** 2, pooled.df)
    return as_value(over_seeds(values, draws, top.df, pooled=pooled), models[0])


def finetuned(context: Context) -> Analysis | None:
    """The main table, and the main specialist's paired differences from every other."""
    main = parties.main_specialist(context)
    tasks = context.tasks()
    if main is None or not tasks:
        return None
    own, generalists = parties.finetuned(context, "specialist"), parties.finetuned(context, "generalist")
    baselines, best = parties.baselines(context), parties.oracle(context)
    groups = [*own, *generalists, *baselines]
    rows: list[making.Row] = []
    shares: list[making.Row] = []
    marks = []
    for group in [*groups, *([best] if best else [])]:
        name = parties.name(group, groups)
        row = making.aurocs(context, group, tasks, paper.of_cell(group.about, main.about))
        size: making.Row = {"parameters": making.parameters(group), "notes": _notes(group)}
        rows.append({"model": name, "regime": group.about.regime, **size, **row})
        marks.append((name, parties.role(group, main), making.values_of(row)))
        if best is not None and group is not best:
            found = {task: attained(context, group, best, task) for task in making.with_mean(tasks)}
            shares.append(dict(found) | {"model": name})
    others = [g for g in groups if g.about != main.about and not _same(g, main)]
    pairs = {g.about: making.differences(context, parties.like(context, main, g), g, tasks) for g in others}
    held, family = making.corrected(pairs)
    columns = [
        Column(key="model", label="Model"),
        Column(key="regime", label="Regime"),
        Column(key="parameters", label="Parameters", kind="count"),
        Column(key="notes", label="Finetuned on", help="notes; empty where it is a baseline or the oracle"),
        *making.task_columns(context, tasks),
    ]
    tables = [making.table("finetuned", "AUROC", columns, rows)]
    if shares:
        heads = [Column(key="model", label="Model"), *making.task_columns(context, tasks, "number")]
        told = "(AUROC − 0.5)/(oracle's AUROC − 0.5), both resampled together: 1 is as good as the true risks."
        tables.append(making.table("attained", "Share of what can be attained", heads, shares, told))
    label = parties.name(main, groups)
    if any(held.values()):
        heads = [
            Column(key="model", label="Other model"),
            Column(key="labels", label="Labels", help="whether both were finetuned on as many notes"),
            *making.task_columns(context, tasks, "difference"),
        ]
        versus = [_versus(parties.name(g, groups), _labels(context, main, g), held[g.about]) for g in others]
        told = f"{label} minus the other, same patients. Holm over the {family} comparisons of single tasks."
        tables.append(making.table("finetuned-differences", "Ahead or behind", heads, versus, told))
    tables.append(published(context, tasks, "finetuned"))
    names = {task: lower_first(context.title(task)) for task in tasks}
    against = {
        "the finetuned generalists": [g for g in others if g.about.role == "generalist"],
        "the baselines": [g for g in others if g.about.role == "baseline"],
    }
    counted = {who: _over_all(found, held, names) for who, found in against.items() if found}
    sentence = _sentence(context, main, label, counted, {w: len(against[w]) for w in counted}, family)
    if best is not None:
        sentence += _attained_sentence(context, main, best, tasks)
    figures = [making.by_task(context, "finetuned", "AUROC", marks, tasks)]
    if others:
        compared = [(parties.name(g, groups), parties.role(g, main), held[g.about]) for g in others]
        figures.append(
            making.by_task(
                context, "finetuned-differences", f"{label} minus each other model", compared, tasks,
                y="difference in AUROC", lines={"no difference": 0.0},
            )
        )  # fmt: skip
    return Analysis(
        id="finetuned",
        title="Finetuned",
        question="Is a specialist of one's own ahead of generalists and baselines once all learn from the same labels?",
        sentence=sentence,
        verdict=together(counted.values()),
        caveats=[*making.caveats(context, groups, tasks), *_unequal(main, generalists)],
        paper="Lang1-1B is ahead of a finetuned Llama-3.2-1B by 1.0 to 5.2 points (read off a figure) and of a "
        "finetuned 70-billion-parameter model by 3.6 to 6.8 points on all five tasks.",
        tables=tables,
        figures=figures,
    )


def _same(one: Group, other: Group) -> bool:
    """The same model on other numbers of notes: no rival."""
    keys = ("role", "model", "corpus", "regime", "tasks")
    return all(getattr(one.about, k) == getattr(other.about, k) for k in keys)


def _notes(group: Group) -> str | None:
    return parties.notes(group.about.notes) if group.about.tasks else None


def _versus(name: str, labels: str, found: dict[str, Value]) -> making.Row:
    return {"model": name, "labels": labels, **found}


def _labels(context: Context, main: Group, other: Group) -> str:
    if not other.about.tasks:
        return "all" if main.about.notes is None else "the baseline: all"
    mine = parties.like(context, main, other)
    return "as many" if parties.on_equal_labels(mine, other) else "not as many"


def _unequal(main: Group, others: Sequence[Group]) -> list[str]:
    named = [g.label for g in others if g.about.notes is not None and g.about.notes != main.about.notes]
    return [f"Finetuned on fewer notes than {main.label}: {', '.join(dict.fromkeys(named))}."] if named else []


def _over_all(groups: Sequence[Group], held: dict[object, dict[str, Value]], names: dict[str, str]) -> Tally:
    """Tasks on which the main model is clearly ahead of all of them, or clearly behind one."""
    made = Tally()
    for task, name in names.items():
        sides = tally({str(k): held[g.about].get(task) for k, g in enumerate(groups)})
        if not sides.known:
            made.unknown.append(name)
        elif sides.behind:
            made.behind.append(name)
        elif len(sides.ahead) == len(groups):
            made.ahead.append(name)
        else:
            made.undecided.append(name)
    return made


def _sentence(
    context: Context, main: Group, label: str, counted: dict[str, Tally], sizes: dict[str, int], family: int
) -> str:
    if not counted:
        found = context.auroc(main, "mortality") if "mortality" in context.tasks() else None
        told = f" (mortality: {fixed(found.value)})" if found else ""
        return f"{label} has neither finetuned generalists nor baselines beside it here{told}."
    parts = []
    for who, sides in counted.items():
        number = sizes[who]
        every = "ahead of all" if number > 1 else "ahead"
        one = "behind at least one" if number > 1 else "behind"
        words = said(sides, ahead=f"clearly {every}", behind=f"clearly {one}")
        parts.append(f"against {who} ({number}) it is {words}")
    return f"{label}, finetuned: {'; '.join(parts)} (corrected for {plural(family, 'comparison')})."


def _attained_sentence(context: Context, main: Group, best: Group, tasks: Sequence[str]) -> str:
    known = [v.value for t in tasks if (v := attained(context, main, best, t)) is not None and v.value is not None]
    if not known:
        return ""
    least, most = float(np.min(known)), float(np.max(known))
    span = fixed(least, 2) if len(known) == 1 else f"{fixed(least, 2)} to {fixed(most, 2)}"
    return f" It reaches {span} of what can be attained, task by task."
