"""Probabilities for new notes: what a finetuned model says of a table of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from lang1.common.artefact import Folder, open_folder
from lang1.common.errors import ArtefactError, InputError, Lang1Error, SettingsError
from lang1.common.progress import Meter, say
from lang1.evaluation.examples import Group, Item
from lang1.evaluation.predict_benchmark import note_limits
from lang1.evaluation.settings import EvaluateSettings
from lang1.model.answering import ScoreTable, score_groups
from lang1.model.precision import pick_device, pick_dtype
from lang1.model.store import load_model
from lang1.remede.benchmark import Benchmark
from lang1.remede.card import Card, load_card

INPUTS = (".csv", ".parquet", ".jsonl")
OUTPUTS = (".csv", ".parquet")


def predict(
    model: Path,
    notes: Path,
    out: Path,
    tasks: Sequence[str] | None = None,
    settings: EvaluateSettings | None = None,
) -> Path:
    """Answer a finetuned model's questions about new notes.

    Args:
        model: finetuned model folder.
        notes: CSV, Parquet or JSONL with columns ``note_id`` and ``text``; with a column ``note_type`` a note gets
            only the questions that are asked of its type, and notes of other types are counted.
        out: CSV or Parquet file, one row a note, task and option: ``note_id, task, option, probability, option_mass,
            truncated``.
        tasks: only these of the model's tasks.
        settings: note budget, batch size, device; tasks and bootstrap are not read.

    Raises:
        InputError: the notes are missing, empty, lack a column, or hold an empty or repeated id.
        ArtefactError: the model folder is damaged, or was not finetuned on any task.
        SettingsError: a task that the model was not finetuned on.
    """
    settings = settings or EvaluateSettings()  # type: ignore[call-arg]
    if out.suffix.lower() not in OUTPUTS:
        raise InputError(f"{out}: predictions are written as {' or '.join(OUTPUTS)}; choose such a name.")
    if out.exists():
        raise ArtefactError(f"{out} exists already: choose another file, or remove it first.")
    folder = open_folder(model, "model")
    asked = _asked(folder, tasks)
    table = _read_notes(notes)
    device = pick_device(settings.device)
    loaded = load_model(model, device, pick_dtype(device, settings.precision))
    budget, truncation = note_limits(folder, settings)
    groups = list(_groups(table, asked))
    skipped = table.num_rows - len(groups)
    if skipped:
        say(f"{notes}: {skipped} of {table.num_rows} notes are of a type that no task asks about; they get no answer.")
    if not groups:
        raise InputError(f"{notes}: no note is of a type that the model was finetuned on.")
    with Meter("predict", sum(len(group.items) for group in groups), "answers") as meter:
        scores = score_groups(
            loaded.model,
            loaded.tokenizer,
            groups,
            {task: one.question for task, one in asked.items()},
            {task: len(one.options) for task, one in asked.items()},
            budget,
            truncation,
            settings.tokens_per_batch,
            meter,
        )
    cut = sum(1 for one in scores.truncated if one)
    if cut:
        say(f"{cut} of {len(scores)} answers read a note that was cut to {budget} tokens.")
    _write(out, _answers(scores, groups, asked))
    return out


class _Question:
    """What is asked for one task."""

    def __init__(self, question: str, options: Sequence[str], note_type: str | None) -> None:
        self.question, self.options, self.note_type = question, tuple(options), note_type


def _asked(folder: Folder, tasks: Sequence[str] | None) -> dict[str, _Question]:
    extra = folder.manifest.extra
    known: list[str] = list(extra.get("tasks") or [])
    if not known:
        raise ArtefactError(f"{folder.path} was not finetuned on any task; finetune it first (lang1 finetune).")
    for task in tasks or ():
        if task not in known:
            raise SettingsError(f"unknown task '{task}': {folder.path} was finetuned on {', '.join(known)}.")
    wanted = [task for task in known if tasks is None or task in tasks]
    cards = _cards(folder, wanted)
    questions, options = extra.get("questions") or {}, extra.get("options") or {}
    return {
        task: _Question(
            questions.get(task) or cards[task].question(),
            options.get(task) or cards[task].options,
            cards[task].note_type if task in cards else None,
        )
        for task in wanted
    }


def _cards(folder: Folder, tasks: Sequence[str]) -> dict[str, Card]:
    """The cards that the model was finetuned with, where their benchmark still lies there; else the shipped ones."""
    ref = folder.manifest.inputs.get("benchmark")
    if ref is not None:
        try:
            benchmark = Benchmark.open(ref.path)
        except Lang1Error:
            pass
        else:
            if benchmark.folder.fingerprint == ref.fingerprint:
                return {task: benchmark.cards[task] for task in tasks}
    found: dict[str, Card] = {}
    for task in tasks:
        try:
            found[task] = load_card(task)
        except SettingsError as error:
            if task not in (folder.manifest.extra.get("questions") or {}):
                raise ArtefactError(
                    f"{folder.path}: the question of task '{task}' is not stored with the model ({error})"
                ) from error
    if not folder.manifest.extra.get("questions"):
        say("The model's benchmark is not there any more: the shipped questions and options are used.")
    return found


def _read_notes(file: Path) -> pa.Table:
    if not file.is_file():
        raise InputError(f"{file} does not exist: expected notes as {', '.join(INPUTS)}.")
    kind = file.suffix.lower()
    if kind not in INPUTS:
        raise InputError(f"{file}: expected notes as {', '.join(INPUTS)}.")
    try:
        if kind == ".csv":
            # Ids stay text ("007"), notes may hold line breaks, and an empty text is empty, not unknown.
            typed = {"note_id": pa.string(), "text": pa.string(), "note_type": pa.string()}
            table = pacsv.read_csv(
                file,
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(column_types=typed, strings_can_be_null=False),
            )
        elif kind == ".parquet":
            table = pq.read_table(file)
        else:
            table = pajson.read_json(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as {kind[1:]} ({error}); mend or export it again.") from error
    columns: dict[str, Any] = {}
    for name in ("note_id", "text", "note_type"):
        if name not in table.column_names:
            if name == "note_type":
                continue
            raise InputError(f"{file}: column '{name}' is missing; needed are note_id and text.")
        try:
            columns[name] = table[name].cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{file}: column '{name}' holds {table[name].type}, expected text.") from error
    notes = pa.table(columns)
    if not notes.num_rows:
        raise InputError(f"{file} holds no notes.")
    for name in ("note_id", "text"):
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(notes[name]), ""), True)
        row = pc.index(empty, True).as_py()
        if row >= 0:
            raise InputError(f"{file} row {row + 1}: {name} is empty; give every note an id and a text.")
    counts = pc.value_counts(notes["note_id"])
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(
            f"{file}: note_id '{twice[0]['values']}' stands there {twice[0]['counts']} times; ids are unique."
        )
    return notes


def _groups(table: pa.Table, asked: dict[str, _Question]) -> Iterator[Group]:
    types: list[str | None] = [None] * table.num_rows
    if "note_type" in table.column_names:
        types = table["note_type"].to_pylist()
    for note, text, kind in zip(table["note_id"].to_pylist(), table["text"].to_pylist(), types, strict=True):
        items = tuple(
            Item(f"{task}:{note}", task)
            for task, one in asked.items()
            if not kind or one.note_type is None or kind == one.note_type
        )
        if items:
            yield Group(note, text, items)


def _answers(scores: ScoreTable, groups: Sequence[Group], asked: dict[str, _Question]) -> pa.Table:
    note_of = {item.example_id: group.note_id for group in groups for item in group.items}
    rows: list[dict[str, Any]] = []
    for i, example in enumerate(scores.example_ids):
        task = scores.tasks[i]
        for option, probability in zip(asked[task].options, scores.probabilities(i), strict=True):
            rows.append(
                {
                    "note_id": note_of[example],
                    "task": task,
                    "option": option,
                    "probability": float(probability),
                    "option_mass": scores.option_mass(i),
                    "truncated": scores.truncated[i],
                }
            )
    return pa.Table.from_pylist(rows)


def _write(out: Path, table: pa.Table) -> None:
    temporary = out.with_name(f".{out.name}.partial")
    try:
        if out.suffix.lower() == ".csv":
            pacsv.write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtefactError(f"{out} cannot be written ({error.strerror}); choose another place.") from error
