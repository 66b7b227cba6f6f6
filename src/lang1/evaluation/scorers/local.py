"""Models on this machine as scorers of groups of questions: the project's own, and any Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch

from lang1.common.errors import InputError
from lang1.evaluation.asking import Question
from lang1.evaluation.examples import Group
from lang1.evaluation.replies import Reply
from lang1.evaluation.scorers.prompts import Prompted
from lang1.evaluation.settings import EvaluateSettings
from lang1.model.answering import score_encoded
from lang1.model.precision import pick_device, pick_dtype
from lang1.model.store import load_model
from lang1.text.clean import clean_note
from lang1.text.shared_note import encode_groups
from lang1.text.truncate import cut_text

Kind = Literal["own", "huggingface"]


class LocalScorer(Protocol):
    """A loaded model."""

    name: str
    parameters: int
    device: torch.device

    def cut(self, text: str, budget: int, policy: str) -> str:
        """A text cut to so many of this model's tokens."""

    def answer(self, groups: Sequence[Group], questions: Mapping[str, Question]) -> tuple[list[Reply], int]:
        """Answers to all questions of some notes, and how many tokens passed through the model."""


def open_scorer(kind: Kind, folder: Path, settings: EvaluateSettings, budget: int, policy: str) -> LocalScorer:
    """Load a model.

    Raises:
        ArtefactError: the folder cannot be used.
    """
    return (OwnScorer if kind == "own" else FolderScorer)(folder, settings, budget, policy)


class OwnScorer:
    """A model of this package: questions about one note share its pass, and only answers reach the last layer."""

    def __init__(self, folder: Path, settings: EvaluateSettings, budget: int, policy: str) -> None:
        self.device = pick_device(settings.device)
        loaded = load_model(folder, self.device, pick_dtype(self.device, settings.precision))
        self.folder, self.model, self.tokenizer = folder, loaded.model, loaded.tokenizer
        self.name = loaded.model.name
        self.parameters = loaded.model.parameter_count
        self.budget, self.policy, self.tokens_per_batch = budget, policy, settings.tokens_per_batch

    def cut(self, text: str, budget: int, policy: str) -> str:
        spans = self.tokenizer.inner.encode(text, add_special_tokens=False).offsets
        return cut_text(text, spans, budget, policy)[0]

    def answer(self, groups: Sequence[Group], questions: Mapping[str, Question]) -> tuple[list[Reply], int]:
        replies: list[Reply] = []
        tokens = 0
        # A lead belongs to one task: questions of one note share its pass only where they share the lead too.
        for lead in dict.fromkeys(question.lead for question in questions.values()):
            mine = {task: question for task, question in questions.items() if question.lead == lead}
            part = [
                Group(group.note_id, group.text, tuple(i for i in group.items if i.task in mine), group.chart)
                for group in groups
            ]
            ids = self.tokenizer.encode(lead) if lead else []
            encoded = encode_groups(
                [group for group in part if group.items],
                self.tokenizer,
                {task: question.text for task, question in mine.items()},
                self._room(lead, ids, mine),
                self.policy,
                ids,
            )
            counts = {task: len(question.options) for task, question in mine.items()}
            table = score_encoded(self.model, self.tokenizer, encoded, counts, self.tokens_per_batch)
            tokens += table.tokens
            for row in range(len(table)):
                scores = mine[table.tasks[row]].by_class(table.log_probabilities[row])
                replies.append(Reply(table.example_ids[row], scores, table.truncated[row]))
        return replies, tokens

    def _room(self, lead: str, ids: Sequence[int], questions: Mapping[str, Question]) -> int:
        """The note's budget; with solved examples before it, no more than the model's positions leave."""
        if not lead:
            return self.budget
        longest = max(len(self.tokenizer.encode(question.text)) for question in questions.values())
        room = self.model.context - len(ids) - longest
        if room < 1:
            raise InputError(
                f"{self.folder}: its {self.model.context} positions do not hold {len(ids)} tokens of solved examples, "
                "a question and a note; use fewer shots or a smaller shot_budget."
            )
        return min(self.budget, room)


class FolderScorer:
    """A Hugging Face causal language model; see ``generalist.py``."""

    def __init__(self, folder: Path, settings: EvaluateSettings, budget: int, policy: str) -> None:
        from lang1.evaluation.scorers.generalist import Generalist

        self.model = Generalist(folder, settings.device, settings.precision)
        self.name, self.parameters, self.device = folder.name, self.model.parameters, self.model.device
        self.budget, self.policy, self.tokens_per_batch = budget, policy, settings.tokens_per_batch

    def cut(self, text: str, budget: int, policy: str) -> str:
        return self.model.cutter.cut(text, budget, policy)[0]

    def answer(self, groups: Sequence[Group], questions: Mapping[str, Question]) -> tuple[list[Reply], int]:
        before = self.model.tokens
        ids: list[str] = []
        prompts: list[Prompted] = []
        for group in groups:
            text = clean_note(group.text)
            for item in group.items:
                ids.append(item.example_id)
                prompts.append(Prompted(text, item.task, group.chart))
        asked = {task: question.text for task, question in questions.items()}
        counts = {task: len(question.options) for task, question in questions.items()}
        leads = {task: question.lead for task, question in questions.items()}
        found = self.model.answer(prompts, asked, counts, self.budget, self.policy, self.tokens_per_batch, None, leads)
        replies = [
            Reply(example, questions[prompt.task].by_class(answer.log_probabilities), answer.truncated)
            for example, prompt, answer in zip(ids, prompts, found, strict=True)
        ]
        return replies, self.model.tokens - before
