"""Evaluations on the way: how a model answers a benchmark, comprehends, and writes, while it is being trained.

Everything that is asked is chosen once, by the seed alone, so that the points of a curve and two runs compare. The
benchmark's questions are asked about notes of its validation split; few-shot examples come from its training split.
None of it enters the training: no random state is used, and early stopping has its own validation.

Measures (of an ``eval`` record): ``auroc/TASK``, ``few_shot_auroc/TASK``, ``option_mass/TASK`` (how much of the next
token's probability lies on the option letters: the model has learnt to answer), ``accuracy/SET`` of comprehension.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lang1.common.errors import SettingsError
from lang1.common.identity import unit_hash
from lang1.common.progress import Meter
from lang1.metrics.auroc import kept_classes, task_auroc
from lang1.model.answering import ScoreTable, score_encoded
from lang1.model.decoder import Decoder
from lang1.model.generate import generate
from lang1.remede.benchmark import Benchmark
from lang1.text.chart import Chart
from lang1.text.shared_note import EncodedGroups, encode_groups
from lang1.text.tokenizer import Tokenizer
from lang1.training.comprehension import Choice, read_choices
from lang1.training.settings import EvaluationSettings
from lang1.training.watch import Evaluate, MakeEvaluate, Stopped, cut_log

Tokens = npt.NDArray[np.int32]
SAMPLES = "samples.jsonl"
AFTER_ANSWER = "\n\n\n"  # between a few-shot example and what follows


@dataclass(frozen=True)
class _Item:
    example_id: str
    task: str
    label: int


@dataclass(frozen=True)
class _Group:
    note_id: str
    text: str
    items: Sequence[_Item]
    chart: Chart | None = None


class _Poll(Meter):
    """Told of each batch, as a meter is; asks whether to stop instead of showing anything."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        super().__init__("", None)
        self.should_stop = should_stop

    def add(self, units: float = 0, note: str = "") -> None:
        if self.should_stop():
            raise Stopped


def in_run_evaluation(settings: EvaluationSettings, benchmark: Benchmark | None, seed: int) -> MakeEvaluate | None:
    """What ``settings`` ask for, to be made once the model is there; None where they ask for nothing.

    Args:
        benchmark: whose questions are asked; None asks none of them.
        seed: chooses notes, examples and questions.

    Raises:
        SettingsError: an unknown task.
        InputError: a file of comprehension questions cannot be read.
    """
    if not settings.asked:
        return None
    known = list(benchmark.cards) if benchmark is not None else []
    for task in settings.tasks or ():
        if task not in known:
            raise SettingsError(f"watch.evaluation.tasks: '{task}' is unknown; known are {', '.join(known) or 'none'}.")
    choices = {name: read_choices(file, settings.questions, seed) for name, file in settings.comprehension.items()}

    def make(model: Decoder, tokenizer: Tokenizer, folder: Path) -> Evaluate:
        return InRun(model, tokenizer, folder, settings, benchmark, choices, seed)

    return make


class InRun:
    """An :class:`lang1.training.watch.Evaluate` of a benchmark, comprehension sets and samples."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        folder: Path,
        settings: EvaluationSettings,
        benchmark: Benchmark | None,
        choices: dict[str, list[Choice]],
        seed: int,
    ) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.settings, self.benchmark, self.seed = settings, benchmark, seed
        self.zero: EncodedGroups | None = None
        self.few: EncodedGroups | None = None
        self.options: dict[str, int] = {}
        if benchmark is not None and settings.tasks != []:
            self._encode_benchmark(benchmark, settings.tasks or list(benchmark.cards))
        self.choices = {name: (found, self._encode_choices(found)) for name, found in choices.items()}
        self.prompts = [tokenizer.encode(text) for text in settings.samples.prompts]
        for text, tokens in zip(settings.samples.prompts, self.prompts, strict=True):
            if not 0 < len(tokens) < model.context:
                raise SettingsError(
                    f"watch.evaluation.samples.prompts: '{text[:40]}' has {len(tokens)} tokens; expected between 1 and "
                    f"{model.context - 1}."
                )

    def __call__(self, step: int, should_stop: Callable[[], bool]) -> dict[str, float]:
        poll = _Poll(should_stop)
        measures: dict[str, float] = {}
        for name, encoded in (("auroc", self.zero), ("few_shot_auroc", self.few)):
            if encoded is not None:
                measures |= self._judged(
                    name, score_encoded(self.model, self.tokenizer, encoded, self.options, progress=poll)
                )
        for name, (found, encoded) in self.choices.items():
            options = {str(number): len(one.options) for number, one in enumerate(found)}
            table = score_encoded(self.model, self.tokenizer, encoded, options, progress=poll)
            right = [
                label == int(scores.argmax())
                for label, scores in zip(table.labels, table.log_probabilities, strict=True)
            ]
            measures[f"accuracy/{name}"] = float(np.mean(right))
        if self.prompts:
            self._write_samples(step, poll)
        return measures

    def _judged(self, name: str, table: ScoreTable) -> dict[str, float]:
        measures: dict[str, float] = {}
        for task in dict.fromkeys(table.tasks):
            labels, probabilities = table.of_task(task)
            least = self.settings.min_cases
            value = float(task_auroc(labels, probabilities, min_cases=least))
            # From a handful of cases it jumps between 0 and 1, which tells nothing and hides the other curves.
            if np.isfinite(value) and kept_classes(labels, probabilities.shape[1], least):
                measures[f"{name}/{task}"] = value
            if name == "auroc":
                mass = [table.option_mass(row) for row, other in enumerate(table.tasks) if other == task]
                measures[f"option_mass/{task}"] = float(np.mean(mass))
        return measures

    def _encode_benchmark(self, benchmark: Benchmark, tasks: list[str]) -> None:
        settings = self.settings
        every = benchmark.questions()
        questions = {task: every[task] for task in tasks}
        self.options = {task: len(benchmark.cards[task].options) for task in tasks}
        asked = _by_note(benchmark, tasks, "val")
        order = sorted(asked, key=lambda note: unit_hash(note, f"inrun-{self.seed}"))[: settings.notes]
        budget = self._budget(questions, settings.note_budget)
        notes = _read(benchmark, {note: asked[note] for note in order})
        self.zero = encode_groups(notes, self.tokenizer, questions, budget, settings.truncation)
        if settings.few_shot:
            shots = self._shots(benchmark, questions)
            room = self._budget(questions, settings.note_budget, max(len(tokens) for tokens in shots.values()))
            some = notes[: settings.few_shot_notes]
            self.few = after_shots(encode_groups(some, self.tokenizer, questions, room, settings.truncation), shots)

    def _budget(self, questions: dict[str, str], wanted: int, before: int = 0) -> int:
        """Tokens of a note that fit the model's context, with its longest question and what stands before it."""
        longest = max(len(self.tokenizer.encode(text)) for text in questions.values())
        room = self.model.context - longest - before
        if room < 1:
            raise SettingsError(
                f"watch.evaluation: few_shot={self.settings.few_shot} examples of shot_budget="
                f"{self.settings.shot_budget} tokens leave no room for a note in the model's context of "
                f"{self.model.context}; make one of them smaller."
            )
        return min(wanted, room)

    def _shots(self, benchmark: Benchmark, questions: dict[str, str]) -> dict[str, Tokens]:
        """The answered examples of each task as tokens: chosen by the seed, from all of its classes in turn.

        Drawn by their frequency, a rare outcome would hardly ever be shown.
        """
        chosen: dict[str, list[tuple[str, _Item]]] = {task: [] for task in questions}
        every = [
            (note, item) for note, items in _by_note(benchmark, list(questions), "train").items() for item in items
        ]
        every.sort(key=lambda one: unit_hash(one[1].example_id, f"shots-{self.seed}"))
        for task, mine in chosen.items():
            classes = [
                [one for one in every if one[1].task == task and one[1].label == c] for c in range(self.options[task])
            ]
            turns = [kept[turn] for turn in range(self.settings.few_shot) for kept in classes if turn < len(kept)]
            # Shown in the order of their hashes, so that no class always stands right before the note.
            first = set(turns[: self.settings.few_shot])
            mine += [one for one in every if one in first]
        notes = {note: [item] for mine in chosen.values() for note, item in mine}
        groups = {group.note_id: group for group in _read(benchmark, notes)}
        gap = self.tokenizer.encode(AFTER_ANSWER)
        made = {}
        for task, mine in chosen.items():
            letters = self.tokenizer.letter_ids(self.options[task])
            shown = [replace(groups[note], items=[item]) for note, item in mine]
            few = encode_groups(
                shown, self.tokenizer, {task: questions[task]}, self.settings.shot_budget, self.settings.truncation
            )
            tokens: list[int] = []
            for number, label in enumerate(few.item_label):
                note = few.note_tokens[few.note_ends[number] : few.note_ends[number + 1]]
                tokens += [*note.tolist(), *few.question_tokens[0].tolist(), letters[label], *gap]
            made[task] = np.array(tokens, dtype=np.int32)
        return made

    def _encode_choices(self, choices: list[Choice]) -> EncodedGroups:
        """Each question is a task of its own; its context stands where a note does."""
        questions = {str(number): one.rendered() for number, one in enumerate(choices)}
        groups = [
            _Group(str(number), one.context, [_Item(str(number), str(number), one.answer)])
            for number, one in enumerate(choices)
        ]
        budget = self._budget(questions, self.settings.note_budget)
        return encode_groups(groups, self.tokenizer, questions, budget, self.settings.truncation)

    def _write_samples(self, step: int, poll: _Poll) -> None:
        settings = self.settings.samples
        written = generate(
            self.model,
            self.prompts,
            self.tokenizer.eot_id,
            settings.tokens,
            settings.temperature,
            self.seed + step,
            poll.add,
            self.tokenizer.vocab_size,
        )
        file = self.folder / SAMPLES
        cut_log(file, step - 1)  # what a run wrote that was stopped after this and goes on from before
        with file.open("a", encoding="utf-8") as stream:
            for prompt, tokens in zip(settings.prompts, written, strict=True):
                ended = len(tokens) < settings.tokens
                record = {"step": step, "prompt": prompt, "text": self.tokenizer.decode(tokens), "ended": ended}
                stream.write(json.dumps({**record, "temperature": settings.temperature}, ensure_ascii=False) + "\n")


def after_shots(encoded: EncodedGroups, shots: dict[str, Tokens]) -> EncodedGroups:
    """Each question with a copy of its note of its own, before which its task's examples stand."""
    notes, cut = [], []
    group_of_item = np.repeat(np.arange(len(encoded)), np.diff(encoded.item_ends))
    for item, group in enumerate(group_of_item):
        note = encoded.note_tokens[encoded.note_ends[group] : encoded.note_ends[group + 1]]
        notes.append(np.concatenate([shots[encoded.tasks[encoded.item_task[item]]], note]))
        cut.append(int(encoded.truncated[group]))
    return EncodedGroups(
        tasks=encoded.tasks,
        question_tokens=encoded.question_tokens,
        note_tokens=np.concatenate(notes) if notes else np.zeros(0, dtype=np.int32),
        note_ends=np.concatenate([[0], np.cumsum([len(note) for note in notes])]).astype(np.int64),
        truncated=np.array(cut, dtype=np.int64),
        item_ends=np.arange(encoded.items + 1),
        item_task=encoded.item_task,
        item_label=encoded.item_label,
        example_ids=encoded.example_ids,
    )


def _by_note(benchmark: Benchmark, tasks: list[str], split: str) -> dict[str, list[_Item]]:
    """The questions of a split by note, without its text."""
    table = benchmark.examples(tasks, [split])
    found: dict[str, list[_Item]] = {}
    columns = [table[name].to_pylist() for name in ("note_id", "example_id", "task", "label")]
    for note, example, task, label in zip(*columns, strict=True):
        found.setdefault(note, []).append(_Item(example, task, int(label)))
    return found


def _read(benchmark: Benchmark, asked: dict[str, list[_Item]]) -> list[_Group]:
    """Notes with the questions asked of them, in the order given."""
    charts = benchmark.charts(asked)
    texts = benchmark.texts(note for note in asked if note not in charts)
    return [
        _Group(note, charts[note].text if note in charts else texts[note], items, charts.get(note))
        for note, items in asked.items()
    ]
