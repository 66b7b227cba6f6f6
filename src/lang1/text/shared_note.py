"""Batches in which the questions about one note share its pass.

A group is one note and the questions asked of it. Note and questions are tokenized apart, the note is cut to a
budget that no question changes, and the group becomes one block of tokens: the note (branch 0), then each question
(branches 1, 2, …) with positions that start where the note ends. Questions see the note and themselves, not each
other; the option letter itself is never among the inputs.

An input of several notes (``text/chart.py``) is one block likewise; it is cut note by note.

Arrays: N tokens of a batch, G groups, A questions (items) in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError
from lang1.text.chart import Chart, fit
from lang1.text.clean import clean_note
from lang1.text.tokenizer import Tokenizer
from lang1.text.truncate import by_section, edges, truncate

T = TypeVar("T")
Ints = npt.NDArray[np.int64]
# Notes that are tokenized at a time.
CHUNK = 2_048


class Item(Protocol):
    """One question asked of a note."""

    @property
    def example_id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def label(self) -> int: ...


class NoteGroup(Protocol):
    """One note and the questions asked of it; with a ``chart``, the notes that its text is made of."""

    @property
    def note_id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def items(self) -> Sequence[Item]: ...


@dataclass(frozen=True)
class EncodedGroups:
    """Groups as tokens, in flat arrays (a few bytes a token, whatever the number of groups)."""

    tasks: tuple[str, ...]
    question_tokens: tuple[npt.NDArray[np.int32], ...]  # by task index
    note_tokens: npt.NDArray[np.int32]  # all notes, one after another
    note_ends: Ints  # (G+1,) from 0
    truncated: Ints  # (G,) tokens cut from each note
    item_ends: Ints  # (G+1,) from 0: items of group g are item_ends[g] to item_ends[g+1]
    item_task: Ints  # task index of each item
    item_label: Ints
    example_ids: list[str]

    def __len__(self) -> int:
        return len(self.truncated)

    @property
    def items(self) -> int:
        return len(self.item_task)

    @cached_property
    def lengths(self) -> Ints:
        """(G,) tokens of each group, its questions included."""
        sizes = np.array([len(q) for q in self.question_tokens], dtype=np.int64)
        asked = np.concatenate([[0], np.cumsum(sizes[self.item_task])]) if self.items else np.zeros(1, dtype=np.int64)
        sums: Ints = np.diff(self.note_ends) + asked[self.item_ends[1:]] - asked[self.item_ends[:-1]]
        return sums


@dataclass(frozen=True)
class SharedBatch:
    """One flat stream of groups, shortest first."""

    tokens: Ints  # (N,)
    positions: Ints  # (N,)
    branch: Ints  # (N,) 0 for the note, 1, 2, … for its questions
    lengths: Ints  # (G,) tokens of each group
    answer: Ints  # (A,) the token whose output is the answer: the last one of each question
    item: Ints  # (A,) which item of the EncodedGroups that answer belongs to
    note_read: Ints  # tokens of notes that have a next token in the note …
    note_next: Ints  # … and that next token


def encode_groups(
    groups: Iterable[NoteGroup],
    tokenizer: Tokenizer,
    questions: Mapping[str, str],
    note_budget: int,
    truncation: str = "head",
    lead: Sequence[int] = (),
) -> EncodedGroups:
    """Clean, tokenize and cut notes, and tokenize their questions apart.

    Args:
        groups: notes with their questions; read once.
        tokenizer: of the model that will answer.
        questions: the rendered question of each task, from ``Question:`` to ``Answer:``.
        note_budget: the most tokens of a note.
        truncation: which part of a longer note stays (:func:`lang1.text.truncate.check_policy`). Of a chart, whole
            notes leave first, by its own rule; the one note that is cut then is cut by this.
        lead: tokens that stand before every note (solved examples), outside its budget.

    Raises:
        InputError: a task without a question, or a question without tokens.
    """
    tasks = tuple(questions)
    index = {task: i for i, task in enumerate(tasks)}
    asked = tuple(tokenizer.encode_batch([questions[t] for t in tasks])) if tasks else ()
    for task, tokens in zip(tasks, asked, strict=True):
        if not len(tokens):
            raise InputError(f"task '{task}': its question is empty.")
    before = np.asarray(lead, dtype=np.int32)
    notes: list[npt.NDArray[np.int32]] = []
    cut: list[int] = []
    counts: list[int] = []
    item_task: list[int] = []
    item_label: list[int] = []
    ids: list[str] = []
    for chunk in chunks(groups, CHUNK):
        # A group made elsewhere need not know of charts.
        charts = [getattr(group, "chart", None) for group in chunk]
        texts = [clean_note(g.text) for g, c in zip(chunk, charts, strict=True) if c is None]
        plain = zip(texts, tokenizer.encode_batch(texts), strict=True)
        for group, chart in zip(chunk, charts, strict=True):
            if chart is None:
                kept, left = cut_text(*next(plain), tokenizer, note_budget, truncation)
            else:
                kept, left = encode_chart(chart, tokenizer, note_budget, truncation)
            notes.append(np.concatenate([before, kept]) if len(before) else kept)
            cut.append(left)
            counts.append(len(group.items))
            for item in group.items:
                if item.task not in index:
                    raise InputError(f"note {group.note_id}: task '{item.task}' has no question.")
                item_task.append(index[item.task])
                item_label.append(int(item.label))
                ids.append(item.example_id)
    return EncodedGroups(
        tasks=tasks,
        question_tokens=asked,
        note_tokens=np.concatenate(notes) if notes else np.zeros(0, dtype=np.int32),
        note_ends=_ends([len(n) for n in notes]),
        truncated=np.array(cut, dtype=np.int64),
        item_ends=_ends(counts),
        item_task=np.array(item_task, dtype=np.int64),
        item_label=np.array(item_label, dtype=np.int64),
        example_ids=ids,
    )


def cut_text(
    text: str, tokens: npt.NDArray[np.int32], tokenizer: Tokenizer, budget: int, truncation: str
) -> tuple[npt.NDArray[np.int32], int]:
    """:func:`lang1.text.truncate.truncate` of a text whose tokens are known; only a cut by section reads it again."""
    if len(tokens) <= budget or not by_section(truncation):
        return truncate(tokens, budget, truncation)
    found = tokenizer.inner.encode(text, add_special_tokens=False)
    return truncate(tokens, budget, truncation, text, edges(found))


def encode_chart(
    chart: Chart, tokenizer: Tokenizer, budget: int, truncation: str = "head"
) -> tuple[npt.NDArray[np.int32], int]:
    """The tokens of an input of several notes within a budget, and how many were cut.

    Headers and notes are tokenized apart, so that what stays reads the same whatever left.
    """
    texts = chart.bodies(clean=True)
    bodies = tokenizer.encode_batch(texts)
    heads = tokenizer.encode_batch(list(chart.headers))
    sizes = [len(body) for body in bodies]
    kept: list[npt.NDArray[np.int32]] = []
    stay = fit([len(head) for head in heads], sizes, budget, chart.drop)
    for head, text, body, stays in zip(heads, texts, bodies, stay, strict=True):
        if stays >= 0:
            kept += [head, cut_text(text, body, tokenizer, max(stays, 1), truncation)[0]]
    tokens = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int32)
    tokens = truncate(tokens, budget, "tail")[0]  # one note whose header alone fills the budget
    return tokens, sum(sizes) + sum(len(head) for head in heads) - len(tokens)


def assemble(
    encoded: EncodedGroups, which: npt.NDArray[np.integer], asked: npt.NDArray[np.bool_] | None = None
) -> SharedBatch:
    """Lay groups ``which`` out as one flat stream, shortest first (the order given breaks ties).

    Args:
        which: indices of groups.
        asked: (items,) which of all items to ask; None asks all.
    """
    sizes = np.array([len(q) for q in encoded.question_tokens], dtype=np.int64)
    # Nothing here may look at more than the chosen groups: a hospital has hundreds of thousands.
    given = np.asarray(which, dtype=np.int64)
    item, owner = _items_of(encoded, given, asked)
    totals = np.bincount(owner, sizes[encoded.item_task[item]], minlength=len(given)).astype(np.int64)
    totals += encoded.note_ends[given + 1] - encoded.note_ends[given]
    order = np.argsort(totals, kind="stable")
    groups = given[order]
    item, owner = _items_of(encoded, groups, asked)
    counts = np.bincount(owner, minlength=len(groups))
    number = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    # Segments: each group's note, then its questions.
    note_size = encoded.note_ends[groups + 1] - encoded.note_ends[groups]
    note_at = np.cumsum(counts + 1) - (counts + 1)  # the segment of each group's note
    question_at = np.delete(np.arange(len(groups) + len(item)), note_at)
    length = np.empty(len(groups) + len(item), dtype=np.int64)
    branch, before, source = np.zeros_like(length), np.zeros_like(length), np.empty_like(length)
    length[note_at], length[question_at] = note_size, sizes[encoded.item_task[item]]
    branch[question_at], before[question_at] = number, note_size[owner]
    source[note_at] = encoded.note_ends[groups]
    source[question_at] = (np.cumsum(sizes) - sizes)[encoded.item_task[item]]
    ends = np.cumsum(length)
    inside = np.arange(int(length.sum())) - np.repeat(ends - length, length)
    of_note = np.repeat(branch == 0, length)
    place = np.repeat(source, length) + inside
    tokens = np.empty(len(place), dtype=np.int64)
    tokens[of_note] = encoded.note_tokens[place[of_note]]
    if len(item):
        tokens[~of_note] = np.concatenate(encoded.question_tokens)[place[~of_note]]
    last = np.zeros(len(place), dtype=bool)
    last[ends[length > 0] - 1] = True
    note_read = np.flatnonzero(of_note & ~last)
    return SharedBatch(
        tokens=tokens,
        positions=np.repeat(before, length) + inside,
        branch=np.repeat(branch, length),
        lengths=totals[order],
        answer=ends[question_at] - 1,
        item=item,
        note_read=note_read,
        note_next=tokens[note_read + 1],
    )


def tokens_asking(encoded: EncodedGroups, which: npt.NDArray[np.integer], asked: npt.NDArray[np.bool_]) -> Ints:
    """Tokens of groups ``which`` with those of their questions alone that are ``asked`` (items,); 0 where none is."""
    groups = np.asarray(which, dtype=np.int64)
    sizes = np.array([len(q) for q in encoded.question_tokens], dtype=np.int64)
    item, owner = _items_of(encoded, groups, asked)
    questions = np.bincount(owner, sizes[encoded.item_task[item]], minlength=len(groups)).astype(np.int64)
    whole: Ints = np.where(questions > 0, questions + encoded.note_ends[groups + 1] - encoded.note_ends[groups], 0)
    return whole


def _items_of(encoded: EncodedGroups, groups: Ints, asked: npt.NDArray[np.bool_] | None) -> tuple[Ints, Ints]:
    """The items of groups in turn, and for each which of ``groups`` it belongs to."""
    counts = encoded.item_ends[groups + 1] - encoded.item_ends[groups]
    item = _ranges(encoded.item_ends[groups], counts)
    owner = np.repeat(np.arange(len(groups)), counts)
    return (item, owner) if asked is None else (item[asked[item]], owner[asked[item]])


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """The numbers from each start on, as many as its count, one range after another."""
    found: Ints = np.arange(int(counts.sum())) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return found


def by_length(lengths: Ints, tokens_per_batch: int) -> list[Ints]:
    """Batches of groups of like length, at most ``tokens_per_batch`` tokens each (a longer group stands alone)."""
    order = np.argsort(lengths, kind="stable")
    return cut_to_budget(lengths, order, tokens_per_batch)


def cut_to_budget(lengths: Ints, order: npt.NDArray[np.integer], tokens_per_batch: int) -> list[Ints]:
    """Cut ``order`` into consecutive batches of at most ``tokens_per_batch`` tokens."""
    batches: list[Ints] = []
    current: list[int] = []
    size = 0
    for group in order:
        length = int(lengths[group])
        if current and size + length > tokens_per_batch:
            batches.append(np.array(current, dtype=np.int64))
            current, size = [], 0
        current.append(int(group))
        size += length
    if current:
        batches.append(np.array(current, dtype=np.int64))
    return batches


def epoch_order(groups: int, seed: int, epoch: int, repeats: npt.NDArray[np.floating] | None = None) -> Ints:
    """The order in which an epoch visits groups: a function of seed and epoch alone.

    Args:
        repeats: (groups,) how often each is visited on average (1.5: once, and in half of the epochs twice);
            None visits each once.
    """
    rng = np.random.default_rng([seed, epoch])
    every = np.arange(groups, dtype=np.int64)
    if repeats is not None:
        every = np.repeat(every, np.floor(repeats + rng.random(groups)).astype(np.int64))
    return rng.permutation(every)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of at most ``size`` items."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def _ends(sizes: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)
