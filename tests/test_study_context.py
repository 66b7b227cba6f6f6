"""What the analyses read: figures equal independent ones, pairs are pairs, and nothing is mixed up in the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score
from study_world import HOME, benchmark, every_cell, world

from lang1.common.errors import InputError
from lang1.evaluation.answered import Part
from lang1.evaluation.examples import limited
from lang1.evaluation.rows import task_rows
from lang1.metrics.auroc import auroc, class_aurocs
from lang1.metrics.over_seeds import over_seeds
from lang1.study.cells import Cell
from lang1.study.context import MEAN, Context, Group


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return world(tmp_path_factory.mktemp("context"), designs=("grid", "twins"), resamples=300)


@pytest.fixture(scope="module")
def joint(context: Context) -> Group:
    return context.select(design="grid", tested_on=HOME, role="specialist", regime="joint")[-1]


@pytest.fixture(scope="module")
def generalist(context: Context) -> Group:
    return context.select(design="grid", role="generalist", regime="joint")[0]


def _young(part: Part) -> np.ndarray:
    return part.subjects % 3 == 0


def test_values_equal_scikit_learns(context: Context, joint: Group) -> None:
    for task in context.tasks():
        each = []
        for cell in joint.cells:
            table = context.predictions(cell).table
            rows = dict(zip(table["example_id"].to_pylist(), table["probabilities"].to_pylist(), strict=True))
            asked = benchmark("benchmark").examples([task], ["test_newest"])
            y = asked["label"].to_numpy()
            p = np.array([rows[e] for e in asked["example_id"].to_pylist()])
            if p.shape[1] == 2:
                each.append(roc_auc_score(y, p[:, 1]))
            else:  # classes of fewer than 20 cases are left out of the mean
                counts = np.bincount(y, minlength=p.shape[1])
                each.append(np.mean([roc_auc_score(y == c, p[:, c]) for c in range(p.shape[1]) if counts[c] >= 20]))
        found = context.auroc(joint, task)
        assert found is not None and found.value == pytest.approx(np.mean(each), abs=1e-12)
        assert found.n == len(y) and found.seeds == 2
        assert found.events == (int((y == 1).sum()) if p.shape[1] == 2 else None)


def test_figures_agree_with_an_evaluation(context: Context, joint: Group) -> None:
    for task in context.tasks():
        one = joint.cells[0]
        rows = task_rows(
            context.asked("benchmark"), [context.predictions(one)], task, "test_newest",
            context.settings.model_copy(update={"subgroups": []}),
        )  # fmt: skip
        assert rows is not None
        row = next(r for r in rows.rows if r["metric"] == "auroc")
        mine = context.auroc(Group(one.group, (one,)), task)
        assert mine is not None and mine.value == pytest.approx(row["value"], abs=1e-12)
        assert mine.n == row["n"] and mine.events == row["events"]
        # Patients are resampled here for all tasks together, there task by task: as wide, not the same.
        assert (mine.high - mine.low) / (row["high"] - row["low"]) == pytest.approx(1, abs=0.2)


def test_seeds_are_paired_whatever_their_order(context: Context, joint: Group, generalist: Group) -> None:
    turned = Group(generalist.about, generalist.cells[::-1])
    assert context.difference(joint, generalist, "mortality") == context.difference(joint, turned, "mortality")
    gap, back = context.difference(joint, generalist, "mortality"), context.difference(generalist, joint, "mortality")
    assert gap and back and gap.value == pytest.approx(-back.value) and gap.low == pytest.approx(-back.high)
    assert gap.p == pytest.approx(back.p)
    nothing = context.difference(joint, joint, "mortality")
    assert nothing and (nothing.value, nothing.p) == (0.0, 1.0)


def test_pairing_takes_out_the_luck_of_patients(context: Context, joint: Group, generalist: Group) -> None:
    for task in context.tasks():
        gap = context.difference(joint, generalist, task)
        one, other = context.auroc(joint, task), context.auroc(generalist, task)
        assert gap and one and other
        apart = np.hypot(one.high - one.low, other.high - other.low)
        assert gap.high - gap.low < apart


def test_unequal_seeds_lose_none(context: Context, joint: Group, generalist: Group) -> None:
    short = Group(generalist.about, generalist.cells[:1])
    gap = context.difference(joint, short, "readmission")
    each = [j.auroc for j in context.judged(joint, "readmission")]
    assert gap and gap.value == pytest.approx(np.mean(each) - context.judged(short, "readmission")[0].auroc)
    assert gap.seeds == 2


def test_different_benchmarks_are_refused(context: Context, joint: Group) -> None:
    away = context.select(tested_on="lakeshore", role="specialist")[0]
    with pytest.raises(InputError, match="different benchmarks"):
        context.difference(joint, away, "mortality")


def test_a_part_is_the_rows_and_the_resamples_of_the_whole(context: Context, joint: Group) -> None:
    for task in ("mortality", "comorbidity"):
        whole = context.part("benchmark", task)
        part = context.part("benchmark", task, None, ("every third", _young))
        assert whole is not None and part is not None
        inside = _young(whole)
        assert part.examples.equals(whole.examples.filter(inside))
        assert np.array_equal(part.resamples.weights(), whole.resamples.weights()[inside])
        judged = context.judge(joint.cells[0], task, None, ("every third", _young))
        every = context.judge(joint.cells[0], task)
        if judged is None or every is None:
            continue
        table = every.answered.table[inside]
        assert np.array_equal(judged.answered.table, table)
        if part.binary:
            assert judged.auroc == pytest.approx(auroc(part.labels == 1, table[:, 1]))
            third = auroc(part.labels == 1, table[:, 1], part.resamples.weights()[:, 7])
            assert judged.draws[7] == pytest.approx(third)
        else:  # classes that are too few there are left out, and said to be
            each = class_aurocs(part.labels, table)
            assert part.judged == list(each)
            assert judged.auroc == pytest.approx(np.mean(list(each.values())))


def test_one_class_alone_is_not_judged(context: Context, joint: Group) -> None:
    dead = ("dead", lambda part: part.labels == 1)
    assert context.judge(joint.cells[0], "mortality", None, dead) is None
    assert context.auroc(joint, "mortality", None, dead) is None
    assert "mortality" not in context.judgeable("benchmark", None, dead)
    assert context.part("benchmark", "mortality", None, ("none", lambda part: part.labels > 5)) is None
    assert context.auroc(joint, "no such task") is None


def test_splits_and_parts_are_not_mixed_up(context: Context, joint: Group) -> None:
    sizes = {s: context.auroc(joint, "readmission", s).n for s in (None, "test_newest", "test")}  # type: ignore[union-attr]
    assert sizes[None] == sizes["test_newest"] != sizes["test"]
    some = context.auroc(joint, "readmission", None, ("every third", _young))
    rest = context.auroc(joint, "readmission", None, ("the others", lambda part: ~_young(part)))
    assert some and rest and some.n + rest.n == sizes[None]


def test_the_mean_over_tasks_is_resampled_together(context: Context, joint: Group) -> None:
    cell = joint.cells[0]
    alone = [context.judge(cell, task) for task in context.tasks()]
    mean = context.judged(joint, MEAN)[0]
    assert mean.auroc == pytest.approx(np.mean([j.auroc for j in alone if j]))
    assert np.allclose(mean.draws, np.mean([j.draws for j in alone if j], axis=0))
    drawn: dict[int, int] = {}
    for task in context.tasks():  # a patient who is in several tasks is drawn as often in all of them
        part = context.part("benchmark", task)
        assert part is not None
        for subject, times in zip(part.subjects.tolist(), part.resamples.weights()[:, 11].tolist(), strict=True):
            assert drawn.setdefault(subject, times) == times
    found = context.auroc(joint, MEAN)
    assert found and found.n is None and found.events is None and found.low < found.value < found.high


def test_like_trainings_steady_two_seeds(context: Context, joint: Group) -> None:
    widths = []
    for task in context.tasks():
        found = context.judged(joint, task)
        alone = over_seeds([j.auroc for j in found], [j.draws for j in found], found[0].df, share=True)
        mine, pooled = context.auroc(joint, task), context.pooled(joint, task, share=True)
        assert mine and pooled and pooled.df >= 4 and mine.value == pytest.approx(alone.value)
        widths.append((alone.high - alone.low, mine.high - mine.low))
    assert max(one / two for one, two in widths) > 1.05  # two seeds that lie far apart by chance
    assert np.std([two for _, two in widths]) <= np.std([one for one, _ in widths])


def test_groups_are_cells_that_differ_in_their_seed(context: Context) -> None:
    for group in context.select(design="grid", regime=["joint"]):
        assert [c.seed for c in group.cells] == [1, 2]
        assert {c.model_copy(update={"step": "", "seed": None}) for c in group.cells} == {group.about}
    assert {g.about.role for g in context.select(role={"oracle", "baseline"})} == {"oracle", "baseline"}
    assert context.select(model="no such") == []


def test_predictions_that_lack_a_task_are_not_judged_there(tmp_path: Path) -> None:
    cells: list[Cell] = [
        c for c in every_cell((1,)) if c.design == "grid" and c.role == "oracle" and c.tested_on == HOME
    ]
    found = world(tmp_path, cells=cells, splits=("test",))  # type: ignore[arg-type]
    only = found.select()[0]
    assert found.auroc(only, "mortality") is None  # the headline split is not answered
    assert found.auroc(only, "mortality", "test") is not None
    assert found.auroc(only, MEAN) is None


def test_a_model_that_was_asked_less_is_judged_and_compared_on_that(
    context: Context, joint: Group, generalist: Group
) -> None:
    most = 150
    short = [cell.model_copy(update={"limit": most}) for cell in generalist.cells]
    narrow = Context(
        cells=[*joint.cells, *short],
        folders=context.folders,
        benchmarks=context.benchmarks,
        settings=context.settings,
        home=context.home,
    )
    task = "mortality"
    first = limited(benchmark("benchmark").examples([task], ["test_newest"]), most)
    ids = first["example_id"].to_pylist()
    for cell in short:  # its folder holds no others
        opened = context.predictions(cell)
        kept = opened.table.filter(pc.is_in(opened.table["example_id"], value_set=first["example_id"].combine_chunks()))
        narrow._predictions[cell.step] = replace(opened, table=kept)
    less = Group(short[0].group, tuple(short))
    found, whole, before = narrow.auroc(less, task), narrow.auroc(joint, task), context.auroc(joint, task)
    assert found is not None and whole is not None and before is not None
    assert found.n == most and (whole.n, whole.value) == (before.n, before.value)

    def mean(group: Group) -> float:
        each = []
        for cell in group.cells:
            table = context.predictions(cell).table
            risk = dict(zip(table["example_id"].to_pylist(), table["probabilities"].to_pylist(), strict=True))
            each.append(roc_auc_score(first["label"].to_numpy(), [risk[i][1] for i in ids]))
        return float(np.mean(each))

    assert found.value == pytest.approx(mean(less), abs=1e-12)
    gap = narrow.difference(joint, less, task)
    assert gap is not None and gap.n == most
    assert gap.value == pytest.approx(mean(joint) - mean(less), abs=1e-12)
    both = narrow.difference(joint, less, task, where=("young", _young))
    assert both is not None and both.n == int(np.sum(np.asarray(first["subject_id"]) % 3 == 0))
