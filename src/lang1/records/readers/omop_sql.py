"""The SQL that the parts of the OMOP reader share: ids, mappings, times, and the version of a diagnosis code."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from lang1.common.errors import InputError, SettingsError
from lang1.records.readers.dates import OFFSET, DayPart, iso_time
from lang1.records.readers.omop_concepts import DIAGNOSIS_VOCABULARIES
from lang1.records.readers.omop_settings import OmopSettings
from lang1.records.readers.omop_source import Cdm
from lang1.records.readers.source import SourceFile, name
from lang1.records.readers.staging import Staging
from lang1.records.rules import at
from lang1.records.store import quoted

_MIDNIGHT = r"[T ]00:00(:00(\.0+)?)?$"
# The shapes of codes, upper case, dots optional.
_ICD9 = r"([0-9]{3}(\.?[0-9]{1,2})?|V[0-9]{2}(\.?[0-9]{1,2})?|E[89][0-9]{2}\.?[0-9]?)"
_ICD10 = r"[A-Z][0-9][0-9AB](\.?[0-9A-Z]{1,4})?"
_PREFIX = r"^ICD-?(9|10)-?(CM)?[:/| ]+"


def identity(column: str) -> str:
    """SQL: an id as text; one that passed through a float (123.0) is whole again."""
    return f"regexp_replace({column}, '\\.0+$', '')"


def case(column: str, mapping: Mapping[str, str]) -> str:
    """SQL: a value's counterpart, case ignored; null where there is none."""
    whens = " ".join(f"WHEN {quoted(theirs.lower())} THEN {quoted(ours)}" for theirs, ours in mapping.items())
    return f"CASE lower({column}) {whens} END" if whens else "NULL::VARCHAR"


def column_of(file: SourceFile, column: str) -> str:
    """A column as the file writes it, asked by its name in the CDM."""
    return next((theirs for theirs in file.columns if theirs.lower() == column), column)


def unmapped(stage: Staging, relation: str, column: str, mapping: Mapping[str, str], taken_as: str) -> None:
    """Count the values of a concept column that have no counterpart, in ``manifest.counts.unmapped``."""
    known = ", ".join(quoted(value.lower()) for value in mapping)
    rows = stage.ask(
        f"SELECT {identity(column)} AS value, count(*) FROM {relation} WHERE {identity(column)} NOT IN ('0', {known}) "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50"
    )
    if rows:
        stage.draft.counts.setdefault("unmapped", {})[f"{relation}.{column}"] = {
            f"{value} (taken as {taken_as})": n for value, n in rows
        }


class Times:
    """How times of the CDM become times of the records.

    ``*_datetime`` is preferred to ``*_date``. A ``*_datetime`` column in which every value is midnight was filled from
    dates and is read as dates: a date counts as the start or the end of its day, midnight would not.
    """

    def __init__(self, stage: Staging, settings: OmopSettings) -> None:
        self.stage, self.settings = stage, settings

    def iso(self, column: str) -> str:
        """SQL: a time as ISO 8601 text in local hospital time; what is in no known form stays as it is."""
        forms = [
            f"WHEN regexp_full_match({column}, '[0-9]{{8}}') THEN "
            f"{column}[1:4] || '-' || {column}[5:6] || '-' || {column}[7:8]"
        ]
        if self.settings.time_zone is not None:
            zoned = f"timezone({quoted(self.settings.time_zone)}, try_cast({column} AS TIMESTAMPTZ))"
            forms.append(f"WHEN regexp_matches({column}, '{OFFSET}') THEN {zoned}::VARCHAR")
        for written in self.settings.time_formats:
            parsed = f"try_strptime({column}, {quoted(written)})"
            has_time = any(part in written for part in ("%H", "%I", "%c", "%X"))
            text = f"{parsed}::VARCHAR" if has_time else f"({parsed}::DATE)::VARCHAR"
            forms.append(f"WHEN {parsed} IS NOT NULL THEN {text}")
        return f"CASE {' '.join(forms)} ELSE {column} END"

    def moment(self, relation: str, stem: str, part: DayPart) -> str:
        """SQL: ``STEM_datetime``, else ``STEM_date`` as the given part of its day; null for what is no time.

        ``stem`` may be written with the alias of its relation (``d.death``).

        Raises:
            InputError: times carry a UTC offset and no ``time_zone`` is set.
            SettingsError: a zone or a format that is none.
        """
        bare = stem.rpartition(".")[2]
        exact, day = f"{stem}_datetime", f"{stem}_date"
        self._check(relation, f"{bare}_datetime")
        iso = self.iso(f"{bare}_datetime")
        ((given, timed),) = self.stage.ask(
            f"SELECT count({bare}_datetime), count(*) FILTER (NOT regexp_matches({iso}, '{_MIDNIGHT}')) FROM {relation}"
        )
        if given and not timed:
            known = self.stage.draft.extra.setdefault("dates_only", [])
            if f"{relation}.{bare}" not in known:
                known.append(f"{relation}.{bare}")
            return iso_time(f"left(coalesce({self.iso(day)}, {self.iso(exact)}), 10)", part)
        # A date column may hold midnights (Parquet of other tools): its day counts.
        return f"coalesce({iso_time(self.iso(exact), part)}, {iso_time(f'left({self.iso(day)}, 10)', part)})"

    def _check(self, relation: str, column: str) -> None:
        try:
            self.stage.ask(f"SELECT {self.iso('x')} FROM (SELECT '2024-01-31 10:00:00+00' AS x)")
        except duckdb.Error as error:
            raise SettingsError(f"time_zone or time_formats: {str(error).splitlines()[0]}") from error
        if self.settings.time_zone is not None:
            return
        found = self.stage.ask(
            f"SELECT _file, _row, {column} FROM {relation} WHERE regexp_matches({column}, '{OFFSET}') "
            "ORDER BY 1, 2 LIMIT 1"
        )
        if found:
            file, row, value = found[0]
            raise InputError(
                f"{at(file, row)}: {column} is '{value}', a time with a UTC offset; set time_zone to the hospital's "
                "zone (America/New_York), or to UTC if the offset means nothing and times are local as written."
            )


def bare_code(column: str) -> str:
    """SQL: a source value as a code: upper case, without spaces around it and without a prefix such as ``ICD10CM:``."""
    return f"regexp_replace(upper(trim({column})), '{_PREFIX}', '')"


def version_by_shape(column: str) -> str:
    """SQL: the version that a diagnosis code's prefix or shape tells; ``either`` where both have such codes, else null.

    ``column`` holds the source value in upper case. E and V begin codes of both: E880 (ICD-9-CM E880, or ICD-10 E88.0)
    and V458 (V45.8 in both) are told apart by where the dot is, or by the other codes of the stay.
    """
    code = bare_code(column)
    return f"""CASE
        WHEN regexp_matches({column}, '{_PREFIX}') THEN
            CASE regexp_extract({column}, '{_PREFIX}', 1) WHEN '9' THEN 'ICD-9-CM' ELSE 'ICD-10-CM' END
        WHEN regexp_full_match({code}, '{_ICD9}') AND regexp_full_match({code}, '{_ICD10}') THEN 'either'
        WHEN regexp_full_match({code}, '{_ICD9}') THEN 'ICD-9-CM'
        WHEN regexp_full_match({code}, '{_ICD10}') THEN 'ICD-10-CM' END"""


def has_icd(connection: duckdb.DuckDBPyConnection, cdm: Cdm) -> bool:
    """Whether any condition carries an ICD code, by its shape or by its source concept."""
    files = cdm.tables["condition_occurrence"]
    for file in files:
        value = column_of(file, "condition_source_value")
        if value in file.columns:
            shape = version_by_shape(f"upper(trim({name(value)}))")
            if connection.execute(
                f"SELECT 1 FROM ({file.select([value])}) WHERE ({shape}) IS NOT NULL LIMIT 1"
            ).fetchall():
                return True
    vocabularies = ", ".join(quoted(name) for name in DIAGNOSIS_VOCABULARIES)
    for file in files:
        source = column_of(file, "condition_source_concept_id")
        if source not in file.columns:
            continue
        for concept in cdm.tables["concept"]:
            key, vocabulary = column_of(concept, "concept_id"), column_of(concept, "vocabulary_id")
            icd = f"""SELECT {identity(name(key))} FROM ({concept.select([key, vocabulary])})
                WHERE {name(vocabulary)} IN ({vocabularies})"""
            asked = f"SELECT 1 FROM ({file.select([source])}) WHERE {identity(name(source))} IN ({icd}) LIMIT 1"
            if connection.execute(asked).fetchall():
                return True
    return False
