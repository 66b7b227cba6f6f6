"""Finding what a site knows already: the names, addresses and numbers of a note's patient, staff names, place names.

Every note is read once whatever the size of the tables: words are looked up in hash tables, and values of several words
or with other separators (``(203) 555-0142`` for ``2035550142``) by running them together.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lang1.common.errors import InputError
from lang1.common.identity import patient_hash
from lang1.corpus.deid_rules import Span
from lang1.corpus.deid_words import COMMON_WORDS, EPONYM_FOLLOWERS, EPONYMS, NOT_NAMES

_GIVEN, _FAMILY = ("first_name", "middle_name"), ("last_name", "former_name")
# Columns of the patients' table that hold values other than names, and their class.
VALUES: dict[str, str] = {
    "address": "LOCATION", "city": "LOCATION", "zip": "LOCATION", "phone": "PHONE", "fax": "FAX", "email": "EMAIL",
    "ssn": "SSN", "mrn": "MRN", "account": "ACCOUNT", "health_plan": "HEALTH_PLAN", "licence": "LICENSE",
    "vehicle": "VEHICLE", "device": "DEVICE", "other": "OTHER",
}  # fmt: skip
PATIENT_COLUMNS = ("patient_id", "relation", "sex", *_GIVEN, *_FAMILY, "birth_date", *VALUES)
STAFF_COLUMNS = (*_GIVEN, *_FAMILY)
PLACE_COLUMNS = ("name",)

_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_PIECES = re.compile(r"[^\W_]+")
_STREETS = {
    "street": "st", "avenue": "ave", "av": "ave", "road": "rd", "drive": "dr", "lane": "ln", "court": "ct",
    "boulevard": "blvd", "place": "pl", "terrace": "ter", "circle": "cir", "parkway": "pkwy", "highway": "hwy",
    "apartment": "apt", "unit": "apt", "suite": "ste", "north": "n", "south": "s", "east": "e", "west": "w",
}  # fmt: skip
_PARTICLES = frozenset(
    (
        "van",
        "von",
        "de",
        "der",
        "den",
        "la",
        "el",
        "al",
        "bin",
        "di",
        "da",
        "dos",
        "du",
        "st",
        "mac",
        "jr",
        "sr",
        "ii",
        "iii",
    )
)
_FEWEST_SIGNS = 4  # a shorter number is not looked for
_FUZZY_FROM = 5  # letters of a name from which a slip of the keyboard is looked for


def normal(word: str) -> str:
    """A name word as it is looked up: lower case, no accents, no apostrophe, no possessive."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return word.replace("'", "")


def _squeezed(value: str) -> str:
    return "".join(_STREETS.get(piece, piece) for piece in map(str.lower, _PIECES.findall(value)))


def _deletions(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i in range(len(word))}


@dataclass
class Names:
    """Name words: by their normal form whether they are given or family names, and the slips that lead to them."""

    roles: dict[str, str] = field(default_factory=dict)
    slips: dict[str, str] = field(default_factory=dict)

    def add(self, name: str | None, role: str, fuzzy: bool) -> None:
        for word in _WORDS.findall(name or ""):
            key = normal(word)
            if len(key) < 2 or key in _PARTICLES:
                continue
            self.roles.setdefault(key, role)
            if fuzzy and len(key) >= _FUZZY_FROM:
                for other in {key, *_deletions(key)}:
                    self.slips.setdefault(other, key)

    def slip(self, key: str) -> str | None:
        """The name that a word is one slip away from."""
        if not self.slips or len(key) < _FUZZY_FROM - 1 or key in NOT_NAMES or key in COMMON_WORDS:
            return None
        found = [self.slips[other] for other in (key, *sorted(_deletions(key))) if other in self.slips]
        return next((name for name in found if name[0] == key[0] and abs(len(name) - len(key)) <= 1), None)


@dataclass
class Values:
    """Values that are found with any separators, by what is left of them without."""

    classes: dict[str, str] = field(default_factory=dict)
    begins: set[str] = field(default_factory=set)
    longest: int = 0

    def add(self, value: str | None, cls: str) -> None:
        key = _squeezed(value or "")
        if len(key) >= _FEWEST_SIGNS:
            self.classes.setdefault(key, cls)
            self.begins.add(key[:2])
            self.longest = max(self.longest, len(key))


@dataclass
class Patient:
    """What is known about one patient and those listed with the patient."""

    patient_id: str
    sex: str | None = None
    names: Names = field(default_factory=Names)
    values: Values = field(default_factory=Values)
    initials: set[str] = field(default_factory=set)
    own_given: set[str] = field(default_factory=set)  # normal forms of the patient's own given names

    def add(self, row: dict[str, Any]) -> None:
        """One row of the patients' table."""
        own = (row.get("relation") or "self") == "self"
        if own and row.get("sex"):
            self.sex = str(row["sex"]).lower()
        for role, columns in (("given", _GIVEN), ("family", _FAMILY)):
            for column in columns:
                self.names.add(row.get(column), role, fuzzy=True)
                if own and role == "given":
                    self.own_given |= {normal(word) for word in _WORDS.findall(row.get(column) or "")}
        first, middle, last = ((row.get(c) or "")[:1].lower() for c in ("first_name", "middle_name", "last_name"))
        if own and first and last:
            self.initials |= {first + last, first + middle + last}
        for column, cls in VALUES.items():
            value = row.get(column)
            self.values.add(value, cls)
            if column == "address" and value:
                # Without the flat, and without the kind of street.
                street = re.split(r"(?i)[, ]+(?:apt|apartment|unit|suite|ste|#)", value)[0]
                self.values.add(street, cls)
                if len(words := street.split()) > 2:
                    self.values.add(" ".join(words[:-1]), cls)


class Known:
    """The site's tables.

    Args:
        patients: CSV or Parquet, a row a patient, alias or listed contact: ``patient_id`` and any of
            ``PATIENT_COLUMNS``; ``relation`` is ``self`` (or empty) for the patient.
        staff: CSV or Parquet with any of ``first_name, middle_name, last_name, former_name``.
        places: CSV or Parquet with ``name``: towns and sites; the towns in ``patients`` are taken besides.

    Raises:
        InputError: a file that cannot be read, or a column that is unknown or missing.
    """

    def __init__(self, patients: Path | None, staff: Path | None, places: Path | None) -> None:
        self.staff, self.places = Names(), Values()
        self._rows = self._hashes = None
        if patients is not None:
            rows = _read(patients, PATIENT_COLUMNS, ("patient_id",))
            hashes = np.fromiter((patient_hash(p or "") for p in rows["patient_id"].to_pylist()), np.int64, len(rows))
            order = np.argsort(hashes, kind="stable")
            self._rows, self._hashes = rows.take(pa.array(order)), hashes[order]
            for city in rows["city"].unique().to_pylist() if "city" in rows.column_names else ():
                self.places.add(city, "LOCATION")
        for row in _read(staff, STAFF_COLUMNS, ("last_name",)).to_pylist() if staff is not None else ():
            for role, columns in (("given", _GIVEN), ("family", _FAMILY)):
                for column in columns:
                    self.staff.add(row.get(column), role, fuzzy=False)
        for name in _read(places, PLACE_COLUMNS, PLACE_COLUMNS)["name"].to_pylist() if places is not None else ():
            self.places.add(name, "LOCATION")

    def patient(self, patient_id: str) -> Patient:
        """What the tables say about a patient; empty where they say nothing."""
        found = Patient(patient_id)
        if self._rows is not None and self._hashes is not None:
            wanted = patient_hash(patient_id)
            low, high = (int(np.searchsorted(self._hashes, wanted, side)) for side in ("left", "right"))
            for row in self._rows.slice(low, high - low).to_pylist():
                if row["patient_id"] == patient_id:
                    found.add(row)
        return found


def _read(path: Path, columns: tuple[str, ...], needed: tuple[str, ...]) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            names = pa_csv.open_csv(path).schema.names
            as_text = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
            table = pa_csv.read_csv(path, convert_options=as_text)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); give CSV (UTF-8) or Parquet.") from error
    for name in table.column_names:
        if name not in columns:
            raise InputError(f"{path}: column '{name}' is unknown; columns are {', '.join(columns)}.")
    for name in needed:
        if name not in table.column_names:
            raise InputError(f"{path}: column '{name}' is missing; rename the site's column to it.")
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))


def find_names(text: str, patient: Patient, staff: Names, words: Iterable[str]) -> Iterator[Span]:
    """Known names: the patient's and the listed contacts' in any case, staff and ``words`` where they are capitalised.

    A name that is an ordinary word (Will, Brown) counts only where it is capitalised; of staff, where another name
    stands beside it as well. A name in an eponym (Foley catheter) does not count.
    """
    said = {normal(word.rstrip(".")) for word in words}
    said -= COMMON_WORDS | NOT_NAMES
    matches = list(_WORDS.finditer(text))
    strength: list[int] = []  # 0 none, 1 a name where one stands beside it, 2 a name
    for place, match in enumerate(matches):
        word = match.group()
        key, capital = normal(word), word[0].isupper()
        common = key in COMMON_WORDS or key in NOT_NAMES
        value = 0
        if key in patient.names.roles:
            possessive = word.lower().endswith(("'s", "’s"))
            value = 2 if capital or possessive or not common else 1
        elif capital and key in staff.roles:
            value = 1 if common else 2
        elif capital and (key in said or patient.names.slip(key)):
            value = 2
        if value and key in EPONYMS and _eponym(matches, place):
            value = 0
        strength.append(value)
    for place, value in enumerate(strength):
        beside = [
            i
            for i in (place - 1, place + 1)
            if 0 <= i < len(matches) and strength[i] and _touch(text, matches, i, place)
        ]
        if value == 2 or (value == 1 and beside):
            match = matches[place]
            ending = 2 if match.group()[-2:].lower() in ("'s", "’s") else 0
            yield Span(match.start(), match.end() - ending, "NAME")
    for initials in sorted(patient.initials):
        pattern = r"(?<!\w)" + r"\.[ ]?".join(initials.upper()) + r"\."
        for match in re.finditer(pattern, text) if len(initials) > 1 else ():
            yield Span(*match.span(), "NAME")


def _touch(text: str, matches: list[re.Match[str]], one: int, other: int) -> bool:
    low, high = sorted((one, other))
    between = text[matches[low].end() : matches[high].start()]
    return len(between) <= 2 and "\n" not in between


def _eponym(matches: list[re.Match[str]], place: int) -> bool:
    near = [matches[i].group().lower() for i in (place - 1, place + 1) if 0 <= i < len(matches)]
    return any(word in EPONYM_FOLLOWERS for word in near)


def find_values(text: str, tables: tuple[Values, ...]) -> Iterator[Span]:
    """Known values of any class, whatever stands between their letters and digits."""
    tables = tuple(values for values in tables if values.classes)
    if not tables:
        return
    pieces = [(m.start(), m.end(), _STREETS.get(m.group().lower(), m.group().lower())) for m in _PIECES.finditer(text)]
    for at, (start, _, first) in enumerate(pieces):
        for values in tables:
            if first[:2] not in values.begins and len(first) > 1:
                continue
            joined, found = "", None
            for step in range(at, len(pieces)):
                if step > at and not _joins(text, pieces[step - 1][1], pieces[step][0]):
                    break
                joined += pieces[step][2]
                if len(joined) > values.longest:
                    break
                if (cls := values.classes.get(joined)) is not None:
                    found = Span(start, pieces[step][1], cls)
            if found is not None and (found.cls != "LOCATION" or text[start].isupper() or text[start].isdigit()):
                yield found


def _joins(text: str, end: int, start: int) -> bool:
    return start - end <= 2 and all(c in " -./()@_,#+" for c in text[end:start])
