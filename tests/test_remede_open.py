"""ReMedE-open: what is found is built, what is not is said, and nothing is built twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lang1.cli.main import app
from lang1.common.errors import InputError
from lang1.common.predictions import PREDICTIONS
from lang1.remede.benchmark import Benchmark
from lang1.remede.open_data import OPEN_SETS, build_open

SMALL = Path(__file__).parent / "data" / "eicu"
OPEN = Path(__file__).parents[2] / "shared" / "data"


def test_what_is_found_is_built_and_the_rest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SMALL, tmp_path / "downloads" / "any-name")
    command = ["remede", "build", "--open", str(tmp_path / "downloads"), str(tmp_path / "out")]
    app(command, standalone_mode=False)
    said = capsys.readouterr()
    assert "mimic-iv-demo: not found" in said.err and "In-hospital mortality" in said.out
    first = Benchmark.open(tmp_path / "out" / "eicu")
    assert first.tasks == ["mortality", "length_of_stay"]
    table = pq.read_table(tmp_path / "out" / "eicu-apache" / "predictions.parquet")
    assert table.schema.equals(PREDICTIONS)
    assert table["example_id"].to_pylist() == ["mortality:20"]
    assert table["probabilities"].to_pylist()[0][1] == pytest.approx(0.61)
    before = (tmp_path / "out" / "eicu" / "manifest.json").stat().st_mtime_ns
    app(command, standalone_mode=False)
    assert (tmp_path / "out" / "eicu" / "manifest.json").stat().st_mtime_ns == before


def test_a_folder_with_none_of_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the open data sets is here"):
        build_open(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        build_open(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.skipif(not OPEN.exists(), reason="the open data sets are not here")
def test_the_open_data_sets(tmp_path: Path) -> None:
    made = {path.name: Benchmark.open(path) for path in build_open(OPEN, tmp_path)}
    assert list(made) == list(OPEN_SETS)
    eicu = made["eicu"].examples(["mortality"])
    # 182 deaths in hospital, 47 of them within the first 24 hours of intensive care, one at a training hospital of a
    # patient who was also at a held-out one.
    assert sum(eicu["label"].to_pylist()) == 134
    sites = dict(zip(eicu["encounter_id"].to_pylist(), eicu["split"].to_pylist(), strict=True))
    assert {"train", "held_out_site"} <= set(sites.values())
    assert made["mimic-iv-demo"].manifest.extra["marks"]
