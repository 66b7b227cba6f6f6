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
from lang1.remede.card import Card, read_card
from lang1.remede.cohort import literal, rows
from lang1.remede.settings import SPLITS

KIND = "benchmark"
EXAMPLES, SPLITS_FILE, LEFT_OUT, CARDS = "examples.parquet", "splits.parquet", "left_out.parquet", "cards"


@dataclass(frozen=True)
class Item:
    """One question of a note: the example's id, its task, and the index of the right option."""

    example_id: str
    task: str
    label: int


@dataclass(frozen=True)
class NoteGroup:
    """A note and the questions that are asked about it."""

    note_id: str
    text: str
    items: list[Item]


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

    @classmethod
    def open(cls, path: Path | str) -> Benchmark:
        """Open a benchmark and prove its promises again: tasks and labels fit the cards, patients are apart.

        Raises:
            ArtefactError: missing, half written, damaged, or a patient in two splits that are kept apart.
        """
        folder = open_folder(path, KIND)
        try:
            examples = pq.read_table(folder.path / EXAMPLES)
            tasks, policy = list(folder.manifest.extra["tasks"]), str(folder.manifest.extra["policy"])
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise ArtefactError(f"{folder.path}: not a readable benchmark ({error}); build it again.") from error
        cards = {task: read_card(folder.path / CARDS / f"{task}.yaml") for task in tasks}
        _check(folder, examples, cards, policy)
        return cls(folder, cards, examples)

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

    def texts(self, note_ids: Iterable[str]) -> dict[str, str]:
        """The full text of notes by id.

        Raises:
            ArtefactError: a note is not in the records.
        """
        asked = list(dict.fromkeys(note_ids))
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
        texts = self.texts(items)
        return [
            NoteGroup(note, texts[note], sorted(found, key=lambda item: (order[item.task], item.example_id)))
            for note, found in items.items()
        ]

    def metadata(self, examples: pa.Table) -> pa.Table:
        """What is known without reading a note, one row an example in the order given.

        Columns: ``example_id, age`` (years), ``sex, payer, department, admission_type, admission_source, note_words``.
        """
        with self.records.connect() as connection:
            _register(connection, examples)
            birth = "year(e.admit_time) - p.birth_year" if self.records.time_basis == "calendar" else "NULL"
            return connection.sql(rf"""
                SELECT a.example_id, coalesce(e.age_at_admission, {birth})::DOUBLE AS age, p.sex, e.payer, e.department,
                    e.admission_type, e.admission_source, len(regexp_extract_all(n.text, '\S+'))::INTEGER AS note_words
                FROM asked a JOIN encounters e USING (encounter_id)
                LEFT JOIN patients p ON p.patient_id = e.patient_id
                LEFT JOIN notes n ON n.note_id = a.note_id
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


def _check(folder: Folder, examples: pa.Table, cards: dict[str, Card], policy: str) -> None:
    """Raise ArtefactError where the folder breaks a promise that training and evaluation rely on."""
    connection = duckdb.connect(":memory:")
    connection.register("examples", examples)
    connection.register("folds", pq.read_table(folder.path / SPLITS_FILE))
    classes = " ".join(f"WHEN {literal(task)} THEN {card.classes}" for task, card in cards.items())
    held = ", ".join(literal(split) for split in SPLITS if split.startswith("test"))
    promises = {
        "holds an example twice": "SELECT example_id FROM examples GROUP BY example_id HAVING count(*) > 1",
        "holds a label or a split that is none": f"""
            SELECT example_id FROM examples
            WHERE label < 0 OR coalesce(label >= CASE task {classes or "WHEN '' THEN 0"} END, true)
                OR split NOT IN ({", ".join(literal(s) for s in SPLITS)})""",
        "holds a patient without a fold": "SELECT example_id FROM examples ANTI JOIN folds USING (patient_id)",
    }
    if policy == "patients-apart":
        promises["does not keep patients apart"] = f"""
            SELECT example_id FROM examples JOIN folds USING (patient_id)
            WHERE fold <> CASE WHEN split IN ({held}) THEN 'test' ELSE split END"""
        promises["holds a patient in two splits that are kept apart"] = f"""
            SELECT min(example_id) FROM examples GROUP BY patient_id
            HAVING count(DISTINCT CASE WHEN split IN ({held}) THEN 'test' ELSE split END) > 1"""
    for what, query in promises.items():
        broken = rows(connection, f"{query} ORDER BY 1 LIMIT 1")
        if broken:
            raise ArtefactError(f"{folder.path} {what} (example '{broken[0][0]}'); it was changed, so build it again.")
    connection.close()
    if examples.num_rows != folder.manifest.counts.get("examples"):
        raise ArtefactError(f"{folder.path}: {EXAMPLES} and manifest.json differ in rows; build it again.")
