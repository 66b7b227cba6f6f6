"""Text from a model, token by token: for a look at what it has learnt, not for serving.

The whole of each text passes the model again for every token (nothing is cached), which for a few hundred tokens of a
few texts costs less than the code that would save it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lang1.model.attention import build_layout
from lang1.model.decoder import Decoder


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    end: int,
    most: int,
    temperature: float = 0.0,
    seed: int = 0,
    between: Callable[[], None] | None = None,
    vocab: int | None = None,
) -> list[list[int]]:
    """Go on from each prompt until ``end`` comes, ``most`` tokens are there, or the model's context is full.

    The global random state is neither used nor changed.

    Args:
        model: any decoder.
        prompts: token ids, each at least one token and shorter than the model's context.
        end: the token that closes a document.
        most: tokens to write for each prompt.
        temperature: 0 takes the likeliest token; else tokens are drawn from the logits divided by it.
        seed: of the draws.
        between: called before each token; what it raises ends the generation.
        vocab: ids below it are written; a model may have more rows than its tokenizer has tokens. None: all.

    Returns:
        The new tokens of each prompt, without ``end``.
    """
    written: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        while running:
            if between is not None:
                between()
            running.sort(key=lambda i: len(prompts[i]) + len(written[i]))  # as everywhere, shortest first
            texts = [[*prompts[i], *written[i]] for i in running]
            lengths = np.array([len(text) for text in texts], dtype=np.int64)
            tokens = torch.tensor([token for text in texts for token in text], device=model.device)
            last = torch.from_numpy(np.cumsum(lengths) - 1).to(model.device)
            layout = build_layout(lengths, device=model.device)
            logits = model.logits(model(tokens, layout, last))[:, :vocab].float().cpu()
            if temperature > 0:
                shares = torch.softmax(logits / temperature, dim=-1)
                chosen = torch.multinomial(shares, 1, generator=generator)[:, 0]
            else:
                chosen = logits.argmax(dim=-1)
            for i, token in zip(running, chosen.tolist(), strict=True):
                written[i].append(int(token))
            running = [
                i
                for i in running
                if written[i][-1] != end
                and len(written[i]) < most
                and len(prompts[i]) + len(written[i]) < model.context
            ]
    return [tokens[:-1] if tokens and tokens[-1] == end else tokens for tokens in written]
