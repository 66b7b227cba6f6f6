"""Home's model at another health system, beside one that learned there (the paper's MIMIC table)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lang1.reporting.study_schema import Analysis, Column, Figure, Value
from lang1.study import paper
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import Tally, lower_first, moved, said, tally, together
from lang1.study.context import MEAN, Context, Group

MATCHED = "size-matched"


@dataclass(frozen=True)
class Elsewhere:
    """What answers at another health system: home's model as pretrained and finetuned, and the one made there."""

    system: str
    before: Group | None
    home: Group | None
    matched: tuple[Group, Group] | None  # home's and the one made there, on as many labels
    there: Group | None


def systems(context: Context) -> list[Elsewhere]:
    """Every other health system at which home's model was tested."""
    found = context.select(design=["systems", "grid"], role="specialist")
    names = [g.about.tested_on for g in found if g.about.design == "systems" and g.about.tested_on != context.home]
    return [_at(context, system, [g for g in found if g.about.tested_on == system]) for system in dict.fromkeys(names)]


def _at(context: Context, system: str, found: Sequence[Group]) -> Elsewhere:
    trained = [g for g in found if g.about.tasks]
    ours = [g for g in trained if g.about.trained_on == (context.home,)]
    theirs = [g for g in trained if g.about.trained_on == (system,)]
    home = _most([g for g in ours if g.about.variant != MATCHED])
    there = _most([g for g in theirs if g.about.variant != MATCHED]) or _most(theirs)
    small = next((g for g in [*ours, *theirs] if g.about.variant == MATCHED), None)
    matched = None
    if small is not None and small.about.trained_on == (context.home,) and there is not None:
        matched = (small, there)
    elif small is not None and small.about.trained_on == (system,) and home is not None:
        matched = (home, small)
    before = [g for g in found if not g.about.tasks and g.about.design == "systems"]
    mine = [g for g in before if context.home in g.about.pretrained_on]
    return Elsewhere(system, next(iter(mine or before), None), home, matched, there)


def _most(found: Sequence[Group]) -> Group | None:
    return max(found, key=lambda g: float("inf") if g.about.notes is None else g.about.notes, default=None)


def external(context: Context) -> Analysis | None:
    """AUROC there and paired differences on that system's patients."""
    places = [one for one in systems(context) if one.home is not None or one.matched is not None]
    if not places:
        return None
    tasks = list(dict.fromkeys(t for one in places for t in _tasks(context, one)))
    rows: list[making.Row] = []
    pairs: dict[tuple[str, str], dict[str, Value]] = {}
    figures: list[Figure] = []
    everyone: list[Group] = []
    for one in places:
        shown = _shown(context, one)
        everyone += [g for _, g, _ in shown]
        marks = []
        for name, group, key in shown:
            published = {t: p.value for t, p in paper.MIMIC[paper.MAIN].get(key, {}).items()}
            row = making.aurocs(context, group, _tasks(context, one), published)
            rows.append({"system": one.system, "model": name, "notes": _notes(group), **row})
            marks.append((name, parties.role(group), making.values_of(row)))
        for name, mine, theirs in _pairs(one):
            pairs[one.system, name] = making.differences(context, mine, theirs, _tasks(context, one))
        figures.append(
            making.by_task(context, f"external-{one.system}", f"AUROC at {one.system}", marks, _tasks(context, one))
        )
    held, family = making.corrected({key: found for key, found in pairs.items() if found})
    heads = [Column(key="system", label="Tested at"), Column(key="model", label="Model")]
    columns = [*heads, Column(key="notes", label="Finetuned on"), *making.task_columns(context, tasks)]
    tables = [making.table("external", "AUROC at other health systems", columns, rows)]
    if held:
        columns = [heads[0], Column(key="pair", label="Compared"), *making.task_columns(context, tasks, "difference")]
        lines: list[making.Row] = [{"system": s, "pair": name, **found} for (s, name), found in held.items()]
        told = f"On that system's patients, paired; Holm over {family} comparisons of single tasks."
        tables.append(making.table("external-differences", "Home's model and the one made there", columns, lines, told))
    sides = {key: _sides(context, found) for key, found in held.items()}
    text = [
        f"at {system}, {name}: {said(sides[system, name])}, mean over tasks "
        f"{moved(found.get(MEAN) or next(iter(found.values())), 'clearly ahead', 'clearly behind')}"
        for (system, name), found in held.items()
    ]
    sentence = "; ".join(text) + "." if text else "No model made at the other health system stands beside home's."
    return Analysis(
        id="external",
        title="At another health system",
        question="Is home's model of use elsewhere, and how far behind one that learned there from as many labels?",
        sentence=sentence[:1].upper() + sentence[1:],
        verdict=together([*sides.values(), tally({str(key): found.get(MEAN) for key, found in held.items()})]),
        caveats=[*making.caveats(context, everyone, tasks), *_unmatched(places)],
        paper="At MIMIC-III (readmission, mortality, length of stay), Lang1-1B finetuned at NYU comes to 0.664, 0.837 "
        "and 0.652, finetuned there to 0.677, 0.855 and 0.648, and not finetuned to 0.516, 0.443 and 0.501.",
        tables=tables,
        figures=figures,
    )


def _tasks(context: Context, one: Elsewhere) -> list[str]:
    group = one.home or (one.matched[0] if one.matched else None)
    return context.benchmarks[group.about.benchmark].tasks if group is not None else []


def _shown(context: Context, one: Elsewhere) -> list[tuple[str, Group, str]]:
    """Name, group, and what the paper calls it."""
    named = [
        ("home's, not finetuned", one.before, "zero-shot"),
        ("home's", one.home, "away"),
        (f"home's, {MATCHED}", one.matched[0] if one.matched else None, ""),
        ("made there", one.there, "there"),
        (f"made there, {MATCHED}", one.matched[1] if one.matched else None, ""),
    ]
    benchmark = next((g.about.benchmark for _, g, _ in named if g is not None), None)
    named.append(("best possible", parties.oracle(context, benchmark) if benchmark else None, ""))
    made: list[tuple[str, Group, str]] = []
    for name, group, key in named:
        if group is not None and all(group.about != g.about for _, g, _ in made):
            made.append((name, group, key))
    return made


def _pairs(one: Elsewhere) -> list[tuple[str, Group, Group]]:
    made = []
    if one.matched is not None:
        made.append(("home's against the one made there, as many labels", *one.matched))
    if one.home is not None and one.there is not None and (one.home, one.there) != one.matched:
        made.append(("home's with all its labels against the one made there", one.home, one.there))
    if one.home is not None and one.before is not None:
        made.append(("home's finetuned against not finetuned", one.home, one.before))
    return made


def _sides(context: Context, found: dict[str, Value]) -> Tally:
    return tally({lower_first(context.title(t)): v for t, v in found.items() if t != MEAN})


def _notes(group: Group) -> str | None:
    return parties.notes(group.about.notes) if group.about.tasks else None


def _unmatched(places: Sequence[Elsewhere]) -> list[str]:
    named = [one.system for one in places if one.matched is None]
    return [f"Without a size-matched control: {', '.join(named)}."] if named else []
