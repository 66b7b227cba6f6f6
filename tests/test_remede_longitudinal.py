"""Tasks that read a chart over time: golden labels through the command line, and the simulator's truth about them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from chart_world import CARDS, FIVE, charts
from test_remede_user_tasks import build, lang1, left, unit  # noqa: F401
from test_remede_world import Rows, dc, hp, labels, note, stay, write
from test_simulator_oracle import LARGEST_Z
from test_simulator_records import bench

from lang1.common.settings import validate_settings
from lang1.remede.benchmark import Benchmark
from lang1.remede.card import Prediction
from lang1.simulator import course, daily, oracle_daily
from lang1.simulator.daily_signs import DAY as DAY_SIGNS
from lang1.simulator.daily_signs import MOVES
from lang1.simulator.oracle_daily import Beliefs

ADMIT = "2020-01-02 08:00"


def day_note(name: str, at: str, **more: Any) -> dict[str, Any]:
    return note(name, name.lower(), "progress", at) | {"note_id": f"{name}/{at}"} | more


def test_deterioration_within_72_hours(tmp_path: Path, lang1: Any) -> None:  # noqa: F811
    """The day's note is available on 3 January at 8:00, a day after admission; the window closes on the 6th at 8:00."""
    icu = {
        "MOVED": "2020-01-04 08:00", "LAST": "2020-01-06 08:00", "LATE": "2020-01-06 08:01",
        "BEFORE": "2020-01-02 20:00", "NOHP": "2020-01-04 08:00", "NONOTE": "2020-01-04 08:00",
    }  # fmt: skip
    ends = {"DIES": "2020-01-05 10:00", "DIESLATER": "2020-01-07 10:00", "HOME": "2020-01-04 10:00"}
    names = [*icu, *ends, "UNTIMED", "SLOWNOTE", "EARLYNOTE"]
    units = [unit(name, "intensive_care", at, None) for name, at in icu.items()]
    units += [unit("UNTIMED", "intensive_care", None, None), unit("HOME", "ward", ADMIT, None)]
    at = dict.fromkeys(names, "2020-01-03 08:00")
    at |= {"SLOWNOTE": "2020-01-04 04:00", "EARLYNOTE": "2020-01-03 03:59"}
    encounters = [
        stay(n, n.lower(), ADMIT, ends.get(n, "2020-01-20 10:00"), disposition="expired" if "DIES" in n else "home")
        for n in names
    ]
    notes = [hp(n, n.lower(), "2020-01-02 12:00" if n != "NOHP" else "2020-01-03 09:00") for n in names]
    notes += [day_note(n, at[n]) for n in names if n != "NONOTE"]
    write(tmp_path / "records", {"encounters": encounters, "notes": notes, "unit_stays": units})
    assert build(lang1, tmp_path, "tasks=[deterioration_72h]") == 0
    benchmark = Benchmark.open(tmp_path / "out")
    yes, no = ("MOVED", "LAST", "DIES"), ("LATE", "DIESLATER", "HOME")
    assert labels(benchmark) == {f"deterioration_72h:{name}": int(name in yes) for name in (*yes, *no)}
    found = left(benchmark)
    assert found["BEFORE"] == "has not been in intensive care in this stay"
    assert found["NOHP"].startswith("a history and physical was available by then")
    assert "observable" in found["UNTIMED"]
    for name in ("NONOTE", "SLOWNOTE", "EARLYNOTE"):
        assert "available at least 20 hours and less than 44 hours after admission" in found[name]
    row = next(r for r in benchmark.examples().to_pylist() if r["encounter_id"] == "HOME")
    assert (row["prediction_time"], row["horizon_end"]) == (datetime(2020, 1, 3, 8), datetime(2020, 1, 6, 8))


def test_the_same_question_on_day_1_2_and_3(tmp_path: Path, lang1: Any) -> None:  # noqa: F811
    """LONG has a note each day, two on day 2; GAP lacks that of day 2; SHORT leaves on day 2; DIED dies on day 3."""
    days = {"LONG": (1, 2, 3), "GAP": (1, 3), "SHORT": (1,), "DIED": (1, 2)}
    ends = {
        "LONG": "2020-01-20 10:00",
        "GAP": "2020-01-20 10:00",
        "SHORT": "2020-01-03 20:00",
        "DIED": "2020-01-05 03:00",
    }
    start = datetime.fromisoformat(ADMIT)
    notes = [hp(name, name.lower(), "2020-01-02 12:00") for name in days]
    notes += [day_note(name, str(start + timedelta(days=d))) for name, given in days.items() for d in given]
    # A second note of day 2, an addendum to it, and one that comes after the death.
    notes += [day_note("LONG", "2020-01-04 20:00"), day_note("DIED", "2020-01-05 08:00")]
    notes.append(day_note("LONG", "2020-01-04 05:00", parent_note_id="LONG/2020-01-03 08:00:00"))
    encounters = [stay(n, n.lower(), ADMIT, ends[n], disposition="expired" if n == "DIED" else "home") for n in days]
    write(tmp_path / "records", {"encounters": encounters, "notes": notes})
    assert build(lang1, tmp_path, "tasks=[mortality, mortality_day_1, mortality_day_2, mortality_day_3]") == 0
    benchmark = Benchmark.open(tmp_path / "out")
    asked = {0: days, 1: days, 2: ("LONG", "DIED"), 3: ("LONG", "GAP")}
    names = {d: "mortality" if d == 0 else f"mortality_day_{d}" for d in asked}
    assert labels(benchmark) == {f"{names[d]}:{n}": int(n == "DIED") for d, who in asked.items() for n in who}
    rows = {(r["task"], r["encounter_id"]): r for r in benchmark.examples().to_pylist()}
    assert rows["mortality_day_2", "LONG"]["prediction_time"] == datetime(2020, 1, 4, 8)
    texts = benchmark.texts([r["note_id"] for r in rows.values()])
    read = texts[rows["mortality_day_2", "LONG"]["note_id"]]
    # All until the question, the addendum too, oldest first; nothing after it.
    marks = [
        "history_and_physical of LONG",
        "LONG at 2020-01-03",
        "LONG at 2020-01-04 05:00",
        "LONG at 2020-01-04 08:00",
    ]
    assert [read.index(mark) for mark in marks] == sorted(read.index(mark) for mark in marks)
    assert "2020-01-04 20:00" not in read and "2020-01-05" not in read


def test_return_within_90_days_of_the_past_years_notes(tmp_path: Path, lang1: Any) -> None:  # noqa: F811
    """Each is discharged on 5 June at 10:00; the note is available at 12:00."""
    out = datetime(2020, 6, 5, 10)
    back = {
        "DAY40": timedelta(days=40),
        "DAY90": timedelta(days=90),
        "DAY91": timedelta(days=90, minutes=1),
        "NEVER": None,
    }
    encounters: Rows = []
    for name in (*back, "DIED", "GONE"):
        encounters.append(stay(name, name.lower(), "2020-06-01 08:00", out))
        if (after := back.get(name)) is not None:
            encounters.append(stay(f"{name}2", name.lower(), out + after, out + after + timedelta(days=2)))
    encounters.append(stay("NEW", "new", "2024-10-01 08:00", "2024-10-03 10:00"))
    visit = {"encounter_class": "outpatient"}
    for name, at in (("OLD", "2019-06-06 11:59"), ("YEAR", "2019-06-06 12:00"), ("SOON", "2020-06-20 08:00")):
        encounters.append(stay(name, "never", at, at) | visit)
    notes = [dc(name, name.lower(), out + timedelta(hours=2)) for name in (*back, "DIED", "GONE")]
    notes += [dc("NEW", "new", "2024-10-03 12:00")]
    notes += [note(n, "never", "other", at) for n, at in (("OLD", "2019-06-06 11:59"), ("YEAR", "2019-06-06 12:00"))]
    notes += [note("SOON", "never", "other", "2020-06-20 09:00")]
    dead = [
        {"patient_id": "died", "death_time": out + timedelta(days=50), "death_source": "registry"},
        {"patient_id": "gone", "death_time": out + timedelta(hours=1), "death_source": "registry"},
    ]
    write(tmp_path / "records", {"patients": dead, "encounters": encounters, "notes": notes})
    assert build(lang1, tmp_path, "tasks=[return_90d]") == 0
    benchmark = Benchmark.open(tmp_path / "out")
    # A death without return counts as no return; one before the note leaves the row out.
    yes, no = ("DAY40", "DAY90"), ("DAY91", "NEVER", "DIED")
    assert labels(benchmark) == {f"return_90d:{name}": int(name in yes) for name in (*yes, *no)}
    found = left(benchmark)
    assert "inside the complete data" in found["NEW"] and "GONE" in found
    row = next(r for r in benchmark.examples().to_pylist() if r["encounter_id"] == "NEVER")
    (text,) = benchmark.texts([row["note_id"]]).values()
    assert "other of YEAR" in text and "other of OLD" not in text and "SOON" not in text


def test_hours_that_hold_nothing_are_refused() -> None:
    from lang1.common.errors import SettingsError

    values = {"earliest": "admission", "in_hospital": True, "words": "x", "from_hours": 20, "before_hours": 20}
    with pytest.raises(SettingsError, match="before_hours 20 must be later than from_hours 20"):
        validate_settings(Prediction, values, "card")


def test_simulated_charts_hold_no_note_of_the_future() -> None:
    sim, benchmarks = charts()
    db = duckdb.connect()
    db.register("examples", benchmarks["chart"].examples(CARDS))
    db.register("inputs", pq.read_table(benchmarks["chart"].folder.path / "inputs.parquet"))
    counts = db.execute(f"""
        SELECT x.task, count(*) FILTER (n.available_time > x.prediction_time), count(*),
            count(DISTINCT x.example_id) FILTER (n.note_type = 'history_and_physical'), count(DISTINCT x.example_id)
        FROM examples x JOIN inputs i ON i.input_id = x.note_id
        JOIN read_parquet('{sim}/riverside/notes/*.parquet') n ON n.note_id = i.note_id GROUP BY 1""").fetchall()
    assert {task for task, *_ in counts} == set(CARDS)
    for task, later, read, with_admission, asked in counts:
        assert later == 0 and read > asked, task
        assert with_admission == asked or task == "return_90d"


def test_the_truth_fits_the_outcomes_and_the_chart_tells_more_than_a_note() -> None:
    module = bench()
    sim, benchmarks = charts()
    told = {}
    for name, folder in (("chart", "riverside"), ("note", "riverside-newest-note")):
        table = pq.read_table(sim / "truth" / folder / "predictions.parquet")
        pairs = zip(table["example_id"].to_pylist(), table["probabilities"].to_pylist(), strict=True)
        told[name] = dict(pairs)
    higher = {"deterioration_72h": 0.03, "return_90d": 0.08} | {f"mortality_day_{d}": 0.10 for d in (1, 2, 3)}
    for task in CARDS:
        areas = {}
        for name, benchmark in benchmarks.items():
            rows = benchmark.examples([task]).to_pylist()
            y = np.array([row["label"] for row in rows])
            p = np.array([told[name][row["example_id"]] for row in rows])
            assert len(y) > 400 and module.calibration_z(y, p) < LARGEST_Z, (task, name)
            areas[name] = module.auroc(y, p)
        assert areas["chart"] - areas["note"] > higher[task], (task, areas)


def test_the_five_tasks_keep_exact_chances() -> None:
    module = bench()
    sim, _ = charts()
    found = module.frames(sim, "riverside")
    assert set(found) == set(FIVE)
    for task, frame in found.items():
        assert module.calibration_z(frame.y, frame.p) < LARGEST_Z, task


def test_daily_notes_state_every_sign_and_no_outcome() -> None:
    sim, _ = charts()
    texts = duckdb.execute(
        f"SELECT text FROM read_parquet('{sim}/riverside/notes/*.parquet') WHERE note_type = 'progress' LIMIT 300"
    ).fetchall()
    for (text,) in texts:
        assert all(f"{sign.names[0]} " in text for sign in DAY_SIGNS)
        assert sum(text.count(f" {word}") for word in MOVES[0]) >= len(DAY_SIGNS)
        assert not any(word in text.lower() for word in ("intensive", "icu", "died", "transfer"))


@pytest.mark.parametrize("now_hours", [22, 47, 71])
@pytest.mark.parametrize("admit_hour", [6, 20])
def test_chances_against_drawing_the_course_again_and_again(now_hours: int, admit_hour: int) -> None:
    """200,000 stays are drawn as the simulator draws them; those who are there count, by what was read."""
    rng = np.random.default_rng(admit_hour + now_hours)
    n, admit = 200_000, 10 * course.DAY + admit_hour * 60 + 17
    now = admit + now_hours * 60 - 13
    ends = np.array([[0.2, 0.2, 0.25, 0.2], [0.03, 0.03, 0.04, 0.05]])
    told = np.array([0.3, 0.6, 1.0])
    which = rng.choice(8, n, p=ends.ravel())
    died, length = which // 4, which % 4
    leave = course._leave(np.full(n, admit), length, rng)
    path = (rng.random(n)[:, None] > np.cumsum(daily.COURSE[died, length], axis=1)[:, :2]).sum(axis=1)
    icu = admit + rng.integers(daily.ICU_FIRST, daily.ICU_LAST, n)
    moved = (rng.random(n) < daily.ICU[path]) & (icu < leave)
    weight = told[path] * (leave > now)
    b = Beliefs(ends[None], told[None], np.array([admit]), np.array([now]))

    def agrees(got: float, event: np.ndarray, asked: np.ndarray) -> None:
        w = weight * asked
        expected = float((w * event).sum() / w.sum())
        spread = np.sqrt(expected * (1 - expected) / (w.sum() ** 2 / (w**2).sum()))
        assert got == pytest.approx(expected, abs=4.5 * spread + 1e-6)

    agrees(float(oracle_daily.death(b)[0]), died == 1, np.ones(n))
    ward = ~(moved & (icu <= now))
    soon = moved & (icu > now) & (icu <= now + 72 * 60)
    gone = (died == 1) & (leave <= now + 72 * 60)
    agrees(float(oracle_daily.intensive_care(b, 72 * 60, True)[0]), soon | gone, ward)
    early = moved & (icu > now) & (icu <= now + 48 * 60)
    agrees(float(oracle_daily.intensive_care(b, 48 * 60, False)[0]), early, ward)
