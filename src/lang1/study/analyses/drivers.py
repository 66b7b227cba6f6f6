"""What in another hospital's ways costs home's model its accuracy: copies of home with one component swapped at a time.

Every loss is against a copy in which nothing was swapped (or home itself), in AUROC and in the share that is attained
of each copy's own true risks: a copy whose outcomes are harder to foretell costs AUROC without being a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lang1.reporting.numbers import fixed, join
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.joint import Joint, Side, combined_by_task, row_of
from lang1.study.analyses.sentences import gap, lower_first, standing, tally
from lang1.study.context import MEAN, Context, Group

CONTROL, ALL = ("control", "none"), "all"


@dataclass(frozen=True)
class Swap:
    """Home's model on a copy, and the true risks there."""

    name: str
    group: Group
    best: Group | None


def drivers(context: Context) -> Analysis | None:
    """The losses, ranked, each named by the component that was swapped."""
    found = [_swap(context, g) for g in context.select(design="swaps", role="specialist")]
    copies = [one for one in found if one.name not in CONTROL]
    control = next((one for one in found if one.name in CONTROL), None) or _home(context, found)
    if not copies or control is None:
        return None
    every = [control, *copies]
    joint = Joint(context, [g for one in every for g in (one.group, one.best) if g is not None])
    tasks = joint.tasks()
    if not tasks:
        return None
    columns_of = making.with_mean(tasks)
    known = all(one.best is not None for one in every)
    drops, family = making.corrected(_drops(joint, copies, control, columns_of, share=False))
    shares, family_of_shares = making.corrected(_drops(joint, copies, control, columns_of, share=True) if known else {})
    key = MEAN if len(tasks) > 1 else tasks[0]
    judged = {name: values[key] for name, values in (shares or drops).items() if key in values}
    ranked = sorted(judged, key=lambda name: judged[name].value or 0.0)
    level = [row for one in every for row in _levels(joint, one, control, columns_of)]
    pairs: list[making.Row] = [
        {"swapped": one.name, "patients": _patients(joint, one, control, tasks[0]), **drops[one.name]} for one in copies
    ]
    heads = [Column(key="swapped", label="Swapped")]
    told = "a copy of home in which nothing was swapped" if control.name in CONTROL else "home itself"
    tables = [
        making.table(
            "swaps", "AUROC of home's model on copies of home",
            [*heads, Column(key="what", label=""), *making.task_columns(context, tasks)], level, f"Control: {told}.",
        ),
        making.table(
            "swaps-lost", "AUROC against the control",
            [*heads, Column(key="patients", label="Patients"), *making.task_columns(context, tasks, "difference")],
            pairs, f"Negative: lost. Holm over {family} comparisons of single tasks.",
        ),
    ]  # fmt: skip
    if shares:
        lost: list[making.Row] = [{"swapped": name, **shares[name]} for name in ranked]
        tables.append(
            making.table(
                "swaps-share", "Attained share of each copy's own true risks, against the control",
                [*heads, *making.task_columns(context, tasks, "difference")], lost,
                "(AUROC - 0.5)/(that of the true risks - 0.5), as a share of 1; ranked by the loss. "
                f"Holm over {family_of_shares} comparisons of single tasks.",
            )
        )  # fmt: skip
    sides = tally({n: judged[n] for n in ranked})
    by_task = _by_task(context, shares or drops, ranked, tasks)
    return Analysis(
        id="drivers",
        title="What costs accuracy elsewhere",
        question="Which of another hospital's ways costs home's model most: how notes are written, what is coded, who "
        "comes, or who pays?",
        sentence=_sentence(judged, ranked, bool(shares), len(tasks)) + by_task,
        verdict=sides.verdict,
        caveats=[
            *making.caveats(context, [one.group for one in every], tasks),
            "Components are swapped one at a time; what several do together need not be the sum of their losses.",
            *([] if known else ["Without every copy's true risks a loss may be of harder outcomes, not of the model."]),
            *_few_in_common(joint, copies, control, tasks),
        ],
        paper="Left open by the paper: its loss at another hospital is one number, whose reasons are not told apart.",
        tables=tables,
        figures=[_figure(judged, ranked, bool(shares))],
    )  # fmt: skip


def _swap(context: Context, group: Group) -> Swap:
    return Swap(group.about.variant.replace("-", " "), group, parties.oracle(context, group.about.benchmark))


def _home(context: Context, found: list[Swap]) -> Swap | None:
    """Home itself as the control: the same training on home's own test."""
    about = found[0].group.about if found else None
    same = [
        g
        for g in context.select(tested_on=context.home, role="specialist")
        if about is not None and g.about.design in ("grid", "systems")
        and (g.about.model, g.about.corpus, g.about.notes, g.about.trained_on, g.about.tasks)
        == (about.model, about.corpus, about.notes, about.trained_on, about.tasks)
    ]  # fmt: skip
    return Swap("", same[0], parties.oracle(context, same[0].about.benchmark)) if same else None


def _drops(
    joint: Joint, copies: list[Swap], control: Swap, tasks: list[str], share: bool
) -> dict[str, dict[str, Value]]:
    there = Side(control.group, control.best if share else None)
    found = {
        one.name: {t: joint.repeats(Side(one.group, one.best if share else None), t, there) for t in tasks}
        for one in copies
    }
    return combined_by_task(found)


def _words(one: Swap, control: Swap) -> str:
    return ("nothing (control)" if one.name in CONTROL else "nothing (home)") if one is control else one.name


def _levels(joint: Joint, one: Swap, control: Swap, tasks: list[str]) -> list[making.Row]:
    made: list[making.Row] = []
    for what, group in (("home's model", one.group), ("best possible", one.best)):
        if group is not None:
            row = row_of(tasks, partial(joint.value, Side(group)))
            made.append({"swapped": _words(one, control), "what": what, **row})
    return made


def _patients(joint: Joint, one: Swap, control: Swap, task: str) -> str:
    share = joint.shared_patients(one.group, control.group, task)
    return "others" if share == 0 else "the same" if share == 1 else f"{100 * share:.0f} % the same"


def _few_in_common(joint: Joint, copies: list[Swap], control: Swap, tasks: list[str]) -> list[str]:
    apart = [c.name for c in copies if joint.shared_patients(c.group, control.group, tasks[0]) == 0]
    if not apart:
        return []
    return [f"Other patients than the control's, so that their luck is in the interval: {join(apart)}."]


def _sentence(judged: dict[str, Value], ranked: list[str], share: bool, tasks: int) -> str:
    single = [name for name in ranked if name != ALL]
    lost = [name for name in single if standing(judged[name]) == "behind"]
    what = "attained share" if share else "AUROC"
    over = f"mean {what} over tasks" if tasks > 1 else what
    if not single:
        text = "No single component was swapped"
    elif not lost:
        text = f"Of {join(single)}, none clearly costs home's model ({over}); which matters most is undecided"
    else:
        text = f"Of {join(single)}, {lost[0]} has the largest loss that is clear ({over} {gap(judged[lost[0]])})"
        if len(lost) > 1:
            more = [f"{name} ({gap(judged[name])})" for name in lost[1:]]
            text += f"; {join(more)} cost{'s' if len(more) == 1 else ''} too"
        rest = [name for name in single if name not in lost]
        if rest:
            text += f"; {join(rest)}: no clear loss"
    if ALL in judged:
        text += f"; all together: {gap(judged[ALL])}"
        if lost and judged[ALL].value and judged[lost[0]].value is not None and standing(judged[ALL]) == "behind":
            sum_of = sum(judged[name].value or 0.0 for name in single)
            text += f" (the single ones add up to {fixed(sum_of)})"
    return text + "."


def _by_task(context: Context, found: dict[str, dict[str, Value]], ranked: list[str], tasks: list[str]) -> str:
    """Which tasks each component clearly costs: what is coded may cost one task alone, which a mean hides."""
    parts = []
    for name in (n for n in ranked if n != ALL and len(tasks) > 1):
        hit = [lower_first(context.title(t)) for t in tasks if standing(found[name].get(t)) == "behind"]
        if hit:
            parts.append(f"{name} on {f'all {len(tasks)} tasks' if len(hit) == len(tasks) else join(hit)}")
    return f" Clear losses by task: {'; '.join(parts)}." if parts else ""


def _figure(judged: dict[str, Value], ranked: list[str], share: bool) -> Figure:
    return Figure(
        id="drivers",
        kind="forest",
        title="Loss of home's model by what was swapped",
        x=Axis(label="", scale="names", names=ranked),
        y=Axis(label="Attained share against the control" if share else "AUROC against the control"),
        series=[
            Series(name="home's model", role="specialist", points=[making.point(n, judged[n]) for n in ranked])
        ],
        lines={"no loss": 0.0},
    )  # fmt: skip
