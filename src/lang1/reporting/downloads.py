"""What a reader takes out of a report: figures as SVG that stands alone, tables and figures as CSV, as links or files.

A drawing on the page takes its colours from the style sheet. One that leaves the page must bring them along, and word
processors read neither style sheets nor variables, so that every rule is written onto the elements themselves.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from lang1.reporting.page import TEMPLATES
from lang1.reporting.study_schema import Figure, Table, Value

FONT = "Helvetica, Arial, sans-serif"
BACKGROUND = "#ffffff"
MARGIN = 12.0
# What an SVG element may say by itself; everything else of the style sheet is about pages.
PROPERTIES = {
    *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin"),
    *("opacity", "font-size", "font-weight", "font-style"),
}
FIGURES = ("value", "low", "high", "paper", "n", "events", "seeds", "p", "p_adjusted", "note")


@dataclass(frozen=True)
class Rule:
    """A rule of the style sheet: the chain of what elements must be, outermost first, and what it declares."""

    chain: tuple[tuple[str, frozenset[str]], ...]
    weight: tuple[int, int, int]
    declared: tuple[tuple[str, str], ...]


@cache
def _rules() -> tuple[Rule, ...]:
    """The light look, from the style sheet: plain rules of tags and classes, at-rules left out."""
    text = re.sub(r"/\*.*?\*/", "", (TEMPLATES / "style.css").read_text(encoding="utf-8"), flags=re.S)
    made = []
    for place, (selectors, body) in enumerate(_blocks(text)):
        declared = tuple(
            (name.strip(), value.strip())
            for name, _, value in (part.partition(":") for part in body.split(";"))
            if value
        )
        for selector in selectors.split(","):
            parts = [":root"] if selector.strip() == ":root" else selector.split()
            if any(re.fullmatch(r"[a-z0-9]*(\.[\w-]+)*|:root", part) is None for part in parts):
                continue
            chain = tuple((part.split(".")[0], frozenset(part.split(".")[1:])) for part in parts)
            weight = (sum(len(c) for _, c in chain), sum(bool(t) for t, _ in chain), place)
            made.append(Rule(chain, weight, declared))
    return tuple(sorted(made, key=lambda rule: rule.weight))


def _blocks(text: str) -> list[tuple[str, str]]:
    found, depth, start, head = [], 0, 0, ""
    for place, sign in enumerate(text):
        if sign == "{":
            if depth == 0:
                head, start = text[start:place].strip(), place + 1
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                if not head.startswith("@"):
                    found.append((head, text[start:place]))
                start = place + 1
    return found


def _fits(chain: Sequence[tuple[str, frozenset[str]]], path: Sequence[tuple[str, frozenset[str]]]) -> bool:
    """Whether the last element of a path is what the chain's last part asks for, inside the others in their order."""

    def is_so(asked: tuple[str, frozenset[str]], element: tuple[str, frozenset[str]]) -> bool:
        return asked[0] in ("", element[0]) and asked[1] <= element[1]

    if not is_so(chain[-1], path[-1]):
        return False
    left = len(chain) - 2
    for element in reversed(path[:-1]):
        if left >= 0 and is_so(chain[left], element):
            left -= 1
    return left < 0


def standalone(drawing: str) -> str:
    """An inline drawing of a page as a file of its own: light colours and dashes on the elements, no style sheet.

    The same drawing gives the same text.
    """
    old = ET.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", str(drawing)))  # XML knows no such letters
    named = [(rule.chain, rule.declared) for rule in _rules()]
    variables = {n: v for chain, declared in named if chain == ((":root", frozenset()),) for n, v in declared}
    rules = [(chain, declared) for chain, declared in named if chain != ((":root", frozenset()),)]

    def rebuilt(element: ET.Element, path: list[tuple[str, frozenset[str]]], known: Mapping[str, str]) -> ET.Element:
        here = [*path, (element.tag, frozenset(element.get("class", "").split()))]
        declared = {n: v for chain, pairs in rules if _fits(chain, here) for n, v in pairs}
        known = {**known, **{n: v for n, v in declared.items() if n.startswith("--")}}
        kept = {
            n: v for n, v in element.attrib.items() if n not in ("class", "id", "role") and not n.startswith("aria-")
        }
        for name in sorted(PROPERTIES & declared.keys()):
            if name not in kept:  # a shade is the drawing's own, not the style sheet's
                kept[name] = _resolved(declared[name], known)
        new = ET.Element(element.tag, kept)
        new.text, new.tail = element.text, element.tail
        new.extend(rebuilt(child, here, known) for child in element)
        return new

    new = rebuilt(old, [], variables)
    wide, high = float(new.get("width", 0)), float(new.get("height", 0))
    wide, high = wide + 2 * MARGIN, high + 2 * MARGIN
    size = {"width": f"{wide:g}", "height": f"{high:g}"}
    new.attrib |= {**size, "viewBox": f"{-MARGIN:g} {-MARGIN:g} {wide:g} {high:g}"}
    new.attrib = {"xmlns": "http://www.w3.org/2000/svg", "version": "1.1", "font-family": FONT, **new.attrib}
    places = [k + 1 for k, child in enumerate(new) if child.tag in ("title", "desc")]
    back = ET.Element("rect", {"x": f"{-MARGIN:g}", "y": f"{-MARGIN:g}", **size, "fill": BACKGROUND})
    new.insert(places[-1] if places else 0, back)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(new, encoding="unicode") + "\n"


def _resolved(value: str, known: Mapping[str, str]) -> str:
    for _ in range(4):  # a variable may stand for another
        value = re.sub(r"var\((--[\w-]+)\)", lambda m: known.get(m.group(1), "#000000"), value)
    return value.removesuffix("px")


def _written(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _figure(value: float | int | str | None) -> object:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def table_csv(table: Table) -> str:
    """A table as CSV, a line for each number: the row's texts, the number's column, and all that is known about it.

    A row of texts alone has one line without a number; a text that stands where a number should is its note.
    """
    texts = [c.key for c in table.columns if c.kind == "text"]
    numbers = [c.key for c in table.columns if c.kind != "text"]
    taken = {"row", "column", *FIGURES}
    heads = [f"{key}_text" if key in taken else key for key in texts]
    rows: list[list[object]] = [["row", *heads, "column", *FIGURES]]
    for place, row in enumerate(table.rows, 1):
        said = [cell if isinstance(cell := row.get(key), str) else "" for key in texts]
        found = [(key, row[key]) for key in numbers if row.get(key) is not None]
        found += [(key, cell) for key in texts if isinstance(cell := row.get(key), Value)]
        for key, cell in found:
            value = Value(note=cell) if isinstance(cell, str) else cell
            assert value is not None
            rows.append([place, *said, key, *(_figure(getattr(value, name)) for name in FIGURES)])
        if not found:
            rows.append([place, *said, "", *[""] * len(FIGURES)])
    return _written(rows)


def figure_csv(figure: Figure) -> str:
    """A figure as CSV, a line for each point; reference lines stand below as role ``reference``."""
    rows: list[list[object]] = [["series", "role", "x", "label", "value", "low", "high"]]
    for one in figure.series:
        for p in one.points:
            rows.append([one.name, one.role, _figure(p.x), p.label, _figure(p.y), _figure(p.low), _figure(p.high)])
    rows += [[name, "reference", "", "", _figure(at), "", ""] for name, at in figure.lines.items()]
    return _written(rows)


@dataclass(frozen=True)
class Download:
    """A file that a page offers: its name, what it is, and its content."""

    name: str
    kind: str
    content: str

    @property
    def href(self) -> Markup:
        """The content as a data address; base64, so that nothing in it needs escaping."""
        media = {"SVG": "image/svg+xml", "CSV": "text/csv;charset=utf-8"}[self.kind]
        return Markup(f"data:{media};base64,{base64.b64encode(self.content.encode()).decode()}")
