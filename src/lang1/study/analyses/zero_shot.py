"""What models know without being finetuned (the paper's zero-shot table)."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from lang1.reporting.numbers import plural
from lang1.reporting.study_schema import Analysis, Column, Table, Value
from lang1.study import paper
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import Tally, lower_first, tally
from lang1.study.context import Context, Group

# What the paper's text calls poor is not defined there; its own four poor tasks lie under 0.71, mortality at 0.94.
POOR = 0.70


def poor_tasks(context: Context, groups: Sequence[Group], tasks: Sequence[str], bar: float = POOR) -> Tally:
    """Tasks by whether every model lies clearly below ``bar`` (``behind``) or one of them clearly above (``ahead``).

    That all lie below is one claim about each of them, so no interval needs correction. That one lies above is looked
    for among all of them: its interval is widened as for that many looks (Bonferroni).
    """
    found = Tally()
    for task in tasks:
        known = [v for g in groups if (v := context.auroc(g, task)) is not None and v.low is not None]
        name = lower_first(context.title(task))
        if not known:
            found.unknown.append(name)
        elif all(v.high is not None and v.high < bar for v in known):
            found.behind.append(name)
        elif any(_above(v, bar, len(known)) for v in known):
            found.ahead.append(name)
        else:
            found.undecided.append(name)
    return found


def _above(found: Value, bar: float, looks: int) -> bool:
    assert found.value is not None and found.low is not None
    wider = float(stats.norm.ppf(1 - 0.025 / looks) / stats.norm.ppf(0.975))
    return found.value - wider * (found.value - found.low) > bar


def zero_shot(context: Context) -> Analysis | None:
    """AUROC of every model that was not finetuned."""
    groups = parties.zero_shot(context)
    tasks = context.tasks()
    if not groups or not tasks:
        return None
    main = parties.main_specialist(context) or groups[0]
    best = parties.oracle(context)
    rows: list[making.Row] = []
    marks = []
    for group in [*groups, *([best] if best else [])]:
        row = making.aurocs(context, group, tasks, paper.of_cell(group.about, main.about))
        name = parties.name(group, groups)
        rows.append({"model": name, "parameters": making.parameters(group), **row})
        marks.append((name, parties.role(group, main), making.values_of(row)))
    rows.append({"model": "chance", **{task: Value(value=0.5) for task in making.with_mean(tasks)}})
    found = poor_tasks(context, groups, tasks)
    own = [g for g in groups if g.about.role == "specialist"]
    columns = [
        Column(key="model", label="Model"),
        Column(key="parameters", label="Parameters", kind="count"),
        *making.task_columns(context, tasks),
    ]
    tables = [making.table("zero-shot", "AUROC without finetuning", columns, rows), published(context, tasks)]
    which = f"{plural(len(groups), 'model')}, {len(own)} of them our own"
    if len(own) == len(groups):
        which = f"{plural(len(groups), 'model')}, all our own"
    sentence = f"Asked without finetuning ({which}), " + _sentence(found, len(groups))
    below = made_chance(context, own, tasks)
    if below.known:
        sentence += f" Of our own models' figures, {len(below.ahead)} of {below.known} lie clearly above chance."
    return Analysis(
        id="zero-shot",
        title="Without finetuning",
        question="How well do models answer that have seen no label of this hospital?",
        sentence=sentence,
        verdict=found.verdict if not (found.ahead and found.behind) else "mixed",
        caveats=[
            *making.caveats(context, groups, tasks),
            f"'Poor' is a bar of {POOR:.2f} that we set: the paper names none.",
        ],
        paper="Poor on four of five tasks: only in-hospital mortality is well answered, by models of 70 billion "
        "parameters and more (AUROC 0.94); its own Lang1-1B is near chance.",
        tables=tables,
        figures=[making.by_task(context, "zero-shot", "AUROC without finetuning", marks, tasks, lines=making.CHANCE)],
    )


def _sentence(found: Tally, models: int) -> str:
    every = "every one of them" if models > 1 else "it"
    parts = []
    if found.behind:
        parts.append(f"{every} stays clearly below {POOR:.2f} on {_of(found.behind, found.known)}")
    if found.ahead:
        parts.append(f"at least one is clearly above it on {_of(found.ahead, found.known)}")
    if found.undecided:
        parts.append(f"{_of(found.undecided, found.known)} {'is' if len(found.undecided) == 1 else 'are'} undecided")
    if not parts:
        return "no task can be judged."
    text = "; ".join(parts) + "."
    return text if found.behind else text.replace("above it", f"above {POOR:.2f}")


def _of(names: list[str], total: int) -> str:
    if len(names) == total > 1:
        return f"all {total} tasks"
    return f"{len(names)} of {plural(total, 'task')} ({', '.join(names)})"


def made_chance(context: Context, groups: Sequence[Group], tasks: Sequence[str]) -> Tally:
    """Models and tasks by their AUROC's side of 0.5."""
    return tally({f"{g.label}: {t}": context.auroc(g, t) for g in groups for t in tasks}, zero=0.5)


def published(context: Context, tasks: Sequence[str], regime: str = "zero-shot") -> Table:
    """What the paper reports for its own hospital."""
    source = paper.ZERO_SHOT if regime == "zero-shot" else paper.FINETUNED
    rows: list[making.Row] = []
    for name, found in source.items():
        size = paper.PARAMETERS[name]
        cells = {task: Value(value=found[task].value, note=found[task].mark) for task in tasks if task in found}
        rows.append({"model": name, "parameters": None if size is None else Value(value=float(size)), **cells})
    if regime != "zero-shot":
        cells = {t: Value(value=p.value, note=p.mark) for t, p in paper.STRUCTURED.items() if t in tasks}
        rows.append({"model": "gradient boosting on structured fields (NYUTron)", **cells})
    names = making.titles(context, tasks)
    columns = [Column(key="model", label="Model"), Column(key="parameters", label="Parameters", kind="count")]
    columns += [Column(key=task, label=names[task], kind="auroc") for task in tasks]
    words = "without finetuning" if regime == "zero-shot" else "finetuned"
    return making.table(
        f"{regime}-paper", f"The paper's own hospital, {words}", columns, rows,
        note="AUROC at NYU Langone, 2024, as published: other patients, so no like-for-like comparison. Read off a "
        "figure (± 0.002) where marked.",
    )  # fmt: skip
