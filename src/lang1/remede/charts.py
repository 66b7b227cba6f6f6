"""Inputs of several notes (``inputs.py``): chosen while a benchmark is built, composed when it is read."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from lang1.common.errors import ArtefactError
from lang1.records.store import Records
from lang1.remede.card import Card
from lang1.remede.cohort import END_OF_DAY, Facts, Rule, Unsupported, literal
from lang1.remede.inputs import Inputs
from lang1.text.chart import Chart, header

FILE = "inputs.parquet"
# Columns of ``inputs.parquet``: the notes of an input in their order, and the whole hours from when each could be
# read to the question.
COLUMNS = "input_id VARCHAR, position INTEGER, note_id VARCHAR, hours_before INTEGER"
HAS_NOTES = Rule("a note of its input was available when it is asked", "note_id IS NOT NULL")


def composed(card: Card) -> Inputs | None:
    """The inputs of a card that reads several notes, else None."""
    return card.inputs if card.inputs is not None and card.inputs.select != "single" else None


def check_times(card: Card, facts: Facts) -> None:
    """Refuse records whose times cannot say which notes came before the question.

    Raises:
        Unsupported: no times, or only times within a stay where notes of earlier ones are asked for.
    """
    inputs = composed(card)
    if inputs is None:
        return
    basis = facts.meta.time_basis
    if not facts.timed or (inputs.scope == "patient" and basis == "within_stay"):
        what = "notes of earlier encounters" if facts.timed else "notes over time"
        raise Unsupported(
            f"{facts.records.path}: task '{card.task}' reads {what}, and time_basis is {basis}; set "
            f"cards.{card.task}.inputs.{'scope=encounter' if facts.timed else 'select=single'}."
        )


def choose(connection: duckdb.DuckDBPyConnection, card: Card) -> None:
    """Put into ``remaining.note_id`` the id of each row's input, null where no note qualifies; its notes to ``inputs``.

    A note counts from when it was available (a bare date: from its end), and from its signing where the card asks for
    signed notes. An addendum is a note with a time of its own. The id is a hash of what the input says, so that tasks
    with the same input share it.
    """
    inputs = composed(card)
    if inputs is None:
        return
    available, signed = (END_OF_DAY.format(t=time) for time in ("available_time", "signed_time"))
    usable = f"greatest({available}, {signed})" if card.note_signed else available
    kept = ["available_time IS NOT NULL"]
    if card.note_signed:
        kept.append("signed_time IS NOT NULL")
    if inputs.note_types:
        kept.append(f"note_type IN ({', '.join(literal(name) for name in inputs.note_types)})")
    within = f"AND n.usable_at >= r.prediction_time - INTERVAL {inputs.days} DAY" if inputs.days else ""
    last = f"QUALIFY nth_last <= {inputs.k}" if inputs.k else ""
    of = "patient_id" if inputs.scope == "patient" else "encounter_id"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE chosen AS
        WITH usable AS (SELECT note_id, {of}, {usable} AS usable_at FROM notes WHERE {" AND ".join(kept)}),
        read AS (
            SELECT r.encounter_id, n.note_id, row_number() OVER (
                    PARTITION BY r.encounter_id ORDER BY n.usable_at DESC, n.note_id DESC) AS nth_last,
                ((epoch_us(r.prediction_time) - epoch_us(n.usable_at)) // 3600000000)::INTEGER AS hours_before
            FROM remaining r JOIN usable n USING ({of})
            WHERE n.usable_at <= r.prediction_time {within} {last}
        ),
        -- Characters 30 and 31 part records and fields, so that no two lists of notes read alike.
        named AS (
            SELECT encounter_id, 'chart:' || md5('{inputs.header}' || chr(31) || '{inputs.drop}' || chr(31) ||
                string_agg(note_id || chr(30) || hours_before, chr(31) ORDER BY nth_last DESC)) AS input_id
            FROM read GROUP BY encounter_id
        )
        SELECT encounter_id, input_id, note_id, hours_before,
            (row_number() OVER (PARTITION BY encounter_id ORDER BY nth_last DESC) - 1)::INTEGER AS position
        FROM read JOIN named USING (encounter_id)
    """)
    connection.execute("INSERT INTO inputs SELECT DISTINCT input_id, position, note_id, hours_before FROM chosen")
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE with_inputs AS
        SELECT r.* REPLACE (c.input_id AS note_id)
        FROM remaining r LEFT JOIN (SELECT encounter_id, input_id FROM chosen WHERE position = 0) c USING (encounter_id)
    """)
    connection.execute("CREATE OR REPLACE TEMP TABLE remaining AS SELECT * FROM with_inputs")


def stored(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The notes of all inputs that ``examples`` ask about, ordered by input and position."""
    return connection.sql("""
        SELECT DISTINCT i.* FROM inputs i SEMI JOIN examples e ON e.note_id = i.input_id ORDER BY input_id, position
    """).to_arrow_table()


def read_charts(records: Records, notes: pa.Table, cards: Mapping[str, Card]) -> dict[str, Chart]:
    """Compose inputs from the records.

    Args:
        records: where the notes lie.
        notes: rows of ``inputs.parquet``: all of the inputs that are asked for.
        cards: by input id, the card of a task that reads it.

    Raises:
        ArtefactError: a note is not in the records.
    """
    with records.connect() as connection:
        connection.register("asked", notes)
        found = connection.execute("""
            SELECT a.input_id, a.note_id, a.hours_before, n.note_type, n.parent_note_id IS NOT NULL, n.text
            FROM asked a LEFT JOIN notes n USING (note_id) ORDER BY a.input_id, a.position
        """).fetchall()
    parts: dict[str, tuple[list[str], list[str]]] = {}
    for input_id, note_id, hours, note_type, addendum, text in found:
        if text is None:
            raise ArtefactError(f"{records.path}: note '{note_id}' is missing; build the benchmark again.")
        inputs = composed(cards[input_id])
        assert inputs is not None
        headers, texts = parts.setdefault(input_id, ([], []))
        headers.append(header(note_type, hours, addendum) if inputs.header else "")
        texts.append(text)
    drops = {name: inputs.drop for name, card in cards.items() if (inputs := composed(card)) is not None}
    return {name: Chart(tuple(headers), tuple(texts), drops[name]) for name, (headers, texts) in parts.items()}
