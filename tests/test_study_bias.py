"""Bias across groups: what is planted is found, recalibration by group mends calibration and only that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from evaluation_toy import make_records

from lang1.common.artefact import new_folder
from lang1.common.errors import InputError
from lang1.evaluation.predictions import KIND, prediction_table, write_predictions
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import auroc
from lang1.metrics.bootstrap import resample_counts
from lang1.metrics.capacity import alert_shares
from lang1.metrics.group_recalibration import LEAST_CASES, fit_group_maps
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.reporting.study_schema import Analysis, Value
from lang1.study.analyses.bias import bias_across_groups
from lang1.study.cells import Cell
from lang1.study.context import Context
from lang1.study.gaps import figures_of, gaps_of, split_up, valued

TASKS = ("readmission", "mortality")
TOY = "Toy"
SHIFT = 1.3  # log-odds that the planted model states too high for women


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class TestMaps:
    def drawn(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        groups = np.where(rng.random(n) < 0.5, "a", "b").astype(object)
        true = sigmoid(rng.normal(-1, 1.2, n))
        said = sigmoid(np.log(true / (1 - true)) + SHIFT * (groups == "a"))
        return rng.random(n) < true, said, groups

    def test_a_shifted_group_is_moved_back(self) -> None:
        case, said, groups = self.drawn(20_000)
        maps = fit_group_maps(case, said, groups)
        assert maps is not None and not maps.fallen_back
        assert maps.own["a"][0] - maps.own["b"][0] == pytest.approx(-SHIFT, abs=0.15)
        fresh, said, groups = self.drawn(20_000, seed=1)
        after = maps.by_group(said, groups)
        for name in ("a", "b"):
            inside = groups == name
            assert abs((after - fresh)[inside].mean()) < 0.015
            assert abs((said - fresh)[inside].mean()) > 0.1 or name == "b"
            assert auroc(fresh[inside], after[inside]) == pytest.approx(auroc(fresh[inside], said[inside]), abs=1e-12)
        assert abs((maps.for_all(said) - fresh)[groups == "a"].mean()) > 0.05  # one map for all does not mend it
        was, now = (
            float(np.subtract(*(alert_shares(risk, 0.1)[groups == name].mean() for name in ("a", "b"))))
            for risk in (said, after)
        )
        assert was > 0.1 and abs(now) < 0.02  # the groups are equally sick: at one threshold for all, alerts even out

    def test_small_groups_keep_the_map_of_all(self) -> None:
        case, said, groups = self.drawn(2000)
        groups[:30] = "few"
        case[:30] = np.arange(30) < LEAST_CASES - 1
        maps = fit_group_maps(case, said, groups)
        assert maps is not None and set(maps.fallen_back) == {"few"}
        rest = np.array(["few", "never seen"], dtype=object)
        np.testing.assert_allclose(maps.by_group(said[:2], rest), maps.for_all(said[:2]))

    def test_own_maps_are_drawn_towards_all_the_more_the_fewer_the_cases(self) -> None:
        moves = []
        for n in (150, 1000, 20_000):
            maps = [fit_group_maps(*self.drawn(n, seed)) for seed in range(8)]
            moves.append(np.mean([m.own["b"][0] - m.own["a"][0] for m in maps if m is not None]))
        assert 0.2 * SHIFT < moves[0] < 0.9 * SHIFT < moves[1] < moves[2] < 1.1 * SHIFT

    def test_groups_that_do_not_differ_mostly_keep_the_map_of_all(self) -> None:
        moved = []
        for seed in range(20):
            case, said, groups = self.drawn(600, seed)
            said = np.where(groups == "a", sigmoid(np.log(said / (1 - said)) - SHIFT), said)
            maps = fit_group_maps(case, said, groups)
            assert maps is not None
            moved.append(np.abs(maps.by_group(said, groups) - maps.for_all(said)).mean())
        assert np.median(moved) < 0.005 and max(moved) < 0.06

    def test_what_cannot_be_fitted(self) -> None:
        case, said, groups = self.drawn(200)
        assert fit_group_maps(np.zeros(200, bool), said, groups) is None
        assert fit_group_maps(case, 1 - said, groups) is None  # a falling map
        with pytest.raises(InputError, match="groups of 3 rows"):
            fit_group_maps(case, said, groups[:3])


class TestGaps:
    def test_by_hand(self) -> None:
        case = np.tile([True, False], 20)
        names = np.array(["big"] * 40 + ["small"] * 20 + ["tiny"] * 6, dtype=object)
        case = np.tile([True, False], 33)
        risk = np.where(names == "big", 0.4, 0.7) + 0.1 * case
        subjects = np.arange(66)
        kept, left = split_up(case, subjects, names)
        assert [(one.name, one.n, one.events) for one in kept] == [("big", 40, 20), ("small", 20, 10)]
        assert [(one.name, one.events) for one in left] == [("tiny", 3)]
        alert = alert_shares(risk, 13 / 66)  # the 13 cases of small and tiny
        (found,) = figures_of(case, [(risk, alert)], names, kept, resample_counts(subjects, 50))
        expected = {"auroc": 0.0, "calibration": 0.3, "alert_rate": 0.5, "sensitivity": 1.0}
        gaps = gaps_of("t", "size", kept, [found])
        assert {gap.metric: float(gap.values[0]) for gap in gaps} == pytest.approx(expected)

    def test_alert_shares_fill_the_capacity(self) -> None:
        scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
        np.testing.assert_allclose(alert_shares(scores, 0.4), [1, 1 / 3, 1 / 3, 1 / 3, 0])
        assert alert_shares(scores, 7).sum() == 5

    def test_intervals_hold_the_planted_gap(self) -> None:
        """Of 40 worlds the 95 % interval of the calibration gap holds the truth in nearly all."""
        inside = 0
        for seed in range(40):
            rng = np.random.default_rng(seed)
            names = np.where(rng.random(800) < 0.4, "a", "b").astype(object)
            true = rng.uniform(0.1, 0.5, 800)
            case = rng.random(800) < true
            risk = true + 0.1 * (names == "a")
            kept, _ = split_up(case, np.arange(800), names)
            (found,) = figures_of(case, [(risk, risk)], names, kept, resample_counts(np.arange(800), 200))
            gaps = [g for g in gaps_of("t", "g", kept, [found]) if g.metric == "calibration"]
            value = valued(gaps)[0]
            assert value.low is not None and value.high is not None
            inside += value.low < 0.1 < value.high
        assert inside >= 35


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """1,350 encounters, half of the patients women; a third of them to fit maps on."""
    out = tmp_path_factory.mktemp("bias")
    records = make_records(out / "records", patients=900)
    values = {"tasks": TASKS, "calendar": None, "fractions": {"train": 0.1, "val": 0.4, "test": 0.5}}
    build(records, out / "benchmark", BuildSettings.model_validate(values))
    return Benchmark.open(out / "benchmark")


def true_risks(bench: Benchmark, examples: pa.Table, task: str) -> tuple[np.ndarray, np.ndarray]:
    """The risk that each label was drawn with, and which patients are women."""
    with bench.records.connect() as connection:
        connection.register("asked", examples.select(["encounter_id"]))
        rows = connection.sql(
            "SELECT encounter_id, payer, sex FROM encounters JOIN patients USING (patient_id) SEMI JOIN asked USING "
            "(encounter_id)"
        ).fetchall()
    known = {e: (payer, sex) for e, payer, sex in rows}
    texts = bench.texts(examples["note_id"].to_pylist())
    frail = np.array(["cachexia" in texts[note] for note in examples["note_id"].to_pylist()])
    payer = np.array([known[e][0] == "Medicaid" for e in examples["encounter_id"].to_pylist()])
    women = np.array([known[e][1] == "female" for e in examples["encounter_id"].to_pylist()])
    if task == "mortality":
        return np.where(frail, 0.3, 0.05), women
    return np.where(frail, 0.45, 0.1) + 0.15 * payer, women


def a_study(out: Path, bench: Benchmark, shift: float, splits: tuple[str, ...] = ("test", "val")) -> Context:
    """A specialist that states the true risks, moved by ``shift`` for women."""
    tables, rows = [], []
    for task in TASKS:
        part = bench.examples([task], list(splits))
        true, women = true_risks(bench, part, task)
        noise = np.random.default_rng(5).normal(0, 0.2, len(true))
        risk = sigmoid(np.log(true / (1 - true)) + shift * women + noise)
        tables.append(part)
        rows += list(np.stack([1 - risk, risk], axis=1))
    with new_folder(out / "answers", KIND, inputs={"benchmark": bench.folder}) as draft:
        write_predictions(draft.path, prediction_table(pa.concat_tables(tables), rows, "Lang1", "joint"))
        draft.extra.update(model="Lang1", regime="joint", cost={})
    cell = Cell(
        step="answers", label="Lang1", role="specialist", regime="joint", benchmark="benchmark", tested_on=TOY,
        trained_on=(TOY,), tasks=TASKS, seed=1,
    )  # fmt: skip
    settings = EvaluateSettings(resamples=200, fast=True, subgroups=["sex", "payer"])
    return Context([cell], {"answers": out / "answers"}, {"benchmark": bench}, settings, TOY)


def gap(analysis: Analysis, task: str, group: str, metric: str) -> dict[str, Value | str | None]:
    rows = next(t.rows for t in analysis.tables if t.id == "bias-gaps-1")
    return next(r for r in rows if (r["task"], r["group"], r["metric"]) == (task, group, metric))


def value(cell: Value | str | None) -> Value:
    assert isinstance(cell, Value) and cell.value is not None
    return cell


class TestAnalysis:
    def test_a_planted_bias_is_found_and_mended(self, toy: Benchmark, tmp_path: Path) -> None:
        context = a_study(tmp_path, toy, SHIFT)
        made = bias_across_groups(context)
        assert made is not None and made.verdict == "clear" and "hold after correction" in made.sentence
        for task in TASKS:
            title = context.title(task)
            examples = toy.examples([task], ["test"])
            true, women = true_risks(toy, examples, task)
            planted = (sigmoid(np.log(true / (1 - true)) + SHIFT) - true)[women].mean()
            other = "female" if women.sum() < len(women) / 2 else "male"
            planted = planted if other == "female" else -planted
            row = gap(made, title, other, "stated less observed risk")
            before, common, after = (value(row[name]) for name in ("before", "common", "after"))
            assert before.p_adjusted is not None and before.p_adjusted < 0.001
            assert before.low is not None and before.high is not None and before.low < planted < before.high
            assert common.p_adjusted is not None and common.p_adjusted < 0.05  # one map for all leaves it
            assert after.p_adjusted is not None and after.p_adjusted > 0.05
            assert abs(after.value or 0) < 0.4 * abs(before.value or 0)
            area = gap(made, title, other, "AUROC")
            assert value(area["before"]).value == value(area["after"]).value
        summary = next(t.rows for t in made.tables if t.id == "bias-summary")
        calibration = next(r for r in summary if r["metric"] == "stated less observed risk")
        assert value(calibration["before"]).value == 2 and value(calibration["after"]).value == 0

    def test_true_risks_show_no_gap_in_calibration(self, toy: Benchmark, tmp_path: Path) -> None:
        made = bias_across_groups(a_study(tmp_path, toy, 0.0))
        assert made is not None
        for row in next(t.rows for t in made.tables if t.id == "bias-summary"):
            if row["metric"] in ("stated less observed risk", "AUROC"):
                assert value(row["before"]).value == 0 and value(row["after"]).value == 0
        left = [t for t in made.tables if t.id == "bias-left-out"]
        assert all(isinstance(r["reason"], str) for t in left for r in t.rows)

    def test_without_validation_only_what_was_before(self, toy: Benchmark, tmp_path: Path) -> None:
        made = bias_across_groups(a_study(tmp_path, toy, SHIFT, splits=("test",)))
        assert made is not None and "could not be tried" in made.sentence
        assert any("answers no validation rows" in caveat for caveat in made.caveats)
        assert all(r["after"] is None for t in made.tables if t.id == "bias-gaps-1" for r in t.rows)

    def test_no_models_no_analysis(self, toy: Benchmark, tmp_path: Path) -> None:
        context = a_study(tmp_path, toy, 0.0)
        assert bias_across_groups(dataclasses.replace(context, cells=[])) is None
