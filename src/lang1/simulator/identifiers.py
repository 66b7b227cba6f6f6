"""Identifiers that can be planted in simulated notes, so that de-identification can be measured.

Default notes name nobody. With ``identifiers: true`` every patient gets a name, an address, numbers and relatives,
every system a staff, and the finished notes get lines that hold them, as ``identifier_forms.yaml`` says. Everything
that is written down, and each thing that only looks like an identifier, is listed with its place: the truth is exact.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lang1.records.store import part_files, write_table_part

IDENTIFIERS, DISTRACTORS = "identifiers.parquet", "distractors.parquet"
KNOWN_PATIENTS, KNOWN_STAFF = "known_patients.csv", "known_staff.csv"

_SPANS = pa.schema(
    [
        ("note_id", pa.string()),
        ("start", pa.int32()),  # characters of the note's text
        ("end", pa.int32()),
        ("class", pa.string()),
        ("text", pa.string()),
        ("form", pa.string()),  # which sentence, which way of writing
        ("held_out", pa.bool_()),  # whether the sentence or the way of writing is one that rules were not tuned on
    ]
)
_PATIENT_COLUMNS = (
    "patient_id", "relation", "sex", "first_name", "middle_name", "last_name", "birth_date", "address", "city", "zip",
    "phone", "email", "ssn", "mrn", "account", "health_plan",
)  # fmt: skip
_STAFF = 60
_LISTED_STAFF = 0.85  # of the staff who are in the site's own list; the others are visitors and referring physicians

_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_AGES = re.compile(r"\b(\d{2,3})(?= (?:year|yaer) old | yo )|(?<=^Patient: )(\d{2,3})\b", re.MULTILINE)
_YEAR = re.compile("year|%[yY]")
_MARK = re.compile(r"<([A-Z_]+) ([^<>]+)>")


@cache
def _forms() -> dict[str, Any]:
    text = (files("lang1.simulator") / "identifier_forms.yaml").read_text(encoding="utf-8")
    forms: dict[str, Any] = yaml.safe_load(text)
    return forms


@dataclass(frozen=True)
class Person:
    """What a site has on file about one person; fields are named as in the forms."""

    sex: str
    fields: dict[str, str]
    birth: date


def _digits(rng: Random, n: int) -> str:
    return str(rng.randrange(1, 10)) + "".join(str(rng.randrange(10)) for _ in range(n - 1))


def _letters(rng: Random, n: int) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(n))


def _plain(name: str) -> str:
    bare = unicodedata.normalize("NFKD", name.lower())
    return "".join(c for c in bare if c.isascii() and c.isalpha())


def _slip(name: str, rng: Random) -> str:
    """A slip of the keyboard in a name of five letters or more: two letters change places, or one is left out."""
    if len(name) < 5:
        return name
    at = rng.randrange(1, len(name) - 2)
    swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    return swapped if rng.random() < 0.5 else name[:at] + name[at + 1 :]


def _nth(day: int) -> str:
    return f"{day}{'th' if 10 < day < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _name(rng: Random, sex: str, last: str | None = None) -> dict[str, str]:
    lists = _forms()["names"]
    given = lists["female" if sex == "female" else "male"]
    return {"first": rng.choice(given), "middle": rng.choice(given), "last": last or rng.choice(lists["last"])}


@cache
def _staff(seed: int, system: str) -> tuple[tuple[dict[str, str], bool], ...]:
    """The staff of a system, and who of them is in the site's list."""
    rng = Random(f"{seed}:{system}:staff")
    people = []
    for _ in range(_STAFF):
        who = _name(rng, rng.choice(("female", "male")))
        people.append(({f"doc_{k}": v for k, v in who.items()}, rng.random() < _LISTED_STAFF))
    return tuple(people)


def _person(seed: int, patient_id: str, sex: str, birth_year: int) -> Person:
    rng, lists = Random(f"{seed}:{patient_id}:identity"), _forms()["names"]
    f = _name(rng, sex)
    kind, short = rng.choice(lists["kinds"])
    f |= {"house": str(rng.randrange(100, 9999)), "road": rng.choice(lists["roads"]), "kind": kind, "kind_short": short}
    f |= {"unit": str(rng.randrange(1, 40)), "city": rng.choice(lists["cities"]), "state": "OH", "zip": _digits(rng, 5)}
    f |= {"p1": str(rng.randrange(201, 990)), "p2": str(rng.randrange(201, 990)), "p3": _digits(rng, 4)}
    # Numbers that begin with 9 are never issued.
    f |= {"s1": "9" + _digits(rng, 2), "s2": _digits(rng, 2), "s3": _digits(rng, 4)}
    f |= {"mrn_a": _digits(rng, 3), "mrn_b": _digits(rng, 4), "account": _digits(rng, 9), "plan": _digits(rng, 9)}
    f |= {"plan_letters": _letters(rng, 3), "domain": rng.choice(("example.com", "example.net", "example.org"))}
    m = _letters(rng, 3)
    f["mbi"] = f"{rng.randrange(1, 10)}{m[0]}{rng.randrange(10)}{rng.randrange(10)}-{m[1]}{m[2]}" + "{}-{}{}{}".format(
        rng.randrange(10), *_letters(rng, 2), _digits(rng, 2)
    )
    f["vin"] = "1" + _letters(rng, 4) + _digits(rng, 5) + _letters(rng, 1) + _digits(rng, 6)
    f["plate"] = f"{_letters(rng, 3)} {_digits(rng, 4)}"
    f["mrn"] = f["mrn_a"] + f["mrn_b"]
    f["email"] = f"{_plain(f['first'])}.{_plain(f['last'])}@{f['domain']}"
    for k in ("known", "unknown"):  # a listed contact, and a relative who is in nobody's list
        who = _name(rng, rng.choice(("female", "male")), f["last"] if rng.random() < 0.5 else None)
        f |= {f"{k}_{part}": value for part, value in who.items()}
    birth = date(birth_year, 1, 1) + timedelta(days=rng.randrange(365))
    return Person(sex, f, birth)


class _Lines:
    """Fills sentences for one note."""

    def __init__(self, person: Person, staff: tuple[tuple[dict[str, str], bool], ...], day: date, rng: Random) -> None:
        self.person, self.staff, self.day, self.rng = person, staff, day, rng

    def _fields(self) -> dict[str, Any]:
        rng, f = self.rng, dict(self.person.fields)
        f |= self.rng.choice(self.staff)[0]
        which = rng.choice(("known", "unknown"))
        f |= {f"rel_{part}": f[f"{which}_{part}"] for part in ("first", "middle", "last")}
        f |= {"ext": _digits(rng, 4), "q1": _digits(rng, 3), "q2": _digits(rng, 3), "q3": _digits(rng, 4)}
        f |= {f"i{k}": str(rng.randrange(1, 255)) for k in (1, 2, 3)}
        f |= {
            "first_typo": _slip(f["first"], rng),
            "last_typo": _slip(f["last"], rng),
            "old": str(rng.randrange(90, 104)),
        }
        f |= {"first_low": _plain(f["first"]), "last_low": f["last"].lower(), "last_ascii": _plain(f["last"])}
        f |= {"f_low": f["first_low"][0], "HOUSE_ROAD": f"{f['house']} {f['road']} {f['kind']}".upper()}
        for k in ("", "rel_", "doc_"):
            f |= {f"{k}{part[0]}": f[f"{k}{part}"][0] for part in ("first", "middle", "last")}
        f |= {k.upper(): v.upper() for k, v in list(f.items()) if k.endswith(("first", "last")) or k == "m"}
        return {**f, "d": self.day - timedelta(days=rng.randrange(400))}

    def _value(self, kind: str, fields: dict[str, Any]) -> tuple[str, str, bool]:
        """An identifier: its text, the way of writing, and whether that is held out."""
        birth = kind == "dob"
        if birth:
            kind, fields = "date", {**fields, "d": self.person.birth}
        if kind == "pager":
            return _digits(self.rng, 5), "pager", False
        ways = _forms()["values"][kind]
        held = self.rng.random() < 0.5
        forms = ways["held_out" if held else "tuning"]
        form = self.rng.choice([f for f in forms if _YEAR.search(f)] if birth else forms)
        if kind == "date" and not _YEAR.search(form):  # without its year a date means one close by
            fields = {**fields, "d": self.day - timedelta(days=self.rng.randrange(60))}
        text = str(form.format(**fields, nth=_nth(fields["d"].day)))
        return text, f"{kind} {form}", held and ways["held_out"] != ways["tuning"]

    def line(self, where: str, held: bool) -> tuple[str, list[tuple[int, int, str, str, bool]]]:
        """One sentence, and what it holds: start, end, class, form, held out."""
        options = _forms()["sentences"][where]["held_out" if held else "tuning"]
        pattern, fields = self.rng.choice(options), self._fields()
        pattern = pattern.replace("{state}", fields["state"])
        if self.person.sex == "female":
            pattern = pattern.replace("Mr./Ms.", "Ms.").replace("Mrs/Mr", "Mrs").replace("Wife/husband", "Husband")
        pattern = pattern.replace("Mr./Ms.", "Mr.").replace("Mrs/Mr", "mr").replace("Wife/husband", "Wife")
        made, found, last = "", [], 0
        for mark in _MARK.finditer(pattern):
            made += pattern[last : mark.start()]
            last = mark.end()
            cls, kind = mark.groups()
            text, form, unseen = (kind, "keep", False) if cls == "KEEP" else self._value(kind, fields)
            found.append((len(made), len(made) + len(text), cls, f"{pattern} | {form}", held or unseen))
            made += text
            if made.endswith(".") and pattern[last : last + 1] == ".":
                last += 1  # a sentence ends in one full stop
        return made + pattern[last:], found


def _note(note: dict[str, Any], lines: _Lines) -> tuple[str, list[dict[str, Any]]]:
    """A note with identifiers in it, and the truth about it."""
    rng, old = lines.rng, note["text"]
    long = note["note_type"] in ("history_and_physical", "discharge_summary")
    plan = [("top", 2 if long else 1), ("body", 4 if long else 1), ("keep", 2 if long else 1), ("end", 1)]
    kept: list[tuple[str, list[tuple[int, int, str, str, bool]]]] = [(line, []) for line in old.split("\n")]
    added = {w: [lines.line(w, rng.random() < 0.5) for _ in range(n)] for w, n in plan}
    pieces = [*added["top"], *kept]
    for extra in (*added["body"], *added["keep"]):
        pieces.insert(rng.randrange(len(added["top"]), len(pieces) + 1), extra)
    pieces += added["end"]
    text, spans = "", []
    for line, found in pieces:
        base = len(text) + (1 if text else 0)
        text = f"{text}\n{line}" if text else line
        found = found or [
            (m.start(), m.end(), "AGE", "opening", False) for m in _AGES.finditer(line) if int(m.group()) >= 90
        ]
        spans += [(base + start, base + end, cls, form, held) for start, end, cls, form, held in found]
    names = _SPANS.names
    rows = [(note["note_id"], s, e, cls, text[s:e], form, held) for s, e, cls, form, held in spans]
    return text, [dict(zip(names, row, strict=True)) for row in rows]


def plant_identifiers(records: Path, truth: Path, system: str, seed: int) -> dict[str, int]:
    """Write identifiers into the notes of a records folder that is being written, and the truth about them.

    What is written to whom follows from the seed and from ids: the same settings give the same bytes.

    Args:
        records: the folder whose patients and notes are finished otherwise.
        truth: an existing folder, gets ``identifiers.parquet`` and ``distractors.parquet`` (note_id, start and end in
            characters, class, text, form, held_out) and what a site would supply: ``known_patients.csv`` (patients and
            their listed contacts) and ``known_staff.csv``.
        system: name of the health system.
        seed: of the simulation.

    Returns:
        Identifiers by class.
    """
    staff, people = _staff(seed, system), {}
    with (truth / KNOWN_PATIENTS).open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream, lineterminator="\n")
        out.writerow(_PATIENT_COLUMNS)
        for file in part_files(records, "patients"):
            for row in pq.read_table(file, columns=["patient_id", "sex", "birth_year"]).to_pylist():
                people[row["patient_id"]] = (row["sex"], row["birth_year"])
                out.writerows(_on_file(row["patient_id"], _person(seed, **row)))
    with (truth / KNOWN_STAFF).open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream, lineterminator="\n")
        out.writerow(("first_name", "middle_name", "last_name"))
        out.writerows([(w["doc_first"], w["doc_middle"], w["doc_last"]) for w, listed in staff if listed])
    counts: dict[str, int] = {}
    with (
        pq.ParquetWriter(truth / IDENTIFIERS, _SPANS, compression="zstd") as spans,
        pq.ParquetWriter(truth / DISTRACTORS, _SPANS, compression="zstd") as others,
    ):
        for number, file in enumerate(part_files(records, "notes")):
            table = pq.read_table(file)
            texts, found = [], []
            for note in table.to_pylist():
                sex, year = people[note["patient_id"]]
                person = _person(seed, note["patient_id"], sex, year)
                day = note["created_time"].date()
                rng = Random(f"{seed}:{note['note_id']}:identifiers")
                text, rows = _note(note, _Lines(person, staff, day, rng))
                texts.append(text)
                found += rows
            for row in found:
                counts[row["class"]] = counts.get(row["class"], 0) + 1
            others.write_table(pa.Table.from_pylist([r for r in found if r["class"] == "KEEP"], schema=_SPANS))
            spans.write_table(pa.Table.from_pylist([r for r in found if r["class"] != "KEEP"], schema=_SPANS))
            place = table.schema.get_field_index("text")
            file.unlink()
            write_table_part(records, "notes", table.set_column(place, "text", pa.array(texts, pa.string())), number)
    return {cls: count for cls, count in sorted(counts.items()) if cls != "KEEP"}


def _on_file(patient_id: str, person: Person) -> Iterator[tuple[str, ...]]:
    """The rows of a patient and of the listed contact."""
    f = person.fields
    address = f"{f['house']} {f['road']} {f['kind']} Apt {f['unit']}"
    phone = f"{f['p1']}-{f['p2']}-{f['p3']}"
    ssn = f"{f['s1']}-{f['s2']}-{f['s3']}"
    yield (
        patient_id, "self", person.sex, f["first"], f["middle"], f["last"], person.birth.isoformat(), address,
        f["city"], f["zip"], phone, f["email"], ssn, f["mrn"], f["account"], f["plan_letters"] + f["plan"],
    )  # fmt: skip
    contact = (f["known_first"], f["known_middle"], f["known_last"])
    yield (patient_id, "contact", "", *contact, *("" for _ in range(len(_PATIENT_COLUMNS) - 6)))
