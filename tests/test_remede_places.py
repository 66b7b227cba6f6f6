"""Splits by unseen site, by true years of shifted records, by the newest months and at random, and their promises."""

from __future__ import annotations

import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_remede_splits import by_split
from test_remede_world import Rows, dc, hp, population, stay, write

from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.identity import patient_hash, read_patient_hashes, unit_hash
from lang1.evaluation.examples import asked
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import BuildSettings, build

SITES = ["North", "South", "East", "West"]
PAIR = ("mortality", "readmission")


def sited(patients: int = 120) -> dict[str, Rows]:
    """Patients of one site each; every tenth has his last stay at another one, and two stays have no site."""
    tables = population(patients)
    for row in tables["encounters"]:
        number, stay_number = int(row["patient_id"][1:]), int(row["encounter_id"].split("-")[1])
        moved = number % 10 == 0 and stay_number == 7
        row["facility"] = SITES[(number + moved) % 4]
        if row["encounter_id"] in ("E0001-0", "E0001-1"):
            row["facility"] = None
    return tables


def made(place: Path, tables: dict[str, Rows], meta: dict[str, Any] | None = None, **more: Any) -> Benchmark:
    settings = BuildSettings.model_validate({"calendar": "demo", "tasks": PAIR} | more)
    return Benchmark.open(build(write(place / "r", tables, **(meta or {})), place / "b", settings))


@pytest.fixture(scope="module")
def site_world(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return made(tmp_path_factory.mktemp("sites"), sited(), held_out_sites=["West"])


def changed(benchmark: Benchmark, to: Path, file: str, column: str, example: str, value: Any) -> Path:
    """A copy of a benchmark in which one value was changed."""
    shutil.copytree(benchmark.folder.path, to)
    table = pq.read_table(to / file)
    values = table[column].to_pylist()
    values[table["example_id"].to_pylist().index(example)] = value
    place = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), to / file)
    return to


# Sites.


@pytest.mark.parametrize("policy", ["patients-apart", "time-only", "random"])
def test_no_patient_and_no_site_is_on_both_sides(policy: str, tmp_path: Path) -> None:
    tables = sited()
    benchmark = made(tmp_path, tables, policy=policy, held_out_sites=["West"])
    site_of = {row["encounter_id"]: row["facility"] for row in tables["encounters"]}
    west = {row["patient_id"] for row in tables["encounters"] if row["facility"] == "West"}
    found = by_split(benchmark)
    assert found["held_out_site"] <= west and len(found["held_out_site"]) > 20
    for split, patients in found.items():
        if split != "held_out_site":
            assert patients.isdisjoint(west)
    for row in benchmark.examples().to_pylist():
        assert (site_of[row["encounter_id"]] == "West") == (row["split"] == "held_out_site")
        assert site_of[row["encounter_id"]] is not None
    # They are held out of pretraining too, with those who left no example.
    assert {patient_hash(p) for p in west} <= set(read_patient_hashes(benchmark.folder.path).tolist())
    assert benchmark.training_patients().isdisjoint(west)
    rules = {row["rule"]: row for row in benchmark.left_out().to_pylist()}
    assert any(rule.startswith("patients of held-out sites are kept apart") for rule in rules)
    assert any(rule.startswith("its site is known") for rule in rules)
    assert benchmark.manifest.extra["held_out_sites"] == ["West"]


def test_other_sites_keep_their_folds(site_world: Benchmark, tmp_path: Path) -> None:
    without = made(tmp_path, sited())
    before = dict(zip(*(without.folds()[n].to_pylist() for n in ("patient_id", "fold")), strict=True))
    for patient, fold in zip(*(site_world.folds()[n].to_pylist() for n in ("patient_id", "fold")), strict=True):
        assert fold in (before[patient], "held_out_site")
    assert not (without.folder.path / "places.parquet").exists()


def test_a_share_of_sites_follows_from_their_names(tmp_path: Path) -> None:
    benchmark = made(tmp_path, sited(), held_out_site_fraction=0.4, salt="a")
    expected = sorted(name for name in SITES if unit_hash(name, "a/site") < 0.4)
    assert 0 < len(expected) < 4 and benchmark.manifest.extra["held_out_sites"] == expected


def test_an_evaluation_scores_the_unseen_site_by_default(site_world: Benchmark) -> None:
    chosen = asked(site_world, EvaluateSettings())
    assert chosen.splits == ("test_newest", "test", "test_older", "held_out_site")


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        (
            {"held_out_sites": ["Wst"]},
            SettingsError,
            r"no encounter of .* is at 'Wst' \(there: East, North, South, West",
        ),
        ({"held_out_sites": SITES}, SettingsError, "all 4 facilities are held out"),
        ({"held_out_site_fraction": 0.001}, InputError, "takes none of its 4 facilities"),
    ],
)
def test_sites_that_cannot_be_held_out(more: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        made(tmp_path, sited(8), **more)
    with pytest.raises(ValueError, match="exclude each other"):
        BuildSettings(held_out_sites=("West",), held_out_site_fraction=0.5)


def test_a_site_or_patient_on_both_sides_is_refused(site_world: Benchmark, tmp_path: Path) -> None:
    rows = site_world.examples().to_pylist()
    inside = next(row["example_id"] for row in rows if row["split"] == "train")
    outside = next(row["example_id"] for row in rows if row["split"] == "held_out_site")
    with pytest.raises(ArtefactError, match=f"site on both sides .* .example '{inside}'"):
        Benchmark.open(changed(site_world, tmp_path / "a", "places.parquet", "site", inside, "West"))
    with pytest.raises(ArtefactError, match=f"site on both sides .* .example '{outside}'"):
        Benchmark.open(changed(site_world, tmp_path / "b", "places.parquet", "site", outside, "East"))
    with pytest.raises(ArtefactError, match=f"patients of held-out sites apart .example '{outside}'"):
        Benchmark.open(changed(site_world, tmp_path / "c", "examples.parquet", "split", outside, "train"))
    (shutil.copytree(site_world.folder.path, tmp_path / "d") / "places.parquet").unlink()
    with pytest.raises(ArtefactError, match="not a readable benchmark"):
        Benchmark.open(tmp_path / "d")


# No time, and time without patients.


def test_random_takes_no_account_of_time(tmp_path: Path) -> None:
    benchmark = made(tmp_path, population(60), policy="random")
    assert set(by_split(benchmark)) == {"train", "val", "test"}
    assert benchmark.headline_split == "test" and benchmark.pretraining_cut is None
    settings = BuildSettings(calendar=None, tasks=PAIR)
    same = Benchmark.open(build(tmp_path / "r", tmp_path / "c", settings))
    assert same.examples().equals(benchmark.examples())


def test_time_only_asks_after_its_block_began(tmp_path: Path) -> None:
    """A stay over the border: its patient may be pretrained on up to the border, past the question."""
    tables: dict[str, Rows] = {"encounters": [], "notes": []}
    for n, admit in enumerate(datetime(2020, 12, 1, 8) + timedelta(days=7 * week) for week in range(8)):
        tables["encounters"].append(stay(f"e{n}", f"p{n}", admit, admit + timedelta(days=10)))
        tables["notes"].append(hp(f"e{n}", f"p{n}", admit + timedelta(hours=3)))
    calendar = {
        "train": {"start": "2020-01-01", "end": "2020-12-31"},
        "test_newest": {"start": "2021-01-01", "end": "2021-12-31"},
    }
    benchmark = made(tmp_path, tables, policy="time-only", calendar=calendar, tasks=["mortality"])
    lost = {row["encounter_id"] for row in benchmark.left_out().to_pylist() if "after their block" in row["rule"]}
    assert lost == {"e3", "e4"}  # discharged on 1 and 8 January, asked in December
    assert all(
        row["prediction_time"] >= datetime(2021, 1, 1) for row in benchmark.examples(splits=["test_newest"]).to_pylist()
    )


# Years.


def grouped(patients: int = 60) -> dict[str, Rows]:
    """Shifted records with the year groups of MIMIC: three years each, from 2008 to 2022; a tenth have none."""
    tables = population(patients, stays=4)
    for row in tables["encounters"]:
        number = int(row["patient_id"][1:])
        shift = timedelta(days=36500 + 97 * number)
        for name in ("admit_time", "discharge_time"):
            row[name] += shift
        if number % 10:
            row["year_low"] = 2008 + 3 * (number % 5)
            row["year_high"] = row["year_low"] + 2
    moved = {row["encounter_id"]: row for row in tables["encounters"]}
    tables["notes"] = []
    for row in moved.values():
        tables["notes"].append(hp(row["encounter_id"], row["patient_id"], row["admit_time"] + timedelta(hours=5)))
        tables["notes"].append(dc(row["encounter_id"], row["patient_id"], row["discharge_time"] + timedelta(hours=2)))
    return tables


SHIFTED: dict[str, Any] = {"time_basis": "shifted", "complete_through": {}}
YEARS = {
    "train": {"start": "2008-01-01", "end": "2016-12-31"},
    "test_newest": {"start": "2017-01-01", "end": "2022-12-31"},
}


def test_shifted_rows_are_placed_by_their_whole_range_of_years(tmp_path: Path) -> None:
    tables = grouped()
    years = {row["encounter_id"]: (row.get("year_low"), row.get("year_high")) for row in tables["encounters"]}
    benchmark = made(tmp_path, tables, SHIFTED, calendar=YEARS)
    for row in benchmark.examples().to_pylist():
        low, high = years[row["encounter_id"]]
        assert (low, high) != (None, None)
        assert (low >= 2017) == (row["split"] == "test_newest")
        # A horizon of 30 days from a stay that may end on 31 December 2016 reaches into the test.
        assert row["task"] == "mortality" or high != 2016
    assert {years[row["encounter_id"]][1] for row in benchmark.examples(["mortality"]).to_pylist()} >= {2016}
    rules = [row["rule"] for row in benchmark.left_out().to_pylist()]
    assert any(rule.startswith("all years in which") for rule in rules)
    assert any(rule.startswith("its horizon ends before the next block starts, whenever") for rule in rules)
    assert benchmark.pretraining_cut is None and benchmark.headline_split == "test_newest"
    assert any("by the true years" in notice for notice in benchmark.notices)


def test_the_paper_s_calendar_does_not_fit_the_years_of_mimic(tmp_path: Path) -> None:
    benchmark = made(tmp_path, grouped(), SHIFTED, calendar="paper")
    assert set(by_split(benchmark)) == {"train", "val", "test"}
    assert any("(2008 to 2022) lies within a temporal test" in notice for notice in benchmark.notices)


@pytest.mark.parametrize(("more", "first"), [({}, 2020), ({"calendar": {"last_months": 30}}, 2020)])
def test_auto_takes_the_newest_years_of_shifted_records(more: dict[str, Any], first: int, tmp_path: Path) -> None:
    benchmark = made(tmp_path, grouped(), SHIFTED, **({"calendar": "auto"} | more))
    blocks = benchmark.manifest.extra["blocks"]["mortality"]
    assert blocks == {"train": ["2008-01-01", f"{first - 1}-12-31"], "test_newest": [f"{first}-01-01", "2022-12-31"]}
    assert benchmark.examples(["mortality"], ["test_newest"]).num_rows


def test_auto_takes_more_years_where_few_stays_surely_lie_in_the_newest(tmp_path: Path) -> None:
    """MIMIC's groups, moved by the year of the stay: of the newest three years one stay in fifty surely lies within."""
    tables = grouped()
    for row in tables["encounters"]:
        if row.get("year_low"):
            late = int(row["encounter_id"].replace("-", "").lstrip("E")) * 7 % 50
            row["year_low"] = 2022 if late == 0 else 2008 + late % 11
            row["year_high"] = row["year_low"] + 2
    benchmark = made(tmp_path, tables, SHIFTED, calendar="auto", tasks=["mortality"])
    start = int(benchmark.manifest.extra["blocks"]["mortality"]["test_newest"][0][:4])
    lows = [row["year_low"] for row in tables["encounters"] if row.get("year_low")]
    assert start < 2022
    assert sum(low >= start for low in lows) >= len(lows) / 5 > sum(low >= start + 1 for low in lows)
    assert benchmark.examples(splits=["test_newest"]).num_rows and benchmark.examples(splits=["train"]).num_rows


def test_time_only_needs_dates(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="time-only needs time blocks"):
        made(tmp_path, grouped(5), SHIFTED, calendar=YEARS, policy="time-only")


def test_years_outside_their_block_are_refused(tmp_path: Path) -> None:
    benchmark = made(tmp_path, grouped(), SHIFTED, calendar=YEARS)
    example = benchmark.examples(splits=["train"])["example_id"][0].as_py()
    with pytest.raises(ArtefactError, match=f"years lie outside its block .example '{example}'"):
        Benchmark.open(changed(benchmark, tmp_path / "t", "places.parquet", "last_year", example, 2018))
    late = datetime(2017, 1, 2)
    with pytest.raises(ArtefactError, match=f"reaches into a later block .* .example '{example}'"):
        Benchmark.open(changed(benchmark, tmp_path / "u", "places.parquet", "reach", example, late))


# The newest months.


def test_auto_is_the_newest_fifth_with_the_longest_horizon_before_it(tmp_path: Path) -> None:
    benchmark = made(tmp_path, population(120), calendar="auto")
    (blocks,) = {str(b) for b in benchmark.manifest.extra["blocks"].values()}
    named = benchmark.manifest.extra["blocks"]["mortality"]
    start, end = (date.fromisoformat(day) for day in named["test_newest"])
    assert end == date(2024, 12, 31) and start.day == 1 and "test_older" not in blocks
    assert 0.2 <= (end - start).days / (end - date(2013, 1, 4)).days < 0.215
    assert start - date.fromisoformat(named["train"][1]) == timedelta(days=31)  # 30 whole days lie between
    assert benchmark.pretraining_cut == datetime(start.year, start.month, 1)
    # Written out, the calendar gives the same benchmark of a later extract.
    tables = population(140)
    later = made(tmp_path / "later", tables, calendar={name: {"start": a, "end": z} for name, (a, z) in named.items()})
    before = dict(zip(*(benchmark.examples()[c].to_pylist() for c in ("example_id", "split")), strict=True))
    now = dict(zip(*(later.examples()[c].to_pylist() for c in ("example_id", "split")), strict=True))
    assert before.items() <= now.items()


def test_auto_leaves_each_task_months_that_can_be_labelled(tmp_path: Path) -> None:
    """Claims take 180 days: a newest block of three months would hold none that is settled."""
    tables = population(200)
    first = datetime(2023, 6, 1)
    tables["encounters"] = [row for row in tables["encounters"] if row["admit_time"] > first]
    kept = {row["encounter_id"] for row in tables["encounters"]}
    for name in ("notes", "diagnoses", "claims"):
        tables[name] = [row for row in tables[name] if row["encounter_id"] in kept]
    alone = made(tmp_path / "alone", tables, calendar="auto", tasks=["mortality"])
    claims = made(tmp_path / "claims", tables, calendar="auto", tasks=["mortality", "insurance_denial"])
    start = [b.manifest.extra["blocks"]["mortality"]["test_newest"][0] for b in (alone, claims)]
    assert start == ["2024-08-01", "2024-04-01"]


def test_last_months(tmp_path: Path) -> None:
    benchmark = made(tmp_path, population(60), calendar={"last_months": 6})
    assert benchmark.manifest.extra["blocks"]["readmission"] == {
        "train": ["2013-01-04", "2024-05-31"],
        "test_newest": ["2024-07-01", "2024-12-31"],
    }


def test_auto_needs_some_time(tmp_path: Path) -> None:
    tables: dict[str, Rows] = {
        "encounters": [stay("e", "p", "2024-11-01 08:00", "2024-11-05 08:00")],
        "notes": [hp("e", "p", "2024-11-01 12:00")],
    }
    with pytest.raises(InputError, match="too short a time for a newest block") as error:
        made(tmp_path, tables, calendar="auto", tasks=["mortality"])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="last_month"):
        BuildSettings.model_validate({"calendar": {"last_months": 0}})


# Times.


def test_a_row_that_reaches_into_a_later_block_is_refused(tmp_path: Path) -> None:
    benchmark = made(tmp_path, population(120))
    rows = benchmark.examples(["readmission"]).to_pylist()
    inside = next(row for row in rows if row["split"] == "train")["example_id"]
    older = next(row for row in rows if row["split"] == "test_older")["example_id"]
    file = "examples.parquet"
    for number, (column, example, value) in enumerate(
        [
            ("horizon_end", inside, datetime(2021, 7, 1)),
            ("prediction_time", inside, datetime(2021, 7, 1)),
            ("horizon_end", older, datetime(2022, 7, 1)),
        ]
    ):
        with pytest.raises(ArtefactError, match=f"reaches into a later block of time .example '{example}'"):
            Benchmark.open(changed(benchmark, tmp_path / str(number), file, column, example, value))
    with pytest.raises(ArtefactError, match=f"horizon that ends before its index .example '{inside}'"):
        Benchmark.open(changed(benchmark, tmp_path / "h", file, "horizon_end", inside, datetime(2001, 1, 1)))


def test_given_labels_on_a_calendar_keep_their_horizon_from_the_next_block(tmp_path: Path) -> None:
    """They state no horizon: the card's days after the encounter count."""
    tables: dict[str, Rows] = {"encounters": [], "notes": [], "given_labels": []}
    for n, out in enumerate(datetime(2021, 6, 10, 9) + timedelta(days=day) for day in (0, 4, 10, 60)):
        tables["encounters"].append(stay(f"e{n}", f"p{n}", out - timedelta(days=2), out))
        tables["notes"].append(dc(f"e{n}", f"p{n}", out))
        tables["given_labels"].append({"encounter_id": f"e{n}", "task": "readmission", "value": str(n % 2)})
    calendar = {
        "train": {"start": "2021-01-01", "end": "2021-06-30"},
        "test_newest": {"start": "2021-07-12", "end": "2021-12-31"},
    }
    whole = {"train": 0.01, "val": 0.0, "test": 0.99}
    benchmark = made(tmp_path, tables, calendar=calendar, tasks=["readmission"], fractions=whole)
    split_of = {row["encounter_id"]: row["split"] for row in benchmark.examples().to_pylist()}
    assert split_of == {"e0": "test", "e3": "test_newest"}
