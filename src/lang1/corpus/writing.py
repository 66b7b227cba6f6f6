"""One input unit, from its text to its tokens: read, clean, filter, tokenize, write, count.

A unit's work is three files: ``unit-NNNNN.bin`` (tokens, each document closed by the end-of-text token),
``unit-NNNNN.npy`` (a row a document, :data:`ROW`) and, last, ``unit-NNNNN.json`` (its key and counts). Each is written
to a temporary name and renamed, so that a unit is there as a whole or not at all.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError
from lang1.common.identity import patient_hash
from lang1.corpus.filters import Document, Filter, Report
from lang1.corpus.general import read_general
from lang1.corpus.longitudinal import by_patient, join_patients
from lang1.corpus.notes import EligibleNotes, validation_draw
from lang1.corpus.settings import Cleaning
from lang1.corpus.shards import token_dtype
from lang1.corpus.tasks import ENCODE, Piece, Plan, Source
from lang1.text.clean import STEPS, surely_clean, words_of_clean
from lang1.text.tokenizer import Tokenizer

# A document of a unit: its tokens, its number among the documents read from the unit, and for a note the hash and the
# validation draw of its patient.
ROW = np.dtype([("tokens", "<u4"), ("number", "<u4"), ("unit", "<i8"), ("draw", "<f8")])
NON_ASCII = "drop_non_ascii"
WRITTEN = "written"
# Documents tokenized together: enough to keep the tokenizer's threads busy, little in memory.
_BATCH_DOCUMENTS = 512
# Text that is looked at together to see what is clean already.
_LOOK_CHARACTERS = 1 << 17


def clean(text: str, settings: Cleaning, report: Report, *, surely: bool = False) -> str | None:
    """Clean one document and count what each step did; None where it is left out.

    ``surely`` says that it is known to be clean (:func:`~lang1.text.clean.surely_clean`).
    """
    for name, step in () if surely else STEPS.items():
        cleaned = step(text)
        if cleaned == text:
            continue
        if not getattr(settings, name):
            report.count(name, "documents_left_unchanged")
            continue
        _count_change(report, name, len(text) - len(cleaned))
        text = cleaned
    if settings.ascii_only and not text.isascii():
        # The tokenizer drops these (see Cleaning.ascii_only); they are counted here.
        _count_change(report, NON_ASCII, sum(not c.isascii() for c in text))
    held = next((mark for mark in settings.placeholders if mark in text), None)
    if held is not None:
        report.leave_out(f"holds the placeholder {held}")
        return None
    return text if long_enough(text, settings, report) else None


def long_enough(text: str, settings: Cleaning, report: Report) -> bool:
    """Whether a document has enough words; counted where it has not."""
    if text and len(text.split(None, settings.min_words)) >= settings.min_words:
        return True
    report.leave_out(f"under {max(settings.min_words, 1)} words")
    return False


def words_in(text: str, settings: Cleaning) -> int:
    """Words of a text that :func:`clean` let through, separated by white space."""
    whole = settings.drop_malformed and settings.normalise_punctuation and settings.collapse_space
    return words_of_clean(text) if whole else len(text.split())


def read_unit(plan: Plan, source: Source, unit: int, report: Report) -> Iterator[Document]:
    """The documents of a unit as stored, with their places."""
    numbers = itertools.count(unit << 32)
    for piece in source.units[unit]:
        for document in _read_piece(source, piece, report, plan.work):
            place = next(numbers)
            owner = document.unit or f"{source.name}:{place}"
            yield document.at(owner, place, source.name)


def pass_documents(
    documents: Iterable[Document], settings: Cleaning, filters: Sequence[Filter[Any]], report: Report
) -> Iterator[Document]:
    """The documents that the cleaning and the filters let through, in order."""
    for document, surely in _looked_at(documents):
        text = clean(document.text, settings, report, surely=surely)
        if text is None:
            continue
        found: Document | None = document if text == document.text else replace(document, text=text)
        for one in filters:
            found = one.apply(found, report) if found is not None else None
        # A filter that took passages out may have left too little.
        if found is not None and (found.text == text or long_enough(found.text, settings, report)):
            yield found


def _looked_at(documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
    """Documents, and whether they are surely clean: looked at together, a few at a time."""
    some: list[Document] = []
    characters = 0
    for document in documents:
        some.append(document)
        characters += len(document.text)
        if characters >= _LOOK_CHARACTERS:
            yield from zip(some, surely_clean([one.text for one in some]), strict=True)
            some, characters = [], 0
    yield from zip(some, surely_clean([one.text for one in some]), strict=True)


def do_task(file: Path, stage: str, name: str, unit: int) -> int:
    """Do one task of a plan, unless it is done; safe to be called anywhere, any number of times.

    Args:
        file: the plan.
        stage: ``encode``, or the filter that is prepared.
        name: of the source.
        unit: number of the unit.

    Returns:
        How many documents were read.

    Raises:
        InputError: text that cannot be read, by file and line.
        ArtefactError: the plan or an input folder is damaged.
    """
    plan = load_plan(file)
    source = plan.source(name)
    state = unit_file(plan, source, stage, unit, "json")
    key = plan.key(source, stage, unit)
    done = finished(state, key)
    if done is not None:
        return int(done["read"])
    state.parent.mkdir(parents=True, exist_ok=True)
    state.unlink(missing_ok=True)  # before its files change: an old key must never stand beside new tokens
    report = Report()
    filters = _filters(file, name, stage)
    documents = _counted(read_unit(plan, source, unit, report), report)
    passed = pass_documents(documents, plan.settings.cleaning, filters, report)
    if stage == ENCODE:
        if source.rules and plan.settings.longitudinal:
            passed = join_patients(passed)
        files = [unit_file(plan, source, stage, unit, kind) for kind in ("bin", "npy")]
        _encode(passed, plan.settings.cleaning, bool(source.rules), load_tokenizer(file), files, report)
    else:
        out = unit_file(plan, source, stage, unit, "part")
        temporary = temporary_name(out)
        plan.filter(source, stage, prepared=False).collect(passed, temporary)
        _settle(temporary, out)
    read = report.of("read")["documents"]
    write_state(state, {"key": key, "read": read, **report.to_json()})
    return read


def combine(file: Path, stage: str) -> None:
    """Combine what a filter's stage collected, for each source that passes it, unless that is done.

    Raises:
        ArtefactError: a unit of the stage is not finished.
    """
    plan = load_plan(file)
    for source in plan.users(stage):
        one = plan.filter(source, stage, prepared=False)
        out = plan.artefact(source, stage)
        state, key = out.with_suffix(".json"), plan.key(source, stage)
        if finished(state, key) is not None:
            continue
        units = range(len(source.units)) if one.collects else range(0)
        check_finished(plan, source, stage, units)
        out.parent.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
        temporary = temporary_name(out)
        one.combine([unit_file(plan, source, stage, unit, "part") for unit in units], temporary)
        _settle(temporary, out)
        write_state(state, {"key": key})


def check_finished(plan: Plan, source: Source, stage: str, units: Iterable[int]) -> list[dict[str, Any]]:
    """The states of finished units, in order.

    Raises:
        ArtefactError: one is not finished.
    """
    states = []
    for unit in units:
        state = finished(unit_file(plan, source, stage, unit, "json"), plan.key(source, stage, unit))
        if state is None:
            raise ArtefactError(
                f"{plan.work}: unit {unit} of source '{source.name}' is not finished ({stage}): run its tasks again."
            )
        states.append(state)
    return states


def finished(state: Path, key: str) -> dict[str, Any] | None:
    """The state of a piece of work if it was finished under this key, else None."""
    if not state.exists():
        return None
    value: dict[str, Any] = read_json(state)
    return value if value.get("key") == key else None


def write_state(file: Path, value: dict[str, Any]) -> None:
    """Write a state file under its name as a whole, on the disk before it is seen."""
    temporary = temporary_name(file)
    temporary.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
    _settle(temporary, file)


def unit_file(plan: Plan, source: Source, stage: str, unit: int, kind: str) -> Path:
    """A file of a unit's work at a stage."""
    return plan.folder(source, stage) / f"unit-{unit:05d}.{kind}"


def temporary_name(file: Path) -> Path:
    """A name that no other process on any machine uses at this moment."""
    return file.with_name(f".{file.name}.{socket.gethostname()}-{os.getpid()}.tmp")


@lru_cache(maxsize=1)
def load_plan(file: Path) -> Plan:
    """A plan, read once a process (:func:`forget` for a process that makes several)."""
    return Plan.load(file)


@lru_cache(maxsize=1)
def load_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer of a plan, read once a process."""
    return Tokenizer.load(file.parent / "tokenizer")


@lru_cache(maxsize=4)
def _filters(file: Path, name: str, stage: str) -> list[Filter[Any]]:
    plan = load_plan(file)
    source = plan.source(name)
    filters = []
    for one in plan.before(source, stage):
        made = plan.filter(source, one, prepared=True)
        state = plan.artefact(source, one).with_suffix(".json")
        if made.prepares and finished(state, plan.key(source, one)) is None:
            raise ArtefactError(
                f"{file}: filter '{one}' is not prepared for source '{name}': run its stage first "
                f"(python -m lang1.corpus.run {file} --stage {one} --combine, after its units)."
            )
        filters.append(made)
    return filters


def forget() -> None:
    """Forget plan, tokenizer and filters: the next task reads them again."""
    for cached in (load_plan, load_tokenizer, _filters):
        cached.cache_clear()


def _read_piece(source: Source, piece: Piece, report: Report, scratch: Path) -> Iterator[Document]:
    file = Path(piece.file)
    if piece.rules >= 0:
        assert piece.stop is not None
        notes = EligibleNotes(source.rules[piece.rules])
        if piece.file:
            yield from notes.read(file, piece.start, piece.stop, report)
        else:
            yield from by_patient([notes], piece.start, piece.stop, report, spill=scratch)
    else:
        for text in read_general(file, source.text_field, piece.start, piece.stop):
            yield Document(text, unit="")


def _counted(documents: Iterable[Document], report: Report) -> Iterator[Document]:
    read = 0
    try:
        for document in documents:
            read += 1
            yield document
    finally:
        report.count("read", "documents", read)


def _encode(
    documents: Iterator[Document],
    cleaning: Cleaning,
    are_notes: bool,
    tokenizer: Tokenizer,
    files: Sequence[Path],
    report: Report,
) -> None:
    """Tokenize and write a unit's documents: ``files`` are those of the tokens and of the rows."""
    dtype, eot = token_dtype(tokenizer.vocab_size), np.array([tokenizer.eot_id], dtype=np.int32)
    tokens_file, rows_file = files
    rows: list[np.ndarray[Any, Any]] = [np.empty(0, dtype=ROW)]
    temporary = temporary_name(tokens_file)
    with temporary.open("wb") as stream:
        while batch := list(itertools.islice(documents, _BATCH_DOCUMENTS)):
            texts = [document.text for document in batch]
            encoded = tokenizer.encode_batch(texts)
            closed = [part for tokens in encoded for part in (tokens, eot)]
            stream.write(np.concatenate(closed).astype(dtype).tobytes())
            table = np.zeros(len(batch), dtype=ROW)
            table["tokens"] = [len(tokens) + 1 for tokens in encoded]
            table["number"] = [document.place & 0xFFFFFFFF for document in batch]
            if are_notes:
                table["unit"] = [patient_hash(document.unit) for document in batch]
                table["draw"] = [validation_draw(document.unit) for document in batch]
            report.count(WRITTEN, "words", sum(words_in(text, cleaning) for text in texts))
            report.count(WRITTEN, "characters", sum(map(len, texts)))
            rows.append(table)
    _settle(temporary, tokens_file)
    temporary = temporary_name(rows_file)
    with temporary.open("wb") as stream:
        np.save(stream, np.concatenate(rows))
    _settle(temporary, rows_file)


def _settle(temporary: Path, file: Path) -> None:
    """Put a file on the disk, then under its name: a machine that loses power does not keep the name alone."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)


def _count_change(report: Report, name: str, characters: int) -> None:
    report.count(name, "documents_changed")
    report.count(name, "characters_removed", characters)
