"""Any Hugging Face causal language model as a scorer, zero-shot: next-token probabilities of the option letters.

The folder lies on this machine: nothing is fetched, only safetensors are read, and no code that a folder brings is
run. No chat template is applied: the model continues the same text that the project's own models answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lang1.common.errors import ArtefactError, InputError, Lang1Error
from lang1.common.progress import Meter
from lang1.metrics.auroc import Floats
from lang1.model.precision import pick_device, pick_dtype
from lang1.text.chart import Chart, fit
from lang1.text.questions import letters
from lang1.text.truncate import Policy

# Prompts prepared at a time, so that memory does not grow with the benchmark; batches are cut within such a block.
BLOCK = 2_048


@dataclass(frozen=True)
class Prompted:
    """One example to answer: the text of a note or of a chart, and which question."""

    text: str
    task: str
    chart: Chart | None = None


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

    def letter_ids(self, question: str, n_options: int) -> list[int]:
        """The ids of " A", " B", … as they continue a question.

        Raises:
            ArtefactError: a letter is not one token of its own there.
        """
        before = self._bare(question)
        found: list[int] = []
        for letter in letters(n_options):
            ids = self._bare(f"{question} {letter}")
            if ids[:-1] != before or ids[-1] in found:
                raise ArtefactError(
                    f"{self.folder}: its tokenizer has no single token for the answer ' {letter}' after 'Answer:'; "
                    "this model cannot be scored by option letters."
                )
            found.append(ids[-1])
        return found

    def prompt(self, text: str, question: str, budget: int, policy: Policy = "head") -> tuple[list[int], int]:
        """Tokens of note and question, special tokens as the model expects them, and how many note tokens were cut.

        The note is cut on a token's edge, then note and question are tokenized as one text, as the model saw text in
        its training. The question is never cut.
        """
        text, cut = self._cut(text, budget, policy)
        return self._prefix() + self._bare(text + question), cut

    def chart_prompt(self, chart: Chart, question: str, budget: int, policy: Policy = "head") -> tuple[list[int], int]:
        """:meth:`prompt` for an input of several notes, from which whole notes leave before one is cut."""
        bodies = chart.bodies(clean=True)
        heads, sizes = ([len(self._bare(text)) for text in texts] for texts in (chart.headers, bodies))
        # Joining pieces can split differently from the pieces alone: two spare tokens a join.
        kept = fit(heads, sizes, max(1, budget - 2 * (len(bodies) - 1)), chart.drop)
        text, left = "", 0
        for head, body, size, cost, stays in zip(chart.headers, bodies, sizes, heads, kept, strict=True):
            if stays < 0:
                left += size + cost
                continue
            part, cut = self._cut(body, max(stays, 1), policy)
            text, left = text + head + part, left + cut
        text, over = self._cut(text, budget, "tail")  # one note whose header alone fills the budget
        return self._prefix() + self._bare(text + question), left + over

    def _prompt(
        self, one: Prompted, questions: Mapping[str, str], budgets: Mapping[str, int], policy: Policy
    ) -> tuple[list[int], int]:
        question, budget = questions[one.task], budgets[one.task]
        if one.chart is not None:
            return self.chart_prompt(one.chart, question, budget, policy)
        return self.prompt(one.text, question, budget, policy)

    def _cut(self, text: str, budget: int, policy: Policy) -> tuple[str, int]:
        """A text cut to a budget on a token's edge, and how many tokens were cut."""
        encoded = self._tokenize(text, add_special_tokens=False, return_offsets_mapping=True)
        edges = encoded["offset_mapping"]
        cut = max(0, len(edges) - budget)
        if cut:
            if policy == "head":
                text = text[: edges[budget - 1][1]]
            elif policy == "tail":
                text = text[edges[cut][0] :]
            else:
                head = (budget + 1) // 2
                rest = edges[head + cut][0] if head + cut < len(edges) else len(text)
                text = text[: edges[head - 1][1]] + text[rest:]
        return text, cut

    def answer(
        self,
        examples: Sequence[Prompted],
        questions: Mapping[str, str],
        n_options: Mapping[str, int],
        note_budget: int,
        policy: Policy = "head",
        tokens_per_batch: int = 16_384,
        progress: Meter | None = None,
    ) -> list[Answer]:
        """Answers in the order of ``examples``; batches hold prompts of similar length.

        Args:
            examples: notes and tasks.
            questions: the rendered question of each task.
            n_options: number of options of each task.
            note_budget: the most tokens of a note, in this model's tokens; less where its positions do not reach.
            policy: which part of a longer note stays.
            tokens_per_batch: the most padded tokens of a batch.
            progress: told of each example answered.

        Raises:
            ArtefactError: the letters are not single tokens.
            InputError: the model's positions do not hold a question and any of the note.
        """
        ids = {task: self.letter_ids(questions[task], n_options[task]) for task in questions}
        budgets = {task: self._budget(questions[task], note_budget) for task in questions}
        found: list[Answer | None] = [None] * len(examples)
        for start in range(0, len(examples), BLOCK):
            block = range(start, min(start + BLOCK, len(examples)))
            prompts = {i: self._prompt(examples[i], questions, budgets, policy) for i in block}
            for batch in _batches(prompts, tokens_per_batch):
                scores = self._last_log_probabilities([prompts[i][0] for i in batch])
                for row, i in enumerate(batch):
                    chosen = scores[row, ids[examples[i].task]].double().cpu().numpy()
                    found[i] = Answer(chosen, prompts[i][1])
                if progress is not None:
                    progress.add(len(batch))
        return [answer for answer in found if answer is not None]

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
        self.tokens += int(lengths.sum())
        at = column if self._keeps_logits else last
        chosen = logits[torch.arange(len(prompts), device=logits.device), at.to(logits.device)]
        return torch.log_softmax(chosen.float(), dim=-1)

    def _budget(self, question: str, note_budget: int) -> int:
        """The note's budget, cut down where the model's positions do not reach so far."""
        if self.longest is None:
            return note_budget
        # Two spare tokens: joining note and question can split differently from the two alone.
        room = self.longest - len(self._bare(question)) - len(self._prefix()) - 2
        if room < 1:
            raise InputError(f"{self.folder}: its {self.longest} positions do not hold a question and a note.")
        return min(note_budget, room)

    def _tokenize(self, text: str, **options: Any) -> Any:
        # split_special_tokens: a note that spells a special token cannot forge one.
        return self.tokenizer(text, split_special_tokens=True, verbose=False, **options)

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


def _batches(prompts: Mapping[int, tuple[list[int], int]], tokens_per_batch: int) -> list[list[int]]:
    """Examples grouped by length, so that little is padded; each batch within the budget of padded tokens."""
    batches: list[list[int]] = []
    for i in sorted(prompts, key=lambda i: (len(prompts[i][0]), i)):
        width = len(prompts[i][0])  # ascending, so the newcomer is the widest
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
