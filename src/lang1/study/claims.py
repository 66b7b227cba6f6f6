"""The paper's six claims, each with a rule that says beforehand when it holds on this data and when it does not.

A side is taken only where an interval takes it: ``yes`` where a difference is clearly above 0 (corrected for how many
are looked at), ``no`` where it is clearly below 0 or an advantage of ``WORTH`` is ruled out, open otherwise. A claim
about five tasks needs four of them, as the paper says of its first; with other numbers of tasks as large a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lang1.reporting.numbers import compact, plural
from lang1.reporting.study_schema import Analysis, Claim, Value
from lang1.study.analyses import budget, external, making, parties, transfer, twins
from lang1.study.analyses.sentences import gap, lower_first, names_of, standing, tally
from lang1.study.analyses.zero_shot import POOR, poor_tasks
from lang1.study.context import MEAN, Context, Group

Side = Literal["yes", "no", "open"]
Verdict = Literal["holds", "does not hold", "undecided", "not examined"]
# An advantage in AUROC under this is not worth a claim, and a loss under LOSS is one that a single model may cost.
WORTH, LOSS = 0.01, 0.02
FAR_LARGER = 10
RULE = (
    "A task counts for the claim where the difference is clearly above 0 (95 %, corrected), and against it where it is "
    f"clearly below 0 or an advantage of {WORTH} is ruled out; four of five tasks must count for it, and more than "
    "one against it refutes it."
)


def claims(context: Context, analyses: Sequence[Analysis]) -> list[Claim]:
    """All six, those without cells as ``not examined``; each refers to the analysis that holds its evidence."""
    made = [find(context) for find in CLAIMS]
    there = {one.id for one in analyses}
    return [c if c.analysis in there else c.model_copy(update={"analysis": ""}) for c in made]


def needed(tasks: int) -> int:
    """Four of five, or as large a share of another number."""
    return math.ceil(0.8 * tasks)


def decide(sides: Mapping[str, Side]) -> Verdict:
    """holds, does not hold or undecided by the house rule; not examined without sides."""
    if not sides:
        return "not examined"
    need, votes = needed(len(sides)), list(sides.values())
    if votes.count("yes") >= need:
        return "holds"
    return "does not hold" if votes.count("no") > len(sides) - need else "undecided"


def side(found: Value | None, worth: float = WORTH) -> Side:
    """Which side a difference takes."""
    where = standing(found)
    if where == "ahead":
        return "yes"
    ruled_out = found is not None and found.high is not None and found.high < worth
    return "no" if where == "behind" or ruled_out else "open"


def _not_worse(found: Value | None) -> Side:
    """Which side a difference takes where no loss of ``LOSS`` is the claim."""
    if found is None or found.low is None or found.high is None:
        return "open"
    return "yes" if found.low > -LOSS else "no" if found.high < -LOSS or standing(found) == "behind" else "open"


def _poor(context: Context) -> Claim:
    groups = parties.zero_shot(context)
    generalists = [g for g in groups if g.about.role == "generalist"]
    found = poor_tasks(context, groups, context.tasks()) if generalists else None
    verdict: Verdict = "not examined"
    evidence = "No generalist was asked without finetuning."
    if found is not None and found.known:
        counted: tuple[tuple[list[str], Side], ...] = (
            (found.behind, "yes"),
            (found.ahead, "no"),
            (found.undecided, "open"),
        )
        verdict = decide({name: vote for names, vote in counted for name in names})
        sizes = [g.about.parameters for g in groups if g.about.parameters]
        largest = f", the largest with {compact(max(sizes))} parameters" if sizes else ""
        evidence = (
            f"{plural(len(groups), 'model')}{largest}: all clearly below {POOR:.2f} on {len(found.behind)} of "
            f"{plural(found.known, 'task')}{names_of(found.behind)}, one clearly above on {len(found.ahead)}"
            f"{names_of(found.ahead)}, {len(found.undecided)} undecided{names_of(found.undecided)}."
        )
    return Claim(
        id="zero-shot-poor",
        claim=f"Without finetuning, models are poor on four of five tasks. Poor: every model's AUROC is clearly under "
        f"{POOR:.2f}; not poor: one model's is clearly above (corrected for the number of models).",
        verdict=verdict,
        evidence=evidence,
        analysis="zero-shot",
        paper="Only in-hospital mortality is answered well, by models of 70 billion parameters and more.",
    )


def _rivals(
    context: Context, groups: Sequence[Group], larger: float
) -> tuple[dict[str, Side], dict[str, dict[str, Value]], int]:
    """By task the side over all rivals, by rival the differences of the specialist that is so many times smaller."""
    own = sorted(parties.finetuned(context, "specialist"), key=lambda g: g.about.parameters or 0)
    main = parties.main_specialist(context)
    pairs: dict[str, dict[str, Value]] = {}
    for rival in groups:
        size = rival.about.parameters
        fits = [g for g in own if size and g.about.parameters and g.about.parameters * larger <= size]
        if not fits:
            continue
        chosen = main if main in fits else fits[-1]
        mine = parties.like(context, main, rival) if main is not None and chosen is main else chosen
        pairs[f"{mine.label} − {rival.label}"] = making.differences(context, mine, rival, context.tasks())
    held, family = making.corrected({k: v for k, v in pairs.items() if v})
    sides: dict[str, Side] = {}
    for task in context.tasks():
        votes = [side(found[task]) for found in held.values() if task in found]
        if votes:
            name = lower_first(context.title(task))
            sides[name] = "no" if "no" in votes else "yes" if all(v == "yes" for v in votes) else "open"
    return sides, held, family


def _said(sides: Mapping[str, Side], held: Mapping[str, Mapping[str, Value]], family: int) -> str:
    counted = {which: [name for name, s in sides.items() if s == which] for which in ("yes", "no", "open")}
    means = [f"{name}: {gap(found[MEAN])}" for name, found in held.items() if MEAN in found]
    text = (
        f"For it {len(counted['yes'])} of {plural(len(sides), 'task')}{names_of(counted['yes'])}, against it "
        f"{len(counted['no'])}{names_of(counted['no'])}, open {len(counted['open'])}{names_of(counted['open'])}; "
        f"{plural(family, 'comparison')}."
    )
    return text + (f" Mean over tasks, {'; '.join(means)}." if means else "")


def _beats_finetuned(context: Context) -> Claim:
    rivals = parties.finetuned(context, "generalist")
    sides, held, family = _rivals(context, rivals, 1.0)
    missing = "No generalist of as many parameters or more was finetuned." if rivals else "No generalist was finetuned."
    return Claim(
        id="beats-finetuned",
        claim="A finetuned specialist is ahead of finetuned generalists of as many parameters or more. " + RULE
        + " Where there are several generalists, it must be ahead of each.",
        verdict=decide(sides),
        evidence=_said(sides, held, family) if sides else missing,
        analysis="finetuned",
        paper="Lang1-1B gains 3.6 to 6.8 points over a finetuned model of 70 billion parameters, 1.0 to 5.2 over "
        "Llama-3.2-1B.",
    )  # fmt: skip


def _beats_zero_shot(context: Context) -> Claim:
    rivals = [g for g in parties.zero_shot(context) if g.about.role == "generalist"]
    sides, held, family = _rivals(context, rivals, FAR_LARGER)
    missing = f"No generalist of {FAR_LARGER} times a specialist's parameters was asked without finetuning."
    return Claim(
        id="beats-zero-shot",
        claim=f"A finetuned specialist is ahead of zero-shot generalists of {FAR_LARGER} times its parameters or more. "
        + RULE,
        verdict=decide(sides),
        evidence=_said(sides, held, family) if sides else missing,
        analysis="finetuned",
        paper="Lang1-1B gains 1.7 to 23.7 points over zero-shot models of up to 671 billion parameters.",
    )


def _joint(context: Context) -> Claim:
    found, family = transfer.joint_gains(context)
    sides = {lower_first(context.title(task)): _not_worse(value) for task, value in found.items()}
    against = tally({lower_first(context.title(task)): value for task, value in found.items()})
    evidence = "No model was finetuned both on all tasks and on each alone."
    if sides:
        worst = min(found.values(), key=lambda v: v.value or 0.0)
        evidence = (
            f"A loss of {LOSS} is ruled out on {list(sides.values()).count('yes')} of {plural(len(sides), 'task')}; "
            f"clearly ahead of the single model on {len(against.ahead)}, clearly behind on {len(against.behind)}; "
            f"the least difference is {gap(worst)} ({plural(family, 'comparison')})."
        )
    return Claim(
        id="joint",
        claim="Finetuning jointly carries over: one model of all tasks does what one for each does, on about as "
        "many labels of a task. A task counts for "
        f"it where a loss of {LOSS} against the model of that task alone is ruled out, and against it where the joint "
        "model is clearly behind; four of five must count for it.",
        verdict=decide(sides),
        evidence=evidence,
        analysis="transfer",
        paper="The joint model keeps within 1 point of the five single ones.",
    )


def _transfers(context: Context) -> Claim:
    tasks, tasks_said = _across_tasks(context)
    places, places_said = _across_hospitals(context)
    parts = (tasks, places)
    verdict: Verdict = "undecided"
    if all(part == "not examined" for part in parts):
        verdict = "not examined"
    elif "does not hold" in parts:
        verdict = "does not hold"
    elif all(part == "holds" for part in parts):
        verdict = "holds"
    return Claim(
        id="transfer",
        claim="What is learned transfers to other tasks and to another hospital. To other tasks: of all pairs of a "
        "task learned and another tested, more than half gain clearly over no finetuning (refuted where for more than "
        f"half a gain of {WORTH} is ruled out). To another hospital: home's finetuned model is clearly ahead of the "
        "one not finetuned (of chance where there is none) on four of five tasks at each. Both halves must hold.",
        verdict=verdict,
        evidence=f"Other tasks: {tasks_said} Another hospital: {places_said}",
        analysis="transfer" if tasks != "not examined" else "external",
        paper="Labels of three of five tasks lift every other task; at MIMIC-III, Lang1-1B finetuned at NYU gains 15 "
        "to 39 points over zero-shot.",
    )


def _across_tasks(context: Context) -> tuple[Verdict, str]:
    held, _ = transfer.gains(context)
    votes = [side(value) for found in held.values() for value in found.values()]
    if not votes:
        return "not examined", "not examined (no model finetuned on one task alone, beside the same one not finetuned)."
    yes, no = votes.count("yes"), votes.count("no")
    gained = f"{yes} of {plural(len(votes), 'pair')} {'gains' if yes == 1 else 'gain'} clearly"
    said = f"{gained}, {no} {'does' if no == 1 else 'do'} not, {len(votes) - yes - no} are open."
    return "holds" if 2 * yes > len(votes) else "does not hold" if 2 * no > len(votes) else "undecided", said


def _across_hospitals(context: Context) -> tuple[Verdict, str]:
    verdicts: list[Verdict] = []
    said = []
    for place in external.systems(context):
        home = place.home
        if home is None:
            continue
        tasks = context.benchmarks[home.about.benchmark].tasks
        if place.before is not None:
            gains = making.corrected({"": making.differences(context, home, place.before, tasks)})[0][""]
            sides = {t: side(v) for t, v in gains.items() if t != MEAN}
            beside = "the one not finetuned"
        else:
            found = {t: v for t in tasks if (v := context.auroc(home, t)) is not None}
            sides = {t: _above_chance(v) for t, v in found.items()}
            beside = "chance"
        verdicts.append(decide(sides))
        yes = list(sides.values()).count("yes")
        said.append(f"at {place.system} clearly ahead of {beside} on {yes} of {plural(len(sides), 'task')}")
    if not verdicts:
        return "not examined", "not examined (home's model was not tested at another health system)."
    text = "; ".join(said) + "."
    if all(v == "holds" for v in verdicts):
        return "holds", text
    return ("does not hold" if "does not hold" in verdicts else "undecided"), text


def _above_chance(found: Value) -> Side:
    if found.low is None or found.high is None:
        return "open"
    return "yes" if found.low > 0.5 else "no" if found.high < 0.5 + WORTH else "open"


def _efficient(context: Context) -> Claim:
    parts: list[tuple[str, Value]] = []
    cells = budget.square(context)
    gained = {n: v for n, v in budget.more_pretraining(context, cells).items() if v is not None}
    known = [n for n in budget.sizes(cells) if n in gained]
    if known:
        tokens = sorted({t for t, n in cells if n == known[0]})
        what = f"from {compact(tokens[0])} to {compact(tokens[-1])} pretraining tokens, {parties.notes(known[0])}"
        parts.append((what, gained[known[0]]))
    else:
        pairs = twins.pairs(context)
        if pairs:
            held, _ = twins.gains(context, pairs)
            key = min(pairs, key=lambda k: (k[1], k[0]))
            value = held[key].get(MEAN) or next(iter(held[key].values()), None)
            if value is not None:
                parts.append((f"clinical text in pretraining, {key[1]:,} notes", value))
    evidence = "No model was finetuned on few notes from two states of pretraining."
    verdict: Verdict = "not examined"
    if parts:
        what, value = parts[0]
        verdict = {"yes": "holds", "no": "does not hold", "open": "undecided"}[side(value)]  # type: ignore[assignment]
        evidence = f"Mean AUROC over tasks, {what}: {gap(value)}" + _most(gained, known) + "."
    return Claim(
        id="data-efficient",
        claim="Pretraining makes finetuning need fewer labels. On the fewest notes tried, the model with more "
        "pretraining (without such a one, with clinical text in it) is clearly ahead on the mean over tasks; refuted "
        f"where an advantage of {WORTH} is ruled out.",
        verdict=verdict,
        evidence=evidence,
        analysis="budget" if known else "twins",
        paper="The paper finetunes each checkpoint on 100 notes to all and concludes so; we hold no figures of it.",
    )


def _most(gained: Mapping[int | None, Value], known: Sequence[int | None]) -> str:
    if len(known) < 2:
        return ""
    return f"; on {parties.notes(known[-1])}, {gap(gained[known[-1]])}"


CLAIMS: tuple[Callable[[Context], Claim], ...] = (
    _poor,
    _beats_finetuned,
    _beats_zero_shot,
    _joint,
    _transfers,
    _efficient,
)
