"""Plain documents: sections of paragraphs, lists and tables, as one HTML page and as Markdown of the same words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lang1.reporting.page import write_page


@dataclass(frozen=True)
class Grid:
    """A table: its head, its rows, and what it shows, in a line above it. Cells are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A section: paragraphs, then points of a list, then tables, then sections within it."""

    title: str
    text: Sequence[str] = ()
    points: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    parts: Sequence[Section] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A document: title, a sentence under it, facts by name, sections, and a line at the end."""

    title: str
    sentence: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: str

    def html(self, out: Path) -> Path:
        """Write one self-contained page.

        Raises:
            ArtefactError: the place cannot be written.
        """
        contents = [(anchor(section.title), section.title) for section in self.sections]
        return write_page(
            "document.html.j2",
            out,
            title=self.title,
            contents=contents,
            sentence=self.sentence,
            facts=self.facts,
            sections=self.sections,
            anchor=anchor,
            footer=self.footer,
        )

    def markdown(self) -> str:
        """The same words as Markdown."""
        lines = [f"# {self.title}", "", self.sentence, ""]
        lines += [f"- **{name}:** {_plain(value)}" for name, value in self.facts] + [""]
        for section in self.sections:
            lines += _section(section, 2)
        return "\n".join([*lines, self.footer, ""])


def anchor(title: str) -> str:
    """A title as the target of a link."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(section: Section, depth: int) -> list[str]:
    lines = [f"{'#' * depth} {section.title}", ""]
    for paragraph in section.text:
        lines += [_plain(paragraph), ""]
    if section.points:
        lines += [*(f"- {_plain(point)}" for point in section.points), ""]
    for grid in section.grids:
        if grid.title:
            lines += [f"**{grid.title}**", ""]
        lines += [
            "| " + " | ".join(_cell(text) for text in row) + " |" for row in (grid.head, ["---"] * len(grid.head))
        ]
        lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in grid.rows] + [""]
    for part in section.parts:
        lines += _section(part, depth + 1)
    return lines


def _plain(text: str) -> str:
    return re.sub(r"([<>])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
