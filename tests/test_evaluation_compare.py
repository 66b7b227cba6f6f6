"""Comparison of runs: the table against plain recomputation, what is refused, and the files that come out."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from evaluation_toy import make_benchmark, make_records, write_guesses
from sklearn.metrics import roc_auc_score

from lang1.common.artefact import new_folder, open_folder, read_json
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.evaluation.compare import CompareSettings, compare
from lang1.evaluation.predictions import KIND, open_predictions, place_of, write_predictions
from lang1.evaluation.results import collect, write_results
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.multiple import benjamini_hochberg, holm
from lang1.remede.benchmark import Benchmark
from lang1.reporting.compare_report import render_comparison


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("toy")
    return make_benchmark(make_records(place / "records", 400), place / "benchmark")


@pytest.fixture(scope="module")
def runs(bench: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two evaluations (folders of predictions), one of which holds two models, and loose predictions of an oracle."""
    place = tmp_path_factory.mktemp("runs")
    write_guesses(place / "a" / "model-nano", bench, "nano", "joint", 1.0, 1)
    write_guesses(place / "a" / "baseline", bench, "tfidf-lr", "baseline", 0.9, 2)
    write_guesses(place / "b" / "model-nano", bench, "nano", "joint", 0.2, 3)
    write_guesses(place / "oracle", bench, "oracle", "oracle", 1.6, 4)
    return {"a": place / "a", "b": place / "b", "oracle": place / "oracle"}


def rows(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in result["rows"] if all(r[k] == v for k, v in wanted.items())]


def page_beside(file: Path) -> None:
    render_comparison(file, file.with_name("x.html"))


def shortened(folder: Path, out: Path, bench: Benchmark, n: int) -> Path:
    before = open_predictions(folder)
    with new_folder(out, KIND, inputs={"benchmark": bench.folder}) as draft:
        table = before.table
        keep = [i for i, task in enumerate(table["task"].to_pylist()) if task == "mortality"][n:]
        others = [i for i, task in enumerate(table["task"].to_pylist()) if task != "mortality"]
        write_predictions(draft.path, table.take(pa.array(sorted(keep + others))))
        draft.extra.update(before.folder.manifest.extra | {"model": "short"})
    return out


def test_differences_are_paired_named_and_corrected(bench: Benchmark, runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "c"
    result = compare(list(runs.values()), out, CompareSettings(), finish=page_beside)
    about = result["comparison"]
    assert about["reference"] == "nano (a)|joint"
    assert set(about["models"]) == {"nano (a)|joint", "nano (b)|joint", "tfidf-lr|baseline", "oracle|oracle"}
    examples = bench.examples(["mortality"], ["test"])
    labels = examples["label"].to_numpy()

    def scores(folder: Path) -> np.ndarray:
        table = open_predictions(folder).table
        place = place_of(table, examples["example_id"].to_pylist())
        return np.stack(table.take(place)["probabilities"].to_pylist())[:, 1]

    one, two = (
        roc_auc_score(labels, scores(runs["a"] / "model-nano")),
        roc_auc_score(labels, scores(runs["b"] / "model-nano")),
    )
    (row,) = rows(result, task="mortality", model="nano (b)", metric="auroc", versus="nano (a)|joint")
    assert row["value"] == pytest.approx(two - one) and row["high"] < 0
    (alone,) = rows(result, task="mortality", model="nano (a)", metric="auroc", versus=None)
    assert alone["value"] == pytest.approx(one) and alone["n"] == len(labels)
    asking = [r for r in result["rows"] if r["versus"] and r["regime"] != "oracle"]
    assert {r["versus"] for r in asking} == {"nano (a)|joint"} and len(asking) == 2 * 3 == about["family"]
    assert [r["p_adjusted"] for r in asking] == pytest.approx(holm([r["p"] for r in asking]).tolist())
    assert all("p_adjusted" not in r for r in rows(result, model="oracle"))
    assert open_folder(out, "comparison").manifest.counts["models"] == 4
    saved = read_json(out / "comparison.json")
    assert saved["families"][0]["size"] == 6
    lines = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert len(lines) == len(result["rows"])
    assert any(line["model"] == "nano (b)" and line["p_adjusted"] for line in lines)
    tex = (out / "comparison.tex").read_text()
    assert tex.count("\\\\") == 5 and "tfidf-lr, baseline" in tex and "$^\\dagger$" in tex and "Holm over 6" in tex
    page = (out / "x.html").read_text()
    assert (
        "Of 6 comparisons" in page and "nano (b)" in page and "<svg" in page and "http" not in page.split("</style>")[1]
    )


def test_every_pair_another_reference_and_another_correction(runs: dict[str, Path], tmp_path: Path) -> None:
    settings = CompareSettings(all_pairs=True, correction="bh", reference="tfidf-lr", tasks=["mortality"])
    result = compare([runs["a"], runs["b"]], tmp_path / "c", settings)
    pairs = [r for r in result["rows"] if r["versus"]]
    assert len(pairs) == 3 and {r["correction"] for r in pairs} == {"bh"}
    assert [r["p_adjusted"] for r in pairs] == pytest.approx(benjamini_hochberg([r["p"] for r in pairs]).tolist())
    assert result["comparison"]["models"][0] == "tfidf-lr|baseline"
    with pytest.raises(SettingsError, match="reference 'moon' names 0 of the models"):
        compare([runs["a"]], tmp_path / "d", CompareSettings(reference="moon"))


def test_runs_that_do_not_fit_are_refused(bench: Benchmark, runs: dict[str, Path], tmp_path: Path) -> None:
    short = shortened(runs["oracle"], tmp_path / "short", bench, 5)
    together = [runs["a"], short]
    with pytest.raises(InputError, match=r"mortality, test: .* answers .* intersect=true"):
        compare(together, tmp_path / "c", CompareSettings())
    assert not (tmp_path / "c").exists()
    result = compare(together, tmp_path / "c", CompareSettings(intersect=True))
    n = bench.examples(["mortality"], ["test"]).num_rows
    assert {r["n"] for r in rows(result, task="mortality", metric="auroc")} == {n - 5}
    assert result["comparison"]["left_out"] == {"mortality": 5}
    assert open_folder(tmp_path / "c", "comparison").manifest.left_out == {"mortality: not answered by every model": 5}
    assert any("5 examples were left out" in w["text"] for w in result["warnings"])
    other = make_benchmark(make_records(tmp_path / "records", 60, seed=9), tmp_path / "other")
    foreign = write_guesses(tmp_path / "foreign", other, "nano", "joint", 1.0)
    with pytest.raises(ArtefactError, match="answer different benchmarks"):
        compare([runs["a"], foreign], tmp_path / "d", CompareSettings())
    with pytest.raises(ArtefactError, match="is not the benchmark that the runs answer"):
        compare([runs["a"]], tmp_path / "d", CompareSettings(), benchmark=other.folder.path)
    with pytest.raises(InputError, match="found 1 model"):
        compare([runs["oracle"], runs["oracle"]], tmp_path / "d", CompareSettings())
    with pytest.raises(ArtefactError, match="no such folder"):
        compare([tmp_path / "nothing"], tmp_path / "d", CompareSettings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match="no predictions in it"):
        compare([tmp_path / "empty"], tmp_path / "d", CompareSettings())


def test_a_results_folder_stands_for_its_predictions(bench: Benchmark, runs: dict[str, Path], tmp_path: Path) -> None:
    folders = [runs["a"] / "model-nano", runs["oracle"]]
    results = collect(bench.folder.path, folders, EvaluateSettings(subgroups=[]))
    made = write_results(tmp_path / "r", results, {"benchmark": bench.folder.path, "predictions": folders})
    result = compare([made, runs["a"]], tmp_path / "c", CompareSettings())  # the nano of both is one and the same
    assert set(result["comparison"]["models"]) == {"nano|joint", "oracle|oracle", "tfidf-lr|baseline"}


def test_the_verb_takes_runs_and_settings(runs: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lang1.cli.main", "compare", str(runs["a"]), str(runs["b"]), "tasks=[mortality]"]
    done = subprocess.run([*command, "--out", str(tmp_path / "c")], capture_output=True, text=True, check=True)
    assert "2 comparisons with nano (a)|joint, corrected (holm)" in done.stdout + done.stderr
    made = {file.name for file in (tmp_path / "c").iterdir()}
    assert made == {"comparison.json", "comparison.csv", "comparison.tex", "comparison.html", "manifest.json"}
    wrong = subprocess.run([*command, "moon=1", "--out", str(tmp_path / "d")], capture_output=True, text=True)
    assert wrong.returncode == 2 and "moon" in wrong.stderr and "Traceback" not in wrong.stderr
