"""The quality report of a corpus folder: its text read again from where it came, beside what the filters took out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from lang1.common.artefact import Manifest
from lang1.common.progress import track
from lang1.corpus.filters import Document
from lang1.corpus.general import general_files, read_general
from lang1.corpus.notes import EligibleNotes
from lang1.corpus.planning import Inputs
from lang1.corpus.quality import quality, removed_by_type, write_quality
from lang1.corpus.reader import Corpus
from lang1.corpus.settings import NOTES, CorpusSettings
from lang1.text.clean import clean_note
from lang1.text.fertility import fertility, report
from lang1.text.tokenizer import Tokenizer


def describe_corpus(corpus: Path, out: Path) -> dict[str, Any]:
    """Write the quality report of a corpus as one HTML page.

    The text is that which could enter, cleaned, before the filters: the inputs named in the manifest must still lie
    where they were.

    Args:
        corpus: the corpus folder.
        out: the page to write.

    Returns:
        What :func:`~lang1.corpus.quality.quality` found, with ``removed`` by type.

    Raises:
        ArtefactError: the folder or one of its inputs is not there.
        InputError: text that cannot be read.
    """
    manifest = Corpus.open(corpus).folder.manifest
    inputs, settings = _inputs(manifest)
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    documents = track(_documents(inputs, settings), "describe", unit="documents")
    found = quality(documents, tokenizer)
    removed: dict[str, dict[str, float]] = {}
    for counts in manifest.counts.get("filters", {}).values():
        removed.update(removed_by_type(counts))
    write_quality(found, out, f"Text of {corpus.name}", removed)
    return {**found, "removed": removed}


def compare_tokenizers(corpus: Path, others: Mapping[str, Path], out: Path, most: int = 2_000) -> None:
    """Write how many tokens the corpus's tokenizer and others make of its text, by note type, as one HTML page.

    Args:
        corpus: the corpus folder; its inputs must still lie where they were.
        others: tokenizer.json files or folders that hold one, by the name to show; ratios are to the last.
        out: the page to write.
        most: texts of each note type, the first ones met.

    Raises:
        ArtefactError: the folder, one of its inputs or a tokenizer is not there.
    """
    manifest = Corpus.open(corpus).folder.manifest
    tokenizers = {corpus.name: Tokenizer.load(corpus / "tokenizer")}
    tokenizers.update({name: Tokenizer.load(path) for name, path in others.items()})
    texts: dict[str, list[str]] = {}
    inputs, settings = _inputs(manifest)
    for document in track(_documents(inputs, settings), "compare tokenizers", unit="documents"):
        some = texts.setdefault(document.note_type or document.source, [])
        if len(some) < most:
            some.append(document.text)
    report(fertility(tokenizers, texts), tokenizers).html(out)


def _inputs(manifest: Manifest) -> tuple[Inputs, CorpusSettings]:
    settings = CorpusSettings.model_validate(manifest.settings)
    refs = manifest.inputs
    records = [Path(ref.path) for name, ref in refs.items() if name.partition("_")[0] == "records"]
    benchmark = Path(refs["benchmark"].path) if "benchmark" in refs else None
    return Inputs.open(records, benchmark, settings), settings


def _documents(inputs: Inputs, settings: CorpusSettings) -> Iterator[Document]:
    for rules in inputs.rules:
        for note in EligibleNotes(rules).sample(1.0):
            yield replace(note, text=clean_note(note.text), source=NOTES)
    for name, source in settings.general.items():
        numbers = count()
        for file in general_files(name, source):
            for text in read_general(file, source.text_field):
                yield Document(clean_note(text), f"{name}:{next(numbers)}", source=name)
