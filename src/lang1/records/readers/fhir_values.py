"""Reading FHIR elements that may be absent, of a wrong type, or of another release, without ever failing on one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

# Surrogates that stand alone cannot be written as UTF-8, and nothing in a note needs a NUL.
_UNWRITABLE = re.compile("[\ud800-\udfff\x00]")


def writable(text: str) -> str:
    """A text without the characters that no file can hold."""
    if text.isascii() and "\x00" not in text:  # nearly all are; a search by pattern took a fifth of the reading time
        return text
    return _UNWRITABLE.sub("\ufffd", text)


@dataclass
class Oddities:
    """Elements of a wrong type, read as absent: how many by path, and the first place of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    place: str = ""

    def note(self, path: str) -> None:
        """Count one at the current place."""
        self.counts[path] += 1
        self.first.setdefault(path, self.place)


class Node:
    """A JSON object with its path; what is absent or of a wrong type reads as empty, the latter counted."""

    __slots__ = ("_odd", "_value", "path")

    def __init__(self, value: dict[str, Any], path: str, odd: Oddities) -> None:
        self._value, self.path, self._odd = value, path, odd

    def __bool__(self) -> bool:
        return bool(self._value)

    def has(self, key: str) -> bool:
        """Whether the element is there at all."""
        return self._value.get(key) is not None

    def holds(self, key: str) -> bool:
        """Whether the element is an object."""
        return isinstance(self._value.get(key), dict)

    def text(self, key: str) -> str | None:
        """A text, trimmed; null where empty. A number reads as its digits (some servers write ids so)."""
        value = self.raw(key)
        return value.strip() or None if value is not None else None

    def raw(self, key: str) -> str | None:
        """A text as it is."""
        value = self._value.get(key)
        if isinstance(value, str):
            return writable(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if value is not None:
            self.odd(key)
        return None

    def yes(self, key: str) -> bool | None:
        """A boolean, also where it is written as text."""
        value = self._value.get(key)
        if isinstance(value, bool) or value is None:
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        self.odd(key)
        return None

    def number(self, key: str) -> float | None:
        """A number, also where it is written as text."""
        value = self._value.get(key)
        if value is None:
            return None
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            number = None
        if number is None or not abs(number) < 1e15:  # neither NaN nor infinite
            self.odd(key)
            return None
        return number

    def count(self, key: str) -> int | None:
        """A whole number above zero."""
        number = self.number(key)
        return int(number) if number is not None and number >= 1 and number == int(number) and number < 2**31 else None

    def node(self, key: str) -> Node:
        """An object; of a list (another release has one) the first."""
        return next(iter(self.nodes(key)), Node({}, f"{self.path}.{key}", self._odd))

    def nodes(self, key: str) -> list[Node]:
        """The objects of a list; one that stands alone counts as a list of one."""
        value = self._value.get(key)
        if value is None:
            return []
        path, found = f"{self.path}.{key}", []
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                found.append(Node(one, path, self._odd))
            elif one is not None:
                self._odd.note(path)
        return found

    def first(self, *keys: str) -> str | None:
        """The first text that is there."""
        return next((text for key in keys if (text := self.text(key)) is not None), None)

    def odd(self, key: str) -> None:
        """Count an element that cannot be understood."""
        self._odd.note(f"{self.path}.{key}")

    def concept(self, key: str) -> Concept:
        """A CodeableConcept, a Coding, several of them as one, or a plain code."""
        value = self._value.get(key)
        if isinstance(value, str):
            return Concept((Coding(None, value.strip(), None),), None) if value.strip() else Concept((), None)
        codings, text = [], None
        for node in self.nodes(key):
            inner = node.nodes("coding")
            inner += [node] if node.has("code") or node.has("display") else []
            inner += node.node("concept").nodes("coding")  # CodeableReference of R5
            codings += [Coding(one.text("system"), one.text("code") or "", one.text("display")) for one in inner]
            text = text or node.text("text") or node.node("concept").text("text")
        return Concept(tuple(codings), text)

    def reference(self, key: str, kind: str, contained: Node | None = None) -> str | None:
        """See :func:`reference`."""
        return reference(self.node(key), kind, contained)


@dataclass(frozen=True)
class Coding:
    """One code of a concept."""

    system: str | None
    code: str
    display: str | None


@dataclass(frozen=True)
class Concept:
    """A CodeableConcept."""

    codings: tuple[Coding, ...]
    text: str | None

    def __bool__(self) -> bool:
        return bool(self.codings or self.text)

    def said(self) -> Iterator[str]:
        """Text, displays and codes, the most telling first."""
        if self.text:
            yield self.text
        for coding in self.codings:
            if coding.display:
                yield coding.display
        for coding in self.codings:
            if coding.code:
                yield coding.code

    def words(self) -> str | None:
        """What a person would read."""
        return next(self.said(), None)

    def codes(self) -> list[str]:
        """The codes in lower case."""
        return [coding.code.lower() for coding in self.codings if coding.code]


def identifier_key(system: str | None, value: str) -> str:
    """How a reference by identifier is kept until the resource that has it is known."""
    return f"?{system or ''}|{value}"


def reference(node: Node, kind: str, contained: Node | None = None) -> str | None:
    """The id that a reference names, or ``?system|value`` where it names an identifier; null for another type.

    ``Patient/123``, absolute URLs, ``urn:uuid:``, conditional references and those to contained resources (by their
    identifier). Ids are opaque.

    Args:
        contained: the resource that holds the reference, needed for ``#id``.
    """
    if not node:
        return None
    if node.holds("reference"):  # CodeableReference of R5
        node = node.node("reference")
    given = node.text("reference")
    said = node.text("type")
    if said and said.rsplit("/", 1)[-1] != kind:
        return None
    if given and given.startswith("#"):
        for inner in contained.nodes("contained") if contained is not None else []:
            if inner.text("id") == given[1:]:
                node, given = inner, None
                break
        else:
            return None
    if given:
        if "?" in given:
            path, _, query = given.partition("?")
            name, _, value = query.partition("=")
            if path.rsplit("/", 1)[-1] != kind or name != "identifier" or not value:
                node.odd("reference")
                return None
            system, bar, number = unquote(value).rpartition("|")
            return identifier_key(system if bar else None, number)
        if given.lower().startswith("urn:"):
            return given.rsplit(":", 1)[-1]
        parts = given.partition("/_history/")[0].rstrip("/").split("/")
        if len(parts) > 1 and parts[-2] != kind:
            return None
        return parts[-1] or None
    for one in node.nodes("identifier"):
        if its := one.text("value"):
            return identifier_key(one.text("system"), its)
    return None
