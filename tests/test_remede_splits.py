"""Splits, samples, bins, determinism, and what a benchmark refuses."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_remede_world import Rows, dc, hp, labels, population, settings, stay, write

from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.identity import patient_hash, read_patient_hashes, unit_hash
from lang1.common.settings import load_settings
from lang1.records.store import Records
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import BuildSettings, build
from lang1.remede.card import load_card
from lang1.remede.settings import SPLITS, TASKS, presets
from lang1.remede.summary import summary_lines

TESTS = [split for split in SPLITS if split.startswith("test")]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("splits") / "records", population(220))


@pytest.fixture(scope="module")
def demo(records: Path) -> Benchmark:
    return Benchmark.open(build(records, records.parent / "demo", BuildSettings(calendar="demo")))


def by_split(benchmark: Benchmark, column: str = "patient_id", task: str | None = None) -> dict[str, set[Any]]:
    table = benchmark.examples([task] if task else None)
    found: dict[str, set[Any]] = {}
    for split, value in zip(table["split"].to_pylist(), table[column].to_pylist(), strict=True):
        found.setdefault(split, set()).add(value)
    return found


def test_patients_are_apart_by_the_stated_hash(demo: Benchmark) -> None:
    found = by_split(demo)
    assert set(found) == set(SPLITS) - {"held_out_site"}
    held = set.union(*(found[split] for split in TESTS))
    assert not found["train"] & held and not found["val"] & held and not found["train"] & found["val"]
    folds = dict(zip(*(demo.folds()[name].to_pylist() for name in ("patient_id", "fold")), strict=True))
    for patient, fold in folds.items():
        unit = unit_hash(patient, "remede-1")
        assert fold == ("train" if unit < 0.72 else "val" if unit < 0.80 else "test")
    assert demo.training_patients() == {patient for patient, fold in folds.items() if fold == "train"}
    expected = sorted(patient_hash(patient) for patient, fold in folds.items() if fold != "train")
    assert read_patient_hashes(demo.folder.path).tolist() == expected


def test_blocks_hold_what_ends_in_them_and_horizons_end_before_the_next(demo: Benchmark) -> None:
    blocks = presets()["demo"].named()
    with demo.records.connect() as connection:
        ends = dict(connection.execute("SELECT encounter_id, discharge_time FROM encounters").fetchall())
    for row in demo.examples().to_pylist():
        name = row["split"] if row["split"].startswith("test_") else "train"
        assert blocks[name].begins <= ends[row["encounter_id"]] < blocks[name].closes
        later = [block.begins for block in blocks.values() if block.begins > blocks[name].begins]
        assert not later or row["horizon_end"] < later[0]
    assert demo.pretraining_cut == datetime(2021, 7, 1)
    assert demo.headline_split == "test_newest"


def test_rows_in_the_gap_are_counted(tmp_path: Path) -> None:
    """The train block ends where the test begins: the last 30 days of discharges have no whole horizon."""
    tables: dict[str, Rows] = {"encounters": [], "notes": []}
    for day in range(60):
        out = datetime(2020, 5, 1, 9) + timedelta(days=day)
        tables["encounters"].append(stay(f"e{day}", f"p{day}", out - timedelta(days=2), out))
        tables["notes"].append(dc(f"e{day}", f"p{day}", out + timedelta(hours=1)))
    calendar = {
        "train": {"start": "2020-01-01", "end": "2020-05-31"},
        "test_newest": {"start": "2020-06-01", "end": "2020-12-31"},
    }
    out = build(write(tmp_path / "r", tables), tmp_path / "b", settings(calendar=calendar, tasks=["readmission"]))
    benchmark = Benchmark.open(out)
    lost = {row["encounter_id"] for row in benchmark.left_out().to_pylist() if "before the next block" in row["rule"]}
    # Discharged on 2 May at 9:00 or later: 30 days after is in June.
    assert lost == {f"e{day}" for day in range(1, 31)}
    assert benchmark.manifest.left_out["readmission: not (its horizon ends before the next block starts)"] == 30


def test_the_cost_of_keeping_patients_apart_is_printed(demo: Benchmark, records: Path) -> None:
    text = "\n".join(summary_lines(demo))
    for task in TASKS:
        ledger = [row for row in demo.ledger if row["task"] == task]
        assert ledger[-1]["rule"].startswith("patients kept apart")
        lost = ledger[-2]["rows"] - ledger[-1]["rows"]
        assert lost > 0 and f"Cost of keeping patients apart: {lost:,} rows" in text
        assert [row["order"] for row in ledger] == list(range(len(ledger)))
        for name in ("rows", "patients", "outcomes"):
            counts = [row[name] for row in ledger]
            assert counts == sorted(counts, reverse=True)
    assert "Headline split: test_newest" in text


def test_shares_add_up_and_agree_with_the_examples(demo: Benchmark) -> None:
    table = demo.examples()
    for row in demo.shares:
        chosen = demo.examples([row["task"]], [row["split"]])
        assert row["n"] == np.sum(chosen["label"].to_numpy() == row["class"])
        assert row["share"] == pytest.approx(row["n"] / chosen.num_rows)
        assert row["label"] == demo.cards[row["task"]].options[row["class"]]
    assert sum(row["n"] for row in demo.shares) == table.num_rows
    for task in TASKS:
        assert demo.ledger[-1]["rows"] if task == TASKS[-1] else True
        last = [row for row in demo.ledger if row["task"] == task][-1]
        top = sum(
            row["n"] for row in demo.shares if row["task"] == task and row["class"] == demo.cards[task].classes - 1
        )
        assert last["outcomes"] == top


def test_same_records_and_settings_same_bytes(demo: Benchmark, records: Path, tmp_path: Path) -> None:
    again = build(records, tmp_path / "again", BuildSettings(calendar="demo"))
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(demo.folder.path) for p in demo.folder.path.rglob("*") if p.is_file())
    for file in files:
        if file.name == "manifest.json":
            mine, theirs = (json.loads((f / file).read_text()) for f in (again, demo.folder.path))
            for manifest in (mine, theirs):
                manifest["extra"]["records"].pop("relative")
            assert mine == theirs
        else:
            assert (again / file).read_bytes() == (demo.folder.path / file).read_bytes(), file


def test_order_of_rows_in_the_records_does_not_matter(demo: Benchmark, tmp_path: Path) -> None:
    tables = {name: rows[::-1] for name, rows in population(220).items()}
    other = build(write(tmp_path / "records", tables), tmp_path / "out", BuildSettings(calendar="demo"))
    assert Benchmark.open(other).folder.fingerprint == demo.folder.fingerprint


def test_a_new_extract_keeps_assignments(demo: Benchmark, tmp_path: Path) -> None:
    out = build(write(tmp_path / "r", population(260)), tmp_path / "b", BuildSettings(calendar="demo"))
    now = dict(zip(*(Benchmark.open(out).folds()[n].to_pylist() for n in ("patient_id", "fold")), strict=True))
    before = dict(zip(*(demo.folds()[n].to_pylist() for n in ("patient_id", "fold")), strict=True))
    assert len(now) == 260 and before.items() <= now.items()


def test_time_only_keeps_all_and_holds_out_same_period_patients(demo: Benchmark, records: Path, tmp_path: Path) -> None:
    settings_ = BuildSettings(calendar="demo", policy="time-only")
    benchmark = Benchmark.open(build(records, tmp_path / "b", settings_))
    assert by_split(benchmark)["train"] & by_split(benchmark)["test_newest"]
    assert benchmark.examples(splits=["test_newest"]).num_rows > 3 * demo.examples(splits=["test_newest"]).num_rows
    held = set.union(*(by_split(benchmark)[split] for split in ("val", "test")))
    assert benchmark.training_patients().isdisjoint(held)
    period = benchmark.examples(["mortality"], ["train", "val", "test"])["split"].to_pylist()
    assert period.count("train") / len(period) == pytest.approx(0.8, abs=0.05)


def test_sample_takes_whole_patients_by_hash_and_the_same_for_all_tasks(
    demo: Benchmark, records: Path, tmp_path: Path
) -> None:
    settings_ = BuildSettings(calendar="demo", max_examples={"train": 120, "test": 60})
    benchmark = Benchmark.open(build(records, tmp_path / "b", settings_))
    for split, most in (("train", 120), ("test", 60)):
        everyone = dict.fromkeys(by_split(demo)[split], 0)
        for patient, encounter in {
            (r["patient_id"], r["encounter_id"]) for r in demo.examples(splits=[split]).to_pylist()
        }:
            everyone[patient] += bool(encounter)
        chosen, total = set(), 0
        for patient in sorted(everyone, key=lambda p: unit_hash(p, "remede-1/sample")):
            if total >= most:
                break
            chosen.add(patient)
            total += everyone[patient]
        assert by_split(benchmark)[split] == chosen
        stays = by_split(benchmark, "encounter_id")[split]
        assert most <= len(stays) == total < most + 10
    assert benchmark.examples(splits=["val"]).equals(demo.examples(splits=["val"]))
    kept = labels(benchmark)
    assert kept.items() <= labels(demo).items()


def test_fitted_bins_come_from_train_and_travel_to_another_site(records: Path, tmp_path: Path) -> None:
    mine = Benchmark.open(build(records, tmp_path / "a", BuildSettings(calendar="demo", fit_cut_points=True)))
    card = mine.cards["length_of_stay"]
    with mine.records.connect() as connection:
        connection.register("x", mine.examples(["length_of_stay"], ["train"]))
        days = connection.execute(
            "SELECT date_diff('day', admit_time::DATE, discharge_time::DATE) "
            "FROM x JOIN encounters USING (encounter_id)"
        ).fetchall()
    quartiles = np.quantile([day for (day,) in days], [0.25, 0.5, 0.75], method="inverted_cdf")
    assert list(card.cut_points or ()) == sorted({int(q) for q in quartiles})
    assert len(card.options) == len(card.cut_points or ()) + 1 and "more than" in card.options[-1]
    other = build(write(tmp_path / "r", population(60)), tmp_path / "b", settings(cut_points_from=tmp_path / "a"))
    assert Benchmark.open(other).cards["length_of_stay"].cut_points == card.cut_points
    assert Benchmark.open(other).questions()["length_of_stay"] == mine.questions()["length_of_stay"]


def test_reading_by_note(demo: Benchmark) -> None:
    groups = demo.note_groups("test")
    items = [item for group in groups for item in group.items]
    table = demo.examples(splits=["test"])
    assert sorted(item.example_id for item in items) == sorted(table["example_id"].to_pylist())
    assert {item.example_id: item.label for item in items} == {
        k: v for k, v in labels(demo).items() if k in {i.example_id for i in items}
    }
    assert len({group.note_id for group in groups}) == len(groups)
    assert {len(group.items) for group in groups} >= {1, 4}  # the discharge note alone, the H&P with four tasks
    assert all(group.text.startswith(group.note_id.split("/")[1]) for group in groups)
    assert [g.note_id for g in demo.note_groups("test")] == [g.note_id for g in groups]
    metadata = demo.metadata(table)
    assert metadata["example_id"].to_pylist() == table["example_id"].to_pylist()
    assert metadata.column_names[1:] == [
        *("age", "sex", "payer", "department", "admission_type", "admission_source", "note_words")
    ]
    assert set(metadata["note_words"].to_pylist()) == {6}
    for task, question in demo.questions().items():
        assert question.endswith("Answer:") and all(option in question for option in demo.cards[task].options)


def test_cards_are_frozen_into_the_benchmark(records: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "length_of_stay.yaml").write_text("cut_points: [1, 7]\noptions: [short, medium, long]\n")
    edits = {"readmission": {"horizon_days": 90, "censoring": {"observation_days": 90}}}
    out = build(
        records, tmp_path / "b", settings(card_dir=folder, cards=edits, tasks=["readmission", "length_of_stay"])
    )
    benchmark = Benchmark.open(out)
    assert benchmark.cards["length_of_stay"].options == ("short", "medium", "long")
    assert benchmark.cards["readmission"].horizon_days == 90
    row = benchmark.examples(["readmission"]).to_pylist()[0]
    assert row["horizon_end"] - row["index_time"] == timedelta(days=90)


def test_shifted_dates_are_split_by_patient_only(tmp_path: Path) -> None:
    out = build(write(tmp_path / "r", population(60), time_basis="shifted", complete_through={}), tmp_path / "b")
    benchmark = Benchmark.open(out)
    assert set(by_split(benchmark)) == {"train", "val", "test"}
    assert benchmark.headline_split == "test" and benchmark.pretraining_cut is None
    assert any("shifted" in notice for notice in benchmark.notices)


def test_tasks_that_the_records_do_not_support(tmp_path: Path) -> None:
    tables = population(20)
    del tables["claims"], tables["diagnoses"]
    place = write(tmp_path / "r", tables)
    benchmark = Benchmark.open(build(place, tmp_path / "b", settings()))
    assert benchmark.tasks == ["readmission", "mortality", "length_of_stay"]
    assert sum("is left aside" in notice for notice in benchmark.notices) == 2
    with pytest.raises(InputError, match="'claims' is empty"):
        build(place, tmp_path / "c", settings(tasks=["insurance_denial"]))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("tables", "meta", "more", "says"),
    [
        ({}, {"complete_through": {}}, {"tasks": ["readmission"]}, "declare complete_through.encounters"),
        ({"notes": []}, {}, {"tasks": ["mortality"]}, "no usable note of type 'history_and_physical'"),
        ({"notes": []}, {}, {}, "no example for any task"),
        (
            {},
            {"time_basis": "ordinal", "complete_through": {}},
            {"tasks": ["length_of_stay"]},
            "needs times or given labels",
        ),
        (
            {},
            {},
            {"calendar": {"train": {"start": "1990-01-01", "end": "1990-12-31"}}},
            "none left after 'the encounter ends",
        ),
        (
            {"given_labels": [{"encounter_id": "A", "task": "mortality", "value": "perhaps"}]},
            {},
            {},
            "value 'perhaps' is not a label",
        ),
    ],
)
def test_records_that_cannot_be_used(
    tables: dict[str, Rows], meta: dict[str, Any], more: dict[str, Any], says: str, tmp_path: Path
) -> None:
    timeless = meta.get("time_basis") == "ordinal"
    times = (None, None) if timeless else ("2020-01-01 10:00", "2020-01-05 10:00")
    whole: dict[str, Rows] = {
        "encounters": [stay("A", "a", *times, sequence=1)],
        "notes": [hp("A", "a", None if timeless else "2020-01-01 12:00"), dc("A", "a", times[1])],
    }
    place = write(tmp_path / "r", whole | tables, **meta)
    with pytest.raises(InputError, match=says) as error:
        build(place, tmp_path / "b", settings(**more))
    assert "\n" not in str(error.value) and "None" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tasks=[readmision]"], "unknown task 'readmision'"),
        (["tasks=[]"], "at least one"),
        (["calendar=papers"], "unknown calendar 'papers'"),
        (["polcy=time-only"], "did you mean 'policy'"),
        (["fractions={train: 0.5, val: 0.1, test: 0.1}"], "expected 1"),
        (["max_examples={tests: 5}"], "tests: 5"),
        (["fit_cut_points=true", "cut_points_from=x"], "exclude each other"),
        (["calendar={train: {start: 2020-01-01, end: 2019-01-01}}"], "before it starts"),
        (
            [
                "calendar={train: {start: 2020-01-01, end: 2020-12-31}, "
                "test_older: {start: 2020-12-31, end: 2021-01-31}}"
            ],
            "before train ends",
        ),
    ],
)
def test_settings_that_cannot_be_used(overrides: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as error:
        load_settings(BuildSettings, None, overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"horizonn_days": 3}, "did you mean 'horizon_days'"),
        ({"cut_points": [3, 2]}, "no cut_points|must rise"),
        ({"options": ["a", "b", "c"]}, "two options"),
        ({"constants": {"transfer_hours": 24, "contiguous_hours": 6, "transfer_days": 1}}, "transfer_days"),
    ],
)
def test_cards_that_cannot_be_used(edit: dict[str, Any], says: str, records: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=says):
        build(records, tmp_path / "b", settings(tasks=["readmission"], cards={"readmission": edit}))


def test_time_only_needs_time(tmp_path: Path) -> None:
    place = write(tmp_path / "r", population(5), time_basis="shifted", complete_through={})
    with pytest.raises(SettingsError, match="time-only needs time blocks"):
        build(place, tmp_path / "b", BuildSettings(policy="time-only"))


def test_a_benchmark_that_was_changed_is_refused(demo: Benchmark, tmp_path: Path) -> None:
    table = demo.examples()
    train, test = (
        next(i for i, s in enumerate(table["split"].to_pylist()) if s == split) for split in ("train", "test")
    )

    def tampered(name: str, column: str, row: int, value: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(demo.folder.path, folder)
        values = table[column].to_pylist()
        values[row] = value
        place = table.column_names.index(column)
        field = table.schema.field(column)
        pq.write_table(table.set_column(place, field, pa.array(values, field.type)), folder / "examples.parquet")
        return folder

    patient = table["patient_id"][train].as_py()
    with pytest.raises(ArtefactError, match="keep patients apart"):
        Benchmark.open(tampered("patient", "patient_id", test, patient))
    with pytest.raises(ArtefactError, match="keep patients apart"):
        Benchmark.open(tampered("split", "split", test, "train"))
    with pytest.raises(ArtefactError, match="label or a split"):
        Benchmark.open(tampered("label", "label", 0, 7))
    with pytest.raises(ArtefactError, match="twice"):
        Benchmark.open(tampered("twice", "example_id", 1, table["example_id"][0].as_py()))
    with pytest.raises(ArtefactError, match="without a fold"):
        Benchmark.open(tampered("fold", "patient_id", 0, "stranger"))
    cut = tmp_path / "cut"
    shutil.copytree(demo.folder.path, cut)
    pq.write_table(table.slice(1), cut / "examples.parquet")
    with pytest.raises(ArtefactError, match="differ in rows"):
        Benchmark.open(cut)
    (cut / "examples.parquet").write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match="build it again"):
        Benchmark.open(cut)


def test_records_that_changed_since_are_refused(tmp_path: Path) -> None:
    place = write(tmp_path / "records", population(20))
    build(place, tmp_path / "b", settings())
    both = tmp_path / "moved"
    both.mkdir()
    shutil.move(place, both / "records")
    shutil.move(tmp_path / "b", both / "b")
    moved = Benchmark.open(both / "b")  # benchmark and records may move together
    assert moved.texts(moved.examples()["note_id"].to_pylist()[:1])
    shutil.rmtree(both / "records")
    write(both / "records", population(21))
    with pytest.raises(ArtefactError, match="records changed"):
        _ = Benchmark.open(both / "b").records


def test_unknown_names_are_refused(demo: Benchmark) -> None:
    with pytest.raises(InputError, match="no task 'los'"):
        demo.examples(["los"])
    with pytest.raises(InputError, match="no split 'newest'"):
        demo.examples(None, ["newest"])
    with pytest.raises(ArtefactError, match="note 'nowhere'"):
        demo.texts(["nowhere"])
    with pytest.raises(SettingsError, match="unknown task"):
        load_card("los")


def test_truth_is_not_read(records: Path, demo: Benchmark, tmp_path: Path) -> None:
    """A folder beside the records changes nothing."""
    place = tmp_path / "hospital"
    shutil.copytree(records, place / "riverside")
    (place / "truth").mkdir()
    (place / "truth" / "predictions.parquet").write_bytes(b"nonsense")
    out = build(place / "riverside", tmp_path / "b", BuildSettings(calendar="demo"))
    assert Benchmark.open(out).folder.fingerprint == demo.folder.fingerprint
    assert Records.open(place / "riverside").folder.fingerprint == demo.manifest.extra["records"]["fingerprint"]
