"""From the finished units of a source to its shards, in the order of the units whatever the order of their making."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lang1.common.errors import ArtefactError, InputError
from lang1.common.progress import Meter
from lang1.corpus.filters import Report
from lang1.corpus.notes import validation_draw
from lang1.corpus.shards import ShardWriter, token_dtype
from lang1.corpus.tasks import ENCODE, Plan, Source
from lang1.corpus.writing import NON_ASCII, ROW, WRITTEN, check_finished, unit_file
from lang1.text.clean import STEPS
from lang1.text.tokenizer import Tokenizer

_PATIENTS_AT_ONCE = 1_000_000


@dataclass
class Merged:
    """What a source came to.

    Attributes:
        report: counts of all its units.
        documents, tokens: for training, end-of-text tokens included.
        val_documents, val_tokens: for validation.
        patients: sorted distinct hashes of the patients whose notes are inside; empty for general text.
    """

    report: Report
    documents: int
    tokens: int
    val_documents: int
    val_tokens: int
    patients: npt.NDArray[np.int64]

    def extra(self, weight: float) -> dict[str, Any]:
        """What ``manifest.extra["sources"]`` says of this source."""
        written = self.report.of(WRITTEN)
        words, characters = written["words"], written["characters"]
        closing = self.documents + self.val_documents  # end-of-text tokens belong to no word
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "val_tokens": self.val_tokens,
            "val_documents": self.val_documents,
            "weight": weight,
            "words": words,
            "characters": characters,
            "tokens_per_word": round((self.tokens + self.val_tokens - closing) / words, 4) if words else None,
        }

    def cleaning(self) -> dict[str, dict[str, int]]:
        """By cleaning step: documents changed and characters removed, or left unchanged by a step switched off."""
        names = [*STEPS, *([NON_ASCII] if NON_ASCII in self.report.counts else [])]
        always = {"documents_changed": 0, "characters_removed": 0}
        return {name: {**always, **dict(sorted(self.report.of(name).items()))} for name in names}

    def filtering(self, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """By filter that the source passed: what it counted."""
        return {name: dict(sorted(self.report.of(name).items())) for name in names}


def merge(plan: Plan, source: Source, folder: Path, tokenizer: Tokenizer) -> Merged:
    """Write a source's shards from its units.

    Whole patients (documents, where they are nobody's) are held out for validation, by a hash; that of the first
    document too, so that there is always one.

    Args:
        plan: all its units of the last stage must be finished.
        source: which of its sources.
        folder: where the shards go.
        tokenizer: with which the units were made.

    Raises:
        ArtefactError: a unit is not finished, or its files do not fit together.
        InputError: nothing is left for training.
    """
    states = check_finished(plan, source, ENCODE, range(len(source.units)))
    report = Report()
    for state in states:
        report.add(Report.from_json(state))
    patients = [np.empty(0, dtype=np.int64)]
    first: int | None = None
    begun = waiting = 0
    settings, dtype = plan.settings, token_dtype(tokenizer.vocab_size)
    layout = (dtype, tokenizer.eot_id, settings.shard_tokens)
    with (
        ShardWriter(folder, "", *layout) as train,
        ShardWriter(folder, "val-", *layout) as val,
        Meter(f"corpus: {source.name}, merge", len(states), "units") as meter,
    ):
        for unit, state in enumerate(states):
            tokens, rows = _load(plan, source, unit, dtype)
            owners, draws = rows["unit"], rows["draw"]
            if not source.rules:
                # Numbered through the whole source, which is known only now.
                owners = rows["number"].astype(np.int64) + begun
                draws = np.array([validation_draw(f"{source.name}:{number}") for number in owners.tolist()])
            begun += int(state["read"])
            if len(rows) and first is None:
                first = int(owners[0])
            held_out = (owners == first) | (draws < settings.val_share) if settings.val_share > 0 else owners < owners
            for start, stop, validation in _runs(held_out):
                before = int(rows["tokens"][:start].sum(dtype=np.int64))
                lengths = rows["tokens"][start:stop]
                part = tokens[before : before + int(lengths.sum(dtype=np.int64))]
                (val if validation else train).extend(part, lengths)
            if source.rules:
                patients.append(np.unique(owners))
                waiting += len(patients[-1])
                if waiting > _PATIENTS_AT_ONCE:
                    patients, waiting = [np.unique(np.concatenate(patients))], 0
            meter.add(1)
    if not train.documents:
        why = "; ".join(f"{count} {reason}" for reason, count in report.left_out.items())
        raise InputError(
            f"source '{source.name}': no document is left for training ({val.documents} held out for validation"
            f"{'; ' + why if why else ''}). Check what was left out, or the note types, or set val_share to 0."
        )
    inside = np.unique(np.concatenate(patients))
    return Merged(report, train.documents, train.tokens, val.documents, val.tokens, inside)


def _load(
    plan: Plan, source: Source, unit: int, dtype: np.dtype[np.unsignedinteger]
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[Any]]:
    file = unit_file(plan, source, ENCODE, unit, "bin")
    try:
        rows = np.load(unit_file(plan, source, ENCODE, unit, "npy"), allow_pickle=False)
        size = file.stat().st_size
    except (OSError, EOFError, ValueError) as error:
        raise ArtefactError(f"{file}: damaged ({error}); remove {plan.work} and start again.") from error
    if rows.dtype != ROW or int(rows["tokens"].sum(dtype=np.int64)) * dtype.itemsize != size:
        raise ArtefactError(f"{file}: its length is not that of its rows; remove {plan.work} and start again.")
    tokens = np.memmap(file, dtype=dtype, mode="r") if size else np.empty(0, dtype=dtype)
    return tokens, rows


def _runs(flags: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """Ranges of equal flags: start, stop, flag."""
    if len(flags):
        edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
        for start, stop in itertools.pairwise(edges):
            yield start, stop, bool(flags[start])
