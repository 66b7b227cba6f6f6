"""Does it flatter a model that patients of its test were in its training set (the paper drops them)?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang1.evaluation.answered import Part
from lang1.reporting.numbers import plural
from lang1.reporting.study_schema import Analysis, Column, Value
from lang1.study import paper
from lang1.study.analyses import contrasts, making, parties
from lang1.study.analyses.contrasts import Place
from lang1.study.analyses.sentences import lower_first, said, tally
from lang1.study.context import Context, Group


def trained_patients(context: Context, benchmark: str) -> npt.NDArray[np.int64]:
    """Hashes of the patients in a benchmark's train split, ``[P]``."""
    train = context.benchmarks[benchmark].examples(splits=["train"])
    return np.unique(np.asarray(train["subject_id"].to_numpy(), dtype=np.int64))


def seen(context: Context) -> Analysis | None:
    """The model finetuned under a split by time alone: on all of its test, and on patients that it never saw."""
    groups, tasks = context.select(design="seen", tested_on=context.home), context.tasks()
    if not groups or not tasks:
        return None
    group = groups[0]
    bench = group.about.benchmark
    patients = trained_patients(context, bench)
    unseen = Place(None, ("not seen in training", lambda part: ~np.isin(part.subjects, patients)))
    tasks = [t for t in tasks if t in context.benchmarks[bench].tasks]
    rows: list[making.Row] = []
    found = {}
    shares = {}
    for task in tasks:
        whole, part = context.part(bench, task), context.part(bench, task, None, unseen.where)
        every, new = context.auroc(group, task), context.auroc(group, task, where=unseen.where)
        if whole is None or every is None:
            continue
        shares[task] = 1 - (len(part.labels) if part is not None else 0) / len(whole.labels)
        published = task == "readmission"
        rows.append(
            {
                "task": context.title(task),
                "share": Value(value=shares[task], n=len(whole.labels)),
                "all": every.model_copy(update={"paper": paper.SEEN["all"].value if published else None}),
                "unseen": None if new is None else new.model_copy(
                    update={"paper": paper.SEEN["unseen"].value if published else None}
                ),
            }
        )  # fmt: skip
        change = contrasts.contrast(context, group, task, unseen, Place())
        if change is not None and shares[task] > 0:
            found[task] = change
    held, family = making.corrected({"": contrasts.combined(found)})
    changes = held[""]
    for task, row in zip(shares, rows, strict=True):
        row["change"] = changes.get(task)
    columns = [
        Column(key="task", label="Task"),
        Column(key="share", label="Test rows of patients in training", kind="share"),
        Column(key="all", label="All patients", kind="auroc"),
        Column(key="unseen", label="Not seen in training", kind="auroc"),
        Column(key="change", label="Change", kind="difference"),
    ]
    if not rows:
        return None
    sides = tally({lower_first(context.title(t)): v for t, v in changes.items()})
    return Analysis(
        id="seen",
        title="Patients seen in training",
        question="Is a test flattering that holds patients of the training set, as a split by time alone does?",
        sentence=_sentence(group, sides.known, said(sides, ahead="clearly higher", behind="clearly lower"), shares),
        verdict=sides.verdict,
        caveats=[*making.caveats(context, [group], tasks), *_main_tables(context)],
        paper="Splits are by time alone; without the patients seen in training, readmission goes from 0.765 to 0.770.",
        tables=[
            making.table(
                "seen", f"{group.label}, split by time alone", columns, rows,
                "Change: not seen minus all, same resamples" + (f"; Holm over {family}." if family else "."),
            )
        ],
    )  # fmt: skip


def _sentence(group: Group, known: int, words: str, shares: dict[str, float]) -> str:
    if not any(shares.values()):
        return "No patient of this test was in the training set, so that there is nobody to drop."
    least, most = 100 * min(shares.values()), 100 * max(shares.values())
    text = f"Between {least:.0f} and {most:.0f} % of the test's rows are of patients in the training set"
    if not known:
        return text + "; without them no task can be judged."
    return f"{text}; without them, AUROC of {group.label} is {words}."


def _main_tables(context: Context) -> list[str]:
    """How many patients of the main tables' test are in their train: none, where patients are kept apart."""
    main = parties.main_specialist(context)
    if main is None:
        return []
    bench = main.about.benchmark
    trained = trained_patients(context, bench)
    parts: list[Part] = [p for t in context.tasks() if (p := context.part(bench, t)) is not None]
    both = {int(s) for p in parts for s in np.unique(p.subjects[np.isin(p.subjects, trained)])}
    if not both:
        return ["In the main tables patients are kept apart by design: none of their test was trained on."]
    return [f"In the main tables, {plural(len(both), 'patient')} of the test were in training."]
