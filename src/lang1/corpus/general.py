"""Reading general text: a file or a folder of JSON Lines, Parquet or plain text, compressed or not."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

import lang1
from lang1.common.errors import InputError
from lang1.corpus.settings import GeneralSource

SHIPPED = Path(lang1.__file__).parent / "data" / "general"
_COMPRESSION = (".gz", ".xz", ".zst")
_JSON_LINES = (".jsonl", ".ndjson")
_TEXT = (".txt",)
_PARQUET = (".parquet",)
_BATCH_ROWS = 1000
_EXPANDS = 4  # bytes of text from one compressed byte, about


def general_files(name: str, source: GeneralSource) -> list[Path]:
    """The files of a general source, sorted by path.

    Raises:
        InputError: there is no such place, or nothing readable in it.
    """
    place = SHIPPED if source.path is None else source.path
    if not place.exists():
        raise InputError(f"general.{name}.path: {place} does not exist.")
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file() and kind(p))
    if not files or not kind(files[0]):
        raise InputError(
            f"general.{name}.path: {place} holds no text; expected .jsonl, .ndjson, .txt (plain or .gz, .xz, .zst) "
            "or .parquet files."
        )
    return files


def kind(file: Path) -> str:
    """``json``, ``text`` or ``parquet`` by a file's name; empty for anything else."""
    suffix, rest = file.suffix.lower(), file.with_suffix("")
    if suffix in _PARQUET:
        return "parquet"
    if suffix in _COMPRESSION:
        suffix = rest.suffix.lower()
    if suffix in _JSON_LINES:
        return "json"
    return "text" if suffix in _TEXT else ""


def read_general(file: Path, text_field: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The documents of one file, as they stand: one a line or row, or a plain text file as a whole.

    Args:
        file: see :func:`kind`.
        text_field: the field or column that holds the text.
        start: where to begin: a byte of uncompressed JSON Lines, a row group of Parquet; 0 in all other files.
        stop: where to end; lines that begin before this byte, row groups before this one. None reads to the end.

    Raises:
        InputError: a damaged file, or a row without text in the named field, by file and line.
    """
    how = kind(file)
    if how == "parquet":
        yield from _parquet(file, text_field, start, stop)
        return
    try:
        with _open(file) as stream:
            if how == "text":
                yield stream.read().decode("utf-8")
            else:
                yield from _json_lines(file, stream, text_field, start, stop)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error}).") from error


def splits_at(file: Path, size: int) -> list[tuple[int, int | None, int]]:
    """Ranges of about ``size`` bytes of text into which a file can be cut; a function of the file and ``size`` only.

    Returns:
        Per range: ``start`` and ``stop`` for :func:`read_general`, and bytes of text, guessed for compressed files.

    Raises:
        InputError: a Parquet file that cannot be read.
    """
    how, whole = kind(file), file.stat().st_size
    if how == "parquet":
        return row_group_ranges(file, size)
    if file.suffix.lower() in _COMPRESSION:
        return [(0, None, _EXPANDS * whole)]
    if how == "text" or whole <= size:
        return [(0, None, whole)]
    return [(start, min(start + size, whole), min(size, whole - start)) for start in range(0, whole, size)]


def row_group_ranges(file: Path, size: int) -> list[tuple[int, int | None, int]]:
    """Consecutive row groups of a Parquet file, taken together up to ``size`` uncompressed bytes, at least one.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error}).") from error
    ranges: list[tuple[int, int | None, int]] = []
    start = bytes_ = 0
    for group in range(metadata.num_row_groups):
        bytes_ += metadata.row_group(group).total_byte_size
        if bytes_ >= size or group == metadata.num_row_groups - 1:
            ranges.append((start, group + 1, bytes_))
            start, bytes_ = group + 1, 0
    return ranges


def _json_lines(
    file: Path, stream: IO[bytes] | lzma.LZMAFile | gzip.GzipFile, text_field: str, start: int, stop: int | None
) -> Iterator[str]:
    at = start
    if start:  # the line in which the range begins belongs to the range before, unless it begins right here
        stream.seek(start - 1)
        at += len(stream.readline()) - 1
    for number, line in enumerate(stream, start=1):
        if stop is not None and at >= stop:
            return
        at += len(line)
        if line.strip():
            yield _json_text(file, number, start, line, text_field)


def _json_text(file: Path, number: int, start: int, line: bytes, text_field: str) -> str:
    try:
        row = json.loads(line.decode())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} line {_line(file, number, start)}: not a JSON object ({error}).") from error
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        known = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise InputError(
            f"{file} line {_line(file, number, start)}: no text in field '{text_field}'; found {known}. Set text_field."
        )
    return str(row[text_field])


def _line(file: Path, number: int, start: int) -> int:
    """The number of a line in its file, from its number in a range of it."""
    if not start:
        return number
    with file.open("rb") as stream:
        left, lines = start - 1, 0
        while left and (block := stream.read(min(left, 1 << 20))):
            left, lines = left - len(block), lines + block.count(b"\n")
        return lines + 1 + number


def _parquet(file: Path, text_field: str, start: int, stop: int | None) -> Iterator[str]:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error}).") from error
    with table:
        names = table.schema_arrow.names
        if text_field not in names:
            raise InputError(f"{file}: no column '{text_field}'; columns are {', '.join(names)}. Set text_field.")
        groups = list(range(start, table.num_row_groups if stop is None else stop))
        row = sum(table.metadata.row_group(group).num_rows for group in range(start))
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=groups, columns=[text_field]):
            for text in batch.column(0).to_pylist():
                row += 1
                if not isinstance(text, str):
                    raise InputError(f"{file} row {row}: '{text_field}' holds no text.")
                yield text


def _open(file: Path) -> IO[bytes] | lzma.LZMAFile | gzip.GzipFile:
    suffix = file.suffix.lower()
    if suffix == ".xz":
        return lzma.open(file)
    if suffix == ".gz":
        return gzip.open(file)
    if suffix == ".zst":
        # Arrow brings Zstandard; the standard library has it from Python 3.14 on only.
        return io.BufferedReader(pa.CompressedInputStream(str(file), "zstd"))
    return file.open("rb")
