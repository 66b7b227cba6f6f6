"""What the guards look at: the benchmark's tables as they lie in the folder, and a sample with text and metadata.

The folder is read without the promises that ``Benchmark.open`` asks, since a benchmark that breaks them is to be
reported, not refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lang1.common.artefact import Folder, open_folder
from lang1.common.errors import ArtefactError
from lang1.records.store import Records
from lang1.remede.audit.settings import AuditSettings, Threshold
from lang1.remede.audit.words import Words
from lang1.remede.benchmark import CARDS, EXAMPLES, KIND, SPLITS_FILE
from lang1.remede.card import Card, read_card
from lang1.remede.charts import FILE as INPUTS
from lang1.remede.cohort import literal, rows

# Registration data: what is known of a stay without reading a note. `facility` is looked at as the site.
FIELDS = ("age", "sex", "race", "payer", "department", "admission_type", "admission_source")


@dataclass(frozen=True, eq=False)
class TaskRows:
    """The sampled examples of a task, ``[N]`` each, in the order of example ids.

    Attributes:
        task, card: which task.
        ids, inputs: example ids, and ids of what is read (a note, or a composed input).
        patients: hashes of the patients.
        labels: class indices.
        train: whether the example is in the train split; all others are held out.
        about: registration data, times and sizes by column name.
        whole: whether these are all the examples of the task.
    """

    task: str
    card: Card
    ids: npt.NDArray[np.object_]
    inputs: npt.NDArray[np.object_]
    patients: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    train: npt.NDArray[np.bool_]
    about: pa.Table
    whole: bool

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Held-out rows."""
        return np.asarray(~self.train)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of ``about``; numbers as float64 with NaN, texts as objects with None."""
        values = self.about[name]
        if pa.types.is_string(values.type):
            return np.array(values.to_pylist(), dtype=object)
        return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

    def classes(self, least: int) -> list[int]:
        """Classes with enough cases and others among train and held-out rows; of two classes the second alone."""
        return [c for c in self._asked() if all(_enough(self.labels[s] == c, least) for s in (self.train, self.held))]

    def classes_of_all(self, least: int) -> list[int]:
        """Classes with twice as many cases and others among all rows, for models that are fitted across them."""
        return [c for c in self._asked() if _enough(self.labels == c, 2 * least)]

    def _asked(self) -> list[int]:
        return [1] if self.card.classes == 2 else list(range(self.card.classes))


def _enough(case: npt.NDArray[np.bool_], least: int) -> bool:
    return min(int(case.sum()), int((~case).sum())) >= least


@dataclass(eq=False)
class Material:
    """A benchmark under audit.

    Attributes:
        folder: the benchmark's folder.
        cards: the resolved card of each task.
        records: the records that its notes lie in.
        records_same: whether they still are what the benchmark was built from.
        connection: DuckDB with the records' tables as views, and ``examples``, ``folds`` and ``inputs``.
    """

    folder: Folder
    settings: AuditSettings
    cards: dict[str, Card]
    records: Records
    records_same: bool
    connection: duckdb.DuckDBPyConnection
    corpora: tuple[Folder, ...] = ()
    models: tuple[Folder, ...] = ()
    _texts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, settings: AuditSettings, corpora: Sequence[Path] = (), models: Sequence[Path] = ()
    ) -> Material:
        """Open a benchmark and its records.

        Raises:
            ArtefactError: a folder that is missing, half written or of another kind; records that are gone.
        """
        folder = open_folder(path, KIND)
        try:
            examples = pq.read_table(folder.path / EXAMPLES)
            folds = pq.read_table(folder.path / SPLITS_FILE)
            tasks, said = list(folder.manifest.extra["tasks"]), folder.manifest.extra["records"]
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise ArtefactError(f"{folder.path}: not a readable benchmark ({error}); build it again.") from error
        cards = {task: read_card(folder.path / CARDS / f"{task}.yaml") for task in tasks}
        places = [Path(said["path"]), folder.path.resolve() / said["relative"]]
        records = Records.open(next((place for place in places if place.exists()), places[0]))
        connection = records.connect()
        connection.register("examples", examples)
        connection.register("folds", folds)
        several = folder.path / INPUTS
        if several.is_file():
            connection.register("composed", pq.read_table(several, columns=["input_id", "position", "note_id"]))
        else:
            connection.execute("CREATE TEMP TABLE composed (input_id VARCHAR, position INTEGER, note_id VARCHAR)")
        connection.execute("""
            CREATE TEMP TABLE inputs AS
            SELECT * FROM composed UNION ALL
            SELECT DISTINCT note_id AS input_id, 0 AS position, note_id FROM examples
            WHERE note_id NOT IN (SELECT input_id FROM composed)""")
        return cls(
            folder,
            settings,
            cards,
            records,
            records.folder.fingerprint == said["fingerprint"],
            connection,
            tuple(open_folder(corpus, "corpus") for corpus in corpora),
            tuple(open_folder(model, "model") for model in models),
        )

    @property
    def extra(self) -> dict[str, Any]:
        """What the benchmark's manifest says beside counts and settings."""
        return self.folder.manifest.extra

    @property
    def timed(self) -> bool:
        """Whether times are true at least within an encounter."""
        return self.records.time_basis in ("calendar", "shifted", "within_stay")

    @property
    def calendar(self) -> bool:
        """Whether times are true dates."""
        return self.records.time_basis == "calendar"

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return rows(self.connection, query)

    def threshold(self, name: str, task: str | None = None) -> Threshold:
        """A threshold in force for a task (of its rule) or for the whole."""
        return self.settings.threshold(name, self.cards[task].rule_name if task else None)

    @cached_property
    def tasks(self) -> dict[str, TaskRows]:
        """The sampled rows of each task. Tasks that read the same type of note share their encounters."""
        return {task: self._sample(task) for task in self.cards}

    def _sample(self, task: str) -> TaskRows:
        half = self.settings.most_rows // 2
        letters = self.sql(f"""
            SELECT coalesce(avg(size), 1) FROM (
                SELECT sum(length(n.text)) AS size FROM examples e JOIN inputs i ON i.input_id = e.note_id
                JOIN notes n ON n.note_id = i.note_id WHERE e.task = {literal(task)}
                    AND e.example_id IN (SELECT example_id FROM examples WHERE task = {literal(task)}
                        ORDER BY md5(encounter_id) LIMIT 1000)
                GROUP BY e.example_id)""")[0][0]
        half = max(50, min(half, int(self.settings.most_characters / max(float(letters), 1) / 2)))
        born = "year(e.admit_time) - p.birth_year" if self.calendar else "NULL"
        start = "e.admit_time" if self.cards[task].prediction.earliest == "admission" else "e.discharge_time"
        order = f"md5('{self.settings.seed}/' || encounter_id)"
        self.connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE picked AS
            SELECT * FROM examples WHERE task = {literal(task)}
            QUALIFY row_number() OVER (PARTITION BY split = 'train' ORDER BY {order}, example_id) <= {half}""")
        table: pa.Table = self.connection.sql(f"""
            WITH sizes AS (
                SELECT i.input_id, sum(len(regexp_extract_all(n.text, '\\S+'))) AS words
                FROM inputs i JOIN notes n ON n.note_id = i.note_id
                WHERE i.input_id IN (SELECT note_id FROM picked) GROUP BY 1
            )
            SELECT x.example_id, x.note_id, x.subject_id, x.label, x.split, x.prediction_time, x.index_time,
                coalesce(e.age_at_admission, {born})::DOUBLE AS age, p.sex, p.race, e.payer, e.department,
                e.admission_type, e.admission_source, e.facility, s.words::DOUBLE AS note_words,
                date_diff('minute', {start}, x.prediction_time) / 60.0 AS delay_hours,
                strftime(x.index_time, '%m') AS month
            FROM picked x LEFT JOIN encounters e USING (encounter_id)
            LEFT JOIN patients p ON p.patient_id = e.patient_id
            LEFT JOIN sizes s ON s.input_id = x.note_id
            ORDER BY x.example_id""").to_arrow_table()
        ((total,),) = self.sql(f"SELECT count(*) FROM examples WHERE task = {literal(task)}")
        return TaskRows(
            task=task,
            card=self.cards[task],
            ids=np.array(table["example_id"].to_pylist(), dtype=object),
            inputs=np.array(table["note_id"].to_pylist(), dtype=object),
            patients=table["subject_id"].to_numpy(),
            labels=table["label"].to_numpy().astype(np.int64),
            train=np.array([split == "train" for split in table["split"].to_pylist()], dtype=bool),
            about=table,
            whole=table.num_rows == total,
        )

    def texts(self, inputs: Sequence[str]) -> list[str]:
        """The text of inputs by id: a note's, or that of all its notes, oldest first; empty where a note is gone."""
        missing = sorted(set(inputs) - self._texts.keys())
        if missing:
            self.connection.register("wanted", pa.table({"input_id": pa.array(missing, pa.string())}))
            found = self.sql("""
                SELECT i.input_id, string_agg(n.text, chr(10) || chr(10) ORDER BY i.position)
                FROM wanted w JOIN inputs i USING (input_id) JOIN notes n ON n.note_id = i.note_id GROUP BY 1""")
            self.connection.unregister("wanted")
            self._texts.update(dict.fromkeys(missing, ""))
            self._texts.update(found)
        return [self._texts[name] for name in inputs]

    @cached_property
    def words(self) -> tuple[dict[str, int], Words]:
        """All sampled inputs, each once: the row of each input id, and their words."""
        names = sorted({name for task in self.tasks.values() for name in task.inputs})
        return {name: row for row, name in enumerate(names)}, Words.of(self.texts(names))
