"""The linter of cards: eligibility may read only what is available at the prediction time.

Each predicate is parsed with DuckDB's own parser and every column in it is looked up in a declared table
(``known.py``): ``KNOWN`` for the row that is asked about, ``EVENTS`` for the tables of the records, row by row. A time
that may lie ahead (a discharge, a death) may be compared with the prediction time in a form whose answer does not
depend on what follows::

    coalesce(discharge_time > prediction_time, true)     -- not over yet
    coalesce(discharge_time <= prediction_time, false)   -- over by then

Plain ``discharge_time > prediction_time`` is refused: it is null for what never happens, so it would keep the rows
whose event comes and leave out those whose event does not. A subquery may read an event table up to the prediction
time.

The rule that eligibility must not look ahead: Kapoor and Narayanan, Patterns 2023;4:100804 (leakage by selection), and
the time-zero rule of target trials, Hernán et al., J Clin Epidemiol 2016;79:70-75.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from lang1.remede.card import Card
from lang1.remede.cohort import Known, Rule, exclusion_rules, own_rules, timed_note_rules
from lang1.remede.known import ALWAYS, ANCHORS, CODED, EARLIER, EVENTS, KNOWN, NEVER

_FORM = "compare it with the prediction time as coalesce({0} > prediction_time, true), or declare the rule under {1}"
_ELSEWHERE = "observability (can the label be known?) or policies (a competing event)"
_LESS = ("COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO")
_MORE = ("COMPARE_GREATERTHAN", "COMPARE_GREATERTHANOREQUALTO")


@dataclass(frozen=True)
class Finding:
    """One thing that a card may not do."""

    task: str
    rule: str
    column: str
    why: str

    def __str__(self) -> str:
        return f"{self.task}.yaml: rule '{self.rule}': {self.why}"


def lint(card: Card, rules: Sequence[Rule] | None = None, columns: Mapping[str, Known] | None = None) -> list[Finding]:
    """What is wrong with a card's rules: eligibility that reads the future, censoring that reads more than its anchor.

    Args:
        card: the card.
        rules: the rules in force, as a build has them; null for those that the card itself states.
        columns: when the columns are known that the task alone adds (``Cohort.columns``).
    """
    if rules is None:
        rules = [*timed_note_rules(card), *exclusion_rules(card), *own_rules(card)]
    constants = card.constants if card.rule_name == "sql" else ()
    known = {**KNOWN, **dict.fromkeys(constants, "admission"), **(columns or {})}
    with duckdb.connect(":memory:") as connection:
        return [finding for rule in rules for finding in _lint_rule(card, rule, known, connection)]


def parsed(sql: str, connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The syntax trees of SELECT statements.

    Raises:
        ValueError: something else, or no SQL; the message is DuckDB's first line.
    """
    ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(text)
    if tree["error"]:
        raise ValueError(str(tree["error_message"]).splitlines()[0])
    return [statement["node"] for statement in tree["statements"]]


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a syntax tree, outer ones first."""
    if isinstance(tree, dict):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(inner)


def _lint_rule(
    card: Card, rule: Rule, known: Mapping[str, str], connection: duckdb.DuckDBPyConnection
) -> list[Finding]:
    if rule.reads in ("observability", "policy"):
        return []
    try:
        (tree,) = parsed(f"SELECT 1 FROM asked WHERE (\n{rule.keep}\n)", connection)
    except ValueError as error:
        return [Finding(card.task, rule.words, "", f"not one SQL predicate ({error}): {rule.keep}")]
    if rule.reads == "censoring":
        read = {_name(node) for node in nodes(tree) if node.get("class") == "COLUMN_REF"}
        return [
            Finding(card.task, rule.words, name, f"a censoring rule reads '{name}', and may read its anchor alone")
            for name in sorted(read.difference(ANCHORS))
        ]
    reader = _Reader(known, card.prediction.earliest == "discharge")
    reader.conjuncts(tree["where_clause"], [_Frame(asked=True)])
    return [Finding(card.task, rule.words, column, why) for column, why in dict.fromkeys(reader.found)]


@dataclass
class _Frame:
    """The tables of one SELECT by alias, and the times in them that are bounded by the prediction time.

    ``views`` maps an alias to a table of the records, or to None for a subquery, whose columns were judged inside it;
    ``same_stay`` holds the pairs of aliases that are joined by encounter.
    """

    asked: bool = False
    views: dict[str, str | None] = field(default_factory=dict)
    bounds: dict[str, set[str]] = field(default_factory=dict)
    same_stay: set[frozenset[str]] = field(default_factory=set)


class _Reader:
    """Walks one predicate and collects in ``found`` what it reads too early, as (column, why)."""

    def __init__(self, known: Mapping[str, str], at_discharge: bool) -> None:
        self.known, self.at_discharge = known, at_discharge
        self.found: list[tuple[str, str]] = []

    def conjuncts(self, node: dict[str, Any], scope: list[_Frame]) -> None:
        """A condition of which only true counts, as in WHERE: null and false are the same there."""
        if node.get("type") == "CONJUNCTION_AND":
            for child in node["children"]:
                self.conjuncts(child, scope)
        elif not any(True for _ in self._bounded(node, scope)):
            self.expression(node, scope)

    def expression(self, node: Any, scope: list[_Frame], exists: bool = False) -> None:
        """Judge every column below a node."""
        if isinstance(node, list):
            for inner in node:
                self.expression(inner, scope)
            return
        if not isinstance(node, dict) or self._indifferent(node, scope):
            return
        kind = node.get("class")
        if kind == "COLUMN_REF":
            self._judge(node, scope)
        elif kind == "STAR" and not exists:
            self._judge_all(scope[0])
        elif kind == "SUBQUERY":
            self.expression(node.get("child"), scope)
            self.query(node["subquery"]["node"], scope, exists=node.get("subquery_type") == "EXISTS")
        else:
            for inner in node.values():
                self.expression(inner, scope)

    def query(self, node: dict[str, Any], scope: list[_Frame], exists: bool = False) -> None:
        """Judge a SELECT inside the predicate."""
        plain = not node["cte_map"]["map"]
        if node.get("type") == "SET_OPERATION_NODE" and plain and (sides := _sides(node) or node.get("children")):
            for side in sides:
                self.query(side, scope)
            return
        if node.get("type") != "SELECT_NODE" or not plain:
            self._find("", "a subquery is more than one SELECT; write it without WITH and the like")
            return
        frame = _Frame()
        inner, conditions = [frame, *scope], [node["where_clause"]] if node["where_clause"] else []
        self._tables(node["from_table"], frame, scope, conditions)
        for condition in conditions:
            self._bound(condition, frame, inner)
        for alias, view in frame.views.items():
            if view is not None and not self._row_known(frame, alias, view):
                self._unbounded(view)
        for condition in conditions:
            self.conjuncts(condition, inner)
        rest = {key: value for key, value in node.items() if key not in ("from_table", "where_clause", "select_list")}
        self.expression(rest, inner)
        for column in node["select_list"]:
            self.expression(column, inner, exists)

    def _tables(
        self, node: dict[str, Any], frame: _Frame, scope: list[_Frame], conditions: list[dict[str, Any]]
    ) -> None:
        kind = node["type"]
        if kind == "BASE_TABLE":
            name = node["table_name"]
            if name not in EVENTS:
                self._find(name, f"reads table '{name}'; tables are {', '.join(EVENTS)}")
            frame.views[node["alias"] or name] = name if name in EVENTS else None
        elif kind == "JOIN":
            before = set(frame.views)
            self._tables(node["left"], frame, scope, conditions)
            left = set(frame.views) - before
            self._tables(node["right"], frame, scope, conditions)
            right = set(frame.views) - before - left
            if node["condition"]:
                # An outer join keeps rows that its condition does not bound, so its condition bounds nothing.
                if node["join_type"] == "INNER":
                    conditions.append(node["condition"])
                else:
                    self.expression(node["condition"], [frame, *scope])
            if "encounter_id" in node["using_columns"]:
                frame.same_stay |= {frozenset((one, other)) for one in left for other in right}
        elif kind == "SUBQUERY":
            self.query(node["subquery"]["node"], scope)
            frame.views[node["alias"]] = None
        elif kind != "EMPTY":
            self._find("", f"a subquery reads {kind.lower().replace('_', ' ')}; tables are {', '.join(EVENTS)}")

    def _bound(self, node: dict[str, Any], frame: _Frame, scope: list[_Frame]) -> None:
        if node.get("type") == "CONJUNCTION_AND":
            for child in node["children"]:
                self._bound(child, frame, scope)
            return
        for alias, column in self._bounded(node, scope):
            if alias is not None:
                frame.bounds.setdefault(alias, set()).update((column, *EARLIER.get(column, ())))
        sides = _sides(node) if node.get("type") == "COMPARE_EQUAL" else ()
        places = [self._place(side, scope) for side in sides if _name(side) == "encounter_id"]
        if len(places) == 2:
            frame.same_stay.add(frozenset(str(place[1]) for place in places if place is not None and place[0] is frame))

    def _bounded(self, node: dict[str, Any], scope: list[_Frame]) -> Iterator[tuple[str | None, str]]:
        """The time that a condition puts at or before the prediction time: alias (None for the asked row), column."""
        pairs: list[tuple[Any, Any]] = []
        if node.get("type") in _LESS:
            pairs = [(node["left"], node["right"])]
        elif node.get("type") in _MORE:
            pairs = [(node["right"], node["left"])]
        elif node.get("class") == "BETWEEN" and self._past(node["lower"], scope):
            pairs = [(node["input"], node["upper"])]
        for early, late in pairs:
            place = self._place(early, scope)
            if place is not None and self._past(late, scope):
                frame, alias, column = place
                if frame.asked and self._is_time(column):
                    yield None, column
                elif alias is not None and frame is scope[0] and self._is_clock(frame, alias, column):
                    yield alias, column

    def _indifferent(self, node: dict[str, Any], scope: list[_Frame]) -> bool:
        """Whether a node compares a time with the past so that what follows the prediction time changes nothing."""
        if node.get("type") == "OPERATOR_COALESCE" and len(node["children"]) == 2:
            comparison, default = node["children"]
            return self._side_of_past(comparison, scope) == {"true": "after", "false": "before"}.get(_boolean(default))
        if node.get("type") in ("CONJUNCTION_OR", "CONJUNCTION_AND") and len(node["children"]) == 2:
            wanted = (
                ("OPERATOR_IS_NULL", "after") if node["type"].endswith("OR") else ("OPERATOR_IS_NOT_NULL", "before")
            )
            for null, comparison in (node["children"], node["children"][::-1]):
                if null.get("type") == wanted[0] and self._side_of_past(comparison, scope) == wanted[1]:
                    times = [side for side in _sides(comparison) if self._may_lie_ahead(side, scope)]
                    return _names(null["children"][0]) == _names(times[0])
        return False

    def _side_of_past(self, node: dict[str, Any], scope: list[_Frame]) -> str | None:
        """``after`` for ``time > past``, ``before`` for ``time <= past``, where the time may lie ahead."""
        if node.get("type") not in _LESS + _MORE:
            return None
        left, right = node["left"], node["right"]
        if self._may_lie_ahead(left, scope) and self._past(right, scope):
            return "before" if node["type"] in _LESS else "after"
        if self._may_lie_ahead(right, scope) and self._past(left, scope):
            return "after" if node["type"] in _LESS else "before"
        return None

    def _may_lie_ahead(self, node: dict[str, Any], scope: list[_Frame]) -> bool:
        place = self._place(node, scope)
        if place is None:
            return False
        frame, alias, column = place
        if frame.asked:
            return self._is_time(column)
        view = frame.views[str(alias)]
        return (
            view is not None and self._is_clock(frame, str(alias), column) and self._row_known(frame, str(alias), view)
        )

    def _is_clock(self, frame: _Frame, alias: str, column: str) -> bool:
        view = frame.views[alias]
        return view is not None and EVENTS[view].get(column) == column

    def _is_time(self, column: str) -> bool:
        # A day stands at its first moment, so that comparing it tells of what comes later on that day.
        return self.known.get(column) in ("discharge", "after") and not column.endswith("_day")

    def _past(self, node: dict[str, Any], scope: list[_Frame]) -> bool:
        """Whether a value is a time at or before the prediction time: of the asked row, less an interval or not."""
        if node.get("class") == "FUNCTION" and node.get("function_name") == "-" and len(_arguments(node)) == 2:
            start, length = _arguments(node)
            return self._past(start, scope) and not any(
                found.get("class") == "COLUMN_REF" or found.get("function_name") == "-" or "-" in _constant(found)
                for found in nodes(length)
            )
        place = self._place(node, scope)
        return place is not None and place[0].asked and self._readable(place[2])

    def _readable(self, column: str) -> bool:
        return self.known.get(column) in ("admission", "prediction", *(("discharge",) if self.at_discharge else ()))

    def _row_known(self, frame: _Frame, alias: str, view: str) -> bool:
        return self._column_known(frame, alias, view, next(iter(EVENTS[view])))

    def _column_known(self, frame: _Frame, alias: str, view: str, column: str) -> bool:
        clock = EVENTS[view][column]
        if clock == CODED:
            stays = [other for other, name in frame.views.items() if name == "encounters"]
            over = [other for other in stays if "discharge_time" in frame.bounds.get(other, ())]
            return any(frozenset((alias, other)) in frame.same_stay for other in over)
        return clock == ALWAYS or clock in frame.bounds.get(alias, ())

    def _place(self, node: dict[str, Any], scope: list[_Frame]) -> tuple[_Frame, str | None, str] | None:
        """Whose column a reference is: the innermost table that has it, else the asked row."""
        names = _names(node)
        if not names or len(names) > 2:
            return None
        column = names[-1]
        for frame in scope:
            if frame.asked:
                return (frame, None, column) if column in self.known and names[0] in ("asked", column) else None
            for alias, view in frame.views.items():
                if (len(names) == 2 and names[0] == alias) or (len(names) == 1 and view and column in EVENTS[view]):
                    return (frame, alias, column) if view is None or column in EVENTS[view] else None
        return None

    def _judge(self, node: dict[str, Any], scope: list[_Frame]) -> None:
        place, text = self._place(node, scope), ".".join(_names(node))
        if place is None:
            if not any(view is None for frame in scope for view in frame.views.values()):
                known = ", ".join(self.known)
                self._find(text, f"reads '{text}', and nothing says when that is known; columns are {known}")
            return
        frame, alias, column = place
        if frame.asked:
            if not self._readable(column):
                when = {"discharge": "at discharge", "after": "only afterwards"}[self.known[column]]
                mend = _FORM.format(column, _ELSEWHERE) if self._is_time(column) else f"declare it under {_ELSEWHERE}"
                self._find(column, f"eligibility reads '{column}', which is known {when}; {mend}")
            return
        view = frame.views[str(alias)]
        # Of a row that is not bounded at all, the table was found already.
        if view is None or not self._row_known(frame, str(alias), view):
            return
        if not self._column_known(frame, str(alias), view, column):
            clock = EVENTS[view][column]
            mend = f"bound it with {clock} <= prediction_time" if clock in EVENTS[view] else "no time bounds it"
            self._find(f"{view}.{column}", f"eligibility reads '{view}.{column}', which may lie ahead; {mend}")

    def _judge_all(self, frame: _Frame) -> None:
        for alias, view in frame.views.items():
            for column in EVENTS[view] if view is not None else ():
                if not self._column_known(frame, alias, view or "", column):
                    self._find(f"{view}.*", f"eligibility reads all columns of '{view}'; name those that it needs")
                    return

    def _unbounded(self, view: str) -> None:
        clock = next(iter(EVENTS[view].values()))
        mend = {
            NEVER: "labels are never eligibility",
            CODED: "join encounters by encounter_id and bound discharge_time <= prediction_time",
        }.get(clock, f"bound it with {clock} <= prediction_time")
        self._find(view, f"eligibility reads '{view}' beyond the prediction time; {mend}")

    def _find(self, column: str, why: str) -> None:
        self.found.append((column, why))


def _sides(node: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return tuple(node[key] for key in ("left", "right") if isinstance(node.get(key), dict))


def _names(node: dict[str, Any]) -> list[str]:
    return [str(name).lower() for name in node.get("column_names", ())] if node.get("class") == "COLUMN_REF" else []


def _name(node: dict[str, Any]) -> str:
    return (_names(node) or [""])[-1]


def _arguments(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of a function; versions of DuckDB write them in two ways."""
    return list(node.get("children") or [one["expression"] for one in node.get("arguments", ())])


def _constant(node: dict[str, Any]) -> str:
    """The text of a constant; versions of DuckDB write it in two ways."""
    literal = node.get("literal") or node.get("value") if node.get("class") == "CONSTANT" else None
    return str(literal.get("text", literal.get("value", ""))).lower() if isinstance(literal, dict) else ""


def _boolean(node: dict[str, Any]) -> str:
    """``true`` or ``false`` for such a constant, which some versions write as a cast of its first letter."""
    text = next(filter(None, map(_constant, nodes(node))), "")
    return {"t": "true", "f": "false"}.get(text, text)
