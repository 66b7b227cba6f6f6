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


def read_general(file: Path, text_field: str) -> Iterator[str]:
    """The documents of one file, as they stand: one a line or row, or a plain text file as a whole.

    Raises:
        InputError: a damaged file, or a row without text in the named field, by file and line.
    """
    how = kind(file)
    if how == "parquet":
        yield from _parquet(file, text_field)
        return
    try:
        with _open(file) as stream:
            if how == "text":
                yield stream.read().decode("utf-8")
            else:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield _json_text(file, number, line, text_field)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error}).") from error


def _json_text(file: Path, number: int, line: bytes, text_field: str) -> str:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} line {number}: not a JSON object ({error}).") from error
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        known = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise InputError(f"{file} line {number}: no text in field '{text_field}'; found {known}. Set text_field.")
    return str(row[text_field])


def _parquet(file: Path, text_field: str) -> Iterator[str]:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error}).") from error
    with table:
        names = table.schema_arrow.names
        if text_field not in names:
            raise InputError(f"{file}: no column '{text_field}'; columns are {', '.join(names)}. Set text_field.")
        row = 0
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[text_field]):
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
