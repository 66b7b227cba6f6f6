"""Stand-ins for identifiers: the same for the same value throughout a patient's chart, another for another patient.

What stands in follows from a key that only the user has (keyed BLAKE2b), the patient and the value, so that every
process gives the same and nobody without the key can tell what was there. Lists of names and places are invented.
"""

from __future__ import annotations

import calendar
import hashlib
import re
from collections.abc import Sequence
from datetime import date, timedelta

from lang1.corpus.deid_known import Names, Patient, normal
from lang1.corpus.deid_rules import DATES, MONTH_AND_DAY

_FEMALE = (
    "Abigail", "Adele", "Agatha", "Alma", "Amelia", "Bettina", "Bridget", "Camille", "Clara", "Cora", "Daphne", "Delia",
    "Edith", "Elena", "Elsa", "Esther", "Fiona", "Flora", "Greta", "Hannah", "Helga", "Ida", "Ines", "Jolene", "Judith",
    "Kirsten", "Leona", "Lydia", "Mabel", "Marta", "Nadine", "Noelle", "Odette", "Olga", "Paula", "Petra", "Renata",
    "Rhoda", "Sabina", "Selma", "Sylvia", "Tamara", "Thelma", "Ursula", "Vera", "Wanda", "Yvette", "Zelda",
)  # fmt: skip
_MALE = (
    "Abel", "Albert", "Anton", "Basil", "Boris", "Caleb", "Casper", "Conrad", "Cyrus", "Dexter", "Edgar", "Elias",
    "Emil", "Ezra", "Felix", "Floyd", "Gerard", "Gilbert", "Gustav", "Harvey", "Hector", "Hugo", "Igor", "Ivan",
    "Jasper", "Joel", "Julius", "Karl", "Lionel", "Lorenz", "Magnus", "Marcel", "Milo", "Nestor", "Norbert",
    "Oscar", "Otto", "Percy", "Ralph", "Rufus", "Rupert", "Silas", "Simon", "Tobias", "Ulrich", "Viktor", "Walter",
    "Xavier",
)  # fmt: skip
_FAMILY = tuple(
    begin + end
    for begin in ("Ashen", "Bram", "Calder", "Dorn", "Elver", "Fen", "Gran", "Harl", "Isel", "Jarr", "Kelm", "Lorr",
                  "Mard", "Nev", "Orm", "Pell", "Quar", "Rand", "Stav", "Thorn", "Uld", "Varn", "Wint", "Yar")
    for end in ("bury", "dale", "ett", "field", "gard", "ham", "ing", "kin", "low", "man", "ner", "quist", "rick",
                "sby", "ton", "wick")
)  # fmt: skip
_TOWNS = tuple(
    f"{begin}{end}"
    for begin in ("Amber", "Birch", "Clear", "Deer", "Elder", "Fair", "Glen", "Hazel", "Linden", "Maple", "Rock",
                  "Silver")
    for end in ("brook", "burg", "crest", "mont", "port", "ville", "water", "worth")
)  # fmt: skip
_MONTHS, _MONTHS_SHORT = [m.lower() for m in calendar.month_name], [m.lower() for m in calendar.month_abbr]
_WEEKDAYS = [d.lower() for d in calendar.day_name]
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


class Surrogates:
    """Draws stand-ins.

    Args:
        key: the user's secret, any length.
        max_shift_days: dates of a patient move by the same number of days, at most this many, never by none.
        keep_weekdays: move by whole weeks.
    """

    def __init__(self, key: bytes, max_shift_days: int, keep_weekdays: bool) -> None:
        self._key = hashlib.blake2b(key, digest_size=64).digest()
        self._most, self._weeks = max_shift_days, keep_weekdays

    def _draw(self, patient_id: str, kind: str, value: str) -> int:
        digest = hashlib.blake2b(f"{patient_id}\0{kind}\0{value}".encode(), digest_size=16, key=self._key).digest()
        return int.from_bytes(digest, "big")

    def shift_days(self, patient_id: str) -> int:
        """By how many days the dates of a patient move."""
        unit = 7 if self._weeks else 1
        steps = self._most // unit
        drawn = self._draw(patient_id, "shift", "") % (2 * steps) - steps
        return unit * (drawn if drawn < 0 else drawn + 1)

    def replace(self, text: str, cls: str, patient: Patient, staff: Names, year: int) -> str:
        """What stands in for an identifier; ``year`` is that of the note, for dates without one."""
        if cls == "NAME":
            return re.sub(r"[^\W\d_]+(?:['’][^\W\d_]+)*", lambda m: self._name(m.group(), patient, staff), text)
        if cls == "DATE":
            moved = shifted(text, self.shift_days(patient.patient_id), year)
            return "[DATE]" if moved is None else moved
        who = patient.patient_id
        if cls == "LOCATION" and not any(c.isdigit() for c in text):
            town = _TOWNS[self._draw(who, "town", normal(text)) % len(_TOWNS)]
            return town.upper() if text.isupper() else town
        if cls == "EMAIL":
            return f"mail{self._draw(who, 'email', text.lower()) % 10**6:06d}@example.org"
        if cls == "URL":
            return f"https://example.org/{self._draw(who, 'url', text.lower()) % 10**6:06d}"
        if cls == "IP":
            return f"192.0.2.{self._draw(who, 'ip', text) % 254 + 1}"  # a block for documentation (RFC 5737)
        if cls == "PHOTO":
            return f"photo{self._draw(who, 'photo', text.lower()) % 10**6:06d}.{text.rpartition('.')[2]}"
        return self._number(text, who, words=cls == "LOCATION")

    def _name(self, word: str, patient: Patient, staff: Names) -> str:
        who = patient.patient_id
        key = normal(word)
        if len(key) == 1:
            known = next((name for name in patient.names.roles if name[0] == key), None)
            stand_in = self._name(known, patient, staff)[0] if known else _LETTERS[self._draw(who, "letter", key) % 24]
            return stand_in.upper() if word.isupper() else stand_in.lower()
        if key not in patient.names.roles:
            key = patient.names.slip(key) or key
        role = patient.names.roles.get(key) or staff.roles.get(key) or ("given" if key in _GIVEN_KEYS else "family")
        options: Sequence[str] = _FAMILY
        if role == "given":
            options = _MALE if self._is_male(key, patient) else _FEMALE
        at = self._draw(who, role, key) % len(options)
        while normal(options[at]) in patient.names.roles:  # never one of the patient's own names
            at = (at + 1) % len(options)
        suffix = word[-2:] if word[-2:].lower() in ("'s", "’s") else ""
        name = options[at]
        if word.isupper() and len(word) > 1:
            return name.upper() + suffix
        return (name.lower() if word.islower() else name) + suffix

    def _is_male(self, key: str, patient: Patient) -> bool:
        if key in patient.own_given and patient.sex in ("female", "male"):
            return patient.sex == "male"
        return self._draw(patient.patient_id, "sex", key) % 2 == 1

    def _number(self, text: str, who: str, words: bool) -> str:
        """Other digits and letters in the same places; the same number with other separators gets the same digits."""
        value = "".join(c for c in text.lower() if c.isalnum()).lstrip("0")
        drawn = self._draw(who, "number", value)
        if words:  # an address: another house number and street, the kind of street and of flat as they are
            road = _TOWNS[drawn % len(_TOWNS)]
            number = re.sub(r"\d", lambda m: str((drawn >> (m.start() % 64)) % 10), text)
            return re.sub(r"(?<=\d )(?:[A-Z][\w'’.-]*[ ])+(?=\w+)", f"{road} ", number)
        made: list[str] = []
        left = len(value)
        for c in reversed(text):  # from the right, so that zeros before a number change nothing
            if not c.isalnum() or not left:
                made.append(c)
                continue
            left -= 1
            drawn = drawn * 6364136223846793005 + 1442695040888963407 & (1 << 128) - 1
            if c.isdigit():
                made.append(str((drawn >> 100) % 10))
            else:
                letter = _LETTERS[(drawn >> 100) % 24]
                made.append(letter if c.isupper() else letter.lower())
        return "".join(reversed(made))


_GIVEN_KEYS = frozenset(normal(name) for name in (*_FEMALE, *_MALE))


def shifted(text: str, days: int, year: int) -> str | None:
    """A date moved by days and written as it was; None where it is not a date of the calendar.

    A month alone moves as its middle does. A date without a year is taken to lie in ``year``.
    """
    for pattern in (*DATES, MONTH_AND_DAY):
        match = pattern.fullmatch(text)
        if match is None:
            continue
        found = {k: v for k, v in match.groupdict().items() if v is not None}
        month = int(found["m"]) if "m" in found else _month(found["mon"])
        full_year = _full_year(found.get("y"), year)
        try:
            moved = date(full_year, month, int(found.get("d", 15))) + timedelta(days=days)
        except (ValueError, OverflowError):
            continue
        padded = any(found.get(k, "").startswith("0") for k in ("m", "d")) or len(found.get("y", "")) == len(text) - 4
        padded = padded or text[:4].isdigit()
        new = {
            "y": _like_year(found.get("y", ""), moved.year),
            "m": f"{moved.month:02d}" if padded else str(moved.month),
            "mon": _like_month(found.get("mon", ""), moved.month, short_may=f"-{found.get('mon')}-" in text),
            "d": f"{moved.day:02d}" if padded else str(moved.day),
            "nth": _nth(moved.day),
            "wd": _like(found.get("wd", ""), _WEEKDAYS[moved.weekday()]),
        }
        made, last = "", 0
        for start, end, name in sorted((*match.span(k), k) for k in found if k in new):
            made += text[last:start] + new[name]
            last = end
        return made + text[last:]
    return None


def _month(name: str) -> int:
    return _MONTHS_SHORT.index(name[:3].lower())


def _full_year(written: str | None, year: int) -> int:
    if written is None:
        return year
    digits = written.lstrip("'")
    if len(digits) == 4:
        return int(digits)
    return int(digits) + (2000 if int(digits) <= (year + 1) % 100 or year < 2000 else 1900)


def _like_year(written: str, year: int) -> str:
    if len(written) == 4:
        return str(year)
    return ("'" if written.startswith("'") else "") + f"{year % 100:02d}"


def _like(written: str, name: str) -> str:
    """A name shortened and in the case of what was written."""
    short = name if len(written) > 5 or written.lower().endswith("day") else name[: max(len(written), 3)]
    return short.upper() if written.isupper() else short.title() if written[:1].isupper() else short


def _like_month(written: str, month: int, short_may: bool) -> str:
    """The month as the one that was written: May alone does not tell a short form from a full one."""
    name = _MONTHS[month]
    short = short_may if written.lower() == "may" else len(written) <= 4 and written.lower() not in ("june", "july")
    name = _MONTHS_SHORT[month] if short else name
    return name.upper() if written.isupper() else name.title() if written[:1].isupper() else name


def _nth(day: int) -> str:
    return "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
