"""AUROC by age, sex, race, ethnicity, area, payer and the like, with gaps (the paper's subgroup tables)."""

from __future__ import annotations

from lang1.reporting.numbers import plural
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study.analyses import contrasts, making, parties, strata
from lang1.study.analyses.contrasts import Place
from lang1.study.analyses.sentences import gap, lower_first, tally
from lang1.study.context import Context, Group


def subgroups(context: Context) -> Analysis | None:
    """The main model on every stratum that can be judged, and those that cannot by name."""
    main, tasks = parties.main_specialist(context), context.tasks()
    if main is None or not tasks:
        return None
    rows: list[making.Row] = []
    out: list[making.Row] = []
    against: dict[tuple[str, str, str], contrasts.Repeats] = {}
    figures: list[Figure] = []
    for task in tasks:
        found = _of_task(context, main, task, out)
        shown = []
        for attribute, places in found.items():
            values = {name: context.auroc(main, task, where=place.where) for name, place in places.items()}
            largest = max(places, key=lambda name: _rows_of(values[name]))
            for name, value in values.items():
                about: making.Row = {"task": context.title(task), "attribute": attribute, "stratum": name}
                rows.append({**about, "auroc": value, "reference": largest if name != largest else None})
                if value is not None:
                    shown.append(making.point(f"{attribute}: {name}", value))
            for name, place in places.items():
                made = contrasts.contrast(context, main, task, place, places[largest]) if name != largest else None
                if made is not None:
                    against[task, attribute, name] = made
        if shown:
            figures.append(_figure(context, main, task, shown))
    gaps = contrasts.combined(against)
    held, family = making.corrected({key: {"gap": value} for key, value in gaps.items()}, "bh")
    for row in rows:
        key = next((k for k in held if _is(context, row, k)), None)
        if key is not None:
            row["gap"] = held[key]["gap"]
    if not rows and not out:
        return None
    columns = [
        Column(key="task", label="Task"),
        Column(key="attribute", label="Patients by"),
        Column(key="stratum", label="Stratum"),
        Column(key="auroc", label="AUROC", kind="auroc"),
        Column(key="gap", label="Gap", kind="difference", help="to the attribute's largest stratum, same resamples"),
        Column(key="reference", label="Largest stratum"),
    ]
    told = f"Gaps to the largest stratum; Benjamini–Hochberg over {family}."
    tables = [making.table("subgroups", f"AUROC of {main.label} by stratum", columns, rows, told)] if rows else []
    if out:
        heads = [Column(key=k, label=v) for k, v in (("task", "Task"), ("stratum", "Stratum"), ("reason", "Reason"))]
        tables.append(making.table("subgroups-left-out", "Strata that cannot be judged", heads, out))
    sides = tally({f"{context.title(t)}, {a} {n}": found["gap"] for (t, a, n), found in held.items()})
    return Analysis(
        id="subgroups",
        title="Subgroups",
        question="Does the main model rank some groups of patients worse than others?",
        sentence=_sentence(context, main, held, len(out)),
        verdict=sides.verdict,
        caveats=[
            *making.caveats(context, [main], tasks),
            "A gap in AUROC can come from who is in a group as well as from the model.",
        ],
        paper="AUROC by age band, race, borough, ethnicity, sex and child is shown, one-class strata left out; we hold "
        "no figures of it.",
        tables=tables,
        figures=figures,
    )


def _of_task(context: Context, main: Group, task: str, out: list[making.Row]) -> dict[str, dict[str, Place]]:
    """By attribute, the strata that can be judged; the others are told in ``out``. Periods have their own analysis."""
    bench = main.about.benchmark
    whole = context.part(bench, task)
    made: dict[str, dict[str, Place]] = {}
    if whole is None:
        return made
    for attribute, every in strata.named(context, bench, task).items():
        if attribute == "period":
            continue
        for name, where in every.items():
            why = strata.too_small(whole, context.part(bench, task, None, where))
            place = Place(None, where)
            if why is None and not _alike(context, main, task, place):
                why = "other classes than the whole"
            if why is not None:
                out.append({"task": context.title(task), "stratum": f"{attribute}: {name}", "reason": why})
            else:
                made.setdefault(attribute, {})[name] = place
    return {attribute: found for attribute, found in made.items() if len(found) > 1}


def _alike(context: Context, main: Group, task: str, place: Place) -> bool:
    """Whether a stratum's AUROC averages over the same classes as the whole's."""
    inside = contrasts.by_seed(context, main, task, place)
    whole = contrasts.by_seed(context, main, task, Place())
    return bool(inside and whole) and contrasts.classes(next(iter(inside.values()))) == contrasts.classes(
        next(iter(whole.values()))
    )


def _rows_of(found: Value | None) -> int:
    return found.n or 0 if found is not None else 0


def _is(context: Context, row: making.Row, key: tuple[str, str, str]) -> bool:
    return (row["task"], row["attribute"], row["stratum"]) == (context.title(key[0]), key[1], key[2])


def _sentence(context: Context, main: Group, held: dict[tuple[str, str, str], dict[str, Value]], left_out: int) -> str:
    sides = tally({str(key): found["gap"] for key, found in held.items()})
    if not sides.known:
        return f"No strata of {main.label}'s test are large enough to be set against each other."
    clear = len(sides.ahead) + len(sides.behind)
    text = (
        f"Of {plural(sides.known, 'gap')} between strata, {clear} {'is' if clear == 1 else 'are'} clear and "
        f"{len(sides.undecided)} undecided"
    )
    worst = [(found["gap"], key) for key, found in held.items() if str(key) in sides.behind]
    if worst:
        value, (task, attribute, name) = min(worst, key=lambda one: one[0].value or 0.0)
        where = f"{lower_first(context.title(task))}, {attribute} {name}"
        text += f"; the largest clear one to a group's cost is {where}: {gap(value)}"
    if left_out:
        text += f"; {left_out} {'stratum' if left_out == 1 else 'strata'} could not be judged"
    return text + "."


def _figure(context: Context, main: Group, task: str, points: list[Point]) -> Figure:
    return Figure(
        id=f"subgroups-{task}",
        kind="forest",
        title=f"{context.title(task)}: AUROC by stratum",
        x=Axis(label="", scale="names"),
        y=Axis(label="AUROC"),
        series=[Series(name=main.label, role="specialist", points=points)],
    )
