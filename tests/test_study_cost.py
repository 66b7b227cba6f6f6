"""Costs and benefits: the arithmetic by hand, its properties, what is read from manifests, and the whole analysis."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_world import HOME, Effects, every_cell, world

from lang1.common.artefact import MANIFEST, new_folder, open_folder, read_json, write_json
from lang1.common.errors import SettingsError
from lang1.evaluation.predictions import open_predictions
from lang1.metrics.bootstrap import Resamples, resample_counts
from lang1.metrics.capacity import at_capacity
from lang1.metrics.over_seeds import over_seeds
from lang1.model.config import ModelSettings
from lang1.reporting.study_schema import Analysis, Value
from lang1.study.analyses.cost import cost_and_benefit
from lang1.study.analyses.paper_run import paper_run_again
from lang1.study.context import MEAN, Context
from lang1.study.costing import Cost, Footprint, accelerators, break_even, cost, paper_run, training_mfu
from lang1.study.footprint import Scoring, Stage, lineage, scoring, shape_of, training_flops
from lang1.study.grid import Grid
from lang1.study.options import options
from lang1.study.prices import price_values, read_prices
from lang1.training.throughput import Tally, step_flops

# Round figures, so that costs can be reckoned by hand.
ROUND = {
    "years_used": 4,
    "accelerator": {"peak_flops": 1e15, "memory_gb": 80, "hour": 2},
    "measured": [{"parameters": 1000, "flops_per_token": 6000, "tokens_a_second": 1, "mfu": 0.5}],
    "share_kept": 0.5,
    "inference_mfu": 0.1,
    "runs_for_one_kept": 3,
    "idle_hours_a_day": 1,
    "cpu_hour": 1,
    "staff": {
        "hour": 10,
        "setup_hours": dict.fromkeys(("baseline", "api", "zero_shot", "finetuned", "specialist", "continued"), 100),
        "upkeep_hours": 20,
        "retrained_a_year": 2,
        "retraining_hours": 5,
        "share_of_further_models": 0.5,
    },
}
# An hour on the round accelerator at the round training rate: 1e15 · 0.5 · 0.5 · 3600 operations.
AN_HOUR = 9e17


def a_stage(kind: str, hours: float) -> Stage:
    return Stage(kind, kind, 10, 60.0, "cpu", 1000, hours * AN_HOUR, kind == "finetuning", kind)  # type: ignore[arg-type]


def a_scoring(**more: object) -> Scoring:
    made = Scoring(100, 200, 0.36, "cpu", 500.0, None, 3.6e14, 1000, None)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def test_a_grid_reads_its_prices_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("cpu_hour: 0.3\n")
    design = {"home": "a", "systems": {"a": {"records": "./records"}}}
    assert Grid.model_validate({**design, "prices": str(file)}).prices == {"cpu_hour": 0.3}
    assert Grid.model_validate(design).prices == {}
    with pytest.raises(SettingsError, match="cpu_hours"):
        Grid.model_validate({**design, "prices": {"cpu_hours": 1}})


class TestArithmetic:
    def test_a_specialist_by_hand(self) -> None:
        prices = read_prices(ROUND)
        footprint = Footprint("specialist", (a_stage("pretraining", 10), a_stage("finetuning", 2)), (a_scoring(),))
        found = cost(footprint, prices, prices.figures())
        assert found.setup == pytest.approx(1000)
        assert found.training == pytest.approx(3 * 2 * 12)
        assert found.upkeep == pytest.approx(200)
        assert found.retraining == pytest.approx(2 * (50 + 2 * 2))  # finetuning again, pretraining not
        assert found.idle == pytest.approx(365.25 * 2)
        assert found.for_one == pytest.approx(2 * 3.6e14 / 1e14 / 3600)
        assert found.a_year(1000, 4) == pytest.approx(1072 / 4 + 200 + 108 + 730.5 + 1000 * 0.002)

    def test_several_models_share_their_making(self) -> None:
        prices = read_prices(ROUND)
        joint = cost(Footprint("finetuned", (), (a_scoring(),), 1), prices, prices.figures())
        single = cost(Footprint("finetuned", (), (a_scoring(),) * 3, 3), prices, prices.figures())
        assert single.upkeep == pytest.approx(2 * joint.upkeep)  # 1 + 2 · 0.5
        assert single.for_one == pytest.approx(3 * joint.for_one)
        assert single.setup == joint.setup

    def test_a_paid_interface_costs_its_tokens(self) -> None:
        prices = read_prices(ROUND | {"api": {"million_in": 2, "million_out": 10, "answer_tokens": 4}})
        footprint = Footprint("api", (), (a_scoring(flops=None),), 1, 5)
        found = cost(footprint, prices, prices.figures())
        assert found.for_one == pytest.approx((500 * 2 + 20 * 10) / 1e6)
        assert (found.training, found.retraining, found.idle) == (0, 0, 0)
        counted = Footprint("api", (), (a_scoring(answer_tokens=7.0),), 1, 5)
        assert cost(counted, prices, prices.figures()).for_one == pytest.approx((500 * 2 + 7 * 10) / 1e6)

    def test_a_baseline_costs_its_seconds(self) -> None:
        prices = read_prices(ROUND)
        found = cost(Footprint("baseline", (), (a_scoring(),), 1), prices, prices.figures())
        assert found.training == pytest.approx(3 * 36 / 3600) and found.idle == 0
        assert found.for_one == pytest.approx(0.36 / 3600)

    def test_a_large_model_takes_several_accelerators(self) -> None:
        prices = read_prices()
        sizes = {7_000_000_000: 1, 70_000_000_000: 3}
        for size, wanted in sizes.items():
            footprint = Footprint("zero_shot", (), (a_scoring(parameters=size),))
            assert accelerators(footprint, prices) == wanted

    def test_the_training_rate_between_measured_sizes(self) -> None:
        points = read_prices().measured
        sizes = [one.parameters for one in points]
        assert [training_mfu(size, points) for size in sizes] == [one.mfu for one in points]
        middle = training_mfu(round((sizes[0] * sizes[1]) ** 0.5), points)
        assert middle == pytest.approx((points[0].mfu + points[1].mfu) / 2, abs=1e-4)
        assert training_mfu(1, points) == points[0].mfu and training_mfu(10**12, points) == points[1].mfu

    def test_the_papers_run(self) -> None:
        found = paper_run(read_prices())
        assert found.hours == pytest.approx(314.5e9 / 70_288 / 3600, rel=1e-3)  # the rate that was measured
        assert found.implied_hour == pytest.approx(180_000 / 46_080)
        assert found.implied_mfu == pytest.approx(0.5198 * 1242.9 / 46_080, rel=1e-3)
        assert found.money == pytest.approx(1242.9 * 3.90625, rel=1e-3)
        assert paper_run(read_prices(), 0.5).hours == pytest.approx(2 * found.hours)

    def test_the_packaged_rates_agree_with_their_flops(self) -> None:
        prices = read_prices()
        for one in prices.measured:
            rate = one.tokens_a_second * one.flops_per_token / prices.accelerator.peak_flops
            assert rate == pytest.approx(one.mfu, rel=1e-3)
        file = Path(__file__).parent.parent / "benchmarks" / "results" / "train_h100.json"
        said = json.loads(file.read_text())["figures"]
        assert [said["mfu_lang1-100m"], said["mfu_lang1-1b"]] == [one.mfu for one in prices.measured]


MONEY = st.floats(0, 1e6)


class TestBreakEven:
    def test_by_hand(self) -> None:
        one = Cost(setup=900, training=300, upkeep=100, retraining=0, idle=0, for_one=0.1)
        other = Cost(setup=0, training=0, upkeep=100, retraining=0, idle=0, for_one=0.5)
        found = break_even(one, other, 3)
        assert (found.how, found.volume) == ("from", pytest.approx(1000))
        assert break_even(other, one, 3).how == "up to"
        assert break_even(one, dataclasses.replace(other, for_one=0.1), 3).how == "never"
        assert break_even(dataclasses.replace(one, setup=0, training=0), other, 3).how == "always"
        assert break_even(one, other, 3, gain=0.4).volume == pytest.approx(500)
        assert break_even(one, dataclasses.replace(other, for_one=0.05), 3, gain=-1).how == "never"

    @settings(max_examples=60, deadline=None)
    @given(st.tuples(MONEY, MONEY, MONEY, MONEY), MONEY, st.floats(1, 10))
    def test_repaid_where_both_cost_the_same_and_later_the_dearer_it_is(
        self, parts: tuple[float, float, float, float], more: float, years: float
    ) -> None:
        setup, fixed, mine, theirs = parts
        one = Cost(setup, 0, fixed, 0, 0, mine / 1e6)
        other = Cost(0, 0, 0, 0, 0, theirs / 1e6)
        found = break_even(one, other, years)
        dearer = break_even(dataclasses.replace(one, training=more), other, years)
        order = {"always": 0.0, "from": found.volume, "never": np.inf}
        later = {"always": 0.0, "from": dearer.volume, "never": np.inf}
        assert later[dearer.how] >= order[found.how] - 1e-9
        if found.how == "from":
            here = one.a_year(found.volume or 0, years), other.a_year(found.volume or 0, years)
            assert here[0] == pytest.approx(here[1], rel=1e-6, abs=1e-6)


class TestSettings:
    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            ({"stff": 1}, "did you mean 'staff'"),
            ({"staff": {"hour": {"low": 100}}}, "low ≤ typical ≤ high"),
            ({"staff": {"hour": -1}}, "staff.hour"),
            ({"idle_hours_a_day": 30}, "up to 24"),
            ({"share_kept": 2}, "share_kept"),
            ({"runs_for_one_kept": 0.5}, "at least 1"),
            ({"years_used": 0}, "above 0"),
            ({"acting": {"true_alert_worth": {"readmission": 5}}}, "alert_cost"),
            ({"acting": {"threshold_risk": 1}}, "threshold_risk"),
            (7, "expected a file"),
            ("nowhere.yaml", "does not exist"),
        ],
    )
    def test_a_wrong_figure_is_one_line(self, bad: object, said: str) -> None:
        with pytest.raises(SettingsError) as error:
            read_prices(bad, "grid")
        assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 200

    def test_a_file_and_its_values_are_the_same(self, tmp_path: Path) -> None:
        file = tmp_path / "ours.yaml"
        file.write_text("staff: {hour: 70}\n")
        assert price_values(file) == {"staff": {"hour": 70}}
        assert read_prices(file) == read_prices({"staff": {"hour": 70}})
        assert read_prices(file).staff.hour.high == 70

    def test_one_way_moves_one_figure(self) -> None:
        prices = read_prices()
        typical = prices.figures()
        for path, low, high in prices.one_way():
            assert [p for p in typical if low[p] != typical[p]] in ([path], [])
            assert low[path] < high[path]


def by_hand(case: np.ndarray, scores: np.ndarray, rate: float, weight: np.ndarray) -> float:
    """Share of rows that are alerts and cases: groups of equal scores one after another until the capacity is full."""
    left, got = min(rate, 1.0) * weight.sum(), 0.0
    for value in np.unique(scores)[::-1]:
        size = weight[scores == value].sum()
        taken = min(left, size)
        got += (weight * case)[scores == value].sum() * (taken / size if size else 0.0)
        left -= taken
    return got / weight.sum()


class TestCapacity:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from([0, 1, 3]), st.floats(0.01, 1.2))
    def test_equals_brute_force(self, seed: int, digits: int, rate: float) -> None:
        rng = np.random.default_rng(seed)
        n = int(rng.integers(5, 80))
        case, scores = rng.random(n) < 0.3, np.round(rng.normal(size=n), digits)
        resamples = resample_counts(rng.integers(0, n, n), 12, seed=seed)
        found = at_capacity(case, scores, rate, resamples)
        assert found.hits == pytest.approx(by_hand(case, scores, rate, np.ones(n)))
        weights = resamples.weights()
        drawn = [by_hand(case, scores, rate, weights[:, r]) for r in range(12)]
        np.testing.assert_allclose(found.hits_draws, drawn, atol=1e-9)

    def test_figures_by_hand(self) -> None:
        case, scores = np.array([1, 0, 1, 0, 0, 0, 0, 1, 0, 0]), np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]) / 10
        found = at_capacity(case, scores, 0.3, Resamples(np.ones((10, 1), np.uint8), np.arange(10)))
        assert found.sensitivity[0] == pytest.approx(2 / 3) and found.ppv[0] == pytest.approx(2 / 3)
        assert found.net_benefit(0.2)[0] == pytest.approx((2 - 1 * 0.25) / 10)

    def test_everybody_alike_finds_as_many_as_chance(self) -> None:
        case = np.arange(100) < 20
        found = at_capacity(case, np.zeros(100), 0.1, resample_counts(np.arange(100), 10))
        assert found.ppv[0] == pytest.approx(0.2)

    def test_the_interval_holds_the_truth(self) -> None:
        rng = np.random.default_rng(3)

        def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
            case = rng.random(n) < 0.2
            return case, rng.normal(size=n) + case

        case, scores = drawn(400_000)
        truth = case[np.argsort(-scores)[:40_000]].sum() / len(case)
        inside = 0
        for seed in range(40):
            case, scores = drawn(500)
            found = at_capacity(case, scores, 0.1, resample_counts(np.arange(500), 200, seed=seed))
            made = over_seeds([found.hits], found.hits_draws[None], 99)
            inside += made.low < truth < made.high
        assert inside >= 35  # of 40, nominally 38


SHAPE = ModelSettings(vocab_size=100, hidden_size=16, layers=2, heads=2, kv_heads=2, head_dim=8, intermediate_size=32)


def a_model(out: Path, stage: str, start: Path | None = None, tokens: int = 1000, seconds: float = 60.0) -> Path:
    """A model folder that holds what costs are read from."""
    role = "model" if stage == "finetuned" else "start"
    inputs = {} if start is None else {role: open_folder(start, "model")}
    with new_folder(out, "model", inputs=inputs, settings={"sequence_length": 64}) as draft:
        write_json(draft.path / "config.json", SHAPE.to_hf())
        draft.extra.update(stage=stage, parameters=SHAPE.parameters, note_budget=64)
        if stage != "imported":
            draft.extra["cost"] = {"tokens": tokens, "seconds": seconds, "device": "cpu, 2 threads"}
    return out


def rewrite(folder: Path, model: Path | None, extra: dict[str, object]) -> None:
    """Say in a predictions manifest which model it is of and what it took."""
    values = read_json(folder / MANIFEST)
    values["extra"] |= extra
    if model is not None:
        values["inputs"]["model"] = open_folder(model, "model").ref().model_dump(mode="json")
    write_json(folder / MANIFEST, values)


class TestFootprint:
    def test_flops_are_those_of_the_training_loop(self, tmp_path: Path) -> None:
        model = a_model(tmp_path / "m", "pretrained")
        length = 64
        seen = Tally(tokens=length, useful=length, read=length, pairs=length**2, read_pairs=length**2)
        norms = (2 * SHAPE.layers + 1) * SHAPE.hidden_size
        for trained in (1.0, 0.1):
            found = training_flops(SHAPE.parameters - norms, shape_of(model), length, trained)
            assert found == pytest.approx(step_flops(SHAPE, seen, trained) / length)

    def test_the_runs_behind_a_model(self, tmp_path: Path) -> None:
        context = world(tmp_path / "w", designs=("grid",), seeds=(1,))
        cell = context.select(role="specialist", regime="joint", tested_on=HOME)[0].cells[0]
        first = a_model(tmp_path / "w" / "first", "pretrained", tokens=5000)
        tuned = a_model(tmp_path / "w" / "tuned", "finetuned", first, tokens=100)
        rewrite(context.folders[cell.step], tuned, {"cost": {"tokens": 9000, "seconds": 3.0, "device": "cpu"}})
        found = lineage(open_predictions(context.folders[cell.step]))
        assert [(s.kind, s.tokens, s.start) for s in found.stages] == [
            ("finetuning", 100, True),
            ("pretraining", 5000, False),
        ]
        moved = (tmp_path / "w").rename(tmp_path / "elsewhere")  # a study is moved as a whole
        again = open_predictions(moved / cell.step)
        assert lineage(again).stages == found.stages
        asked = scoring(again, parameters=SHAPE.parameters)
        assert asked.tokens == pytest.approx(9000 / asked.encounters) and asked.flops is not None
        values = read_json(moved / cell.step / MANIFEST)
        values["settings"] |= {"order": "given", "swap_examples": 1}
        values["extra"] |= {"splits": ["test_newest"]}
        write_json(moved / cell.step / MANIFEST, values)
        twice = open_predictions(moved / cell.step)  # of each task one question was asked again
        rows, tasks = twice.table.num_rows, len(set(twice.table["task"].to_pylist()))
        assert scoring(twice).tokens == pytest.approx(9000 * rows / (rows + tasks) / asked.encounters)
        (moved / "first").rename(moved / "lost")
        assert lineage(again).lost == ("first",) and len(lineage(again).stages) == 1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """The grid with models behind it: a specialist from scratch, one whose pretraining went on, single models."""
    out = tmp_path_factory.mktemp("study")
    chosen = [c for c in every_cell((1, 2)) if c.design in ("grid", "single") and c.tested_on == HOME]
    context = world(out, cells=chosen, skill=Effects(finetuned=1.4), resamples=100)
    first = a_model(out / "first", "pretrained", tokens=50_000_000)
    outside = a_model(out / "outside", "imported")
    went_on = a_model(out / "went-on", "pretrained", outside, tokens=10_000_000)
    joint = a_model(out / "joint", "finetuned", first, tokens=1_000_000)
    tuned = a_model(out / "tuned", "finetuned", outside, tokens=1_000_000)
    continued = a_model(out / "continued", "finetuned", went_on, tokens=1_000_000)
    for cell in chosen:
        cost_of = {"tokens": 300_000, "seconds": 12.0, "device": "cpu"}
        if cell.role in ("baseline", "oracle"):
            rewrite(context.folders[cell.step], None, {"cost": cost_of | {"tokens": None}})
        elif cell.tasks:
            own = continued if cell.corpus == "clinical" else joint
            rewrite(context.folders[cell.step], tuned if cell.role == "generalist" else own, {"cost": cost_of})
        elif cell.model == "generalist-70b":
            served = {"prompt_tokens": 280_000, "answer_tokens": 20_000, "money": 0.7}
            rewrite(context.folders[cell.step], None, {"cost": cost_of | served | {"device": "server"}})
        else:
            rewrite(context.folders[cell.step], None, {"cost": cost_of})
    return context


def table(analysis: Analysis, name: str) -> list[dict[str, Value | str | None]]:
    return next(t.rows for t in analysis.tables if t.id == name)


def number(cell: Value | str | None) -> float:
    assert isinstance(cell, Value) and cell.value is not None
    return cell.value


class TestAnalysis:
    def test_every_kind_of_option_is_told_apart(self, study: Context) -> None:
        found = options(study)
        assert len({one.label for one in found}) == len(found)
        assert not {"prevalence"} & {one.label for one in found}
        kinds = {one.label: one.kind for one in found}
        assert kinds["generalist-70b"] == "api"
        assert kinds["Lang1 large, clinical"] == "continued"
        assert kinds["Lang1 large, clinical+general"] == "specialist"
        single = next(one for one in found if "single models" in one.label)
        assert single.footprint.models == 5 and [s.kind for s in single.footprint.stages].count("pretraining") == 1
        tuned = next(one for one in found if one.kind == "finetuned")
        assert [s.kind for s in tuned.footprint.stages] == ["finetuning"]

    def test_two_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        about = next(c for c in every_cell((1,)) if c.design == "grid" and c.role == "specialist" and c.tasks)
        few = about.model_copy(update={"step": "few", "notes": 100})
        found = options(world(tmp_path, cells=[about, few], resamples=10))
        assert [one.label for one in found] == [f"{about.label} (all notes)", f"{about.label} (100 notes)"]

    def test_the_whole(self, study: Context) -> None:
        made = cost_and_benefit(study)
        assert made is not None
        rows = table(made, "costs")
        assert all(number(r["least"]) <= number(r["year"]) <= number(r["most"]) for r in rows)
        cheapest = min(rows, key=lambda row: number(row["year"]))
        assert f"{cheapest['option']} costs least" in made.sentence
        best = {r["task"]: r for r in table(made, "benefit") if r["behind"] == "the best"}
        assert set(best) == {MEAN, *(study.title(t) for t in ("readmission", "mortality", "insurance_denial"))}
        for row in table(made, "benefit"):
            assert number(row["net"]) <= number(best[row["task"]]["net"]) + 1e-9  # type: ignore[index]
        assert {r["against"] for r in table(made, "break-even")} == {r["option"] for r in rows} - {
            "Lang1 large, clinical+general"
        }
        assert any("assumption" in caveat for caveat in made.caveats)
        assert {f.id for f in made.figures} >= {"tornado", "cost-benefit", "cost-by-volume"}

    def test_no_right_alert_is_no_certainty(self, study: Context) -> None:
        made = cost_and_benefit(study)
        assert made is not None
        rows = [*table(made, "benefit"), *table(made, "capacities")]
        for row in rows:
            for key in ("sensitivity", "ppv", "true", "net"):
                cell = row.get(key)
                if isinstance(cell, Value) and cell.value is not None:
                    assert cell.low is not None and cell.high is not None and cell.low < cell.high
                    assert cell.low <= cell.value <= cell.high
        for row in rows:  # right alerts are PPV times alerts
            if "ppv" in row and isinstance(row["ppv"], Value):
                yearly = number(row["alerts_day"]) * 365.25
                assert number(row["true"]) == pytest.approx(number(row["ppv"]) * yearly, rel=1e-6)

    def test_the_hospitals_own_figures_count(self, study: Context) -> None:
        own = {
            "encounters_a_year": 20_000,
            "staff": {"hour": 0},
            "idle_hours_a_day": 0,
            "acting": {
                "alerts_a_day": 3,
                "alert_cost": 10,
                "true_alert_worth": {"mortality": {"low": 0, "typical": 100, "high": 500}},
            },
        }
        made = cost_and_benefit(dataclasses.replace(study, grid={"prices": own}))
        assert made is not None
        mortality = [r for r in table(made, "benefit") if r["task"] == study.title("mortality")]
        assert all(number(r["alerts_day"]) == pytest.approx(3) for r in mortality)
        row, money = mortality[0], table(made, "money")[0]
        assert row["option"] == money["option"]
        alerts = number(row["alerts_day"]) * 365.25
        assert number(money["worth"]) == pytest.approx(number(row["true"]) * 100 - alerts * 10, rel=1e-6)
        spent = next(r for r in table(made, "costs") if r["option"] == money["option"])
        assert number(money["net"]) == pytest.approx(number(money["worth"]) - number(spent["year"]))
        assert number(money["least"]) < number(money["net"]) < number(money["most"])
        asked = {r["figure"]: r["from"] for r in table(made, "prices")}
        assert asked["staff.hour"] == "set in the study" and asked["cpu_hour"] == "the package's assumption"
        bought = next(r for r in table(made, "costs") if r["option"] == "generalist-70b")
        assert number(bought["year"]) == pytest.approx(20 * number(bought["thousand"]))

    def test_a_paid_interface_that_nobody_asked(self, tmp_path: Path) -> None:
        chosen = [c for c in every_cell((1,)) if c.design == "grid" and c.model in ("generalist-14m", "small")]
        context = world(tmp_path, cells=chosen, resamples=50)
        for cell in chosen:
            cost_of = {"cost": {"tokens": 1000, "seconds": 1.0, "device": "cpu"}}
            rewrite(context.folders[cell.step], None, cost_of)
        made = cost_and_benefit(context)
        assert made is not None
        assert [r["device"] for r in table(made, "measured")].count("not asked") == 1
        silent = cost_and_benefit(dataclasses.replace(context, grid={"prices": {"api": {"show": False}}}))
        assert silent is not None and "not asked" not in {r["device"] for r in table(silent, "measured")}

    def test_no_cells_no_analysis_but_the_papers_run(self) -> None:
        empty = Context([], {}, {}, None, HOME)  # type: ignore[arg-type]
        assert cost_and_benefit(empty) is None
        made = paper_run_again(empty)
        assert "1,243 accelerator-hours" in made.sentence and "1.4%" in made.sentence
