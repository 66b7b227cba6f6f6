"""What finetuning trains for: the letter after ``Answer:``, tasks mixed by their shares, and its in-run validation."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang1.common.identity import unit_hash
from lang1.metrics.auroc import auroc, task_auroc
from lang1.model.answering import on_device
from lang1.model.decoder import Decoder
from lang1.text.shared_note import (
    EncodedGroups,
    NoteGroup,
    SharedBatch,
    assemble,
    by_length,
    cut_to_budget,
    epoch_order,
    tokens_asking,
)
from lang1.text.tokenizer import Tokenizer
from lang1.training.distributed import Processes
from lang1.training.loop import Work
from lang1.training.lora import set_dropout
from lang1.training.loss import letter_loss, linear_cross_entropy
from lang1.training.mixing import QuestionOrder, TaskProgress, task_shares, task_weights, visits_per_note
from lang1.training.settings import FinetuneSettings
from lang1.training.throughput import Tally

Floats = npt.NDArray[np.float64]
SMALLEST_PROBABILITY = 1e-12


def some_notes(groups: Iterable[NoteGroup], most: int | None, seed: int) -> Iterable[NoteGroup]:
    """All groups, or a random ``most`` of them: those whose ids hash lowest, so that no more are ever held."""
    if most is None:
        return groups
    return heapq.nsmallest(most, groups, key=lambda g: unit_hash(g.note_id, f"subset-{seed}"))


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
        keep_best: Callable[[list[str]], None] | None = None,
        team: Processes | None = None,
    ) -> None:
        self.team = team or Processes()
        self.model, self.tokenizer, self.train, self.val = model, tokenizer, train, val
        self.n_options, self.settings = dict(n_options), settings
        self.device = model.device
        self.progress = TaskProgress(train.tasks, settings.task_patience)
        self._keep_best = keep_best
        self._asked: npt.NDArray[np.bool_] | None = None  # the items of tasks that are still learnt; None: all
        drawn = settings.sampling == "questions"
        weights = task_weights(train, settings.balance, settings.temperature, drawn)
        self.item_weight = weights[train.item_task]
        self.options = np.array([n_options[t] for t in train.tasks], dtype=np.int64)
        self.letters = np.array(tokenizer.letter_ids(int(self.options.max())), dtype=np.int64)
        self._letters = self._tensor(self.letters)
        repeats = visits_per_note(train, n_options, settings.oversample, settings.rare_below)
        self._repeats = repeats if settings.oversample > 1 else None
        self._group_of_item = np.repeat(np.arange(len(train)), np.diff(train.item_ends))
        self._order: QuestionOrder | None = None
        if drawn:
            shares = task_shares(train, settings.temperature)
            self._order = QuestionOrder(train, shares, settings.questions_per_step, settings.seed)
            epoch = train.items / settings.questions_per_step
        else:
            epoch = float(repeats.sum()) / settings.notes_per_step
        asked = settings.steps or (settings.steps_per_task or 0) * int((np.bincount(train.item_task) > 0).sum())
        self.steps = asked or max(1, round(settings.epochs * epoch))
        model.eval()  # no dropout but that of adapters
        self.tally = Tally()
        self._read: dict[str, Any] = {}
        self._visits = np.zeros(0, dtype=np.int64)
        self._epochs = 0

    @property
    def tokens_per_step(self) -> float:
        if self._order is None:
            return float(self.train.lengths.mean()) * self.settings.notes_per_step
        asked = np.array([len(q) for q in self.train.question_tokens], dtype=np.float64)
        question = float(asked @ task_shares(self.train, self.settings.temperature))
        return (float(np.diff(self.train.note_ends).mean()) + question) * self.settings.questions_per_step

    def notes_of(self, step: int) -> npt.NDArray[np.int64]:
        """The notes that a step visits, where it visits notes: a function of the seed and the step alone."""
        first, last = step * self.settings.notes_per_step, (step + 1) * self.settings.notes_per_step
        while len(self._visits) < last:
            more = epoch_order(len(self.train), self.settings.seed, self._epochs, self._repeats)
            self._visits = np.concatenate([self._visits, more])
            self._epochs += 1
        return self._visits[first:last]

    def batches(self, step: int) -> list[SharedBatch]:
        """The passes of a step in this process: questions about one note share it, questions of tasks that have left
        the loss are not asked. Of the step's notes each process takes an even stretch."""
        asked = self._asked
        if self._order is None:
            groups = self.notes_of(step)
        else:
            items = self._order.items(step)
            groups, drawn = _distinct(self._group_of_item[items]), np.zeros(self.train.items, dtype=bool)
            drawn[items] = True
            asked = drawn if asked is None else asked & drawn
        groups = groups[self.team.mine(len(groups))]
        self._read = {"notes": groups.tolist()}
        if asked is None:
            return [assemble(self.train, which) for which in self._passes(groups, self.train.lengths[groups])]
        tokens = tokens_asking(self.train, groups, asked)
        wanted = tokens > 0
        return [assemble(self.train, which, asked) for which in self._passes(groups[wanted], tokens[wanted])]

    def read(self, step: int) -> Any:
        """The notes that this process read, by their place among the training notes."""
        return self._read

    def about(self, first: int, last: int) -> Any:
        """The notes that the steps visit, by their place among the training notes."""
        steps = range(first, last + 1)
        if self._order is None:
            visited = [self.notes_of(step) for step in steps]
        else:
            visited = [self._group_of_item[self._order.items(step)] for step in steps]
        return {"notes": np.unique(np.concatenate(visited)).tolist()}

    def _passes(self, groups: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        places = np.arange(len(groups))
        return [groups[p] for p in cut_to_budget(lengths, places, self.settings.tokens_per_pass)]

    def losses(self, step: int) -> Iterator[tuple[Tensor, int]]:
        batches = self.batches(step)
        # Normalised once over the whole step, all processes and passes: how it is cut makes no difference.
        mine = [float(sum(self.item_weight[b.item].sum() for b in batches)), sum(len(b.note_read) for b in batches)]
        weight, noted = self.team.total(mine)
        if self.settings.lora is not None:
            set_dropout(self.model, True)
        numbers = count()

        def loss(batch: SharedBatch) -> tuple[Tensor, int]:
            if self.settings.lora is not None:  # dropout of a pass is the same whenever the step is run
                key = [self.settings.seed, step, next(numbers), *([self.team.rank] if self.team.size > 1 else [])]
                torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            self.tally.add(tally_of(batch, self.settings.note_loss > 0))
            return self._loss(batch, 1.0 / weight, self.settings.note_loss / max(1.0, noted)), len(batch.tokens)

        yield from self.team.passes(batches, loss, lambda: (self._loss(self._nothing(), 0.0, 0.0), 0))

    def _nothing(self) -> SharedBatch:
        """A pass that counts for nothing: another process has one pass more, and all go through the model together."""
        asked = np.flatnonzero(np.diff(self.train.item_ends))
        return assemble(self.train, asked[[np.argmin(self.train.lengths[asked])]])

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
            letters = head.index_select(0, self._letters)
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

    def measure(self) -> tuple[dict[str, float], dict[str, float]]:
        """The validation measures, and each task's score: its AUROC, or minus its log-loss where none can be had.

        Measures are AUROC by task, and the means of AUROC and log-loss over tasks (``score`` and ``loss``).
        """
        if not self.val.items:
            return {}, {}
        scores = self._letter_scores()
        measures: dict[str, float] = {}
        of_task: dict[str, float] = {}
        aurocs, losses = [], []
        for index, task in enumerate(self.train.tasks):
            rows = np.flatnonzero(self.val.item_task == index)
            if not len(rows):
                continue
            labels, own = self.val.item_label[rows], scores[rows, : self.n_options[task]]
            shares = np.exp(own - own.max(axis=1, keepdims=True))
            probabilities = shares / shares.sum(axis=1, keepdims=True)
            picked = probabilities[np.arange(len(labels)), labels]
            losses.append(float(-np.log(np.maximum(picked, SMALLEST_PROBABILITY)).mean()))
            value = self._auroc(labels, probabilities)
            of_task[task] = value if np.isfinite(value) else -losses[-1]
            if np.isfinite(value):
                aurocs.append(value)
                measures[f"auroc/{task}"] = value
        measures["loss"] = float(np.mean(losses))
        # Too few cases of every class to rank by: the log-loss decides.
        measures["score"] = float(np.mean(aurocs)) if aurocs else -measures["loss"]
        return measures, of_task

    def _letter_scores(self) -> Floats:
        """(items, letters) logits of the first letters for every validation question, on every process."""
        found = np.zeros((self.val.items, len(self.letters)))
        asked = np.flatnonzero(np.diff(self.val.item_ends))
        batches = by_length(self.val.lengths[asked], self.settings.tokens_per_pass)

        def answer(which: npt.NDArray[np.int64]) -> None:
            batch = assemble(self.val, asked[which])
            hidden = self.model(*on_device(batch, self.model))
            head = self.model.head_weight.index_select(0, self._letters).to(hidden.dtype)
            found[batch.item] = (hidden @ head.t()).float().cpu().numpy()

        def nothing() -> None:
            self.model(*on_device(self._nothing(), self.model))

        if self.settings.lora is not None:
            set_dropout(self.model, False)
        with torch.inference_mode():
            for _ in self.team.passes(batches[self.team.rank :: self.team.size], answer, nothing):
                pass
        self.team.settle()
        if self.team.size > 1:  # each question was answered by one process
            found = np.array(self.team.total(found.ravel().tolist())).reshape(found.shape)
        return found

    def _auroc(self, labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
        if self.settings.validation_average == "micro" and probabilities.shape[1] > 2:
            return float(auroc((labels[:, None] == np.arange(probabilities.shape[1])).ravel(), probabilities.ravel()))
        return float(task_auroc(labels, probabilities, min_cases=self.settings.min_cases))

    def validate(self, step: int) -> dict[str, float]:
        """The measures of :meth:`measure`; each task's own best is remembered, and whether it has learnt enough."""
        measures, of_task = self.measure()
        better = self.progress.judge(step, of_task)
        self._drop_stopped()
        if better and self._keep_best is not None:
            self._keep_best(better)
        return measures

    def _drop_stopped(self) -> None:
        stopped = [self.train.tasks.index(task) for task in self.progress.stopped]
        self._asked = ~np.isin(self.train.item_task, stopped) if stopped else None

    @property
    def over(self) -> bool:
        """Whether every task has left the loss."""
        return self._asked is not None and not self._asked.any()

    def state(self) -> dict[str, Any]:
        return {"tasks": self.progress.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.progress.load(state["tasks"])
        self._drop_stopped()


def _distinct(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each number once, in the order of first occurrence."""
    _, first = np.unique(numbers, return_index=True)
    return numbers[np.sort(first)]
