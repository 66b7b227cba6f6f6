"""The Charlson comorbidity index of an encounter's diagnosis codes.

Groups after Quan et al. 2005 (enhanced ICD-9-CM, and ICD-10), weights of 1987 or 2011; the prefixes, weights and
sources are in ``cards/charlson.yaml``. Codes match by prefix, without dots and in upper case.
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
CodeVariant = Literal["who", "us_cm"]
TABLE = Path(__file__).parent / "cards" / "charlson.yaml"
# Which lists of prefixes a code is looked up in; the last is empty unless the variant is us_cm.
SYSTEMS = {"ICD-9-CM": ("icd9",), "ICD-10": ("icd10",), "ICD-10-CM": ("icd10", "us_cm")}


class Group(Settings):
    """One disease group: its weights by year, and code prefixes or ranges of prefixes by code system."""

    weights: dict[str, int]
    icd9: tuple[str, ...]
    icd10: tuple[str, ...]
    us_cm: tuple[str, ...] = ()


class _Table(Settings):
    groups: dict[str, Group]
    hierarchy: dict[str, str]


@dataclass(frozen=True)
class Charlson:
    """The index under one set of weights.

    Attributes:
        prefixes: ``(system, prefix, group)``, system ``icd9``, ``icd10`` or ``us_cm``, prefixes without dots.
        weight: points by group.
        hierarchy: graver group → the milder group that it suppresses.
    """

    prefixes: tuple[tuple[str, str, str], ...]
    weight: dict[str, int]
    hierarchy: dict[str, str]

    def groups(self, codes: Iterable[tuple[str, str]]) -> set[str]:
        """The groups of ``(code_version, code)`` pairs, the hierarchy applied."""
        found = {group for version, code in codes for group in code_groups(self, version, code)}
        return found - {mild for grave, mild in self.hierarchy.items() if grave in found}

    def score(self, codes: Iterable[tuple[str, str]]) -> int:
        """The index of ``(code_version, code)`` pairs; 0 for none."""
        return sum(self.weight[group] for group in self.groups(codes))


@cache
def load(weights: Weights = "1987", variant: CodeVariant = "who") -> Charlson:
    """The index with the weights of 1987 (the benchmark's) or of 2011; ``us_cm`` adds prefixes of ICD-10-CM alone."""
    table = validate_settings(_Table, read_yaml(TABLE), TABLE.name)
    prefixes = [
        (system, prefix, name)
        for name, group in table.groups.items()
        for system, entries in (("icd9", group.icd9), ("icd10", group.icd10), ("us_cm", group.us_cm))
        if system != "us_cm" or variant == "us_cm"
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
    if version == "ICD-9-CM":
        category, dot, rest = plain.partition(".")
        if category.isdigit() and (dot or len(category) < 3):
            category = category.zfill(3)
        return category + rest
    return plain.replace(".", "")


def code_groups(index: Charlson, version: str, code: str) -> list[str]:
    """Groups of one code before the hierarchy, which belongs to the encounter and not to the code; sorted."""
    plain, by_prefix = normalise(version, code), _by_prefix(index.prefixes)
    found = (
        by_prefix.get((system, plain[:end]), ()) for system in SYSTEMS[version] for end in range(2, len(plain) + 1)
    )
    return sorted({group for groups in found for group in groups})


@cache
def _by_prefix(prefixes: tuple[tuple[str, str, str], ...]) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for system, prefix, group in prefixes:
        found[system, prefix] = (*found.get((system, prefix), ()), group)
    return found


def create_scores(
    connection: duckdb.DuckDBPyConnection,
    weights: Weights = "1987",
    variant: CodeVariant = "who",
    counted: str = "true",
) -> None:
    """Create the temporary table ``charlson_scores(encounter_id, score)`` from the view ``diagnoses``.

    Every encounter with at least one code has a row; an encounter without codes has none: its index is unknown, not 0.
    ``counted`` is SQL over ``diagnoses``: which codes may count, such as those present on admission.
    """
    index = load(weights, variant)
    distinct = connection.execute("SELECT DISTINCT code_version, code FROM diagnoses ORDER BY ALL").fetchall()
    hits = [(version, code, group) for version, code in distinct for group in code_groups(index, version, code)]
    columns = list(zip(*hits, strict=True)) if hits else [(), (), ()]
    names = ("code_version", "code", "disease")
    groups = pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)})
    points = pa.table({"disease": list(index.weight), "points": pa.array(index.weight.values(), pa.int32())})
    suppressed = pa.table({"grave": list(index.hierarchy), "mild": list(index.hierarchy.values())})
    connection.register("charlson_code_groups", groups)
    connection.register("charlson_points", points)
    connection.register("charlson_suppressed", suppressed)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE charlson_groups AS
        SELECT DISTINCT encounter_id, disease FROM diagnoses JOIN charlson_code_groups USING (code_version, code)
        WHERE {counted}
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
