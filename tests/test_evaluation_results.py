"""The results object: its numbers against plain recomputation, its comparisons, its warnings, its refusals."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from evaluation_toy import TASKS, make_benchmark, make_records, write_guesses
from pydantic import ValidationError
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from lang1.common.artefact import new_folder, open_folder, read_json
from lang1.common.errors import ArtefactError, InputError
from lang1.evaluation.predictions import KIND, open_predictions, place_of, write_predictions
from lang1.evaluation.results import collect, write_results
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import auroc
from lang1.metrics.multiple import holm
from lang1.metrics.recalibration import fit_recalibration
from lang1.remede.benchmark import Benchmark
from lang1.reporting.report import render

SETTINGS = EvaluateSettings()
ROW_KEYS = {
    *["task", "model", "regime", "metric", "value", "low", "high", "n", "events"],
    *["split", "stratum", "class", "versus", "seed", "note"],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("toy")
    return make_benchmark(make_records(place / "records"), place / "benchmark")


@pytest.fixture(scope="module")
def folders(bench: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("predictions")
    cast = [
        ("nano", "joint", 1.0, 1),
        ("nano", "zero-shot", 0.1, 2),
        ("tfidf-lr", "baseline", 0.9, 3),
        ("oracle", "oracle", 1.6, 4),
    ]
    return [write_guesses(place / f"{m}-{r}", bench, m, r, skill, seed) for m, r, skill, seed in cast]


@pytest.fixture(scope="module")
def results(bench: Benchmark, folders: list[Path]) -> dict[str, Any]:
    return collect(bench.folder.path, folders, SETTINGS, title="Toy", extra_warnings=["A note\n of one's own."])


def pick(results: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    wanted = {"stratum": None, **wanted}
    return [row for row in results["rows"] if all(row[key.rstrip("_")] == value for key, value in wanted.items())]


def one(results: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    found = pick(results, **wanted)
    assert len(found) == 1, found
    return found[0]


def truth(bench: Benchmark, folder: Path, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    examples = bench.examples([task], ["test"])
    table = open_predictions(folder).table
    rows = table.take(place_of(table, examples["example_id"].to_pylist()))
    return examples["label"].to_numpy(), np.stack(rows["probabilities"].to_pylist()), examples["subject_id"].to_numpy()


def test_values_agree_with_scikit_learn(results: dict[str, Any], bench: Benchmark, folders: list[Path]) -> None:
    labels, table, _ = truth(bench, folders[0], "mortality")
    expected = {
        "auroc": roc_auc_score(labels, table[:, 1]),
        "auprc": average_precision_score(labels, table[:, 1]),
        "brier": brier_score_loss(labels, table[:, 1]),
        "log_loss": log_loss(labels, table),
        "prevalence": labels.mean(),
    }
    for metric, value in expected.items():
        row = one(results, task="mortality", model="nano", regime="joint", metric=metric, versus=None)
        assert row["value"] == pytest.approx(value), metric
        assert row["low"] < row["value"] < row["high"] and row["sd"] > 0
        assert (row["n"], row["events"], row["split"]) == (len(labels), labels.sum(), "test")
    labels, table, _ = truth(bench, folders[0], "length_of_stay")
    row = one(results, task="length_of_stay", model="nano", regime="joint", metric="auroc", versus=None)
    assert row["value"] == pytest.approx(roc_auc_score(labels, table, multi_class="ovr"))
    by_class = pick(results, task="length_of_stay", model="nano", regime="joint", metric="auroc_class")
    assert [r["class"] for r in by_class] == ["0", "1", "2", "3"]
    assert np.mean([r["value"] for r in by_class]) == pytest.approx(row["value"])
    assert by_class[2]["events"] == (labels == 2).sum()


def test_comparisons_are_paired_on_patients(results: dict[str, Any], bench: Benchmark, folders: list[Path]) -> None:
    """Against a plain loop that resamples patients by itself, with other draws: within its own error."""
    labels, ours, who = truth(bench, folders[0], "mortality")
    _, theirs, _ = truth(bench, folders[2], "mortality")
    row = one(results, task="mortality", model="nano", regime="joint", metric="auroc", versus="tfidf-lr|baseline")
    assert row["value"] == pytest.approx(roc_auc_score(labels, ours[:, 1]) - roc_auc_score(labels, theirs[:, 1]))
    rng = np.random.default_rng(5)
    patients, at = np.unique(who, return_inverse=True)
    draws = []
    for _ in range(400):
        weight = np.bincount(rng.integers(0, len(patients), len(patients)), minlength=len(patients))[at]
        draws.append(auroc(labels == 1, ours[:, 1], weight) - auroc(labels == 1, theirs[:, 1], weight))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    assert row["note"].startswith("p = ")
    versus = {r["versus"] for r in pick(results, task="mortality", metric="auroc") if r["versus"]}
    assert versus == {"nano|zero-shot", "tfidf-lr|baseline", "oracle|oracle"}
    assert not [r for r in results["rows"] if r["versus"] and r["regime"] != "joint"]
    better = one(results, task="mortality", model="nano", regime="joint", metric="auroc", versus="nano|zero-shot")
    assert better["low"] > 0 and float(better["note"][4:]) < 0.05


def test_attained_share_of_every_model(results: dict[str, Any]) -> None:
    for task in TASKS:
        best = one(results, task=task, model="oracle", metric="auroc", versus=None)["value"]
        for model, regime in (("nano", "joint"), ("nano", "zero-shot"), ("tfidf-lr", "baseline")):
            value = one(results, task=task, model=model, regime=regime, metric="auroc", versus=None)["value"]
            row = one(results, task=task, model=model, regime=regime, metric="attained_share")
            assert row["value"] == pytest.approx((value - 0.5) / (best - 0.5))
            assert row["low"] < row["value"] < row["high"]
    assert not pick(results, model="oracle", metric="attained_share")


def fails(file: Path) -> None:
    raise RuntimeError(file)


def test_the_object_is_whole_plain_and_repeatable(
    results: dict[str, Any], bench: Benchmark, folders: list[Path], tmp_path: Path
) -> None:
    assert all(set(row) >= ROW_KEYS for row in results["rows"])
    out = write_results(tmp_path / "out", results, {"benchmark": bench.folder.path, "predictions": folders})
    with pytest.raises(RuntimeError):  # a report that cannot be drawn leaves no folder that looks complete
        write_results(tmp_path / "half", results, finish=fails)
    assert not (tmp_path / "half").exists()
    assert open_folder(out, "results").manifest.inputs.keys() == {"benchmark", *(f"predictions.{i}" for i in range(4))}
    text = (out / "results.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    again = collect(bench.folder.path, folders, SETTINGS, title="Toy", extra_warnings=["A note\n of one's own."])
    assert json.dumps(again, sort_keys=True, default=str) == json.dumps(results, sort_keys=True, default=str)
    loaded = read_json(out / "results.json")
    assert loaded["lang1_results"] == 1 and loaded["data"][0]["name"] == "Toy"
    assert {t["task"] for t in loaded["tasks"]} == set(TASKS) and loaded["tasks"][0]["question"].endswith("Answer:")
    kinds = {(c["kind"], c["class"]) for c in loaded["curves"] if c["task"] == "mortality"}
    assert kinds == {("roc", None), ("calibration", None), ("net_benefit", None)}
    assert {c["class"] for c in loaded["curves"] if c["task"] == "length_of_stay"} == {"0", "1", "2", "3"}
    assert {line["task"] for line in loaded["attrition"]} == set(TASKS)
    texts = [w["text"] for w in loaded["warnings"]]
    assert any("simulated" in t for t in texts) and "A note of one's own." in texts
    assert any("In-hospital" in t and "only 60 events" in t for t in texts), texts


def test_resamples_depend_on_seed_only(bench: Benchmark, folders: list[Path], results: dict[str, Any]) -> None:
    other = collect(bench.folder.path, folders[:1], SETTINGS.model_copy(update={"seed": 1}))
    alone = collect(bench.folder.path, folders[:1], SETTINGS)
    row = {"task": "mortality", "model": "nano", "regime": "joint", "metric": "auroc", "versus": None}
    assert one(alone, **row) == one(results, **row)  # who else is compared changes nothing
    assert one(other, **row)["low"] != one(alone, **row)["low"]
    assert one(other, **row)["value"] == one(alone, **row)["value"]


def test_rare_classes_are_left_out_for_all_and_named(tmp_path: Path) -> None:
    bench = make_benchmark(make_records(tmp_path / "records", patients=110), tmp_path / "benchmark")
    folders = [
        write_guesses(tmp_path / "a", bench, "nano", "joint", 1.0),
        write_guesses(tmp_path / "o", bench, "oracle", "oracle", 2.0, 1),
    ]
    results = collect(bench.folder.path, folders, EvaluateSettings(resamples=100, fast=True))
    labels = bench.examples(["length_of_stay"], ["test"])["label"].to_numpy()
    counts = np.bincount(labels, minlength=4)
    rare = {str(c) for c in range(4) if counts[c] < 20}
    assert rare and len(rare) < 4
    for model in ("nano", "oracle"):
        judged = {r["class"] for r in pick(results, task="length_of_stay", model=model, metric="auroc_class")}
        assert judged == {"0", "1", "2", "3"} - rare
    texts = [w["text"] for w in results["warnings"]]
    option = bench.cards["length_of_stay"].options[int(min(rare))]
    assert any("left out of the AUROC" in t and f"{option} ({counts[int(min(rare))]} cases)" in t for t in texts)
    assert any("100 resamples only" in t for t in texts)
    assert any("wide" in t for t in texts)


def rewritten(folder: Path, out: Path, benchmark: Benchmark, change: Any) -> Path:
    before = open_predictions(folder)
    with new_folder(out, KIND, inputs={"benchmark": benchmark.folder}) as draft:
        write_predictions(draft.path, change(before.table))
        draft.extra.update(before.folder.manifest.extra)
    return out


def test_what_cannot_be_compared_is_refused(bench: Benchmark, folders: list[Path], tmp_path: Path) -> None:
    path = bench.folder.path
    short = rewritten(folders[0], tmp_path / "short", bench, lambda t: t.slice(1))
    with pytest.raises(InputError, match=r"1 of \d+ examples of readmission, test are missing"):
        collect(path, [short], SETTINGS)

    def with_nan(table: pa.Table) -> pa.Table:
        rows = table["probabilities"].to_pylist()
        rows[3] = [math.nan, 1.0]
        return table.set_column(7, "probabilities", pa.array(rows, pa.list_(pa.float64())))

    with pytest.raises(InputError, match="NaN"):
        collect(path, [rewritten(folders[0], tmp_path / "nan", bench, with_nan)], SETTINGS)
    with pytest.raises(InputError, match="both hold nano"):
        collect(path, [folders[0], folders[0]], SETTINGS)
    with pytest.raises(InputError, match="no predictions"):
        collect(path, [], SETTINGS)
    other = make_benchmark(make_records(tmp_path / "records", 60, seed=9), tmp_path / "other")
    with pytest.raises(ArtefactError, match="another benchmark"):
        collect(other.folder.path, folders, SETTINGS)


def test_one_task_alone_gives_rows_for_that_task_only(bench: Benchmark, folders: list[Path], tmp_path: Path) -> None:
    only = rewritten(
        folders[0],
        tmp_path / "only",
        bench,
        lambda t: t.filter(pa.array([x == "mortality" for x in t["task"].to_pylist()])),
    )
    results = collect(bench.folder.path, [only, folders[3]], SETTINGS)
    assert {r["task"] for r in pick(results, model="nano")} == {"mortality"}
    assert {r["task"] for r in pick(results, model="oracle")} == set(TASKS)


def test_one_class_has_no_auroc_and_says_so(tmp_path: Path) -> None:
    bench = make_benchmark(make_records(tmp_path / "records", patients=12), tmp_path / "benchmark")
    labels = bench.examples(["mortality"], ["test"])["label"].to_numpy()
    assert not labels.any()
    made = write_guesses(tmp_path / "a", bench, "nano", "joint", 1.0)
    results = collect(bench.folder.path, [made], EvaluateSettings(resamples=50, fast=True))
    row = one(results, task="mortality", metric="auroc", versus=None)
    assert (row["value"], row["low"], row["high"], row["events"]) == (None, None, None, 0)
    assert any("one outcome" in w["text"] for w in results["warnings"])


def test_learning_curves_and_cost_come_from_the_model(bench: Benchmark, folders: list[Path], tmp_path: Path) -> None:
    with new_folder(tmp_path / "model", "model") as draft:
        lines = [
            {"kind": "train", "step": i, "tokens": 100 * i, "loss": 3.0 / i, "seconds": 1.0} for i in range(1, 901)
        ]
        lines.append({"kind": "val", "step": 900, "tokens": 90_000, "score": 0.7, "loss/notes": 2.0})
        log = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra'
        (draft.path / "metrics.jsonl").write_text(log)
        draft.extra = {
            "stage": "pretrained",
            "name": "nano",
            "parameters": 7,
            "cost": {"tokens": 90_000, "seconds": 5.0},
        }
    results = collect(bench.folder.path, folders[:1], SETTINGS, models=[tmp_path / "model"])
    curves = {c["metric"]: c for c in results["learning"]}
    assert set(curves) == {"loss", "val_score", "val_loss:notes"}
    loss = curves["loss"]
    assert len(loss["x"]) <= 201 and loss["x"][-1] == 90_000 and loss["y"][0] == 3.0
    assert (loss["run"], loss["stage"], loss["unit"]) == ("model", "pretrained", "tokens")
    cost = results["cost"][0]
    assert (cost["step"], cost["model"], cost["parameters"], cost["tokens"]) == ("pretrain", "nano", 7, 90_000)


def test_claims_and_explorations_are_corrected_and_their_families_told(results: dict[str, Any]) -> None:
    claims = [
        r
        for r in results["rows"]
        if r["versus"] and r["metric"] == "auroc" and r["split"] == "test" and not r["versus"].endswith("oracle")
    ]
    assert claims and {r["correction"] for r in claims} == {"holm"} and {r["family"] for r in claims} == {len(claims)}
    assert [r["p_adjusted"] for r in claims] == pytest.approx(holm([r["p"] for r in claims]).tolist())
    assert all(r["p_adjusted"] >= r["p"] and r["note"] == f"p = {r['p']:.3g}" for r in claims)
    gaps = [r for r in results["rows"] if r["metric"].endswith("_gap")]
    assert gaps and {r["correction"] for r in gaps} == {"bh"} and all(r["reference"] != r["stratum"] for r in gaps)
    told = {f["family"]: f["size"] for f in results["families"]}
    assert told["nano, joint: AUROC against others, test"] == len(claims)
    assert told["nano, joint: gaps between subgroups"] == len(gaps)
    for row in claims:  # interval and p-value tell the same story
        assert (row["p"] < 0.05) == (not row["low"] <= 0 <= row["high"])


def test_subgroups_are_the_rows_that_they_name(results: dict[str, Any], bench: Benchmark, folders: list[Path]) -> None:
    labels, table, _ = truth(bench, folders[0], "mortality")
    examples = bench.examples(["mortality"], ["test"])
    sex = np.array(bench.metadata(examples)["sex"].to_pylist())
    stays = np.array(examples["encounter_id"].to_pylist())
    first = np.array([stay.endswith("-0") for stay in stays])
    values: dict[str, float] = {}
    for name, inside in (
        *[(f"sex: {s}", sex == s) for s in ("female", "male")],
        ("history: first encounter", first),
        ("history: returning", ~first),
    ):
        row = one(results, task="mortality", model="nano", metric="auroc", stratum=name)
        values[name] = roc_auc_score(labels[inside], table[inside, 1])
        assert row["value"] == pytest.approx(values[name])
        assert (row["n"], row["events"]) == (inside.sum(), labels[inside].sum())
        gap = one(results, task="mortality", model="nano", metric="stated_minus_observed", stratum=name)
        assert gap["value"] == pytest.approx((table[inside, 1] - labels[inside]).mean())
    gaps = pick(results, task="mortality", metric="auroc_gap", stratum="sex: male")
    gaps += pick(results, task="mortality", metric="auroc_gap", stratum="sex: female")
    assert len(gaps) == 1  # from the larger one only
    assert gaps[0]["value"] == pytest.approx(values[gaps[0]["stratum"]] - values[gaps[0]["reference"]])
    assert {r["model"] for r in results["rows"] if r["stratum"]} == {"nano"}
    assert {r["regime"] for r in results["rows"] if r["stratum"]} == {"joint"}
    kinds = {r["stratum"].split(":")[0] for r in results["rows"] if r["stratum"]}
    assert kinds <= {"age", "sex", "payer", "history"}  # one department; race, ethnicity, area, period unknown
    out = results["strata_left_out"]
    assert all(s["n"] >= 0 and s["reason"] for s in out)


def test_strata_of_one_class_are_named_and_left_out(tmp_path: Path) -> None:
    bench = make_benchmark(make_records(tmp_path / "records", patients=110), tmp_path / "benchmark")
    made = write_guesses(tmp_path / "a", bench, "nano", "joint", 1.0)
    results = collect(bench.folder.path, [made], EvaluateSettings(resamples=50, fast=True))
    labels = bench.examples(["mortality"], ["test"])["label"].to_numpy()
    out = [s for s in results["strata_left_out"] if s["task"] == "mortality"]
    assert sum(s["n"] for s in out if s["stratum"].startswith("sex")) == len(labels)
    assert any("fewer than 10" in s["reason"] or s["reason"] == "one class only" for s in out)
    assert not pick(results, task="mortality", metric="auroc", stratum="sex: male")
    none = collect(bench.folder.path, [made], EvaluateSettings(resamples=50, fast=True, subgroups=[]))
    assert not [r for r in none["rows"] if r["stratum"]] and not none["strata_left_out"]
    with pytest.raises(ValidationError, match="unknown subgroup 'moon'"):
        EvaluateSettings(subgroups=["moon"])


def test_operating_points_and_net_benefit(results: dict[str, Any], bench: Benchmark, folders: list[Path]) -> None:
    labels, table, _ = truth(bench, folders[0], "mortality")
    found = [p for p in results["operating"] if (p["task"], p["model"], p["regime"]) == ("mortality", "nano", "joint")]
    assert [p["at"] for p in found] == [0.02, 0.05, 0.1, 0.2]
    for point in found:
        alert = table[:, 1] >= point["threshold"]
        assert alert.mean() <= point["at"] and point["alerts_per_100"] == pytest.approx(100 * alert.mean())
        assert point["sensitivity"] == pytest.approx(labels[alert].sum() / labels.sum())
        assert point["ppv"] == pytest.approx(labels[alert].mean()) or not alert.any()
        assert point["sensitivity_low"] < point["sensitivity"] < point["sensitivity_high"]
        assert point["alerts_per_day"] is None  # these records have no dates
    assert {p["task"] for p in results["operating"]} == {"readmission", "mortality"}
    curve = next(c for c in results["curves"] if c["kind"] == "net_benefit" and c["task"] == "mortality")
    assert (curve["x"][0], curve["x"][-1], len(curve["x"])) == (0.01, 0.5, 50)
    asked = EvaluateSettings(alert_rates=[], alert_thresholds=[0.3], decision_range=(0.1, 0.2))
    other = collect(bench.folder.path, folders[:1], asked)
    assert {(p["kind"], p["threshold"]) for p in other["operating"]} == {("threshold", 0.3)}
    with pytest.raises(ValidationError, match="lower risk first"):
        EvaluateSettings(decision_range=(0.2, 0.1))


def test_recalibration_is_fitted_on_validation_alone(bench: Benchmark, folders: list[Path], tmp_path: Path) -> None:
    settings = EvaluateSettings(recalibrate=True, subgroups=[])
    made = write_guesses(tmp_path / "v", bench, "nano", "joint", 1.0, 1, ("val", "test"))
    results = collect(bench.folder.path, [made], settings)
    assert {r["split"] for r in results["rows"]} == {"test"}  # validation is fitted on, not judged
    lines = {(x["method"], x["metric"]): x for x in results["recalibration"] if x["task"] == "mortality"}
    labels, table, _ = truth(bench, made, "mortality")
    val = bench.examples(["mortality"], ["val"])
    rows = open_predictions(made).table
    said = np.stack(rows.take(place_of(rows, val["example_id"].to_pylist()))["probabilities"].to_pylist())
    fitted = fit_recalibration("platt", val["label"].to_numpy(), said)
    assert fitted is not None
    line = lines["platt", "brier"]
    assert line["before"] == pytest.approx(brier_score_loss(labels, table[:, 1]))
    assert line["after"] == pytest.approx(brier_score_loss(labels, fitted(table)[:, 1]))
    assert line["fitted_on"] == val.num_rows and line["after"] < line["before"]
    assert lines["platt", "auroc"]["after"] == pytest.approx(lines["platt", "auroc"]["before"])
    # Test labels take no part: predictions without validation give no maps.
    assert not collect(bench.folder.path, folders[:1], settings)["recalibration"]
    assert not collect(bench.folder.path, [made], EvaluateSettings(subgroups=[]))["recalibration"]


def test_patients_alike_and_classes_by_size(results: dict[str, Any], bench: Benchmark, folders: list[Path]) -> None:
    labels, table, who = truth(bench, folders[0], "mortality")
    weight = 1 / np.unique(who, return_counts=True)[1][np.unique(who, return_inverse=True)[1]]
    row = one(results, task="mortality", model="nano", regime="joint", metric="auroc_patients")
    assert row["value"] == pytest.approx(roc_auc_score(labels, table[:, 1], sample_weight=weight))
    assert row["low"] < row["value"] < row["high"]
    labels, table, _ = truth(bench, folders[0], "length_of_stay")
    row = one(results, task="length_of_stay", model="nano", regime="joint", metric="auroc_weighted")
    expected = roc_auc_score(labels, table, multi_class="ovr", average="weighted")
    assert row["value"] == pytest.approx(expected)


@pytest.mark.parametrize("method", ["percentile", "bca", "log-odds"])
def test_other_intervals_can_be_asked_for(
    method: str, results: dict[str, Any], bench: Benchmark, folders: list[Path]
) -> None:
    other = collect(bench.folder.path, [folders[0], folders[2]], EvaluateSettings(interval=method, subgroups=[]))
    for versus in (None, "tfidf-lr|baseline"):
        wanted = {"task": "mortality", "model": "nano", "regime": "joint", "metric": "auroc", "versus": versus}
        mine, default = one(other, **wanted), one(results, **wanted)
        assert mine["value"] == default["value"]
        assert (mine["low"], mine["high"]) != (default["low"], default["high"])
        assert (mine["low"], mine["high"]) == (
            pytest.approx(default["low"], abs=0.02),
            pytest.approx(default["high"], abs=0.02),
        )


def test_the_report_shows_all_of_it(results: dict[str, Any], tmp_path: Path) -> None:
    text = render(results, tmp_path / "r.html").read_text()
    shown = ("Acting on the risks", "Net benefit", "Subgroups", "sex: male", "Corrected p", "Holm", "Weighed otherwise")
    for words in shown:
        assert words in text, words
