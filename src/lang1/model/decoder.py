"""What training, answering and evaluation need of a model, whatever its architecture.

Shapes: N tokens of a step in one flat stream (see ``attention``), D width, V vocabulary, R the tokens whose output
is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lang1.model.layout import Layout, build_layout

Checkpointing = Literal["none", "alternate", "layer"]


def kept(checkpointing: Checkpointing, layer: int) -> bool:
    """Whether a layer's activations are kept for the backward pass.

    ``none`` keeps all; ``alternate`` keeps every second layer's, which costs a sixth more computing; ``layer`` keeps
    none but the layers' inputs, which costs a third more.
    """
    return checkpointing == "none" or (checkpointing == "alternate" and layer % 2 == 0)


class Decoder(nn.Module, ABC):
    """A causal language model over a flat stream of blocks that never see each other.

    Called with ``(tokens_N, layout, read_R)`` it gives final hidden states; ``hidden @ head_weight.T`` are the logits.
    So a loss can be taken without ever holding the logits of all tokens. Weights are fp32 unless loaded otherwise.
    """

    dtype: torch.dtype
    """Dtype of activations and products."""
    name: str
    """What it is called in manifests and cards."""
    checkpointing: Checkpointing
    """Which layers' activations are computed again in the backward pass instead of kept; see :func:`kept`."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The ``model_type`` of its Hugging Face configuration."""

    @property
    @abstractmethod
    def context(self) -> int:
        """The longest block, in tokens, for which it has positions."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Rows of the output embedding, V; a tokenizer may know fewer."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Number of weights, embeddings included, a shared matrix once."""

    @property
    @abstractmethod
    def head_weight(self) -> Tensor:
        """The output embedding (V, D), differentiable."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The repeated layers, first to last: the units to compile, to shard and to checkpoint."""

    @abstractmethod
    def forward(self, tokens_N: Tensor, layout: Layout, read_R: Tensor | None = None) -> Tensor:
        """Final hidden states, normed: (N, D), or (R, D) of the tokens ``read_R`` alone."""

    @abstractmethod
    def save(self, folder: Path, eot: int, dtype: torch.dtype = torch.float32) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder`` in the Hugging Face layout.

        Args:
            folder: exists.
            eot: id of the token that ends a document.
            dtype: of the stored weights.
        """

    def facts(self) -> dict[str, str]:
        """What its card says about its shape, label by label."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.head_weight.device

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (…, V) of hidden states, in fp32."""
        return torch.nn.functional.linear(hidden, self.head_weight.to(hidden.dtype)).float()

    def logits_of(self, tokens_BT: npt.NDArray[np.integer] | Tensor) -> Tensor:
        """Logits (B, T, V) of whole documents of equal length, each a block of its own."""
        tokens = torch.as_tensor(tokens_BT, dtype=torch.int64, device=self.device)
        b, t = tokens.shape
        layout = build_layout([t] * b, device=tokens.device)
        return self.logits(self(tokens.reshape(-1), layout)).view(b, t, -1)
