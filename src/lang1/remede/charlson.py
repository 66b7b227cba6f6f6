"""The Charlson comorbidity index of an encounter's diagnosis codes.

Groups after Quan et al. 2005 (enhanced ICD-9-CM, and ICD-10), weights of 1987 or 2011, no points for age; the prefixes,
weights and sources are in ``cards/charlson.yaml``. Codes match by prefix, without dots and in upper case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from lang1.common.settings import Settings, read_yaml, validate_settings

Weights = Literal["1987", "2011"]
TABLE = Path(__file__).parent / "cards" / "charlson.yaml"


class Group(Settings):
    """One disease group: its weights by year, and code prefixes or ranges of prefixes by code system."""

    weights: dict[str, int]
    icd9: tuple[str, ...]
    icd10: tuple[str, ...]


class _Table(Settings):
    groups: dict[str, Group]
    hierarchy: dict[str, str]


@dataclass(frozen=True)
class Charlson:
    """The index under one set of weights.

    Attributes:
        prefixes: ``(system, prefix, group)``, system ``icd9`` or ``icd10``, prefixes without dots.
        weight: points by group.
        hierarchy: graver group → the milder group that it suppresses.
    """

    prefixes: tuple[tuple[str, str, str], ...]
    weight: dict[str, int]
    hierarchy: dict[str, str]

    def groups(self, codes: Iterable[tuple[str, str]]) -> set[str]:
        """The groups of ``(code_version, code)`` pairs, the hierarchy applied."""
        found = set()
        for version, code in codes:
            system, plain = _system(version), normalise(version, code)
            found |= {group for kind, prefix, group in self.prefixes if kind == system and plain.startswith(prefix)}
        return found - {mild for grave, mild in self.hierarchy.items() if grave in found}

    def score(self, codes: Iterable[tuple[str, str]]) -> int:
        """The index of ``(code_version, code)`` pairs; 0 for none."""
        return sum(self.weight[group] for group in self.groups(codes))


@cache
def load(weights: Weights = "1987") -> Charlson:
    """The index with the weights of 1987 (the benchmark's) or of 2011."""
    table = validate_settings(_Table, read_yaml(TABLE), TABLE.name)
    prefixes = [
        (system, prefix, name)
        for name, group in table.groups.items()
        for system, entries in (("icd9", group.icd9), ("icd10", group.icd10))
        for entry in entries
        for prefix in expand(entry)
    ]
    weight = {name: group.weights[weights] for name, group in table.groups.items()}
    return Charlson(tuple(prefixes), weight, dict(table.hierarchy))


def expand(entry: str) -> list[str]:
    """The dot-less prefixes that an entry such as ``I50``, ``425.4-425.9`` or ``C00-C26`` stands for."""
    first, _, last = entry.replace(".", "").upper().partition("-")
    if not last:
        return [first]
    stem, low = re.fullmatch(r"([A-Z]?)(\d+)", first), re.fullmatch(r"([A-Z]?)(\d+)", last)
    assert stem and low and stem[1] == low[1] and len(stem[2]) == len(low[2]), f"{entry} is not a range of prefixes"
    width = len(stem[2])
    return [f"{stem[1]}{number:0{width}d}" for number in range(int(stem[2]), int(low[2]) + 1)]


def normalise(version: str, code: str) -> str:
    """A code without dots, in upper case; numeric ICD-9 categories that lost leading zeros get them back (42 → 042)."""
    plain = code.strip().upper()
    if _system(version) == "icd9":
        category, dot, rest = plain.partition(".")
        if category.isdigit() and (dot or len(category) < 3):
            category = category.zfill(3)
        return category + rest
    return plain.replace(".", "")


def _system(version: str) -> str:
    return "icd9" if version == "ICD-9-CM" else "icd10"


def create_scores(connection: duckdb.DuckDBPyConnection, weights: Weights = "1987") -> None:
    """Create the temporary table ``charlson_scores(encounter_id, score)`` from the view ``diagnoses``.

    Every encounter with at least one code has a row; an encounter without codes has none: its index is unknown, not 0.
    """
    index = load(weights)
    distinct = connection.execute("SELECT DISTINCT code_version, code FROM diagnoses ORDER BY ALL").fetchall()
    hits = [(version, code, group) for version, code in distinct for group in _hits(index, version, code)]
    columns = list(zip(*hits, strict=True)) if hits else [(), (), ()]
    names = ("code_version", "code", "disease")
    code_groups = pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)})
    points = pa.table({"disease": list(index.weight), "points": pa.array(index.weight.values(), pa.int32())})
    suppressed = pa.table({"grave": list(index.hierarchy), "mild": list(index.hierarchy.values())})
    connection.register("charlson_code_groups", code_groups)
    connection.register("charlson_points", points)
    connection.register("charlson_suppressed", suppressed)
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE charlson_groups AS
        SELECT DISTINCT encounter_id, disease FROM diagnoses JOIN charlson_code_groups USING (code_version, code)
    """)
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE charlson_scores AS
        WITH counted AS (
            SELECT g.encounter_id, p.points FROM charlson_groups g JOIN charlson_points p USING (disease)
            WHERE NOT EXISTS (
                SELECT 1 FROM charlson_suppressed s JOIN charlson_groups grave ON grave.disease = s.grave
                WHERE s.mild = g.disease AND grave.encounter_id = g.encounter_id)
        )
        SELECT c.encounter_id, coalesce(sum(counted.points), 0)::INTEGER AS score
        FROM (SELECT DISTINCT encounter_id FROM diagnoses) c LEFT JOIN counted USING (encounter_id)
        GROUP BY c.encounter_id
    """)
    for name in ("charlson_code_groups", "charlson_points", "charlson_suppressed"):
        connection.unregister(name)


def _hits(index: Charlson, version: str, code: str) -> list[str]:
    """Groups of one code before the hierarchy, which belongs to the encounter and not to the code."""
    system, plain = _system(version), normalise(version, code)
    by_prefix = _by_prefix(index.prefixes)
    return sorted({g for end in range(2, len(plain) + 1) for g in by_prefix.get((system, plain[:end]), ())})


@cache
def _by_prefix(prefixes: tuple[tuple[str, str, str], ...]) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for system, prefix, group in prefixes:
        found[system, prefix] = (*found.get((system, prefix), ()), group)
    return found
