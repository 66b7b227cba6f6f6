"""What is asked of each task: the question, its options in the given or the turned-round order, solved examples.

A model that reads a lettered question may lean to a letter whatever stands beside it. So a share of the examples is
asked again with the options in reverse order, and the difference is told with the result; ``order: averaged`` asks all
of them both ways and takes the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lang1.common.errors import InputError
from lang1.common.identity import unit_hash
from lang1.evaluation.examples import Asked, limited
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import Floats
from lang1.remede.card import Card
from lang1.text.clean import clean_note
from lang1.text.questions import letters, render_question

GIVEN, SWAPPED = "given", "swapped"
# A text cut to so many of a model's tokens.
Cut = Callable[[str, int, str], str]


@dataclass(frozen=True)
class Question:
    """One task as it is asked.

    Attributes:
        text: from ``Question:`` to ``Answer:``.
        options: as lettered.
        classes: the class index of each letter.
        lead: solved examples that stand before the note; empty for zero-shot.
    """

    text: str
    options: tuple[str, ...]
    classes: tuple[int, ...]
    lead: str = ""

    def by_class(self, by_letter: Floats) -> Floats:
        """Values of letters, ``[C]``, in the order of the classes."""
        return np.asarray(by_letter, dtype=np.float64)[np.argsort(self.classes)]


@dataclass(frozen=True)
class Variant:
    """One way of asking, and which examples are asked so."""

    name: str
    questions: Mapping[str, Question]
    asked: Asked = field(repr=False)


def question_of(card: Card, swapped: bool = False) -> Question:
    """A card's question, its options turned round where ``swapped``."""
    order = tuple(range(card.classes))[:: -1 if swapped else 1]
    options = tuple(card.options[i] for i in order)
    return Question(render_question(card.question_template, options), options, order)


def variants(chosen: Asked, settings: EvaluateSettings, shots: int, cut: Cut) -> list[Variant]:
    """The ways in which examples are asked: all as given; some, or all, with options turned round."""
    ways = [(GIVEN, False, chosen)]
    some = None if settings.order == "averaged" else settings.swap_examples
    if some is None or some > 0:
        ways.append(
            (SWAPPED, True, chosen if some is None else replace(chosen, examples=limited(chosen.examples, some)))
        )
    drawn = {task: draw_shots(chosen, task, shots, settings) for task in chosen.tasks} if shots else {}
    found = []
    for name, swapped, part in ways:
        questions = {}
        for task in chosen.tasks:
            question = question_of(chosen.benchmark.cards[task], swapped)
            if shots:
                question = replace(question, lead=solved(chosen, drawn[task], question, settings, cut))
            questions[task] = question
        found.append(Variant(name, questions, part))
    return found


def draw_shots(chosen: Asked, task: str, shots: int, settings: EvaluateSettings) -> pa.Table:
    """``shots`` train examples of a task, each of another patient: a function of the seed and the train rows' ids.

    ``balanced`` takes the classes in turn as long as each has examples; ``natural`` takes them as they come.

    Raises:
        InputError: train has too few patients for so many.
    """
    train = chosen.benchmark.examples([task], ["train"])
    ids, patients = train["example_id"].to_pylist(), train["patient_id"].to_pylist()
    labels = train["label"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: unit_hash(ids[i], f"shots-{settings.seed}"))
    seen: set[str] = set()
    queues: dict[int, list[int]] = {}
    for i in order:
        if patients[i] not in seen:
            seen.add(patients[i])
            queues.setdefault(labels[i] if settings.shots_drawn == "balanced" else 0, []).append(i)
    if len(seen) < shots:
        raise InputError(f"{task}: train has {len(seen)} patients, too few for shots={shots}.")
    taken: list[int] = []
    while len(taken) < shots:
        for label in sorted(queues):
            if queues[label] and len(taken) < shots:
                taken.append(queues[label].pop(0))
    # The last class must not always stand next to the question.
    taken.sort(key=lambda i: unit_hash(ids[i], f"shots-order-{settings.seed}"))
    return train.take(pa.array(taken))


def solved(chosen: Asked, drawn: pa.Table, question: Question, settings: EvaluateSettings, cut: Cut) -> str:
    """Drawn examples as text: note, question and answer, one after another, each note cut to ``shot_budget``."""
    notes = chosen.benchmark.texts(drawn["note_id"].to_pylist())
    names = letters(len(question.options))
    parts = []
    for note, label in zip(drawn["note_id"].to_pylist(), drawn["label"].to_pylist(), strict=True):
        text = cut(clean_note(notes[note]), settings.shot_budget, settings.truncation or "head")
        parts.append(f"{text}{question.text} {names[question.classes.index(label)]}\n\n")
    return "".join(parts)


def train_shares(chosen: Asked, task: str) -> Floats:
    """Each class's share of a task's train rows, ``[C]``; even where train has none."""
    classes = chosen.n_options()[task]
    train = chosen.benchmark.examples([task], ["train"])
    counts = np.zeros(classes)
    for entry in pc.value_counts(train["label"]).to_pylist():
        counts[entry["values"]] = entry["counts"]
    return np.asarray(counts / counts.sum() if counts.sum() else np.full(classes, 1 / classes))
