"""Any Hugging Face causal language model as a scorer, zero-shot: next-token probabilities of the option letters.

The folder lies on this machine: nothing is fetched, only safetensors are read, and no code that a folder brings is
run. No chat template is applied: the model continues the same text that the project's own models answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lang1.common.errors import ArtefactError, InputError, Lang1Error
from lang1.common.progress import Meter
from lang1.evaluation.scorers.prompts import Cutter, Prompted, Spans
from lang1.evaluation.scorers.shared_prefix import SharedPrefix
from lang1.metrics.auroc import Floats
from lang1.model.precision import pick_device, pick_dtype
from lang1.text.questions import letters

# Prompts prepared at a time, so that memory does not grow with the benchmark; batches are cut within such a block.
BLOCK = 512


@dataclass(frozen=True)
class Answer:
    """Log-probabilities of the letters over the whole vocabulary, ``[C]``, and how many note tokens were cut."""

    log_probabilities: Floats
    truncated: int


class Generalist:
    """A causal language model loaded with transformers.

    Args:
        folder: a Hugging Face model folder with safetensors weights and a fast tokenizer.
        device: auto, cpu or cuda.
        precision: auto, fp32 or bf16.

    Raises:
        ArtefactError: transformers is not installed, or the folder is missing or cannot be loaded.
    """

    def __init__(self, folder: Path, device: str = "auto", precision: str = "auto") -> None:
        try:
            import transformers
        except ImportError as error:
            raise ArtefactError(
                "generalists need the transformers library: pip install 'lang1[generalist]', or leave them out."
            ) from error
        if not (folder / "config.json").is_file():
            raise ArtefactError(f"{folder} holds no config.json: expected a Hugging Face model folder.")
        if not any(folder.glob("*.safetensors")):
            raise ArtefactError(f"{folder} holds no *.safetensors: only safetensors weights are loaded; convert them.")
        self.folder = folder
        self.device = pick_device(device)
        chosen = pick_dtype(self.device, precision)
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), **local)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder), use_safetensors=True, dtype=chosen, **local
            )
        except Exception as error:  # the library raises anything, from KeyError to its own
            raise ArtefactError(f"{folder} cannot be loaded as a causal language model ({_line(error)}).") from error
        if not getattr(self.tokenizer, "is_fast", False):
            raise ArtefactError(
                f"{folder}: its tokenizer has no tokenizer.json (fast) form, which cutting notes needs."
            )
        self.model = model.to(self.device).eval()
        config = model.config.get_text_config()
        self.parameters = int(sum(p.numel() for p in model.parameters()))
        self.longest: int | None = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.tokens = 0
        self.cutter = Cutter(self._spans)
        self.shared: SharedPrefix | None = SharedPrefix(self.model, self._keeps_logits, chosen)

    def answer_ids(self, question: str, n_options: int) -> list[list[int]]:
        """The tokens of " A", " B", … as they continue a question: one each in most vocabularies.

        Raises:
            ArtefactError: an answer and the question do not stand on tokens of their own, or two answers are the same
                tokens.
        """
        before = self._bare(question)
        found: list[list[int]] = []
        for letter in letters(n_options):
            ids = self._bare(f"{question} {letter}")
            answer = ids[len(before) :]
            if ids[: len(before)] != before or not answer or answer in found:
                raise ArtefactError(
                    f"{self.folder}: its tokenizer has no tokens of its own for ' {letter}' after 'Answer:'; "
                    "this model cannot be scored by option letters."
                )
            found.append(answer)
        return found

    def prompt(self, text: str, question: str, budget: int, policy: str = "head") -> tuple[list[int], int]:
        """Tokens of note and question, special tokens as the model expects them, and how many note tokens were cut.

        The note is cut on a token's edge, then note and question are tokenized as one text, as the model saw text in
        its training. The question is never cut.
        """
        return self._prompt(Prompted(text, ""), question, "", budget, policy)

    def _prompt(self, one: Prompted, question: str, lead: str, budget: int, policy: str) -> tuple[list[int], int]:
        text, cut = self.cutter.note(one, budget, policy)
        return self._prefix() + self._bare(lead + text + question), cut

    def answer(
        self,
        examples: Sequence[Prompted],
        questions: Mapping[str, str],
        n_options: Mapping[str, int],
        note_budget: int,
        policy: str = "head",
        tokens_per_batch: int = 16_384,
        progress: Meter | None = None,
        leads: Mapping[str, str] | None = None,
    ) -> list[Answer]:
        """Answers in the order of ``examples``; batches hold prompts of similar length.

        Examples of one note that stand together share its pass where the model allows it; see ``shared_prefix.py``.
        An answer does not depend on what it is batched with beyond 1e-4 in log-probability in fp32, 0.1 in bf16.

        Args:
            examples: notes and tasks.
            questions: the rendered question of each task.
            n_options: number of options of each task.
            note_budget: the most tokens of a note, in this model's tokens; less where its positions do not reach.
            policy: which part of a longer note stays.
            tokens_per_batch: the most padded tokens of a batch.
            progress: told of each example answered.
            leads: by task, what stands before the note (solved examples); None for nothing.

        Raises:
            ArtefactError: the letters cannot be told apart.
            InputError: the model's positions do not hold a question and any of the note.
        """
        leads = leads or {}
        ids = {task: self.answer_ids(questions[task], n_options[task]) for task in questions}
        budgets = {task: self.budget(questions[task], note_budget, leads.get(task, "")) for task in questions}
        found: list[Answer | None] = [None] * len(examples)
        for start in range(0, len(examples), BLOCK):
            block = range(start, min(start + BLOCK, len(examples)))
            prompts = {
                i: self._prompt(examples[i], questions[t], leads.get(t, ""), budgets[t], policy)
                for i in block
                for t in [examples[i].task]
            }
            wanted = {i: ids[examples[i].task] for i in block}
            groups = [list(g) for _, g in groupby(block, key=lambda i: examples[i].text)]
            scores = self._scores({i: prompt for i, (prompt, _) in prompts.items()}, wanted, groups, tokens_per_batch)
            for i in block:
                found[i] = Answer(scores[i], prompts[i][1])
            if progress is not None:
                progress.add(len(block))
        return [answer for answer in found if answer is not None]

    def _scores(
        self,
        prompts: Mapping[int, list[int]],
        wanted: Mapping[int, list[list[int]]],
        groups: Sequence[Sequence[int]],
        tokens_per_batch: int,
    ) -> dict[int, Floats]:
        """Log-probability of each answer after each prompt: the sum over the answer's tokens."""
        totals = {i: np.zeros(len(answers)) for i, answers in wanted.items()}
        # Each beginning of an answer is a prompt of its own; where letters are single tokens, that is nothing.
        for begun in sorted({tuple(a[:n]) for answers in wanted.values() for a in answers for n in range(len(a))}):
            asked = {i: [(c, a) for c, a in enumerate(wanted[i]) if _starts(a, begun)] for i in prompts}
            longer = {i: [*prompts[i], *begun] for i, some in asked.items() if some}
            following = {i: [a[len(begun)] for _, a in asked[i]] for i in longer}
            together = [[i for i in group if i in longer] for group in groups]
            for i, values in self._next(longer, following, [g for g in together if g], tokens_per_batch):
                for (c, _), value in zip(asked[i], values, strict=True):
                    totals[i][c] += value
        return totals

    def _next(
        self,
        prompts: Mapping[int, list[int]],
        following: Mapping[int, list[int]],
        groups: Sequence[Sequence[int]],
        tokens_per_batch: int,
    ) -> Iterator[tuple[int, Floats]]:
        """Log-probabilities of some next tokens of each prompt."""
        alone: list[int] = []
        if self.shared is None:
            alone = [i for group in groups for i in group]
        else:
            for group in groups:
                found = self.shared.answer([prompts[i] for i in group], [following[i] for i in group])
                if found is None:
                    alone += group
                else:
                    self.tokens += found.tokens
                    yield from zip(group, found.values, strict=True)
        for batch in _batches({i: prompts[i] for i in alone}, tokens_per_batch):
            scores = self._last_log_probabilities([prompts[i] for i in batch])
            self.tokens += sum(len(prompts[i]) for i in batch)
            for row, i in enumerate(batch):
                yield i, scores[row, following[i]].double().cpu().numpy()

    def _last_log_probabilities(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities of the token after each prompt, ``[B, vocabulary]``, float32."""
        lengths = torch.tensor([len(p) for p in prompts])
        width = int(lengths.max())
        pad = self.tokenizer.pad_token_id or 0  # padding stands to the right of what is read and is masked besides
        ids = torch.full((len(prompts), width), pad, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        seen = (torch.arange(width)[None, :] < lengths[:, None]).long()
        last = lengths - 1
        places, column = torch.unique(last, return_inverse=True)
        kept: dict[str, Any] = {"logits_to_keep": places.to(self.device)} if self._keeps_logits else {}
        try:
            with torch.inference_mode():
                logits = self.model(
                    input_ids=ids.to(self.device), attention_mask=seen.to(self.device), use_cache=False, **kept
                ).logits
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(
                f"{self.folder}: failed on a batch of {len(prompts)} x {width} tokens ({_line(error)}); "
                "a smaller tokens_per_batch may help."
            ) from error
        at = column if self._keeps_logits else last
        chosen = logits[torch.arange(len(prompts), device=logits.device), at.to(logits.device)]
        return torch.log_softmax(chosen.float(), dim=-1)

    def budget(self, question: str, note_budget: int, lead: str = "") -> int:
        """The note's budget, cut down where the model's positions do not reach so far.

        Raises:
            InputError: they do not hold the question, the solved examples and any of the note.
        """
        if self.longest is None:
            return note_budget
        # Two spare tokens a join: note and question can split differently from the two alone. The answer's own tokens.
        spare = 4 + max(len(ids) for ids in self.answer_ids(question, 2))
        room = self.longest - len(self._bare(question)) - len(self._bare(lead)) - len(self._prefix()) - spare
        if room < 1:
            raise InputError(
                f"{self.folder}: its {self.longest} positions do not hold "
                f"{'solved examples, ' if lead else ''}a question and a note."
            )
        return min(note_budget, room)

    def _tokenize(self, text: str, **options: Any) -> Any:
        # split_special_tokens: a note that spells a special token cannot forge one.
        return self.tokenizer(text, split_special_tokens=True, verbose=False, **options)

    def _spans(self, text: str) -> Spans:
        return list(self._tokenize(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"])

    def _bare(self, text: str) -> list[int]:
        return list(self._tokenize(text, add_special_tokens=False)["input_ids"])

    def _prefix(self) -> list[int]:
        """Tokens that the tokenizer puts before any text, e.g. ``<s>``."""
        with_specials = list(self._tokenize("a")["input_ids"])
        bare = self._bare("a")
        for start in range(len(with_specials) - len(bare) + 1):
            if with_specials[start : start + len(bare)] == bare:
                return with_specials[:start]
        raise Lang1Error(f"{self.folder}: its tokenizer changes a text when it adds special tokens.")


def _starts(answer: Sequence[int], begun: Sequence[int]) -> bool:
    return len(answer) > len(begun) and list(answer[: len(begun)]) == list(begun)


def _batches(prompts: Mapping[int, list[int]], tokens_per_batch: int) -> list[list[int]]:
    """Examples grouped by length, so that little is padded; each batch within the budget of padded tokens."""
    batches: list[list[int]] = []
    for i in sorted(prompts, key=lambda i: (len(prompts[i]), i)):
        width = len(prompts[i])  # ascending, so the newcomer is the widest
        if batches and (len(batches[-1]) + 1) * width <= tokens_per_batch:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def softmax(log_probabilities: Floats) -> Floats:
    """Shares of the options alone, ``[C]``, summing to 1."""
    shares = np.exp(log_probabilities - log_probabilities.max())
    return np.asarray(shares / shares.sum())
