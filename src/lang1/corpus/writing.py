"""From documents to the token shards of one source: clean, leave out, tokenize, write, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError
from lang1.common.identity import patient_hash
from lang1.common.progress import Meter
from lang1.corpus.notes import validation_draw
from lang1.corpus.settings import Cleaning, CorpusSettings
from lang1.corpus.shards import ShardWriter, token_dtype
from lang1.text.clean import STEPS
from lang1.text.tokenizer import Tokenizer

# Documents tokenized together: enough to keep the tokenizer's threads busy, little in memory.
_BATCH_DOCUMENTS = 512
_MERGE_PATIENTS = 500_000


@dataclass(frozen=True)
class Document:
    """One text on its way into a corpus.

    Attributes:
        text: as stored at its source.
        unit: what stays together on one side of training and validation: the patient, or the document itself.
    """

    text: str
    unit: str


@dataclass
class SourceReport:
    """What became of one source's documents."""

    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)  # documents that a cleaning step changed
    removed: Counter[str] = field(default_factory=Counter)  # characters by which a cleaning step shortened them
    documents: int = 0
    val_documents: int = 0
    tokens: int = 0
    val_tokens: int = 0
    words: int = 0
    characters: int = 0

    def extra(self, weight: float) -> dict[str, Any]:
        """What ``manifest.extra["sources"]`` says of this source."""
        written = self.tokens + self.val_tokens
        closing = self.documents + self.val_documents  # end-of-text tokens belong to no word
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "val_tokens": self.val_tokens,
            "val_documents": self.val_documents,
            "weight": weight,
            "words": self.words,
            "characters": self.characters,
            "tokens_per_word": round((written - closing) / self.words, 4) if self.words else None,
        }

    def cleaning(self) -> dict[str, dict[str, int]]:
        """By cleaning step: documents changed and characters removed."""
        names = [*STEPS, *(name for name in self.changed if name not in STEPS)]
        return {n: {"documents_changed": self.changed[n], "characters_removed": self.removed[n]} for n in names}


class PatientSet:
    """The hashes of patients, at 8 bytes each: a health system can have tens of millions."""

    def __init__(self) -> None:
        self._distinct: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._recent: set[int] = set()

    def add(self, patient_id: str) -> None:
        """Add a patient; once or many times is the same."""
        self._recent.add(patient_hash(patient_id))
        if len(self._recent) >= _MERGE_PATIENTS:
            self.hashes()

    def hashes(self) -> npt.NDArray[np.int64]:
        """The sorted distinct hashes."""
        if self._recent:
            recent = np.fromiter(self._recent, dtype=np.int64, count=len(self._recent))
            self._distinct = np.union1d(self._distinct, recent)
            self._recent.clear()
        return self._distinct


def clean(text: str, settings: Cleaning, report: SourceReport) -> str | None:
    """Clean one document and count what each step did; None where it is left out."""
    for name, step in STEPS.items():
        before, text = text, step(text)
        if text != before:
            report.changed[name] += 1
            report.removed[name] += len(before) - len(text)
    if settings.ascii_only and not text.isascii():
        # The tokenizer drops these (see Cleaning.ascii_only); they are counted here.
        report.changed["drop_non_ascii"] += 1
        report.removed["drop_non_ascii"] += sum(not c.isascii() for c in text)
    held = next((mark for mark in settings.placeholders if mark in text), None)
    if held is not None:
        report.left_out[f"holds the placeholder {held}"] += 1
        return None
    words = len(text.split())
    if words < settings.min_words or not text:
        report.left_out[f"under {max(settings.min_words, 1)} words"] += 1
        return None
    report.words += words
    report.characters += len(text)
    return text


def write_source(
    name: str,
    documents: Iterable[Document],
    total: int | None,
    folder: Path,
    tokenizer: Tokenizer,
    settings: CorpusSettings,
    patients: PatientSet | None = None,
) -> SourceReport:
    """Write one source's shards.

    Whole units are held out for validation, by a hash of the unit; the unit of the first document too, so that
    there is always one.

    Args:
        name: the source's name, for the person at the terminal.
        documents: read once, in order.
        total: how many there are, where known.
        folder: where the shards go.
        tokenizer: encodes the cleaned text.
        settings: cleaning, validation share, shard size.
        patients: where units are patients, gets those with a document inside.

    Raises:
        InputError: nothing is left for training.
    """
    report = SourceReport()
    dtype = token_dtype(tokenizer.vocab_size)
    layout = (dtype, tokenizer.eot_id, settings.shard_tokens)
    first: str | None = None
    with (
        ShardWriter(folder, "", *layout) as train,
        ShardWriter(folder, "val-", *layout) as val,
        Meter(f"corpus: {name}", total, "documents") as meter,
    ):
        for batch in _batches(documents):
            kept = [(text, d.unit) for d in batch if (text := clean(d.text, settings.cleaning, report)) is not None]
            for tokens, (_, unit) in zip(tokenizer.encode_batch([text for text, _ in kept]), kept, strict=True):
                first = unit if first is None else first
                if patients is not None:
                    patients.add(unit)
                held_out = settings.val_share > 0 and (unit == first or validation_draw(unit) < settings.val_share)
                (val if held_out else train).add(tokens)
            meter.add(len(batch))
    report.tokens, report.documents = train.tokens, train.documents
    report.val_tokens, report.val_documents = val.tokens, val.documents
    if not report.documents:
        why = "; ".join(f"{count} {reason}" for reason, count in report.left_out.items())
        raise InputError(
            f"source '{name}': no document is left for training ({report.val_documents} held out for validation"
            f"{'; ' + why if why else ''}). Check what was left out, or the note types, or set val_share to 0."
        )
    return report


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, _BATCH_DOCUMENTS)):
        yield batch
