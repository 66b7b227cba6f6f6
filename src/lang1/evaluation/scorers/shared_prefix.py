"""A note that several questions share, read once by a transformers model: keys and values, then a branch a question.

Prompts of one note begin with the same tokens. Those pass through the model once; the cache of keys and values is
handed to every question, which only computes its own tokens. The prompts' tokens are the same as if each were asked
alone, and no attention mask is needed but the padding's. Whether a model's cache works so is not taken on trust: the
first shared note is also asked the plain way, and where the two differ nothing is shared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lang1.common.progress import say
from lang1.metrics.auroc import Floats

# A shorter beginning is not worth a pass of its own.
WORTHWHILE = 48
# Largest difference in log-probability between shared and plain that the first note may show.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.25}


@dataclass(frozen=True)
class Found:
    """Log-probabilities of the asked next tokens, one array a prompt, and how many tokens were computed."""

    values: list[Floats]
    tokens: int


class SharedPrefix:
    """Answers prompts with a common beginning.

    Args:
        model: a transformers causal language model.
        keeps_logits: whether its forward takes ``logits_to_keep``.
        dtype: of its weights.
    """

    def __init__(self, model: Any, keeps_logits: bool, dtype: torch.dtype) -> None:
        self.model, self._keeps_logits, self._dtype = model, keeps_logits, dtype
        # transformers 5.40 is to know the argument by its new name alone.
        self._cache = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self.usable: bool | None = None  # not tried yet

    def answer(self, prompts: Sequence[list[int]], following: Sequence[list[int]]) -> Found | None:
        """Log-probabilities of ``following`` after each prompt, or None where sharing does not pay or does not work."""
        if self.usable is False or len(prompts) < 2:
            return None
        common = shared_length(prompts)
        if common < WORTHWHILE:
            return None
        try:
            found = self._answer(prompts, following, common)
        except (
            AttributeError,
            IndexError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            if self.usable is None:
                self._give_up(f"{type(error).__name__}")
                return None
            raise
        if self.usable is None:
            plain = self._alone(prompts, following)
            worst = max(float(np.abs(a - b).max()) for a, b in zip(found.values, plain, strict=True))
            if not worst <= TOLERANCE.get(self._dtype, 0.25):
                self._give_up(f"answers differ by {worst:.2g}")
                return None
            self.usable = True
        return found

    def _give_up(self, why: str) -> None:
        self.usable = False
        say(f"This model's keys and values cannot be shared between questions ({why}): each is asked by itself.")

    def _answer(self, prompts: Sequence[list[int]], following: Sequence[list[int]], common: int) -> Found:
        device = self.model.device
        rests = [prompt[common:] for prompt in prompts]
        width = max(len(rest) for rest in rests)
        ids = torch.zeros((len(rests), width), dtype=torch.long)
        seen = torch.zeros((len(rests), common + width), dtype=torch.long)
        seen[:, :common] = 1
        for row, rest in enumerate(rests):
            ids[row, : len(rest)] = torch.tensor(rest)
            seen[row, common : common + len(rest)] = 1
        one: dict[str, Any] = {"logits_to_keep": 1} if self._keeps_logits else {}
        with torch.inference_mode():
            note = torch.tensor([prompts[0][:common]], device=device)
            cache = getattr(self.model(input_ids=note, use_cache=True, **one), self._cache)
            cache.batch_repeat_interleave(len(rests))
            last = torch.tensor([len(rest) - 1 for rest in rests], device=device)
            if self._keeps_logits:
                places, last = torch.unique(last, return_inverse=True)
                one = {"logits_to_keep": places}
            logits = self.model(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                position_ids=(common + torch.arange(width, device=device))[None].expand(len(rests), -1),
                use_cache=True,
                **{self._cache: cache},
                **one,
            ).logits
            chosen = logits[torch.arange(len(rests), device=logits.device), last]
            scores = torch.log_softmax(chosen.float(), dim=-1)
        values = [scores[row, wanted].double().cpu().numpy() for row, wanted in enumerate(following)]
        return Found(values, common + sum(len(rest) for rest in rests))

    def _alone(self, prompts: Sequence[list[int]], following: Sequence[list[int]]) -> list[Floats]:
        values = []
        for prompt, wanted in zip(prompts, following, strict=True):
            with torch.inference_mode():
                logits = self.model(input_ids=torch.tensor([prompt], device=self.model.device), use_cache=False).logits
                values.append(torch.log_softmax(logits[0, -1].float(), dim=-1)[wanted].double().cpu().numpy())
        return values


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all prompts begin, leaving each at least one of its own."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    for place in range(shortest):
        if any(prompt[place] != first[place] for prompt in prompts[1:]):
            return place
    return shortest
