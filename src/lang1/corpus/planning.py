"""Making the plan of a corpus: what goes in, cut into units, and the tokenizer that all units share."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lang1.common.artefact import Folder, InputRef, file_sha256, read_json, write_json
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.corpus.filters import (
    Context,
    Document,
    FilterSettings,
    Report,
    filter_class,
    filters_for,
    resolve_filters,
)
from lang1.corpus.general import general_files, read_general
from lang1.corpus.notes import EligibleNotes, NoteRules
from lang1.corpus.schedule import normalised_weights
from lang1.corpus.settings import NOTES, CorpusSettings, GeneralSource
from lang1.corpus.tasks import (
    Plan,
    Source,
    digest,
    general_pieces,
    note_pieces,
    patient_pieces,
    units_of,
    used_versions,
    work_folder,
)
from lang1.corpus.writing import finished, pass_documents, write_state
from lang1.records.store import Records
from lang1.remede.benchmark import Benchmark
from lang1.text.questions import QUESTIONS, letters, render_question
from lang1.text.tokenizer import ANSWER, Tokenizer, check_tokenizer
from lang1.text.tokenizer_training import train_tokenizer

# Options that any question can be expected to have; a benchmark brings its own besides.
_LETTERS = 8
_HASHES = "inputs.json"
# With a document a patient, a unit of work has so many times more text: each unit reads the whole notes table.
PATIENT_UNITS = 16


@dataclass(frozen=True)
class Inputs:
    """What a corpus is made from, opened.

    Attributes:
        records: the records folders.
        benchmark: whose held-out patients and cut count, where there is one.
        rules: who may enter from each records folder.
        weights: shares by source, adding up to 1; its keys are all sources, notes first.
    """

    records: tuple[Records, ...]
    benchmark: Benchmark | None
    rules: tuple[NoteRules, ...]
    weights: dict[str, float]

    @classmethod
    def open(cls, records: Sequence[Path], benchmark: Path | None, settings: CorpusSettings) -> Inputs:
        """Open the folders and refuse notes that no split table covers.

        Raises:
            SettingsError: records without a benchmark, or weights that do not fit the sources.
            ArtefactError: a folder is not what it should be, or the benchmark was made from other records.
            InputError: an unknown note type.
        """
        opened = tuple(Records.open(path) for path in records)
        judge = Benchmark.open(benchmark) if benchmark is not None else None
        _check_guarded(opened, judge, settings)
        names = ([NOTES] if opened else []) + list(settings.general)
        if NOTES in settings.general or not names:
            raise SettingsError(f"general: a source cannot be called '{NOTES}', and there must be at least one source.")
        weights = normalised_weights(settings.weights or _default_weights(names), names)
        rules = tuple(
            NoteRules.of(one, judge, judge is not None and _made_from(judge, one), settings.note_types)
            for one in opened
        )
        return cls(opened, judge, rules, weights)


def input_refs(inputs: Inputs, settings: CorpusSettings, work: Path) -> dict[str, Folder | InputRef]:
    """How the manifest names the inputs. Hashes of general files are kept in ``work`` while the files do not change."""
    many = len(inputs.records) > 1
    refs: dict[str, Folder | InputRef] = {
        f"records_{i + 1}" if many else "records": one.folder for i, one in enumerate(inputs.records)
    }
    if inputs.benchmark is not None:
        refs["benchmark"] = inputs.benchmark.folder
    refs.update({f"general.{name}": _text_ref(name, source, work) for name, source in settings.general.items()})
    return refs


def make_plan(inputs: Inputs, refs: Mapping[str, Folder | InputRef], out: Path, settings: CorpusSettings) -> Plan:
    """Plan a corpus: cut the inputs into units, and train or load the tokenizer.

    Raises:
        SettingsError: the vocabulary is too small, or ``cleaning.ascii_only`` with a tokenizer brought along.
        InputError: no text to train a tokenizer on, or text that cannot be read.
        ArtefactError: the tokenizer brought along cannot be read.
    """
    work = work_folder(out)
    prints = {name: ref.fingerprint for name, ref in refs.items()}
    tokenizer = _tokenizer(inputs, prints, work, settings)
    chosen = resolve_filters(settings.filters)
    cleaning = settings.cleaning.model_dump(mode="json")
    sources = []
    for name in inputs.weights:
        if name == NOTES:
            cut = patient_pieces if settings.longitudinal else note_pieces
            size = settings.unit_bytes * (PATIENT_UNITS if settings.longitudinal else 1)
            pieces, field = cut(inputs.rules, size), ""
        else:
            general = settings.general[name]
            pieces, field = general_pieces(general_files(name, general), settings.unit_bytes), general.text_field
        # A filter may look at any of the inputs (a benchmark's questions), so all of them are in the key.
        key = digest(prints, cleaning, field, [str(rule) for rule in inputs.rules] if name == NOTES else [])
        units, sizes = units_of(pieces, settings.unit_bytes)
        if name == NOTES and settings.longitudinal:
            key = digest(key, "longitudinal")
        filters = tuple(filters_for(name, name == NOTES, chosen))
        sources.append(Source(name, units, sizes, filters, key, field, inputs.rules if name == NOTES else ()))
    return Plan(
        out=str(out.resolve()),
        records=tuple(str(one.path.resolve()) for one in inputs.records),
        benchmark=str(inputs.benchmark.folder.path.resolve()) if inputs.benchmark is not None else None,
        settings=settings,
        tokenizer=tokenizer.fingerprint,
        sources=tuple(sources),
        versions=used_versions(),
    )


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


def _default_weights(names: Sequence[str]) -> dict[str, float]:
    """One half notes, one half general text; the general sources alike."""
    general = [name for name in names if name != NOTES]
    shares = {name: 1 / len(general) for name in general}
    return {NOTES: 1.0, **shares} if NOTES in names else shares


def _text_ref(name: str, source: GeneralSource, work: Path) -> InputRef:
    files = general_files(name, source)
    known = read_json(work / _HASHES) if (work / _HASHES).exists() else {}
    stats = {str(file.resolve()): (file, file.stat()) for file in files}
    new = [path for path, (_, stat) in stats.items() if known.get(path, [])[:2] != [stat.st_size, stat.st_mtime_ns]]
    with ThreadPoolExecutor() as pool:
        for path, found in zip(new, pool.map(file_sha256, map(Path, new)), strict=True):
            known[path] = [stats[path][1].st_size, stats[path][1].st_mtime_ns, found]
    if new:
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / _HASHES, known)
    joined = "\n".join(f"{file.name} {known[path][2]}" for path, (file, _) in stats.items())
    place = "shipped with lang1" if source.path is None else str(source.path.resolve())
    return InputRef(path=place, kind="text", fingerprint=hashlib.sha256(joined.encode()).hexdigest())


def _tokenizer(inputs: Inputs, prints: Mapping[str, str], work: Path, settings: CorpusSettings) -> Tokenizer:
    """The tokenizer of all units, in ``work/tokenizer``; one that an earlier run trained on the same is kept."""
    folder, state = work / "tokenizer", work / "tokenizer.json"
    if settings.tokenizer is not None:
        if settings.cleaning.ascii_only:
            raise SettingsError(
                "cleaning.ascii_only is part of a tokenizer trained here; it cannot change `tokenizer`."
            )
        tokenizer = Tokenizer.load(settings.tokenizer, settings.end_of_text)
        check_tokenizer(tokenizer, _LETTERS)
        state.unlink(missing_ok=True)
        tokenizer.save(folder)
        return tokenizer
    if settings.end_of_text is not None:
        raise SettingsError("end_of_text names a token of `tokenizer`; a tokenizer trained here has its own.")
    asked = settings.model_dump(mode="json", exclude={"val_share", "shard_tokens", "longitudinal"})
    key = digest(prints, asked, [str(rule) for rule in inputs.rules], used_versions())
    if finished(state, key) is not None:
        return Tokenizer.load(folder)
    tokenizer = train_tokenizer(
        _sample(inputs, settings),
        settings.vocab_size,
        settings.digits,
        _required(inputs.benchmark),
        ascii_only=settings.cleaning.ascii_only,
    )
    check_tokenizer(tokenizer, _LETTERS)
    work.mkdir(parents=True, exist_ok=True)
    state.unlink(missing_ok=True)
    tokenizer.save(folder)
    write_state(state, {"key": key})
    return tokenizer


def _required(benchmark: Benchmark | None) -> list[str]:
    """The texts whose words become single tokens: every question that will be asked, and the answers."""
    if benchmark is not None:
        questions = list(benchmark.questions().values())
    else:
        questions = [render_question(name, ("No", "Yes")) for name in QUESTIONS]
    return [*questions, *(f"{ANSWER} {letter}" for letter in letters(_LETTERS))]


def _sample(inputs: Inputs, settings: CorpusSettings) -> Iterator[str]:
    """Text to train the tokenizer on, from each source in its share of the mixture.

    It is cleaned, and passes the filters that need no pass of their own: a name that de-identification replaces must
    not become a token either.
    """
    chosen = resolve_filters(settings.filters)
    budget = settings.tokenizer_sample_bytes
    for name, weight in inputs.weights.items():
        if name == NOTES:
            documents = _notes_sample(inputs.rules, budget * weight)
        else:
            documents = _general_sample(name, settings.general[name], budget * weight)
        yield from _passed(name, documents, inputs, chosen, settings)


def _passed(
    name: str,
    documents: Iterator[Document],
    inputs: Inputs,
    chosen: Mapping[str, FilterSettings],
    settings: CorpusSettings,
) -> Iterator[str]:
    benchmark = inputs.benchmark.folder.path if inputs.benchmark is not None else None
    context = Context(name, tuple(one.path for one in inputs.records), benchmark)
    classes = {one: filter_class(one) for one in filters_for(name, name == NOTES, chosen)}
    filters = [cls(chosen[one], context) for one, cls in classes.items() if not cls.prepares]
    for document in pass_documents(documents, settings.cleaning, filters, Report()):
        yield document.text


def _notes_sample(rules: Sequence[NoteRules], budget: float) -> Iterator[Document]:
    if budget <= 0:
        return
    notes = [EligibleNotes(one) for one in rules]
    in_all = sum(one.bytes for one in notes)
    if not in_all:
        raise InputError("no note may enter the corpus: look at the benchmark's folds, its cut and note_types.")
    for one in notes:
        yield from one.sample(budget / in_all)


def _general_sample(name: str, source: GeneralSource, budget: float) -> Iterator[Document]:
    files = general_files(name, source)
    sizes = [file.stat().st_size for file in files]
    numbers = itertools.count()
    for file, size in zip(files, sizes, strict=True):
        left = int(budget * size / max(sum(sizes), 1))
        for text in read_general(file, source.text_field):
            if left <= 0:
                break
            place = next(numbers)
            yield Document(text[:left], unit=f"{name}:{place}", place=place, source=name)
            left -= len(text)
