"""The export to MEDS: its columns by the letter of the schemas, and another package's scores of our predictions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_toy import make_benchmark, make_records, write_guesses
from test_remede_world import population, write

from lang1.common.errors import ArtefactError, InputError
from lang1.evaluation.export import export_predictions_meds
from lang1.metrics.auroc import auroc
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import BuildSettings, build
from lang1.remede.export import SPLIT_NAMES, export_meds

CLI = shutil.which("meds-evaluation-cli")
SPLITS = ("test", "test_older", "test_newest")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("export")
    settings = BuildSettings(calendar="demo", tasks=("mortality", "length_of_stay"))
    return Benchmark.open(build(write(place / "records", population(220)), place / "bench", settings))


@pytest.fixture(scope="module")
def meds(benchmark: Benchmark) -> Path:
    return export_meds(benchmark.folder.path, benchmark.folder.path.parent / "meds")


@pytest.fixture(scope="module")
def predicted(benchmark: Benchmark) -> tuple[Path, Path]:
    place = benchmark.folder.path.parent
    guesses = write_guesses(place / "guesses", benchmark, "toy", "finetuned", 0.7, splits=SPLITS)
    return guesses, export_predictions_meds(guesses, benchmark.folder.path, place / "scored")


def columns(file: Path) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in pq.read_schema(file)]


def test_labels_have_the_columns_of_the_schema_and_no_others(meds: Path, benchmark: Benchmark) -> None:
    keys = [("subject_id", "int64"), ("prediction_time", "timestamp[us]")]
    seen = 0
    for task, value in (("mortality", ("boolean_value", "bool")), ("length_of_stay", ("integer_value", "int64"))):
        for split, name in SPLIT_NAMES.items():
            file = meds / "labels" / task / f"{name}.parquet"
            rows = benchmark.examples([task], [split]).to_pylist()
            assert file.exists() == bool(rows)
            if not rows:
                continue
            assert columns(file) == [*keys, value]
            table, extras = pq.read_table(file), pq.read_table(meds / "extras" / task / f"{name}.parquet")
            assert not any(column.null_count for column in table.columns)
            for key, _ in keys:
                assert table[key].equals(extras[key])
            by_id = {row["example_id"]: row for row in rows}
            for label, extra in zip(table.to_pylist(), extras.to_pylist(), strict=True):
                row = by_id.pop(extra["example_id"])
                assert (label["subject_id"], label["prediction_time"]) == (row["subject_id"], row["prediction_time"])
                assert int(label[value[0]]) == row["label"] == extra["label"]
                assert extra["label_text"] == benchmark.cards[task].options[row["label"]]
            assert not by_id
            seen += len(rows)
    assert seen == benchmark.examples().num_rows


def test_every_patient_has_one_split(meds: Path, benchmark: Benchmark) -> None:
    file = meds / "metadata" / "subject_splits.parquet"
    assert columns(file) == [("subject_id", "int64"), ("split", "string")]
    split_of = {row["subject_id"]: row["split"] for row in pq.read_table(file).to_pylist()}
    assert len(split_of) == pq.read_metadata(file).num_rows == 220
    for row in benchmark.examples().to_pylist():
        expected = {"train": "train", "val": "tuning"}.get(row["split"], "held_out")
        assert split_of[row["subject_id"]] == expected


def test_predictions_have_the_columns_of_the_schema(predicted: tuple[Path, Path], benchmark: Benchmark) -> None:
    guesses, scored = predicted
    names = sorted(str(file.relative_to(scored)) for file in scored.rglob("*.parquet"))
    classes = [f"length_of_stay.class_{n}" for n in range(4)]
    expected = [f"{SPLIT_NAMES[s]}/{one}.parquet" for s in SPLITS for one in ("mortality", *classes)]
    assert names == sorted(expected)
    said = {row["example_id"]: row for row in pq.read_table(guesses / "predictions.parquet").to_pylist()}
    rows = benchmark.examples(["length_of_stay"], ["test"]).to_pylist()
    rows.sort(key=lambda row: (row["subject_id"], row["prediction_time"], row["example_id"]))
    for file in scored.rglob("*.parquet"):
        assert columns(file) == [
            ("subject_id", "int64"),
            ("prediction_time", "timestamp[us]"),
            ("boolean_value", "bool"),
            ("predicted_boolean_value", "bool"),
            ("predicted_boolean_probability", "float"),
        ]
        assert pq.read_table(file)["predicted_boolean_probability"].null_count == 0
    for label in range(4):
        table = pq.read_table(scored / "held_out" / f"length_of_stay.class_{label}.parquet")
        assert table["boolean_value"].to_pylist() == [row["label"] == label for row in rows]
        values = [said[row["example_id"]]["probabilities"][label] for row in rows]
        np.testing.assert_allclose(table["predicted_boolean_probability"].to_numpy(), values, rtol=1e-6)


def test_same_benchmark_same_bytes(meds: Path, benchmark: Benchmark, tmp_path: Path) -> None:
    again = export_meds(benchmark.folder.path, tmp_path / "again")
    files = sorted(file.relative_to(meds) for file in meds.rglob("*.parquet"))
    assert len(files) > 10 and all((meds / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_times_are_never_invented(tmp_path: Path) -> None:
    toy = make_benchmark(make_records(tmp_path / "records", 60), tmp_path / "bench")
    with pytest.raises(InputError, match=r"no prediction time, first '\w+:e\d+-\d'.*none is invented"):
        export_meds(toy.folder.path, tmp_path / "meds")
    guesses = write_guesses(tmp_path / "guesses", toy, "toy", "finetuned", 0.5)
    with pytest.raises(InputError, match="none is invented"):
        export_predictions_meds(guesses, toy.folder.path, tmp_path / "scored")
    assert not (tmp_path / "meds").exists() and not (tmp_path / "scored").exists()


def test_predictions_of_another_benchmark_are_refused(
    predicted: tuple[Path, Path], benchmark: Benchmark, tmp_path: Path
) -> None:
    settings = BuildSettings(calendar="demo", tasks=("mortality",))
    other = build(benchmark.records.path, tmp_path / "bench", settings)
    with pytest.raises(ArtefactError, match="was not made for"):
        export_predictions_meds(predicted[0], other, tmp_path / "scored")


def test_the_schemas_of_meds_take_them(meds: Path) -> None:
    schemas = pytest.importorskip("meds")
    files = list((meds / "labels").rglob("*.parquet"))
    assert files
    for file in files:
        schemas.LabelSchema.validate(pq.read_table(file))
    schemas.SubjectSplitSchema.validate(pq.read_table(meds / "metadata" / "subject_splits.parquet"))


def test_the_schema_of_meds_evaluation_takes_predictions(predicted: tuple[Path, Path]) -> None:
    prediction = pytest.importorskip("meds_evaluation.schema")
    for file in predicted[1].rglob("*.parquet"):
        prediction.PredictionSchema.validate(pq.read_table(file))


@pytest.mark.skipif(CLI is None, reason="meds-evaluation is not installed")
@pytest.mark.parametrize("one", ["mortality", "length_of_stay.class_0"])
def test_meds_evaluation_scores_them_as_we_do(
    one: str, predicted: tuple[Path, Path], benchmark: Benchmark, tmp_path: Path
) -> None:
    guesses, scored = predicted
    file, result = scored / "held_out_temporal" / f"{one}.parquet", tmp_path / "result.json"
    subprocess.run([str(CLI), f"predictions_path={file}", f"output_file={result}"], check=True, cwd=tmp_path)
    theirs = json.loads(result.read_text())["samples_equally_weighted"]["roc_auc_score"]
    task, _, label = one.partition(".class_")
    number = int(label or 1)
    said = {row["example_id"]: row for row in pq.read_table(guesses / "predictions.parquet").to_pylist()}
    rows = benchmark.examples([task], ["test_newest"]).to_pylist()
    scores = pa.array([said[row["example_id"]]["probabilities"][number] for row in rows]).to_numpy()
    ours = auroc(np.array([row["label"] == number for row in rows]), scores)
    assert 0.5 < ours < 1 and abs(ours - theirs) <= 1e-6
