"""Inputs of several notes: which are read, how they are written, shared and cut, and what is refused."""

from __future__ import annotations

import random
import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_remede_world import Rows, hp, labels, note, settings, stay, write

from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.evaluation.examples import asked
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark, NoteGroup
from lang1.remede.build import build
from lang1.text.chart import Chart, fit, header
from lang1.text.shared_note import encode_groups
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

START = datetime(2020, 3, 1, 8)
TASKS = ["mortality", "length_of_stay"]
WINDOW = {"select": "window", "days": 3, "scope": "patient"}
LAST = {"select": "last_k", "k": 2}


def world(seed: int = 0, patients: int = 12) -> dict[str, Rows]:
    """Patients with three stays and notes at random times: some amended, unsigned, of unknown time, or by day only."""
    rng = random.Random(seed)
    tables: dict[str, Rows] = {"encounters": [], "notes": []}
    for p in range(patients):
        for s in range(3):
            admit = START + timedelta(days=5 * s + p, hours=rng.randrange(9))
            name, who = f"e{p}-{s}", f"p{p}"
            tables["encounters"].append(stay(name, who, admit, admit + timedelta(days=2, hours=5)))
            tables["notes"].append(hp(name, who, admit + timedelta(hours=6)))
            for n in range(rng.randrange(6)):
                kind = rng.choice(["progress", "nursing", "radiology"])
                time: datetime | None = admit + timedelta(minutes=rng.randrange(-600, 900))
                if rng.random() < 0.2:
                    time = datetime.combine(time.date(), datetime.min.time()) if time else None
                elif rng.random() < 0.1:
                    time = None
                more: dict[str, Any] = {"note_id": f"{name}/{n}", "text": f"{kind} {n} of {name}"}
                if rng.random() < 0.3:
                    more["parent_note_id"] = f"{name}/history_and_physical"
                if rng.random() < 0.3:
                    more["signed_time"] = None
                elif time is None:
                    more["signed_time"] = admit  # signed, but nobody knows from when it could be read
                tables["notes"].append(note(name, who, kind, time) | more)
    return tables


def made(place: Path, tables: dict[str, Rows], inputs: dict[str, Any], tasks: list[str] = TASKS, **more: Any) -> Any:
    cards = {task: {"inputs": inputs} | more for task in tasks}
    return Benchmark.open(build(write(place / "r", tables), place / "b", settings(tasks=tasks, cards=cards)))


def end_of_day(time: datetime) -> datetime:
    bare = time == datetime.combine(time.date(), datetime.min.time())
    return time + timedelta(days=1) - timedelta(microseconds=1) if bare else time


def expected(tables: dict[str, Rows], row: dict[str, Any], inputs: dict[str, Any], signed: bool) -> list[str]:
    """The ids of the notes that a row should read, by hand."""
    found = []
    for one in tables["notes"]:
        mine = "patient_id" if inputs.get("scope") == "patient" else "encounter_id"
        if one[mine] != row[mine] or one["available_time"] is None or (signed and one["signed_time"] is None):
            continue
        usable = end_of_day(one["available_time"])
        if signed:
            usable = max(usable, end_of_day(one["signed_time"]))
        age = row["prediction_time"] - usable
        late = "days" in inputs and age > timedelta(days=inputs["days"])
        if age >= timedelta(0) and not late and one["note_type"] in inputs.get("note_types", [one["note_type"]]):
            found.append((usable, one["note_id"]))
    return [name for _, name in sorted(found)][-inputs.get("k", 10**6) :]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "inputs", [WINDOW, LAST, {"select": "last_k", "k": 50, "scope": "patient", "note_types": ["progress", "nursing"]}]
)
def test_the_notes_that_were_there_are_read_oldest_first(inputs: dict[str, Any], signed: bool, tmp_path: Path) -> None:
    tables = world(3)
    benchmark = made(tmp_path, tables, inputs, note_signed=signed)
    stored: dict[str, list[str]] = {}
    for row in pq.read_table(tmp_path / "b" / "inputs.parquet").to_pylist():
        assert row["position"] == len(stored.setdefault(row["input_id"], [])) and row["hours_before"] >= 0
        stored[row["input_id"]].append(row["note_id"])
    rows = benchmark.examples().to_pylist()
    assert len(rows) > 40
    for row in rows:
        assert stored[row["note_id"]] == expected(tables, row, inputs, signed)
    # Rows without any such note are left out, counted.
    kept = {(row["task"], row["encounter_id"]) for row in rows}
    for row in benchmark.left_out().to_pylist():
        if row["rule"].startswith("a note of its input"):
            assert (row["task"], row["encounter_id"]) not in kept
    lost = [n for reason, n in benchmark.manifest.left_out.items() if "a note of its input" in reason]
    assert bool(lost) == ("note_types" in inputs)


def test_what_happens_later_changes_no_input(tmp_path: Path) -> None:
    """Delete every note that came after a question, or add some, and its input stays as it is."""
    tables = world(5)
    whole = made(tmp_path / "whole", tables, WINDOW, tasks=["mortality"])
    rows = sorted(whole.examples().to_pylist(), key=lambda row: row["prediction_time"])
    for number in (8, len(rows) // 2, len(rows) - 9):
        row = rows[number]
        now = row["prediction_time"]
        before = [n for n in tables["notes"] if n["available_time"] is None or end_of_day(n["available_time"]) <= now]
        assert 0 < len(before) < len(tables["notes"])
        late = note(row["encounter_id"], row["patient_id"], "progress", now + timedelta(seconds=1))
        for name, notes in (("cut", before), ("more", [*tables["notes"], late | {"note_id": "late", "text": "died"}])):
            other = made(tmp_path / f"{name}{number}", tables | {"notes": notes}, WINDOW, tasks=["mortality"])
            (same,) = [one for one in other.examples().to_pylist() if one["example_id"] == row["example_id"]]
            assert same["note_id"] == row["note_id"]
            assert other.texts([row["note_id"]]) == whole.texts([row["note_id"]])


def test_headers_tell_type_and_age_and_never_a_date(tmp_path: Path) -> None:
    at = START + timedelta(hours=30)
    tables: dict[str, Rows] = {
        "encounters": [
            stay("old", "a", START - timedelta(days=9), START - timedelta(days=8)),
            stay("now", "a", START, START + timedelta(days=5)),
        ],
        "notes": [
            note("old", "a", "radiology", START - timedelta(days=9)) | {"text": "Clear lungs."},
            note("now", "a", "progress", at - timedelta(hours=5)) | {"text": "Better.\n\n\n\nEating. "},
            note("now", "a", "progress", at - timedelta(minutes=5))
            | {"note_id": "x", "parent_note_id": "now/progress", "text": "Worse."},
            hp("now", "a", at) | {"text": "Cough."},
            note("now", "a", "nursing", at + timedelta(minutes=1)) | {"note_id": "late", "text": "Died."},
        ],
    }
    inputs = {"select": "last_k", "k": 9, "scope": "patient"}
    benchmark = made(tmp_path, tables, inputs)
    (row,) = [row for row in benchmark.examples(["mortality"]).to_pylist() if row["encounter_id"] == "now"]
    assert benchmark.texts([row["note_id"]])[row["note_id"]] == (
        "[radiology report, 10 days before]\nClear lungs.\n\n"
        "[progress note, 5 hours before]\nBetter.\n\n\n\nEating. \n\n"
        "[progress note, addendum, less than 1 hour before]\nWorse.\n\n"
        "[history and physical, less than 1 hour before]\nCough."
    )
    group = next(g for g in benchmark.note_groups("train") if g.note_id == row["note_id"])
    assert len(group.items) == 2 and group.chart is not None  # both tasks share the input
    assert group.chart.bodies(clean=True)[1] == "Better.\n\nEating.\n\n"
    metadata = benchmark.metadata(benchmark.examples(["mortality"]))
    words = dict(zip(metadata["example_id"].to_pylist(), metadata["note_words"].to_pylist(), strict=True))
    assert words["mortality:now"] == 6
    bare = made(tmp_path / "bare", tables, inputs | {"header": False})
    assert "[" not in "".join(bare.texts(bare.examples()["note_id"].to_pylist()).values())
    assert bare.examples()["note_id"] != benchmark.examples()["note_id"]


@pytest.mark.parametrize(
    ("hours", "words"),
    [(0, "less than 1 hour"), (1, "1 hour"), (23, "23 hours"), (24, "1 day"), (47, "1 day"), (48, "2 days")],
)
def test_ages(hours: int, words: str) -> None:
    assert header("progress", hours) == f"[progress note, {words} before]\n"


def test_the_labels_and_rows_do_not_depend_on_the_input(tmp_path: Path) -> None:
    tables = world(1)
    single = made(tmp_path / "single", tables, {"select": "single"})
    several = made(tmp_path / "several", tables, WINDOW)
    assert labels(single) == labels(several)
    same = [name for name in single.examples().column_names if name != "note_id"]
    assert single.examples().select(same).equals(several.examples().select(same))
    assert not (single.folder.path / "inputs.parquet").exists() and "chart:" not in str(single.examples()["note_id"])


# Cutting to a budget.


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=8),
    st.integers(1, 80),
    st.booleans(),
)
def test_whole_notes_leave_from_one_end_and_one_is_cut(notes: list[tuple[int, int]], budget: int, oldest: bool) -> None:
    heads, bodies = [h for h, _ in notes], [b for _, b in notes]
    kept = fit(heads, bodies, budget, "oldest" if oldest else "newest")
    if oldest:
        kept, heads, bodies = kept[::-1], heads[::-1], bodies[::-1]
    stays = [n >= 0 for n in kept]
    assert stays[0] and stays == sorted(stays, reverse=True)
    number = sum(stays)
    assert kept[: number - 1] == bodies[: number - 1]
    used = sum(heads[:number]) + sum(kept[:number])
    if number > 1 or heads[0] < budget:
        assert used <= budget
    if sum(heads) + sum(bodies) <= budget:
        assert kept == bodies
    elif number < len(notes) and kept[number - 1] == bodies[number - 1]:
        # What left had no room for one token under its header.
        assert budget - used < heads[number] + min(1, bodies[number])
    elif kept[number - 1] < bodies[number - 1] and (number > 1 or heads[0] < budget):
        assert used == budget


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [f"{word} {n} of e{n}" for n in range(40) for word in ("progress", "nursing", "radiology")]
    return train_tokenizer([*texts, header("progress", 30)], 400, required=["\nAnswer: A B C D"])


def test_the_budget_drops_oldest_notes_then_cuts_one(tokenizer: Tokenizer) -> None:
    notes = tuple(f"note {n} " + "pain fever " * 6 for n in range(4))
    chart = Chart(tuple(header("progress", 100 - n) for n in range(4)), notes)
    group = NoteGroup("chart:x", chart.text, [], chart)
    whole = encode_groups([group], tokenizer, {}, 10_000)
    size = len(whole.note_tokens)
    assert tokenizer.decode(whole.note_tokens) == "".join(
        head + body for head, body in zip(chart.headers, chart.bodies(clean=True), strict=True)
    )
    each = size // 4
    for truncation in ("head", "tail"):
        cut = encode_groups([group], tokenizer, {}, 2 * each + each // 2, truncation)
        text = tokenizer.decode(cut.note_tokens)
        assert len(cut.note_tokens) == 2 * each + each // 2 and cut.truncated.tolist() == [size - len(cut.note_tokens)]
        # Two whole notes, and of the one before them its header and the part that the run keeps.
        assert re.findall(r"note (\d) pain", text) == (["1", "2", "3"] if truncation == "head" else ["2", "3"])
        assert text.startswith("[progress note, 4 days before]\n") and text.count("[") == 3
        assert text.endswith(chart.notes[3].strip())
    newest = NoteGroup("chart:y", chart.text, [], Chart(chart.headers, notes, "newest"))
    text = tokenizer.decode(encode_groups([newest], tokenizer, {}, 2 * each + each // 2).note_tokens)
    assert re.findall(r"note (\d) pain", text) == ["0", "1", "2"]
    for budget in (1, 2, 5, each, size):
        assert len(encode_groups([group], tokenizer, {}, budget).note_tokens) <= budget


def test_generalists_cut_note_by_note_too(tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    from lang1.evaluation.scorers.generalist import Generalist
    from lang1.evaluation.scorers.prompts import Cutter, Prompted

    model = Generalist.__new__(Generalist)
    model.cutter = Cutter(model._spans)
    model.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.inner)
    notes = tuple(f"note {n} " + "pain fever " * 6 for n in range(4))
    chart = Chart(tuple(header("progress", 100 - n) for n in range(4)), notes)
    question = "\nAnswer:"
    tail = len(tokenizer.encode(question))
    ids, cut = model._prompt(Prompted(chart.text, "t", chart), question, "", 10_000, "head")
    assert (
        cut == 0
        and model.tokenizer.decode(ids)
        == "".join(head + body for head, body in zip(chart.headers, chart.bodies(clean=True), strict=True)) + question
    )
    size = len(ids) - tail
    budget = size // 2 + size // 8
    ids, cut = model._prompt(Prompted(chart.text, "t", chart), question, "", budget, "head")
    text = model.tokenizer.decode(ids)
    assert len(ids) <= budget + tail and cut >= size - budget
    assert text.startswith("[progress note, 4 days before]\nnote 1 pain") and text.endswith(question)
    assert re.findall(r"note (\d) pain", text) == ["1", "2", "3"]


def test_evaluation_reads_the_same_tokens_as_training(tokenizer: Tokenizer, tmp_path: Path) -> None:
    benchmark = made(tmp_path, world(2), WINDOW)
    chosen = asked(benchmark, EvaluateSettings(splits=["train"]))
    questions = dict.fromkeys(TASKS, "\nAnswer:")
    scored = encode_groups(chosen.groups(), tokenizer, questions, 60)
    trained = encode_groups(benchmark.note_groups("train"), tokenizer, questions, 60)

    def read(encoded: Any) -> dict[str, list[int]]:
        found = {}
        for g in range(len(encoded)):
            tokens = encoded.note_tokens[encoded.note_ends[g] : encoded.note_ends[g + 1]].tolist()
            for i in range(encoded.item_ends[g], encoded.item_ends[g + 1]):
                found[encoded.example_ids[i]] = [int(encoded.truncated[g]), *tokens]
        return found

    assert read(scored) == read(trained) and max(row[0] for row in read(scored).values()) > 0


# Refusals.


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"select": "last_k"}, "takes k"),
        ({"select": "window", "days": 3, "k": 2}, "takes days"),
        ({"select": "single", "k": 2}, "neither k nor days"),
        ({"select": "last_k", "k": 0}, "greater than or equal to 1"),
        ({"select": "last_k", "k": 1, "note_types": ["progres"]}, "no type 'progres'"),
        ({"select": "last_k", "k": 1, "ordr": "x"}, "did you mean 'inputs.order'|did you mean 'order'"),
    ],
)
def test_inputs_that_cannot_be_used(inputs: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=says):
        made(tmp_path, world(patients=1), inputs)


def test_records_whose_times_cannot_say_what_came_before(tmp_path: Path) -> None:
    tables = world(patients=2)
    place = write(tmp_path / "r", tables, time_basis="within_stay", complete_through={})
    cards = {"mortality": {"inputs": WINDOW}}
    with pytest.raises(InputError, match=r"reads notes of earlier encounters.*within_stay; set .*scope=encounter"):
        build(place, tmp_path / "b", settings(tasks=["mortality"], cards=cards))
    cards = {"mortality": {"inputs": WINDOW | {"scope": "encounter"}}}
    assert build(place, tmp_path / "c", settings(tasks=["mortality"], cards=cards))
    row = {"note_id": "n", "patient_id": "a", "encounter_id": "A", "note_type": "history_and_physical", "text": "x"}
    bare = {
        "encounters": [stay("A", "a", None, None, sequence=1)],
        "notes": [row],
        "given_labels": [{"encounter_id": "A", "task": "mortality", "value": "0"}],
    }
    place = write(tmp_path / "o", bare, time_basis="ordinal", complete_through={})
    with pytest.raises(InputError, match="reads notes over time, and time_basis is ordinal"):
        build(place, tmp_path / "d", settings(tasks=["mortality"], cards=cards))


def test_tampered_inputs_are_refused_by_example(tmp_path: Path) -> None:
    benchmark = made(tmp_path, world(4), WINDOW, tasks=["mortality"])
    file = benchmark.folder.path / "inputs.parquet"
    table = pq.read_table(file)
    example_of = dict(zip(*(benchmark.examples()[c].to_pylist() for c in ("note_id", "example_id")), strict=True))
    sizes = table["input_id"].to_pylist()
    hours_of = table["hours_before"].to_pylist()
    place = next(i for i in range(len(sizes) - 1) if sizes[i] == sizes[i + 1] and hours_of[i] > hours_of[i + 1])

    def tampered(name: str, changed: pa.Table) -> Path:
        folder = tmp_path / name
        shutil.copytree(benchmark.folder.path, folder)
        pq.write_table(changed, folder / "inputs.parquet")
        return folder

    def with_hours(value: int) -> pa.Table:
        hours = table["hours_before"].to_pylist()
        hours[place] = value
        return table.set_column(3, table.schema.field(3), pa.array(hours, pa.int32()))

    example = example_of[sizes[place]]
    with pytest.raises(ArtefactError, match=f"from after the question .example '{example}'"):
        Benchmark.open(tampered("later", with_hours(-1)))
    shuffled = table["position"].to_pylist()
    shuffled[place] = 99
    moved = table.set_column(1, table.schema.field(1), pa.array(shuffled, pa.int32()))
    with pytest.raises(ArtefactError, match=f"oldest first .example '{example}'"):
        Benchmark.open(tampered("order", moved))
    with pytest.raises(ArtefactError, match=f"lacks the notes of an example's input .example '{example}'"):
        Benchmark.open(tampered("lost", table.filter(pa.array([name != sizes[place] for name in sizes]))))
    (tampered("gone", table) / "inputs.parquet").unlink()
    with pytest.raises(ArtefactError, match="not a readable benchmark"):
        Benchmark.open(tmp_path / "gone")
