"""Whether the rows whose label cannot be known differ from those that stay.

Rules that look ahead (``Rule.reads`` is ``observability`` or ``policy``) leave out rows that a model would have been
asked about. Each of them is compared, by what is known of the patient at registration, with the rows that the task
keeps: shares or means, and the standardised mean difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, literal, rows

# Absolute standardised mean differences above this are usually called imbalance: Austin, Statistics in Medicine
# 2009;28:3083-3107, doi 10.1002/sim.3697.
IMBALANCE = 0.1
GROUPS = ("sex", "race", "payer", "department", "admission_type", "facility")
NUMBERS = ("age", "admit_year", "note_characters")
# Levels of a covariate beyond the commonest ones are pooled, so that hundreds of departments stay readable.
MOST_LEVELS = 20
_DIGITS = 4


def compare(card: Card, rules: Sequence[Rule], facts: Facts) -> list[dict[str, Any]]:
    """Compare, for each rule that looks ahead, the eligible rows that it left out with the rows that remain.

    Asks ``candidates``, ``remaining`` and ``left_out`` as they stand after all rules of the task.

    Returns:
        One entry a rule: ``task, rule, reads, n_left`` (eligible rows that this rule left out), ``n_kept`` and
        ``covariates``, a list of ``name, level`` (null for a number), ``share_or_mean_left``, ``share_or_mean_kept``
        and ``smd``, the standardised mean difference (null where a group has no variance and the two differ).
    """
    looking = {order: rule for order, rule in enumerate(rules, 1) if rule.reads in ("observability", "policy")}
    if not looking:
        return []
    _describe(card, rules, list(looking), facts)
    counts: dict[int, int] = dict(rows(facts.connection, 'SELECT "order", count(*) FROM described GROUP BY ALL'))
    kept, found = counts.get(0, 0), []
    for order, rule in looking.items():
        left = counts.get(order, 0)
        entry = {"task": card.task, "rule": rule.words, "reads": rule.reads, "n_left": left, "n_kept": kept}
        found.append({**entry, "covariates": _covariates(facts, order, left, kept) if left and kept else []})
    return found


def imbalances(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The covariates of an entry that differ by more than :data:`IMBALANCE`, the largest first."""
    apart = [row for row in entry["covariates"] if row["smd"] is None or abs(row["smd"]) > IMBALANCE]
    return sorted(apart, key=lambda row: -(math.inf if row["smd"] is None else abs(row["smd"])))


def chance(entry: dict[str, Any]) -> bool:
    """Whether so few rows were left out that a difference of :data:`IMBALANCE` lies within two standard errors."""
    return bool(2 * math.sqrt(1 / entry["n_left"] + 1 / entry["n_kept"]) > IMBALANCE)


def _describe(card: Card, rules: Sequence[Rule], orders: list[int], facts: Facts) -> None:
    """Create ``described``: the rows that remain (``order`` 0) and those left out, with their covariates."""
    eligible = " AND ".join(f"({rule.keep}) IS TRUE" for rule in rules if rule.reads in ("eligibility", "censoring"))
    year = "year(e.admit_time)" if facts.meta.time_basis == "calendar" else "(e.year_low + e.year_high) / 2"
    born = "year(e.admit_time) - p.birth_year" if facts.meta.time_basis == "calendar" else "NULL"
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE compared AS
        SELECT encounter_id, note_id, 0 AS "order" FROM remaining
        UNION ALL
        SELECT encounter_id, note_id, "order" FROM (
            SELECT c.*, l."order" FROM candidates c JOIN left_out l USING (encounter_id)
            WHERE l.task = {literal(card.task)} AND l."order" IN ({", ".join(map(str, orders))})
        ) AS asked WHERE {eligible or "true"}
    """)
    _measure_notes(card, facts)
    groups = ", ".join(
        f"coalesce({'p' if name in ('sex', 'race') else 'e'}.{name}, 'unknown') AS {name}" for name in GROUPS
    )
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE described AS
        SELECT c."order", {groups}, coalesce(e.age_at_admission, {born})::DOUBLE AS age,
            ({year})::DOUBLE AS admit_year, n.characters::DOUBLE AS note_characters
        FROM compared c JOIN encounters e USING (encounter_id)
        LEFT JOIN patients p ON p.patient_id = e.patient_id
        LEFT JOIN note_lengths n ON n.note_id = c.note_id
    """)


def _measure_notes(card: Card, facts: Facts) -> None:
    """Add the notes of the card's type to ``note_lengths``, once a build and only where rows were left out."""
    facts.connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS note_lengths (note_id VARCHAR, note_type VARCHAR, characters BIGINT)"
    )
    kind = literal(card.note_type)
    facts.connection.execute(f"""
        INSERT INTO note_lengths
        SELECT note_id, note_type, length(text) FROM notes
        WHERE note_type = {kind} AND encounter_id IS NOT NULL AND parent_note_id IS NULL
            AND EXISTS (FROM compared WHERE "order" > 0)
            AND NOT EXISTS (FROM note_lengths WHERE note_type = {kind})
    """)


def _covariates(facts: Facts, order: int, left: int, kept: int) -> list[dict[str, Any]]:
    found = []
    for name in NUMBERS:
        ((known_left, mean_left, var_left, known_kept, mean_kept, var_kept),) = rows(
            facts.connection,
            ", ".join(
                f"count({name}) {of}, avg({name}) {of}, var_pop({name}) {of}"
                for of in (f'FILTER ("order" = {order})', 'FILTER ("order" = 0)')
            ).join(("SELECT ", " FROM described")),
        )
        if known_left and known_kept:
            found.append(_row(name, None, mean_left, mean_kept, (var_left + var_kept) / 2))
        if known_left < left or known_kept < kept:
            found.append(_share(name, "unknown", 1 - known_left / left, 1 - known_kept / kept))
    for name in GROUPS:
        levels = rows(
            facts.connection,
            f"""SELECT {name}, count(*) FILTER ("order" = {order}), count(*) FILTER ("order" = 0) FROM described
            WHERE "order" IN (0, {order}) GROUP BY 1 ORDER BY count(*) DESC, 1""",
        )
        if len(levels) < 2:
            continue
        rest = levels[MOST_LEVELS:]
        if rest:
            levels = [*levels[:MOST_LEVELS], (f"{len(rest)} others", *(sum(row[i] for row in rest) for i in (1, 2)))]
        found += [_share(name, level, n_left / left, n_kept / kept) for level, n_left, n_kept in levels]
    return found


def _share(name: str, level: str, left: float, kept: float) -> dict[str, Any]:
    return _row(name, level, left, kept, (left * (1 - left) + kept * (1 - kept)) / 2)


def _row(name: str, level: str | None, left: float, kept: float, variance: float) -> dict[str, Any]:
    smd = (left - kept) / math.sqrt(variance) if variance > 0 else 0.0 if math.isclose(left, kept) else None
    return {
        "name": name,
        "level": level,
        # Rounded, since sums in parallel differ in their last digits and the manifest must not.
        "share_or_mean_left": round(left, _DIGITS),
        "share_or_mean_kept": round(kept, _DIGITS),
        "smd": None if smd is None else round(smd, _DIGITS),
    }
