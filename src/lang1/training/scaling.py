"""How settings carry over to another width, batch or length of training: rules of thumb, each with its source.

They are starting points for a search, not results: a run that matters should try half and twice of what they say.
``python -m lang1.training.scaling 300`` prints a table for the family at 300 tokens a weight, as the paper trained.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from lang1.model.config import PRESETS, ModelSettings
from lang1.training.settings import OptimizerSettings

# The paper trained its 100M, 1B and 7B with warm-ups of 2,000 steps (arXiv 2511.13703).
PAPER_WARMUP = 2_000


def lr_for_width(lr: float, width: int, to: int) -> float:
    """Adam's learning rate of the matrices inside the layers when the width changes: inversely proportional.

    The rule of maximal update parametrisation for hidden weights under Adam (Yang et al., arXiv 2203.03466, table 3).
    Initialisation here is not scaled with width, so that it holds approximately; embeddings and norms would keep
    their rate under that rule, while this package has one rate for all.
    """
    return lr * width / to


def lr_for_batch(lr: float, batch: float, to: float) -> float:
    """Adam's learning rate when the batch changes: proportional to its square root.

    From the noise scale of Adam's updates (Malladi et al., arXiv 2205.10287). It fails beyond the critical batch, from
    which a larger batch no longer lowers the noise that matters.
    """
    return lr * math.sqrt(to / batch)


def batch_for_tokens(batch: float, tokens: float, to: float) -> float:
    """Tokens a step when a run gets longer: proportional to the square root of the training tokens.

    The optimal and the critical batch grow with the data and hardly with the model; exponents that were measured lie
    around 0.5 (Zhang et al., arXiv 2410.21676, 0.47; Bergsma et al., arXiv 2505.13738, 0.38 and 0.46).
    """
    return batch * math.sqrt(to / tokens)


def decay_for_run(decay: float, lr: float, to_lr: float, steps: int, to_steps: int) -> float:
    """AdamW's weight decay when rate or steps change, so that weights forget over the same share of the run.

    ``lr x decay`` is the share that a step forgets: 1 / (lr x decay x steps) runs is the time constant of the average
    over updates that the weights are (Wang and Aitchison, arXiv 2405.13698), and stays as it was.
    """
    return decay * (lr * steps) / (to_lr * to_steps)


def muon_lr_for_shape(lr: float) -> float:
    """Muon's rate when width or batch of the model change: as it is.

    Its updates have singular values of one and are scaled by sqrt(max(1, rows / columns)) already, which makes the
    rate carry over widths (Bernstein's derivation, arXiv 2409.20325; :class:`lang1.training.optim.Muon`).
    """
    return lr


@dataclass(frozen=True)
class Known:
    """Settings that were found good, and for what."""

    name: str
    width: int
    batch: float  # tokens a step
    tokens: float  # of the training
    optimizer: OptimizerSettings


@dataclass(frozen=True)
class Suggestion:
    """What the rules make of known settings for another model and length."""

    known: Known
    lr: float
    weight_decay: float
    batch: int  # tokens a step
    steps: int
    warmup_steps: int
    far: bool  # beyond what the rules bear: search instead


# How far the rules are trusted, as factors: of width, and of training tokens (whose root moves the batch). Two anchors
# 400 times apart in tokens give learning rates that differ by ten, so farther than this nothing is suggested.
FARTHEST_WIDTH, FARTHEST_TOKENS = 8.0, 32.0

# The paper's 1B (arXiv 2511.13703; its peak rate is not stated, 4e-4 is TinyLlama's, whose recipe it otherwise is), and
# the demo's pretraining, whose rate was found by trying (docs/log.md).
PAPER_1B = Known("the paper's 1B", 2_048, 1_024 * 2_048, 314.6e9, OptimizerSettings(lr=4e-4))
DEMO = Known("the demo", 192, 8 * 1_024, 1e6, OptimizerSettings())


def nearest(tokens: float) -> Known:
    """The known settings whose training was most nearly as long."""
    return min((PAPER_1B, DEMO), key=lambda known: abs(math.log(known.tokens / tokens)))


def suggest(shape: ModelSettings, tokens: float, known: Known | None = None) -> Suggestion:
    """The rules put together: batch from tokens, then the rate from width and batch, then the decay from both.

    Args:
        shape: the model that is to be trained.
        tokens: how long.
        known: what to start from; None takes the nearest of ours.
    """
    known = known or nearest(tokens)
    batch = batch_for_tokens(known.batch, known.tokens, tokens)
    steps = max(1, round(tokens / batch))
    lr = lr_for_batch(lr_for_width(known.optimizer.lr, known.width, shape.hidden_size), known.batch, batch)
    before = max(1, round(known.tokens / known.batch))
    decay = decay_for_run(known.optimizer.weight_decay, known.optimizer.lr, lr, before, steps)
    far = not (
        _within(shape.hidden_size / known.width, FARTHEST_WIDTH) and _within(tokens / known.tokens, FARTHEST_TOKENS)
    )
    return Suggestion(known, lr, decay, round(batch), steps, min(PAPER_WARMUP, max(1, steps // 20)), far)


def _within(ratio: float, most: float) -> bool:
    return 1 / most <= ratio <= most


def table(tokens_a_weight: float = 20.0) -> str:
    """Suggestions for the whole family, at so many tokens a weight (20: Hoffmann et al., arXiv 2203.15556)."""
    lines = ["| model | tokens | tokens a step | lr | weight_decay | warm-up | from |", "| --- " * 7 + "|"]
    for name, shape in sorted(PRESETS.items(), key=lambda item: item[1].hidden_size):
        sized = shape if shape.vocab_size else shape.model_copy(update={"vocab_size": 32_000})
        tokens = tokens_a_weight * sized.parameters
        s = suggest(sized, tokens)
        found = (
            "– | – | – | – | too far from any: search"
            if s.far
            else f"{s.batch:,} | {s.lr:.2g} | {s.weight_decay:.2g} | {s.warmup_steps:,} | {s.known.name}"
        )
        lines.append(f"| {name} | {tokens:.2g} | {found} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(*map(float, sys.argv[1:2])))
