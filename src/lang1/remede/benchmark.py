"""Reading a benchmark: examples, questions, and the notes that lie in the records folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lang1.common.artefact import Folder, Manifest, open_folder
from lang1.common.errors import ArtefactError, InputError
from lang1.records.store import Records
from lang1.remede import charts
from lang1.remede.card import Card, read_card
from lang1.remede.cohort import literal
from lang1.remede.promises import check_promises
from lang1.remede.settings import SPLITS
from lang1.text.chart import Chart

KIND = "benchmark"
EXAMPLES, SPLITS_FILE, LEFT_OUT, CARDS = "examples.parquet", "splits.parquet", "left_out.parquet", "cards"
# Only where years or sites decide over splits: example_id, site, first_year, last_year, reach.
PLACES = "places.parquet"


@dataclass(frozen=True)
class Item:
    """One question of a note: the example's id, its task, and the index of the right option."""

    example_id: str
    task: str
    label: int


@dataclass(frozen=True)
class NoteGroup:
    """A note, or an input of several, and the questions that are asked about it.

    Attributes:
        note_id: of the note or the input.
        text: all of it.
        items: the questions.
        chart: the notes of an input of several, which are cut to a budget note by note; None for one note.
    """

    note_id: str
    text: str
    items: list[Item]
    chart: Chart | None = None


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A complete benchmark folder, opened for reading.

    Attributes:
        folder: the artefact folder.
        cards: the resolved card of each task.
    """

    folder: Folder
    cards: dict[str, Card]
    _examples: pa.Table
    _inputs: pa.Table | None = None

    @classmethod
    def open(cls, path: Path | str) -> Benchmark:
        """Open a benchmark and prove its promises again (``promises.py``).

        Tasks and labels fit the cards; patients, sites and times of its splits are apart; no note comes after its
        question.

        Raises:
            ArtefactError: missing, half written, damaged, or a promise that an example breaks.
        """
        folder = open_folder(path, KIND)
        try:
            examples = pq.read_table(folder.path / EXAMPLES)
            cards = {task: read_card(folder.path / CARDS / f"{task}.yaml") for task in folder.manifest.extra["tasks"]}
            tables = {"examples": examples, "folds": pq.read_table(folder.path / SPLITS_FILE)}
            if folder.manifest.extra.get("held_out_sites") or folder.manifest.extra.get("placed_by") == "years":
                tables["places"] = pq.read_table(folder.path / PLACES)
            if any(charts.composed(card) for card in cards.values()):
                tables["inputs"] = pq.read_table(folder.path / charts.FILE)
            check_promises(folder.path, cards, folder.manifest.extra, tables)
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise ArtefactError(f"{folder.path}: not a readable benchmark ({error}); build it again.") from error
        if examples.num_rows != folder.manifest.counts.get("examples"):
            raise ArtefactError(f"{folder.path}: {EXAMPLES} and manifest.json differ in rows; build it again.")
        return cls(folder, cards, examples, tables.get("inputs"))

    @property
    def manifest(self) -> Manifest:
        return self.folder.manifest

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(self.cards)

    @property
    def headline_split(self) -> str:
        """The newest test split that the benchmark has."""
        return str(self.manifest.extra["headline_split"])

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The attrition ledger: ``task, order, rule, rows, patients, outcomes`` (what remains after each rule)."""
        return list(self.manifest.extra["ledger"])

    @property
    def shares(self) -> list[dict[str, Any]]:
        """Class shares: ``task, split, class, label, n, share``."""
        return list(self.manifest.extra["shares"])

    @property
    def notices(self) -> list[str]:
        """What a user should know about how the records were read."""
        return list(self.manifest.extra["notices"])

    @property
    def pretraining_cut(self) -> datetime | None:
        """Text that was available from this moment on may not be pretrained on; null where there are no time blocks."""
        cut = self.manifest.extra["pretraining_cut"]
        return datetime.fromisoformat(cut) if cut else None

    def folds(self) -> pa.Table:
        """``patient_id, fold`` of every patient in the records: ``train``, ``val`` or ``test``."""
        return pq.read_table(self.folder.path / SPLITS_FILE, columns=["patient_id", "fold"])

    def training_patients(self) -> set[str]:
        """The patients whose notes may be trained on."""
        folds = self.folds()
        return set(folds.filter(pc.equal(folds["fold"], "train"))["patient_id"].to_pylist())

    def left_out(self) -> pa.Table:
        """``task, encounter_id, order, rule``: which rule of the ledger left each encounter out."""
        return pq.read_table(self.folder.path / LEFT_OUT)

    @cached_property
    def records(self) -> Records:
        """The records that the benchmark was built from.

        Raises:
            ArtefactError: they are gone or are not the same any more.
        """
        said = self.manifest.extra["records"]
        places = [Path(said["path"]), self.folder.path.resolve() / said["relative"]]
        place = next((place for place in places if place.exists()), places[0])
        records = Records.open(place)
        if records.folder.fingerprint != said["fingerprint"]:
            raise ArtefactError(
                f"{place}: the records changed since {self.folder.path} was built from them; build the benchmark again."
            )
        return records

    def questions(self) -> dict[str, str]:
        """The rendered question of each task."""
        return {task: card.question() for task, card in self.cards.items()}

    def examples(self, tasks: Sequence[str] | None = None, splits: Sequence[str] | None = None) -> pa.Table:
        """The examples of some tasks and splits (all where null), ordered by task and encounter id.

        Raises:
            InputError: an unknown task or split.
        """
        table = self._examples
        for column, asked, known in (("task", tasks, self.tasks), ("split", splits, list(SPLITS))):
            if asked is None:
                continue
            for name in asked:
                if name not in known:
                    raise InputError(f"{self.folder.path}: no {column} '{name}'; it has {', '.join(known)}.")
            table = table.filter(pc.is_in(table[column], pa.array(asked, pa.string())))
        return table

    def charts(self, note_ids: Iterable[str]) -> dict[str, Chart]:
        """Those of ``note_ids`` that are inputs of several notes, composed.

        Raises:
            ArtefactError: a note is not in the records.
        """
        if self._inputs is None:
            return {}
        asked = self._inputs.filter(pc.is_in(self._inputs["input_id"], pa.array(list(note_ids), pa.string())))
        return charts.read_charts(self.records, asked, self._card_of_input) if asked.num_rows else {}

    @cached_property
    def _card_of_input(self) -> dict[str, Card]:
        tasks = [task for task, card in self.cards.items() if charts.composed(card)]
        table = self.examples(tasks)
        pairs = zip(table["note_id"].to_pylist(), table["task"].to_pylist(), strict=True)
        return {input_id: self.cards[task] for input_id, task in pairs}

    def texts(self, note_ids: Iterable[str]) -> dict[str, str]:
        """The full text by id, of notes and of inputs of several notes.

        Raises:
            ArtefactError: a note is not in the records.
        """
        wanted = list(dict.fromkeys(note_ids))
        composed = {name: chart.text for name, chart in self.charts(wanted).items()}
        return composed | self._note_texts([name for name in wanted if name not in composed])

    def _note_texts(self, asked: Sequence[str]) -> dict[str, str]:
        with self.records.connect() as connection:
            connection.register("asked", pa.table({"note_id": pa.array(asked, pa.string())}))
            found: pa.Table = connection.sql(
                "SELECT note_id, text FROM notes SEMI JOIN asked USING (note_id)"
            ).to_arrow_table()
        texts: dict[str, str] = dict(zip(found["note_id"].to_pylist(), found["text"].to_pylist(), strict=True))
        missing = next((note for note in asked if note not in texts), None)
        if missing is not None:
            raise ArtefactError(f"{self.records.path}: note '{missing}' is missing; build the benchmark again.")
        return texts

    def note_groups(self, split: str, tasks: Sequence[str] | None = None) -> list[NoteGroup]:
        """The notes of a split with all questions about each, ordered by encounter id."""
        table = self.examples(tasks, [split]).sort_by([("encounter_id", "ascending"), ("note_id", "ascending")])
        items: dict[str, list[Item]] = {}
        columns = [table[name].to_pylist() for name in ("note_id", "example_id", "task", "label")]
        for note_id, example_id, task, label in zip(*columns, strict=True):
            items.setdefault(note_id, []).append(Item(example_id, task, label))
        order = {task: number for number, task in enumerate(self.tasks)}
        charts_of = self.charts(items)
        texts = self._note_texts([note for note in items if note not in charts_of])
        groups = []
        for note, found in items.items():
            chart = charts_of.get(note)
            text = texts[note] if chart is None else chart.text
            ordered = sorted(found, key=lambda item: (order[item.task], item.example_id))
            groups.append(NoteGroup(note, text, ordered, chart))
        return groups

    def metadata(self, examples: pa.Table) -> pa.Table:
        """What is known without reading a note, one row an example in the order given.

        Columns: ``example_id, age`` (years), ``sex, payer, department, admission_type, admission_source, note_words``
        (of all notes of an input, without its headers).
        """
        with self.records.connect() as connection:
            _register(connection, examples)
            inputs = self._inputs if self._inputs is not None else pa.table({"input_id": [""], "note_id": [""]})
            connection.register("inputs", inputs)
            birth = "year(e.admit_time) - p.birth_year" if self.records.time_basis == "calendar" else "NULL"
            return connection.sql(rf"""
                WITH words AS (
                    SELECT a.position, sum(len(regexp_extract_all(n.text, '\S+')))::INTEGER AS note_words
                    FROM asked a LEFT JOIN inputs i ON i.input_id = a.note_id
                    JOIN notes n ON n.note_id = coalesce(i.note_id, a.note_id)
                    GROUP BY a.position
                )
                SELECT a.example_id, coalesce(e.age_at_admission, {birth})::DOUBLE AS age, p.sex, e.payer, e.department,
                    e.admission_type, e.admission_source, w.note_words
                FROM asked a JOIN encounters e USING (encounter_id)
                LEFT JOIN patients p ON p.patient_id = e.patient_id
                LEFT JOIN words w ON w.position = a.position
                ORDER BY a.position""").to_arrow_table()

    def fields(self, examples: pa.Table) -> pa.Table:
        """Structured fields known at each example's prediction time, examples in the order given.

        Columns: ``example_id, field, number, text``. Which fields a task may read is declared in its card
        (``fields_known_at``, ``fields_left_out``).
        """
        rules = []
        for task, card in self.cards.items():
            known = ", ".join(literal(point) for point in card.known_at) or "NULL"
            hidden = (
                " OR ".join(f"starts_with(f.field, {literal(prefix)})" for prefix in card.fields_left_out) or "false"
            )
            rules.append(f"(a.task = {literal(task)} AND f.known_at IN ({known}) AND NOT ({hidden}))")
        with self.records.connect() as connection:
            _register(connection, examples)
            return connection.sql(f"""
                SELECT a.example_id, f.field, f.number, f.text FROM asked a JOIN fields f USING (encounter_id)
                WHERE {" OR ".join(rules)} ORDER BY a.position, f.field, f.number, f.text""").to_arrow_table()


def _register(connection: duckdb.DuckDBPyConnection, examples: pa.Table) -> None:
    asked = examples.select(["example_id", "task", "encounter_id", "note_id"])
    connection.register("asked", asked.append_column("position", pa.array(range(asked.num_rows), pa.int64())))
