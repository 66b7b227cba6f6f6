"""The files of a bulk export, and their lines as resources: one at a time, whatever the size of the whole.

What a line holds is told by its ``resourceType``, never by the file's name.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from lang1.common.errors import InputError
from lang1.common.progress import Meter
from lang1.records.readers.fhir_values import writable
from lang1.records.readers.staging import Staging

SUFFIXES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz", ".ndjson.zst", ".jsonl.zst")
LONGEST_LINE_BYTES = 256 * 2**20
MANIFEST = "manifest.json"
_TYPE_FIRST = re.compile(rb'\s*\{\s*"resourceType"\s*:\s*"([A-Za-z]+)"')
# An escape of the surrogates: a whole pair is a character beyond the basic plane, half of one is none.
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass
class Export:
    """The files of an export, and what its manifest says.

    Attributes:
        root: the folder that paths are told from.
        files: in order of their paths.
        made: ``transactionTime`` of the manifest: when the server answered the request.
        missing: type and name of the files that the manifest lists and that are not there.
    """

    root: Path
    files: list[Path]
    made: str | None = None
    missing: list[tuple[str, str]] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """A file's path from the root."""
        return path.relative_to(self.root).as_posix()


def find_export(source: Path) -> Export:
    """The NDJSON files of a folder and of the folders in it, or one file.

    Raises:
        InputError: there is none, or the manifest is no JSON object.
    """
    if source.is_file():
        return Export(source.parent, [source])
    if not source.is_dir():
        raise InputError(f"{source}: no such folder or file.")
    found = sorted(
        path
        for path in source.rglob("*")
        if path.name.lower().endswith(SUFFIXES)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not found:
        raise InputError(f"{source}: no files named {', '.join('*' + suffix for suffix in SUFFIXES)} in it.")
    export = Export(source, found)
    manifest = source / MANIFEST
    if manifest.is_file():
        _read_manifest(manifest, export)
    return export


def parsed(line: bytes) -> Any:
    """A line of JSON; half a surrogate pair, which no file can hold, becomes a question mark.

    Raises:
        ValueError: it is not JSON in UTF-8.
    """
    found = json.loads(line.decode("utf-8"))
    if _HALF_PAIR.search(line):
        found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return found


def _read_manifest(path: Path, export: Export) -> None:
    try:
        said = parsed(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON; mend it, or remove it.") from error
    if not isinstance(said, dict):
        return
    made = said.get("transactionTime")
    export.made = made if isinstance(made, str) else None
    names = [file.name for file in export.files]
    outputs = said.get("output")
    listed: dict[str, tuple[int, str]] = {}
    for one in outputs if isinstance(outputs, list) else []:
        url = one.get("url") if isinstance(one, dict) else None
        if isinstance(url, str):
            name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
            count, _ = listed.get(name, (0, ""))
            listed[name] = (count + 1, str(one.get("type")))
    for name, (_, kind) in listed.items():
        # A server's URLs need not say how the files were named when they were saved.
        if name.lower().endswith(SUFFIXES) and not any(there in (name, f"{name}.gz", f"{name}.zst") for there in names):
            export.missing.append((kind, name))


class Lines:
    """Reads the resources of an export; see :meth:`resources`.

    Attributes:
        unread: lines by type of resource that nothing is made of.
        read: lines by type of resource that was taken.
    """

    def __init__(self, export: Export, wanted: Collection[str]) -> None:
        self.export, self.wanted = export, frozenset(wanted)
        self.unread: Counter[str] = Counter()
        self.read: Counter[str] = Counter()

    def resources(self, stage: Staging) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
        """Type, file, line and content of each wanted resource; lines that are none are refused or counted.

        Raises:
            InputError: a file that is cut short or damaged, or (refuse) a line that is no resource.
        """
        total = sum(file.stat().st_size for file in self.export.files)
        with Meter("read", total / 1e6, "MB") as meter:
            for file in self.export.files:
                name = self.export.name(file)
                for number, line in _lines(file, meter):
                    kind, resource, fault = self._understand(line)
                    if fault:
                        stage.leave_out(fault, 1, f"{name} line {number}")
                    elif resource is None:
                        self.unread[kind] += 1
                    else:
                        self.read[kind] += 1
                        yield kind, name, number, resource

    def first(self, most: int) -> Iterator[dict[str, Any]]:
        """The wanted resources among the first lines of each file, for a look at what there is."""
        for file in self.export.files:
            for number, line in _lines(file, None):
                if number > most:
                    break
                resource = self._understand(line)[1]
                if resource is not None:
                    yield resource

    def _understand(self, line: bytes | None) -> tuple[str, dict[str, Any] | None, str | None]:
        """Type, content (null where not wanted) and what is wrong with a line."""
        if line is None:
            return "", None, f"a line longer than {LONGEST_LINE_BYTES // 2**20} MB"
        # Most lines of an export are measurements: they are not parsed.
        told = _TYPE_FIRST.match(line)
        if told and told[1].decode() not in self.wanted:
            return told[1].decode(), None, None
        try:
            resource = parsed(line)
        except UnicodeDecodeError:
            return "", None, "a line that is not UTF-8"
        except (ValueError, RecursionError):
            return "", None, "a line that is not JSON"
        if not isinstance(resource, dict):
            return "", None, "a line that is no JSON object"
        kind = resource.get("resourceType")
        if kind is None and "exportId" in resource and "eventId" in resource:
            return "(log of the export)", None, None
        if not isinstance(kind, str) or not kind:
            return "", None, "a line without a resourceType"
        return writable(kind)[:60], resource if kind in self.wanted else None, None


def _lines(file: Path, meter: Meter | None) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file that are not blank, numbered from 1; null for one that is too long."""
    with file.open("rb") as raw:
        start = raw.read(4)
        compression = next((how for magic, how in _MAGIC.items() if start.startswith(magic)), None)
        raw.seek(0)
        done = 0
        try:
            with pa.input_stream(raw, compression=compression) as unpacked, io.BufferedReader(unpacked, 2**20) as lines:
                number = 0
                while line := lines.readline(LONGEST_LINE_BYTES):
                    number += 1
                    too_long = len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n")
                    while too_long and line and not line.endswith(b"\n"):
                        line = lines.readline(LONGEST_LINE_BYTES)
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if too_long:
                        yield number, None
                    elif line.strip():
                        yield number, line
                    if meter is not None and number % 1000 == 0:
                        meter.add((raw.tell() - done) / 1e6)
                        done = raw.tell()
                if meter is not None:
                    meter.add((raw.tell() - done) / 1e6)
        except (OSError, EOFError, pa.ArrowException) as error:
            raise InputError(
                f"{file}: cut short or damaged after line {number}; copy it again, or fetch the export again."
            ) from error
