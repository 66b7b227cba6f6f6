"""From records and general text to a corpus folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lang1.common.artefact import Draft, Folder, InputRef, file_sha256, new_folder
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.identity import PATIENT_HASHES, patient_hash, read_patient_hashes
from lang1.corpus.general import general_files, read_general
from lang1.corpus.notes import EligibleNotes
from lang1.corpus.order import normalised_weights
from lang1.corpus.settings import NOTES, CorpusSettings, GeneralSource
from lang1.corpus.shards import token_dtype
from lang1.corpus.writing import Document, PatientSet, SourceReport, clean, write_source
from lang1.records.store import Records
from lang1.remede.benchmark import Benchmark
from lang1.text.questions import QUESTIONS, letters, render_question
from lang1.text.tokenizer import ANSWER, Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

# Options that any question can be expected to have; a benchmark brings its own besides.
_LETTERS = 8


def build_corpus(records: Sequence[Path], benchmark: Path | None, out: Path, settings: CorpusSettings) -> Path:
    """Clean, tokenize and shard text for pretraining.

    Only notes of patients of the benchmark's training fold, available before its pretraining cut, enter; what is
    left out is counted by reason. The same inputs and settings give the same bytes.

    Args:
        records: records folders; none for a corpus of general text only.
        benchmark: the benchmark made from them, whose split table decides who may enter.
        out: the corpus folder to write.
        settings: see :class:`~lang1.corpus.settings.CorpusSettings`.

    Returns:
        ``out``.

    Raises:
        SettingsError: records without a benchmark, or weights that do not fit the sources.
        ArtefactError: a folder is not what it should be, or the benchmark was made from other records.
        InputError: text that cannot be read, or a source with nothing left.
    """
    opened = [Records.open(path) for path in records]
    judge = Benchmark.open(benchmark) if benchmark is not None else None
    _check_guarded(opened, judge, settings)
    names = ([NOTES] if opened else []) + list(settings.general)
    if NOTES in settings.general or not names:
        raise SettingsError(f"general: a source cannot be called '{NOTES}', and there must be at least one source.")
    weights = normalised_weights(settings.weights or _default_weights(names), names)
    notes = [_eligible(one, judge, settings) for one in opened]
    held_out = read_patient_hashes(judge.folder.path) if judge is not None else np.empty(0, dtype=np.int64)
    inputs: dict[str, Folder | InputRef] = {
        f"records_{i + 1}" if len(opened) > 1 else "records": r.folder for i, r in enumerate(opened)
    }
    if judge is not None:
        inputs["benchmark"] = judge.folder
    inputs.update({f"general.{name}": _text_ref(name, source) for name, source in settings.general.items()})
    with new_folder(out, "corpus", inputs=inputs, settings=settings) as draft:
        tokenizer = _tokenizer(notes, weights, judge, settings)
        tokenizer.save(draft.path / "tokenizer")
        patients = PatientSet()
        reports: dict[str, SourceReport] = {}
        if notes:
            excluded: Counter[str] = Counter()
            for one in notes:
                excluded.update(one.left_out)
            total = sum(one.count for one in notes)
            documents = _note_documents(notes, set(held_out.tolist()), excluded)
            reports[NOTES] = write_source(
                NOTES, documents, total, draft.path / NOTES, tokenizer, settings, patients=patients
            )
            reports[NOTES].left_out.update(excluded)
        for name in settings.general:
            documents = _general_documents(name, settings)
            reports[name] = write_source(name, documents, None, draft.path / name, tokenizer, settings)
        _finish(draft, reports, weights, tokenizer, patients.hashes(), held_out)
        draft.extra["benchmark"] = _named(judge)
        draft.extra["cut"] = _iso(judge.pretraining_cut) if judge is not None else None
        draft.extra["systems"] = [one.meta.system for one in opened]
        draft.extra["guarded"] = all(one.guarded for one in notes)
    return out


def _check_guarded(records: Sequence[Records], benchmark: Benchmark | None, settings: CorpusSettings) -> None:
    if settings.allow_unguarded or not records:
        return
    if benchmark is None:
        raise SettingsError(
            "a corpus of patients' notes needs the benchmark that says which patients are held out: name it, "
            "or set allow_unguarded=true to take every patient."
        )
    for one in records:
        if not _made_from(benchmark, one):
            raise ArtefactError(
                f"{benchmark.folder.path} was not made from {one.path}: its split table does not say which of these "
                "patients are held out. Build the benchmark from these records, or set allow_unguarded=true."
            )


def _made_from(benchmark: Benchmark, records: Records) -> bool:
    stated = benchmark.folder.manifest.extra.get("records", {})
    return bool(stated.get("fingerprint") == records.folder.fingerprint)


def _eligible(records: Records, benchmark: Benchmark | None, settings: CorpusSettings) -> EligibleNotes:
    covered = benchmark is not None and _made_from(benchmark, records)
    folds = benchmark.folds() if benchmark is not None and covered else None
    cut = benchmark.pretraining_cut if benchmark is not None else None
    return EligibleNotes(records, folds, cut, settings.note_types)


def _default_weights(names: Sequence[str]) -> dict[str, float]:
    """One half notes, one half general text; the general sources alike."""
    general = [name for name in names if name != NOTES]
    shares = {name: 1 / len(general) for name in general}
    return {NOTES: 1.0, **shares} if NOTES in names else shares


def _note_documents(systems: Sequence[EligibleNotes], held_out: set[int], excluded: Counter[str]) -> Iterator[Document]:
    for system in systems:
        for note in system:
            # A system that the split table does not cover can still share patients with the benchmark.
            if not system.guarded and held_out and patient_hash(note.patient_id) in held_out:
                excluded["patient held out by the benchmark"] += 1
                continue
            yield Document(note.text, note.patient_id)


def _general_documents(name: str, settings: CorpusSettings) -> Iterator[Document]:
    source = settings.general[name]
    number = 0
    for file in general_files(name, source):
        for text in read_general(file, source.text_field):
            yield Document(text, f"{name}:{number}")
            number += 1


def _text_ref(name: str, source: GeneralSource) -> InputRef:
    files = general_files(name, source)
    digest = hashlib.sha256("\n".join(f"{file.name} {file_sha256(file)}" for file in files).encode())
    place = "shipped with lang1" if source.path is None else str(source.path.resolve())
    return InputRef(path=place, kind="text", fingerprint=digest.hexdigest())


def _tokenizer(
    notes: Sequence[EligibleNotes], weights: Mapping[str, float], benchmark: Benchmark | None, settings: CorpusSettings
) -> Tokenizer:
    if settings.tokenizer is not None:
        if settings.cleaning.ascii_only:
            raise SettingsError(
                "cleaning.ascii_only is part of a tokenizer trained here; it cannot change `tokenizer`."
            )
        tokenizer = Tokenizer.load(settings.tokenizer)
    else:
        tokenizer = train_tokenizer(
            _sample(notes, weights, settings),
            settings.vocab_size,
            settings.digits,
            _required(benchmark),
            ascii_only=settings.cleaning.ascii_only,
        )
    tokenizer.letter_ids(_LETTERS)
    return tokenizer


def _required(benchmark: Benchmark | None) -> list[str]:
    """The texts whose words become single tokens: every question that will be asked, and the answers."""
    if benchmark is not None:
        questions = list(benchmark.questions().values())
    else:
        questions = [render_question(name, ("No", "Yes")) for name in QUESTIONS]
    return [*questions, *(f"{ANSWER} {letter}" for letter in letters(_LETTERS))]


def _sample(notes: Sequence[EligibleNotes], weights: Mapping[str, float], settings: CorpusSettings) -> Iterator[str]:
    """Cleaned text to train the tokenizer on, from each source in its share of the mixture."""
    scratch = SourceReport()
    for text in _raw_sample(notes, weights, settings):
        cleaned = clean(text, settings.cleaning, scratch)
        if cleaned is not None:
            yield cleaned


def _raw_sample(
    notes: Sequence[EligibleNotes], weights: Mapping[str, float], settings: CorpusSettings
) -> Iterator[str]:
    budget = settings.tokenizer_sample_bytes
    if notes and weights[NOTES] > 0:
        in_all = sum(one.bytes for one in notes)
        if not in_all:
            raise InputError("no note may enter the corpus: look at the benchmark's folds, its cut and note_types.")
        for one in notes:
            yield from one.sample(budget * weights[NOTES] / in_all)
    for name, source in settings.general.items():
        files = general_files(name, source)
        sizes = [file.stat().st_size for file in files]
        for file, size in zip(files, sizes, strict=True):
            left = int(budget * weights[name] * size / max(sum(sizes), 1))
            for text in read_general(file, source.text_field):
                if left <= 0:
                    break
                yield text[:left]
                left -= len(text)


def _finish(
    draft: Draft,
    reports: Mapping[str, SourceReport],
    weights: Mapping[str, float],
    tokenizer: Tokenizer,
    inside: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.int64],
) -> None:
    shared = len(np.intersect1d(inside, held_out))
    if shared:
        raise ArtefactError(
            f"{shared} patients are in the benchmark's training fold and among its held-out patients: the benchmark "
            "is damaged, build it again."
        )
    if len(inside):
        np.save(draft.path / PATIENT_HASHES, inside)
    draft.extra["sources"] = {name: report.extra(weights[name]) for name, report in reports.items()}
    draft.extra["dtype"] = token_dtype(tokenizer.vocab_size).name
    draft.extra["vocab_size"] = tokenizer.vocab_size
    draft.extra["tokenizer"] = tokenizer.fingerprint
    draft.counts["patients"] = len(inside)
    draft.counts["cleaning"] = {name: report.cleaning() for name, report in reports.items()}
    for name, report in reports.items():
        for reason, count in report.left_out.items():
            draft.leave_out(f"{name}: {reason}", count)


def _named(benchmark: Benchmark | None) -> dict[str, str] | None:
    if benchmark is None:
        return None
    reference = benchmark.folder.ref()
    return {"path": reference.path, "fingerprint": reference.fingerprint}


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
