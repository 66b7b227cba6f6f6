"""X12 files as a stream of segments: separators from each interchange's header, nothing held but one segment.

The header (ISA) has fixed positions: the element separator is its 4th character, the component separator its 105th, and
the 106th ends segments (ASC X12.5, as public companion guides repeat it). Nothing that is read here repeats, so the
repetition separator is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from lang1.records.readers.source import COMPRESSED

# Told of what cannot be read: a reason, and the number of the segment (from 1 in its file) at which it was met.
Problem = Callable[[str, int], None]

HEADER_BYTES = 106
CHUNK_BYTES = 1 << 16  # of a damaged compressed file, what precedes the chunk with the damage is read
LONGEST_SEGMENT_BYTES = 1 << 20  # segments hold some hundred characters; beyond this, separators were misread
_BLANK = b" \t\r\n\x00\x1a"  # between segments; 1A ends files of old systems
_WIDTHS = (2, 10, 2, 10, 2, 15, 2, 15, 6, 4, 1, 5, 9, 1, 1)
_HEADER = re.compile(b"ISA(.)" + rb"\1".join(b"[^\r\n]{%d}" % width for width in _WIDTHS) + rb"\1(.)(.)", re.DOTALL)
_BOM = b"\xef\xbb\xbf"


class Segment(NamedTuple):
    """One segment: its number in the file (from 1), its elements (the 0th is its id), and the component separator."""

    number: int
    elements: list[str]
    component: str

    @property
    def id(self) -> str:
        return self.elements[0]

    def get(self, element: int) -> str:
        """An element by its number in the standard, without spaces around it; empty where it is absent."""
        return self.elements[element].strip() if element < len(self.elements) else ""

    def part(self, element: int, component: int) -> str:
        """A component (from 1) of a composite element."""
        parts = self.get(element).split(self.component)
        return parts[component - 1].strip() if component <= len(parts) else ""


def read_segments(path: Path, problem: Problem) -> Iterator[Segment]:
    """The segments of a file, its interchanges one after the other, each with separators of its own.

    Line breaks between segments are passed over; ``.gz`` and ``.zst`` are unpacked. What lies outside sound
    interchanges is told to ``problem``, and reading goes on at the next header that is sound.
    """
    source = _Bytes(path)
    number = 0
    while source.skip_blank():
        header = _HEADER.match(source.data, source.at) if source.fill(HEADER_BYTES) else None
        if header is None or not _distinct(header):
            reason = _why_not(bytes(source.data[source.at : source.at + HEADER_BYTES]), number)
            problem(reason, number + 1)
            if not source.skip_to_header():
                break
            continue
        element, component, terminator = (bytes(header.group(i)) for i in (1, 2, 3))
        for raw in _until_header(source, terminator, problem, number):
            number += 1
            elements = _decoded(raw).split(element.decode("latin-1"))
            elements[0] = elements[0].strip()
            yield Segment(number, elements, component.decode("latin-1"))
    if source.damaged:
        problem("the compressed file is cut short or damaged", number + 1)


class _Bytes:
    """A file's bytes from a place on: ``data[at:]``, read in chunks."""

    def __init__(self, path: Path) -> None:
        self._stream = pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix))
        self.data = b""
        self.at = 0
        self.damaged = self._ended = False
        if self.fill(len(_BOM)) and self.data.startswith(_BOM):
            self.at = len(_BOM)

    def more(self) -> bool:
        """Read a chunk more; false at the end of the file."""
        if self._ended:
            return False
        try:
            chunk = self._stream.read(CHUNK_BYTES)
        except (OSError, EOFError, pa.ArrowException):
            self.damaged, chunk = True, b""
        if not chunk:
            self._ended = True
            self._stream.close()
            return False
        self.data, self.at = self.data[self.at :] + chunk, 0
        return True

    def fill(self, size: int) -> bool:
        """Whether at least ``size`` bytes are there, reading on where needed."""
        while len(self.data) - self.at < size:
            if not self.more():
                return False
        return True

    def skip_blank(self) -> bool:
        """Pass over spaces and line breaks; whether anything follows."""
        while True:
            while self.at < len(self.data) and self.data[self.at] in _BLANK:
                self.at += 1
            if self.at < len(self.data):
                return True
            if not self.more():
                return False

    def skip_to_header(self) -> bool:
        """Pass over everything up to the next sound header."""
        self.at += 1
        while True:
            found = _HEADER.search(self.data, self.at)
            if found is not None:
                self.at = found.start()
                return True
            self.at = max(self.at, len(self.data) - HEADER_BYTES + 1)
            if not self.more():
                self.at = len(self.data)
                return False


def _until_header(source: _Bytes, terminator: bytes, problem: Problem, number: int) -> Iterator[bytes]:
    """The raw segments of one interchange: from its header to just before the next header or text that is none."""
    count, ended = 0, False
    while source.skip_blank():
        if source.fill(3) and source.data.startswith(b"ISA", source.at) and count:
            return
        if ended:  # what follows the trailer must be a header
            return
        end = source.data.find(terminator, source.at)
        while end < 0:
            if len(source.data) - source.at > LONGEST_SEGMENT_BYTES:
                problem("a segment that has no end within 1 MB", number + count + 1)
                source.at = len(source.data)
                return
            searched = len(source.data) - source.at
            if not source.more():
                break
            end = source.data.find(terminator, source.at + searched)
        if end < 0:
            rest = source.data[source.at :].strip(_BLANK)
            source.at = len(source.data)
            if rest.startswith(b"IEA"):  # the very last terminator is often forgotten
                yield rest
            elif rest:
                problem("the last segment has no end: the file is cut short", number + count + 1)
            return
        raw = source.data[source.at : end].strip(_BLANK)
        source.at = end + 1
        if raw or not terminator.isspace():
            count += 1
            ended = raw.startswith(b"IEA")
            yield raw


def _distinct(header: re.Match[bytes]) -> bool:
    """Whether three different characters separate, none a letter or digit."""
    found = [header.group(i) for i in (1, 2, 3)]
    return len(set(found)) == len(found) and not any(c.isalnum() or c == b" " for c in found)


def _why_not(start: bytes, number: int) -> str:
    if start.startswith(b"ISA"):
        return "an interchange header (ISA) whose fields are not where they must be"
    if start[:2] in (b"GS", b"ST"):
        return "an interchange without its header (ISA)"
    return "text after the end of an interchange" if number else "not X12: does not begin with an ISA segment"


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
