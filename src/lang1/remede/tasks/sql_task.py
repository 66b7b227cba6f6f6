"""A task whose outcome is one SQL query of the user's own, beside its card (``docs/tasks.md``).

The query reads the tables of the records and ``asked``: one row an inpatient stay with its prediction time. It gives
``encounter_id`` and ``value``, and optionally ``index_time`` and ``horizon_end``.
"""

from __future__ import annotations

from typing import Any

import duckdb

from lang1.common.errors import SettingsError
from lang1.records.schema import OPTIONAL_TABLES, TABLES
from lang1.remede.card import Card
from lang1.remede.cohort import (
    Facts,
    Known,
    Rule,
    censoring_rules,
    exclusion_rules,
    first_note,
    literal,
    note_rules,
    prediction_time,
    rows,
)
from lang1.remede.known import KNOWN
from lang1.remede.lint import nodes, parsed
from lang1.remede.tasks.cohort_of import Cohort, need_times

COLUMNS = ("encounter_id", "value", "index_time", "horizon_end")
# What would make a label depend on something else than the records and the card.
UNSTEADY = (
    *("random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "getenv", "current_setting"),
    *("now", "today", "get_current_time", "get_current_timestamp", "transaction_timestamp"),
    *("current_date", "current_time", "current_timestamp"),
)
CLOCKS = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")
ROW_FUNCTIONS = ("unnest", "range", "generate_series")


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is what the query says of it, null where it says nothing.

    Raises:
        SettingsError: a query that cannot be run or gives something else than the columns above.
        Unsupported: records without the times that the card needs.
    """
    need_times(card, facts, across=card.supported_by.times == "across")
    assert card.query is not None
    own = _constants(card)
    _check(card, facts.connection)
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE asked AS
        WITH first_note AS ({first_note(card, facts.timed)})
        SELECT s.*, n.note_id, n.usable_at, {prediction_time(card)} AS prediction_time,
            {card.horizon_days or "NULL"}::INTEGER AS horizon_days{own}
        FROM stays s LEFT JOIN first_note n USING (encounter_id)
    """)
    _answers(card, facts.connection)
    index = "admit_time" if card.prediction.earliest == "admission" else "discharge_time"
    window = f"index_time + INTERVAL {card.horizon_days} DAY" if card.horizon_days else "discharge_time"
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE candidates AS
        WITH said AS (
            SELECT a.*, coalesce(r.index_time, a.{index}) AS index_time, r.value, r.horizon_end AS said_end
            FROM asked a LEFT JOIN answers r USING (encounter_id)
        ),
        bounded AS (SELECT * EXCLUDE (said_end), coalesce(said_end, {window}) AS horizon_end FROM said)
        SELECT *, coalesce(discharge_time, horizon_end) AS end_time, NULL::INTEGER AS given_class FROM bounded
    """)
    rules = [Rule("the time of admission is known", "admit_time IS NOT NULL")]
    if card.prediction.earliest == "discharge":
        rules.append(Rule("discharged by the end of the data", "discharge_time IS NOT NULL"))
    rules += [
        *note_rules(card, facts),
        *exclusion_rules(card),
        *censoring_rules(card, facts),
        Rule(f"the outcome is observable ({card.sql} gives a value)", "value IS NOT NULL", reads="observability"),
    ]
    columns: dict[str, Known] = dict.fromkeys(card.constants, "admission")
    return Cohort("inpatient encounters", rules, columns)


def _constants(card: Card) -> str:
    """SQL: the card's constants as columns, so that the query holds no numbers of its own."""
    columns = ""
    for name, value in card.constants.items():
        if name in KNOWN or not name.isidentifier():
            raise SettingsError(f"{card.task}.yaml: constants.{name}: that cannot name a column; call it otherwise.")
        columns += f", {_value(card, name, value)} AS {name}"
    return columns


def _value(card: Card, name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(card, name, one) for one in value)}]"
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, bool | int | float):
        return str(value)
    raise SettingsError(f"{card.task}.yaml: constants.{name}: expected a number, a text, true, false or a list.")


def _check(card: Card, connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse a query that is not one SELECT over the tables of the records."""
    try:
        trees = parsed(str(card.query), connection)
    except ValueError as error:
        raise _refused(card, str(error)) from error
    if len(trees) != 1:
        raise _refused(card, f"{len(trees)} statements; expected one SELECT")
    found = list(nodes(trees[0]))
    own = {entry["key"] for node in found if "cte_map" in node for entry in node["cte_map"]["map"]}
    known = (*TABLES, *OPTIONAL_TABLES, "asked")
    for node in found:
        kind, table = node.get("type"), str(node.get("table_name", ""))
        if kind == "BASE_TABLE" and table not in known and table not in own:
            raise _refused(card, f"reads '{table}'; tables are {', '.join(known)}")
        function = str(node.get("function_name", "")).lower()
        if kind == "TABLE_FUNCTION" and str(node["function"].get("function_name")).lower() not in ROW_FUNCTIONS:
            raise _refused(card, f"reads {node['function'].get('function_name')}(); tables are {', '.join(known)}")
        bare = node["column_names"][0].lower() if len(node.get("column_names", ())) == 1 else ""
        if function in UNSTEADY or bare in CLOCKS:
            raise _refused(card, f"{function or bare} changes from run to run; leave out clocks, chance and the like")


def _answers(card: Card, connection: duckdb.DuckDBPyConnection) -> None:
    """Create ``answers``: the query's rows with all of ``COLUMNS``, one an encounter."""
    query = str(card.query).strip().rstrip(";")
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE said AS\n{query}")
        given = {name: kind for name, kind, *_ in rows(connection, "DESCRIBE said")}
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        raise _refused(card, str(error).splitlines()[0]) from error
    for name in COLUMNS[:2]:
        if name not in given:
            raise _refused(card, f"gives no column '{name}'; it gives {', '.join(given)}")
    for name in given:
        if name not in COLUMNS:
            raise _refused(card, f"gives a column '{name}', which nothing reads; columns are {', '.join(COLUMNS)}")
    if given["value"] in ("VARCHAR", "DATE") or given["value"].startswith("TIMESTAMP"):
        raise _refused(card, f"gives a value of type {given['value']}; expected a number, or true and false")
    kinds = dict(zip(COLUMNS, ("VARCHAR", "DOUBLE", "TIMESTAMP", "TIMESTAMP"), strict=True))
    listed = ", ".join(f"{name if name in given else 'NULL'}::{kind} AS {name}" for name, kind in kinds.items())
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE answers AS SELECT {listed} FROM said")
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        raise _refused(card, str(error).splitlines()[0]) from error
    twice = rows(connection, "SELECT encounter_id FROM answers GROUP BY ALL HAVING count(*) > 1 ORDER BY 1 LIMIT 1")
    if twice:
        raise _refused(card, f"gives encounter '{twice[0][0]}' more than once; give one row an encounter")
    sound = "value >= 0" if card.cut_points else f"value IN ({', '.join(map(str, range(card.classes)))})"
    wrong = rows(
        connection, f"SELECT encounter_id, value FROM answers WHERE NOT ({sound}) OR isnan(value) ORDER BY 1 LIMIT 1"
    )
    if wrong:
        expected = "0 or more" if card.cut_points else f"the number of a class, 0 to {card.classes - 1}"
        raise _refused(card, f"encounter '{wrong[0][0]}' has value {wrong[0][1]:g}; expected {expected}, or null")


def _refused(card: Card, why: str) -> SettingsError:
    return SettingsError(f"{card.sql} (task '{card.task}'): {why}.")
