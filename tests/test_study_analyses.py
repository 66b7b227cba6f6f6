"""The analyses of a study: planted effects are found, absent ones are not, and no sentence goes beyond its numbers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from study_world import AWAY, EVERY, HOME, Effects, alike, benchmark, every_cell, told, world

from lang1.metrics.multiple import holm
from lang1.reporting.study_schema import Analysis, Table, Value
from lang1.study import paper
from lang1.study.analyses import (
    contrasts,
    efficiency,
    external,
    making,
    parties,
    perplexity,
    seen,
    sentences,
    strata,
    twins,
)
from lang1.study.analyses.budget import budget
from lang1.study.analyses.calibration import calibration
from lang1.study.analyses.finetuned import attained, finetuned
from lang1.study.analyses.mixture import mixture
from lang1.study.analyses.periods import periods
from lang1.study.analyses.subgroups import subgroups
from lang1.study.analyses.trajectory import trajectory
from lang1.study.analyses.transfer import gains, joint, labels, singles, transfer
from lang1.study.analyses.zero_shot import poor_tasks, zero_shot
from lang1.study.context import MEAN, Context

MINE = (
    zero_shot, finetuned, transfer, trajectory, budget, efficiency.efficiency, twins.twins, mixture,
    perplexity.perplexity, periods, calibration, subgroups, seen.seen, external.external,
)  # fmt: skip
# Where a sentence counts differences, by the words that say that some are clear.
CLEAR = re.compile(
    r"clearly (ahead|behind|higher|lower|rising|falling)( of all| at least one)?(,| on (all )?\d| on both)"
)


@pytest.fixture(scope="module")
def story() -> Context:
    return told("paper")


@pytest.fixture(scope="module")
def flat() -> Context:
    return told("alike")


@pytest.fixture(scope="module")
def made(story: Context) -> dict[str, Analysis]:
    return {one.id: one for ask in MINE if (one := ask(story)) is not None}


def table(found: Analysis, id: str) -> Table:
    return next(t for t in found.tables if t.id == id)


def differences(found: Analysis) -> list[Value]:
    values = []
    for t in found.tables:
        keys = [c.key for c in t.columns if c.kind == "difference"]
        values += [v for row in t.rows for k in keys if isinstance(v := row.get(k), Value)]
    return values


def test_all_are_there_and_whole(made: dict[str, Analysis]) -> None:
    assert len(made) == len(MINE)
    tables = Counter(t.id for one in made.values() for t in one.tables)
    figures = Counter(f.id for one in made.values() for f in one.figures)
    assert max(tables.values()) == 1 and max(figures.values()) == 1
    for one in made.values():
        assert Analysis.model_validate(one.model_dump(mode="json")) == one
        assert one.question.endswith("?") and one.sentence.endswith(".") and one.paper
        assert "nan" not in one.sentence and "None" not in one.sentence and "unknown" not in one.sentence
        assert any("simulated" in said for said in one.caveats)
        assert all(t.rows for t in one.tables) and all(f.series for f in one.figures)


@pytest.mark.parametrize("design", EVERY)
def test_one_design_alone_breaks_nothing(design: str, tmp_path: Path) -> None:
    context = world(tmp_path, designs=(design,), seeds=(1,), resamples=50, splits=("test_newest",))
    for ask in MINE:
        found = ask(context)
        assert found is None or found.sentence.endswith(".")
        if design == "longitudinal":
            assert found is None


def test_no_cells_no_analyses(story: Context) -> None:
    nothing = Context([], {}, {}, story.settings, HOME)
    assert [ask(nothing) for ask in MINE] == [None] * len(MINE)


def test_planted_effects_are_found(made: dict[str, Analysis]) -> None:
    for name in ("finetuned", "budget", "twins", "trajectory", "efficiency", "external"):
        assert made[name].verdict in ("clear", "mixed"), name
    assert made["finetuned"].verdict == made["budget"].verdict == "clear"
    gained = table(made["twins"], "twins-differences").rows
    assert all(row[MEAN].low > 0 for row in gained)
    assert "20 gain clearly" in made["transfer"].sentence
    assert "clearly behind" in made["external"].sentence
    assert "clearly ahead on all 5 tasks" in made["finetuned"].sentence
    assert "clearly falling on all 5" in made["perplexity"].sentence


def test_absent_effects_stay_undecided(flat: Context) -> None:
    for ask in (finetuned, transfer, trajectory, budget, twins.twins, mixture, periods, seen.seen, external.external):
        found = ask(flat)
        assert found is not None and found.verdict == "undecided", ask.__name__
        assert not CLEAR.search(found.sentence), found.sentence


@pytest.mark.parametrize("noise", range(3))
def test_sentences_never_go_beyond_their_intervals(noise: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(noise)
    effects = Effects(**{k: v * float(rng.uniform(0, 1.2)) for k, v in vars(Effects()).items()})
    designs = ("grid", "single", "efficiency", "twins", "systems")
    context = world(tmp_path, skill=effects, designs=designs, seeds=(1,), resamples=100, noise=noise)
    for ask in (finetuned, transfer, efficiency.efficiency, twins.twins, mixture, external.external, periods):
        found = ask(context)
        assert found is not None
        clear = [v for v in differences(found) if sentences.standing(v) in ("ahead", "behind")]
        for v in clear:
            assert v.low is not None and v.high is not None and (v.low > 0 or v.high < 0)
            assert v.p_adjusted is None or v.p_adjusted < 0.05
        if CLEAR.search(found.sentence) or found.verdict in ("clear", "mixed"):
            assert clear, found.sentence
        if found.verdict == "undecided":
            assert not CLEAR.search(found.sentence), found.sentence


def test_numbers_are_scikit_learns(story: Context, made: dict[str, Analysis]) -> None:
    bench = benchmark("benchmark")
    row = next(r for r in table(made["finetuned"], "finetuned").rows if r["model"] == "gbm-structured")
    cell = story.select(design="grid", model="gbm-structured")[0].cells[0]
    for task in ("mortality", "insurance_denial"):
        asked = bench.examples([task], ["test_newest"])
        found = story.judge(cell, task)
        assert found is not None
        truth = roc_auc_score(asked.sort_by("example_id")["label"].to_numpy(), _sorted(story, cell, task))
        assert row[task].value == pytest.approx(truth)
        assert row[task].n == asked.num_rows
        assert row[task].paper == paper.STRUCTURED[task].value if task in paper.STRUCTURED else None
    alone = table(made["transfer"], "transfer").rows[1]
    group = story.select(design="single", tasks=("readmission",))[0]
    assert alone["mortality"].value == pytest.approx(np.mean([j.auroc for j in story.judged(group, "mortality")]))


def _sorted(context: Context, cell: object, task: str) -> list[float]:
    rows = context.predictions(cell).table.to_pylist()  # type: ignore[arg-type]
    asked = set(benchmark("benchmark").examples([task], ["test_newest"])["example_id"].to_pylist())
    kept = sorted((r for r in rows if r["example_id"] in asked), key=lambda r: r["example_id"])
    return [r["probabilities"][1] for r in kept]


def test_the_joint_model_beside_single_ones_has_as_many_labels_and_not_as_many_notes(story: Context) -> None:
    single = singles(story)
    by_notes = joint(story, single)
    assert by_notes is not None and by_notes.about.design == "grid"  # labels are not known: as many notes
    wide = max((c.notes or 0) for c in story.cells if c.design == "efficiency" and c.role == "specialist")
    known = [
        c.model_copy(update={"labels": 400 if c.design == "single" or (c.notes == wide) else 90})
        if c.role == "specialist" and c.tasks else c
        for c in story.cells
    ]  # fmt: skip
    named = replace(story, cells=known)
    single = singles(named)
    chosen = joint(named, single)
    assert chosen is not None and chosen.about.notes == wide and chosen.about.labels is None
    assert labels([chosen]) == 400
    found = transfer(named)
    assert found is not None
    assert "The joint model saw 400 labels of each task on average, the single ones 400." in found.caveats


def test_the_family_is_corrected_as_a_whole(story: Context, made: dict[str, Analysis]) -> None:
    rows = table(made["finetuned"], "finetuned-differences").rows
    found = [row[t] for row in rows for t in story.tasks()]
    assert [v.p_adjusted for v in found] == pytest.approx(holm([v.p for v in found]))
    assert f"corrected for {len(found)} comparisons" in made["finetuned"].sentence
    means = [row[MEAN] for row in rows]
    assert [v.p_adjusted for v in means] == pytest.approx(holm([v.p for v in means]))


def test_the_attained_share_is_of_the_oracle(story: Context) -> None:
    main, best = parties.main_specialist(story), parties.oracle(story)
    assert main is not None and best is not None
    one = attained(story, main, best, "mortality")
    top = story.judged(best, "mortality")[0].auroc
    mean = np.mean([(j.auroc - 0.5) / (top - 0.5) for j in story.judged(main, "mortality")])
    assert one is not None and one.value == pytest.approx(mean) and one.low < one.value < one.high
    itself = attained(story, best, best, "mortality")
    assert itself is not None and (itself.value, itself.low, itself.high) == (1.0, 1.0, 1.0)


def test_poor_tasks_are_told_apart(story: Context) -> None:
    zero = parties.zero_shot(story)
    tasks = story.tasks()
    assert poor_tasks(story, zero, tasks, bar=0.99).behind == [sentences.lower_first(story.title(t)) for t in tasks]
    assert len(poor_tasks(story, zero, tasks, bar=0.2).ahead) == len(tasks)
    best = parties.oracle(story)
    assert best is not None
    mixed = poor_tasks(story, [*zero, best], tasks)  # one model above is enough for a task not to be poor
    assert len(mixed.ahead) == len(tasks) and not mixed.behind


def test_twins_are_paired_by_notes(story: Context) -> None:
    pairs = twins.pairs(story)
    assert len(pairs) == 3
    for (_, notes), (general, clinical) in pairs.items():
        assert general.about.notes == clinical.about.notes and general.about.corpus != clinical.about.corpus
        assert notes == efficiency.notes_of(story, general)
    every = max(notes for _, notes in pairs)
    train = benchmark("benchmark").examples(splits=["train"])
    assert every == len(set(train["note_id"].to_pylist()))
    held, family = twins.gains(story, pairs)
    assert family == 3 * len(story.tasks())
    (general, clinical) = pairs["large", every]
    assert held["large", every]["mortality"].value == story.difference(clinical, general, "mortality").value


def test_labels_saved_lie_where_the_curves_cross(tmp_path: Path) -> None:
    effects = Effects(specialist=0.05, twin=0.1, labels=0.45, size=0.0)
    context = world(tmp_path, skill=effects, designs=("efficiency",), seeds=(1, 2, 3), seed_spread=0.0)
    curves = efficiency.curves(context)
    own, other = curves["Lang1 large, clinical+general"], curves["generalist-14m"]
    found = efficiency.labels_saved(context, own, other)
    assert found is not None and found.value is not None
    sizes = list(own)
    values = [np.mean([j.auroc for j in context.judged(own[n], MEAN)]) for n in sizes]
    aim = np.mean([j.auroc for j in context.judged(other[sizes[-1]], MEAN)])
    assert np.exp(np.interp(aim, values, np.log(sizes))) == pytest.approx(found.value)
    assert sizes[0] < found.value < sizes[-1]
    assert (found.low or 0) < found.value < (found.high or np.inf)
    # The other way round the generalist never gets there: the curve does not allow it.
    assert efficiency.labels_saved(context, other, own) is None


def test_answer_perplexity_and_its_correlation(story: Context) -> None:
    cell = story.select(design="trajectory")[0].cells[0]
    table = {r["example_id"]: r for r in story.predictions(cell).table.to_pylist()}
    asked = benchmark("benchmark").examples(["comorbidity"], ["test_newest"]).to_pylist()
    answers = [table[r["example_id"]] for r in asked]
    logs = [np.log(a["option_mass"] * a["probabilities"][r["label"]]) for a, r in zip(answers, asked, strict=True)]
    assert perplexity.answer_perplexity(story, cell, "comorbidity") == pytest.approx(np.exp(-np.mean(logs)))
    baseline = story.select(role="baseline")[0].cells[0]
    assert perplexity.answer_perplexity(story, baseline, "comorbidity") is None
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = perplexity.rank_correlation(x.tolist(), y.tolist())
    assert found is not None and found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 < found.low < found.value < found.high < 1
    assert perplexity.rank_correlation([1, 2, 3], [1, 2, 3]) is None
    perfect = perplexity.rank_correlation(list(range(9)), list(range(9)))
    assert perfect is not None and perfect.low is None


def test_the_correlations_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of a normal pair with correlation 0.6
    held = 0
    for _ in range(400):
        x = rng.normal(size=25)
        found = perplexity.rank_correlation(x.tolist(), (0.6 * x + 0.8 * rng.normal(size=25)).tolist())
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_patients_seen_in_training_are_dropped(story: Context, made: dict[str, Analysis]) -> None:
    bench = benchmark("benchmark-time-only")
    trained = set(bench.examples(splits=["train"])["subject_id"].to_pylist())
    asked = bench.examples(["mortality"], ["test_newest"])
    new = [s not in trained for s in asked["subject_id"].to_pylist()]
    row = next(r for r in table(made["seen"], "seen").rows if r["task"] == "In-hospital mortality")
    assert row["share"].value == pytest.approx(1 - np.mean(new))
    assert row["unseen"].n == sum(new) and row["all"].n == len(new)
    assert row["change"].value == pytest.approx(row["unseen"].value - row["all"].value)
    readmission = next(r for r in table(made["seen"], "seen").rows if r["task"] == "30-day readmission")
    assert (readmission["all"].paper, readmission["unseen"].paper) == (0.765, 0.770)
    assert any("none of their test was trained on" in said for said in made["seen"].caveats)


def test_a_flattering_test_is_seen_to_flatter(tmp_path: Path) -> None:
    cells = [c for c in every_cell((1, 2)) if c.design in ("grid", "seen") and c.role == "specialist"]
    context = world(tmp_path, cells=cells)
    group = context.select(design="seen")[0]
    place = contrasts.Place(None, ("half", lambda part: part.subjects % 2 == 0))
    made = {t: contrasts.contrast(context, group, t, place, contrasts.Place()) for t in context.tasks()}
    known = {t: r for t, r in made.items() if r is not None}
    for task, value in contrasts.combined(known).items():
        half = context.auroc(group, task, where=place.where)
        every = context.auroc(group, task)
        assert half and every and value.value == pytest.approx(half.value - every.value)
        # A half within its whole: the difference is surer than two of each would be.
        assert value.high - value.low < np.hypot(half.high - half.low, every.high - every.low)


def test_a_trend_is_the_slope_of_a_weighted_line(story: Context) -> None:
    main = parties.main_specialist(story)
    assert main is not None
    thirds = [contrasts.Place(None, (f"third {k}", lambda part, k=k: part.subjects % 3 == k)) for k in range(3)]
    judged = [contrasts.by_seed(story, main, "insurance_denial", place) for place in thirds]
    found = contrasts.slopes(judged, [0.0, 1.0, 3.0])
    assert found is not None
    weights = [next(iter(j.values())).df + 1 for j in judged]
    for k, seed in enumerate(judged[0]):
        line = np.polyfit([0.0, 1.0, 3.0], [j[seed].auroc for j in judged], 1, w=np.sqrt(weights))
        assert found.values[k] == pytest.approx(line[0])
    assert contrasts.slopes(judged[:2], [0.0, 1.0]) is None


def test_a_trend_over_the_years_of_the_test(story: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strata, "LEAST_CASES", 4)  # the tiny hospital has few denials a year
    monkeypatch.setattr("lang1.study.analyses.periods.STEPS", ("year",))
    found = periods(story)
    main = parties.main_specialist(story)
    assert found is not None and main is not None
    years = {
        int(row["period"]): row["insurance_denial"]
        for row in table(found, "periods-quarters").rows
        if row.get("insurance_denial")
    }
    part = story.part("benchmark", "insurance_denial")
    assert part is not None
    times = part.examples["prediction_time"].to_pylist()
    weights = []
    for year, value in years.items():
        rows = np.array([t.year == year for t in times])
        sides = [len(set(part.subjects[rows & (part.labels == side)])) for side in (0, 1)]
        weights.append(min(sides))
        each = [
            roc_auc_score(part.labels[rows] == 1, j.answered.table[rows, 1])
            for j in story.judged(main, "insurance_denial")
        ]
        assert value.value == pytest.approx(np.mean(each)) and value.n == rows.sum()
    line = np.polyfit([y + 0.5 for y in years], [v.value for v in years.values()], 1, w=np.sqrt(weights))
    trend = table(found, "periods-trend").rows[0]["insurance_denial"]
    assert trend.value == pytest.approx(line[0], abs=1e-9) and trend.low < trend.value < trend.high
    assert "within the headline test it is" in found.sentence


def test_strata_of_one_class_are_named(made: dict[str, Analysis]) -> None:
    out = table(made["subgroups"], "subgroups-left-out").rows
    assert {"one class only", "fewer than 10 of a class"} <= {row["reason"] for row in out}
    shown = {(r["task"], f"{r['attribute']}: {r['stratum']}") for r in table(made["subgroups"], "subgroups").rows}
    assert not shown & {(r["task"], r["stratum"]) for r in out}
    assert f"{len(out)} strata could not be judged" in made["subgroups"].sentence


def test_home_and_there_are_matched_both_ways(tmp_path: Path) -> None:
    ready = {c.variant: c for c in every_cell((1,)) if c.design == "systems"}
    small = ready["away"].model_copy(update={"step": "small", "variant": "size-matched", "notes": 30})
    cells = [ready["away"], ready["home"], small]
    (place,) = external.systems(world(tmp_path, cells=cells, seeds=(1,)))
    assert place.system == AWAY and place.matched is not None
    assert place.matched[0].about.notes == 30 and place.matched[1].about.trained_on == (AWAY,)
    (place,) = external.systems(told("paper"))  # there the one made there is the small one
    assert place.matched is not None and place.matched[0].about.trained_on == (HOME,)
    assert place.matched[1].about.variant == "size-matched" and place.there is not None


def test_the_main_model_is_the_grids(story: Context) -> None:
    assert parties.main_model(story) == ("clinical+general", "large")
    named = Context(
        story.cells, story.folders, story.benchmarks, story.settings, HOME,
        {"main": {"corpus": "clinical", "model": "small"}},
    )  # fmt: skip
    main = parties.main_specialist(named)
    assert main is not None and (main.about.corpus, main.about.model) == ("clinical", "small")


def test_equal_labels_are_compared(tmp_path: Path) -> None:
    ready = [c for c in every_cell((1,)) if c.design == "grid" and c.tested_on == HOME and c.regime == "joint"]
    few = [c.model_copy(update={"step": f"{c.step}-few", "notes": 30}) for c in ready]
    own = [c for c in ready if c.role == "specialist"][-1:]
    cells = [*own, *(c for c in few if c.role == "generalist" or c.model == "large")]
    context = world(tmp_path, cells=cells, seeds=(1,))
    main = parties.main_specialist(context)
    assert main is not None and main.about.notes is None
    (generalist,) = parties.finetuned(context, "generalist")
    assert parties.like(context, main, generalist).about.notes == 30
    found = finetuned(context)
    assert found is not None
    row = next(r for r in table(found, "finetuned-differences").rows if r["model"] == "generalist-14m")
    assert row["labels"] == "as many"


def test_gains_are_of_other_tasks_alone(story: Context) -> None:
    held, family = gains(story)
    assert family == 20 and all(trained not in found for trained, found in held.items())


def test_words_of_a_tally() -> None:
    up, down = Value(value=1, low=0.5, high=2), Value(value=-1, low=-2, high=-0.5)
    open_ = Value(value=0, low=-1, high=1)
    assert sentences.said(sentences.tally({"a": up, "b": up})) == "clearly ahead on both tasks"
    assert sentences.said(sentences.tally({"a": open_, "b": open_})) == "undecided on both tasks"
    mixed = sentences.tally({"a": up, "b": down, "c": open_, "d": None})
    assert sentences.said(mixed) == "clearly ahead on 1 of 3 tasks (a), clearly behind on 1 (b), undecided on 1 (c)"
    assert mixed.verdict == "mixed" and mixed.unknown == ["d"]
    assert sentences.said(sentences.tally({"a": down, "b": open_})).startswith("clearly behind on 1 of 2 tasks (a)")
    assert sentences.said(sentences.tally({"a": None})) == "not to be judged on any task"
    assert sentences.standing(up.model_copy(update={"p_adjusted": 0.2})) == "undecided"
    assert sentences.tally({"a": up}).verdict == "clear" and sentences.tally({}).verdict == "none"


def test_what_the_paper_published() -> None:
    main = next(c for c in every_cell((1,)) if c.regime == "joint" and c.corpus == "clinical+general")
    assert paper.of_cell(main, main)["readmission"] == 0.766
    zero = main.model_copy(update={"regime": "zero-shot", "tasks": ()})
    assert paper.of_cell(zero, main)["mortality"] == 0.560
    llama = main.model_copy(update={"role": "generalist", "model": "llama-3.2-1b", "label": "Llama 3.2 1B"})
    assert paper.of_cell(llama)["comorbidity"] == 0.885
    other = llama.model_copy(update={"model": "smollm2-135m", "label": "SmolLM2 135M"})
    assert paper.of_cell(other) == {}
    seven = main.model_copy(update={"model": "lang1-7b", "corpus": "x"})
    assert paper.same_model(seven, main) == "Lang1-7B"
    assert paper.TRANSFER["insurance_denial"]["mortality"] == paper.Published(0.30, "stated")
    assert paper.MIMIC["Llama-3.2-1B"]["there"]["length_of_stay"].value == 0.552
    assert {len(found) for found in paper.ZERO_SHOT.values()} == {5}
    assert set(alike().__dict__) == set(Effects().__dict__)
    assert making.with_mean(["a"]) == ["a"]
