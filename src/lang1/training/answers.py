"""What finetuning trains for: the letter after ``Answer:``, tasks weighted evenly, and its in-run validation."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang1.common.identity import unit_hash
from lang1.metrics.auroc import task_auroc
from lang1.model.answering import on_device, score_encoded
from lang1.model.decoder import Decoder
from lang1.text.shared_note import EncodedGroups, NoteGroup, SharedBatch, assemble, cut_to_budget, epoch_order
from lang1.text.tokenizer import Tokenizer
from lang1.training.loop import Work
from lang1.training.loss import letter_loss, linear_cross_entropy
from lang1.training.settings import Balance, FinetuneSettings
from lang1.training.throughput import Tally

Floats = npt.NDArray[np.float64]
SMALLEST_PROBABILITY = 1e-12
LEAST_SURPRISE = 0.05  # nats, of a task with 1 % of positives: a task with fewer is not weighted up further


def some_notes(groups: Iterable[NoteGroup], most: int | None, seed: int) -> Iterable[NoteGroup]:
    """All groups, or a random ``most`` of them: those whose ids hash lowest, so that no more are ever held."""
    if most is None:
        return groups
    return heapq.nsmallest(most, groups, key=lambda g: unit_hash(g.note_id, f"subset-{seed}"))


def visits_per_note(
    encoded: EncodedGroups, n_options: Mapping[str, int], oversample: float, rare_below: float
) -> Floats:
    """(G,) how often an epoch visits each note: ``oversample`` times where one of its labels is rare, else once."""
    repeats = np.ones(len(encoded))
    group_of_item = np.repeat(np.arange(len(encoded)), np.diff(encoded.item_ends))
    for index, task in enumerate(encoded.tasks):
        mine = encoded.item_task == index
        counts = np.bincount(encoded.item_label[mine], minlength=n_options[task])
        rare = counts < rare_below * max(1, counts.sum())
        repeats[group_of_item[mine][rare[encoded.item_label[mine]]]] = oversample
    return repeats


def task_weights(encoded: EncodedGroups, balance: Balance = "count") -> Floats:
    """Weight of each item by task index, so that every task that occurs weighs the same in total; mean 1 an item.

    ``count``: the same sum of weights. ``surprise``: the same loss for a model that knows each task's class shares and
    nothing else; a task of rare outcomes, whose loss is small from the start, then counts like one of even classes.
    """
    counts = np.bincount(encoded.item_task, minlength=len(encoded.tasks)).astype(np.float64)
    weights = np.zeros(len(counts))
    for task in np.flatnonzero(counts):
        shares = np.bincount(encoded.item_label[encoded.item_task == task]) / counts[task]
        surprise = float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
        weights[task] = 1 / counts[task] / (max(surprise, LEAST_SURPRISE) if balance == "surprise" else 1.0)
    total = float((weights * counts).sum())
    return np.asarray(weights * counts.sum() / total if total else weights, dtype=np.float64)


def tally_of(batch: SharedBatch, notes_read: bool) -> Tally:
    """What a pass over a batch amounts to: a question sees its note and itself, a note itself."""
    group = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
    notes = np.bincount(group[batch.branch == 0], minlength=len(batch.lengths))
    # Branches follow one another within a group, so that an edge of either starts the next one.
    starts = np.flatnonzero(np.diff(batch.branch, prepend=-1) | np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    seen = np.repeat(np.where(batch.branch[starts] == 0, 0, notes[group[starts]]) + sizes, sizes)
    read = np.concatenate([batch.answer, batch.note_read]) if notes_read else batch.answer
    tokens = len(batch.tokens)
    return Tally(tokens, tokens, len(read), int(seen.sum()), int(seen[read].sum()))


class Answers(Work):
    """Losses and validation of finetuning; see :class:`lang1.training.loop.Work`."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        train: EncodedGroups,
        val: EncodedGroups,
        n_options: Mapping[str, int],
        settings: FinetuneSettings,
    ) -> None:
        self.model, self.tokenizer, self.train, self.val = model, tokenizer, train, val
        self.n_options, self.settings = dict(n_options), settings
        self.device = model.device
        self.lengths = train.lengths
        self.item_weight = task_weights(train, settings.balance)[train.item_task]
        self.options = np.array([n_options[t] for t in train.tasks], dtype=np.int64)
        self.letters = np.array(tokenizer.letter_ids(int(self.options.max())), dtype=np.int64)
        repeats = visits_per_note(train, n_options, settings.oversample, settings.rare_below)
        self._repeats = repeats if settings.oversample > 1 else None
        per_step = settings.notes_per_step
        self.steps = settings.steps or max(1, round(settings.epochs * float(repeats.sum()) / per_step))
        self.tally = Tally()
        self._visits = np.zeros(0, dtype=np.int64)
        self._epochs = 0

    @property
    def tokens_per_step(self) -> float:
        return float(self.lengths.mean()) * self.settings.notes_per_step

    def notes_of(self, step: int) -> npt.NDArray[np.int64]:
        """The notes of a step: a function of the seed and the step alone."""
        first, last = step * self.settings.notes_per_step, (step + 1) * self.settings.notes_per_step
        while len(self._visits) < last:
            more = epoch_order(len(self.train), self.settings.seed, self._epochs, self._repeats)
            self._visits = np.concatenate([self._visits, more])
            self._epochs += 1
        return self._visits[first:last]

    def losses(self, step: int) -> Iterator[tuple[Tensor, int]]:
        parts = cut_to_budget(self.lengths, self.notes_of(step), self.settings.tokens_per_pass)
        batches = [assemble(self.train, which) for which in parts]
        # Normalised once over the whole step: the sum does not depend on how the step is cut into passes.
        weight = float(sum(self.item_weight[b.item].sum() for b in batches))
        noted = sum(len(b.note_read) for b in batches)
        for batch in batches:
            self.tally.add(tally_of(batch, self.settings.note_loss > 0))
            yield self._loss(batch, 1.0 / weight, self.settings.note_loss / max(1, noted)), len(batch.tokens)

    def _loss(self, batch: SharedBatch, answer_scale: float, note_scale: float) -> Tensor:
        tokens, layout, read = on_device(batch, self.model)
        answers = len(batch.answer)
        if note_scale > 0:
            read = torch.cat([read, torch.from_numpy(batch.note_read).to(self.device)])
        hidden = self.model(tokens, layout, read)
        head = self.model.head_weight
        labels = self.train.item_label[batch.item]
        scale = self._tensor(self.item_weight[batch.item] * answer_scale).float()
        if self.settings.loss == "letters":
            options = self._tensor(self.options[self.train.item_task[batch.item]])
            letters = head.index_select(0, self._tensor(self.letters))
            loss = letter_loss(hidden[:answers], letters, self._tensor(labels), options, scale)
        else:
            loss = linear_cross_entropy(hidden[:answers], head, self._tensor(self.letters[labels]), scale)
        if note_scale > 0:
            following = self._tensor(batch.note_next)
            even = torch.full((len(batch.note_next),), note_scale, device=self.device)
            loss = loss + linear_cross_entropy(hidden[answers:], head, following, even)
        return loss

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def validate(self, step: int) -> dict[str, float]:
        """AUROC and log-loss by task on the validation notes, and their means (``score`` and ``loss``)."""
        if not self.val.items:
            return {}
        table = score_encoded(self.model, self.tokenizer, self.val, self.n_options, self.settings.tokens_per_pass)
        measures: dict[str, float] = {}
        aurocs, losses = [], []
        for task in self.train.tasks:
            labels, probabilities = table.of_task(task)
            if not len(labels):
                continue
            picked = probabilities[np.arange(len(labels)), labels]
            losses.append(float(-np.log(np.maximum(picked, SMALLEST_PROBABILITY)).mean()))
            value = float(task_auroc(labels, probabilities, min_cases=self.settings.min_cases))
            if np.isfinite(value):
                aurocs.append(value)
                measures[f"auroc/{task}"] = value
        measures["loss"] = float(np.mean(losses))
        # Too few cases of every class to rank by: the log-loss decides.
        measures["score"] = float(np.mean(aurocs)) if aurocs else -measures["loss"]
        return measures
