"""Answering multiple-choice questions about notes: log-probabilities of the option letters after ``Answer:``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang1.common.progress import Meter
from lang1.model.attention import Layout, build_layout
from lang1.model.decoder import Decoder
from lang1.text.shared_note import (
    EncodedGroups,
    NoteGroup,
    SharedBatch,
    assemble,
    by_length,
    chunks,
    encode_groups,
)
from lang1.text.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]
# Groups held at a time while scoring, so that memory does not grow with the benchmark.
GROUPS_AT_A_TIME = 4_096


@dataclass
class ScoreTable:
    """Answers, one row an example; rows of a note stay together, in the order in which groups were given."""

    example_ids: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    # (C,) float64 each: log-probability of each option letter over the whole vocabulary.
    log_probabilities: list[Floats] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)  # note tokens cut to fit the budget
    tokens: int = 0  # tokens passed through the model

    def __len__(self) -> int:
        return len(self.example_ids)

    def probabilities(self, row: int) -> Floats:
        """(C,) softmax over the option letters alone; sums to 1."""
        scores = self.log_probabilities[row]
        shares = np.exp(scores - scores.max())
        return np.asarray(shares / shares.sum(), dtype=np.float64)

    def option_mass(self, row: int) -> float:
        """Share of the next token's probability that lies on the option letters."""
        return float(np.exp(self.log_probabilities[row]).sum())

    def of_task(self, task: str) -> tuple[npt.NDArray[np.int64], Floats]:
        """Labels (n,) and probabilities (n, C) of one task's rows."""
        rows = [i for i, t in enumerate(self.tasks) if t == task]
        labels = np.array([self.labels[i] for i in rows], dtype=np.int64)
        table = np.stack([self.probabilities(i) for i in rows]) if rows else np.zeros((0, 2))
        return labels, table


def score_groups(
    model: Decoder,
    tokenizer: Tokenizer,
    groups: Iterable[NoteGroup],
    questions: Mapping[str, str],
    n_options: Mapping[str, int],
    note_budget: int,
    truncation: str = "head",
    tokens_per_batch: int = 16_384,
    progress: Meter | None = None,
) -> ScoreTable:
    """Answer every question of every group; questions about one note share its pass.

    In fp32 an answer does not depend on what it is batched with beyond 1e-5 in log-probability; in bf16 beyond
    0.05 (products are split differently by size; measured on lang1-nano, tested).

    Args:
        model: the model, on any device; its ``dtype`` decides the precision.
        tokenizer: the model's own.
        groups: notes with their questions; read once, a few thousand at a time.
        questions: the rendered question of each task.
        n_options: number of options of each task.
        note_budget: the most tokens of a note.
        truncation: which part of a longer note stays.
        tokens_per_batch: the most tokens of a pass.
        progress: told of each example answered.
    """
    table = ScoreTable()
    for chunk in chunks(groups, GROUPS_AT_A_TIME):
        encoded = encode_groups(chunk, tokenizer, questions, note_budget, truncation)
        score_encoded(model, tokenizer, encoded, n_options, tokens_per_batch, progress, table)
    return table


def score_encoded(
    model: Decoder,
    tokenizer: Tokenizer,
    encoded: EncodedGroups,
    n_options: Mapping[str, int],
    tokens_per_batch: int = 16_384,
    progress: Meter | None = None,
    table: ScoreTable | None = None,
) -> ScoreTable:
    """:func:`score_groups` for groups that are tokens already; rows are added to ``table`` where one is given."""
    table = ScoreTable() if table is None else table
    letters = [np.array(tokenizer.letter_ids(n_options[t]), dtype=np.int64) for t in encoded.tasks]
    answers: dict[int, Floats] = {}
    with torch.inference_mode():
        for batch in _batches(encoded, tokens_per_batch):
            tokens, layout, read = on_device(batch, model)
            scores = torch.log_softmax(model.logits(model(tokens, layout, read)), dim=-1).cpu().numpy()
            for row, item in enumerate(batch.item):
                answers[int(item)] = scores[row, letters[encoded.item_task[item]]].astype(np.float64)
            table.tokens += len(batch.tokens)
            if progress is not None:
                progress.add(len(batch.item))
    for group in range(len(encoded)):
        for item in range(int(encoded.item_ends[group]), int(encoded.item_ends[group + 1])):
            table.example_ids.append(encoded.example_ids[item])
            table.tasks.append(encoded.tasks[encoded.item_task[item]])
            table.labels.append(int(encoded.item_label[item]))
            table.log_probabilities.append(answers[item])
            table.truncated.append(int(encoded.truncated[group]))
    return table


def on_device(batch: SharedBatch, model: Decoder) -> tuple[Tensor, Layout, Tensor]:
    """A batch's tokens (N,), layout and answer places (A,) on the model's device."""
    device = model.device
    layout = build_layout(batch.lengths, batch.positions, batch.branch, device)
    return torch.from_numpy(batch.tokens).to(device), layout, torch.from_numpy(batch.answer).to(device)


def _batches(encoded: EncodedGroups, tokens_per_batch: int) -> Iterator[SharedBatch]:
    asked = np.flatnonzero(np.diff(encoded.item_ends))
    for which in by_length(encoded.lengths[asked], tokens_per_batch):
        yield assemble(encoded, asked[which])
