"""Rotary positions: each pair of a head's components is turned by an angle that grows with the token's position.

Shapes: N tokens of a step in one flat stream, H heads, E head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lang1.model.config import RopeScaling


def rotary(
    positions_N: Tensor, head_dim: int, base: float, dtype: torch.dtype, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of rotary positions, each (N, 1, E/2), computed in fp32 (the halves convention of HF Llama)."""
    device = positions_N.device
    frequency = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    if scaling is not None:
        frequency = _scaled(frequency, scaling)
    angle = positions_N.to(torch.float32)[:, None] * frequency
    return angle.cos()[:, None].to(dtype), angle.sin()[:, None].to(dtype)


def _scaled(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    slow = frequency / scaling.factor
    if scaling.kind == "linear":
        return slow
    # How many waves fit into the original context decides: few, and the frequency is stretched; many, and it stays.
    waves = scaling.original_context * frequency / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    return kept * frequency + (1 - kept) * slow


def turn(x_NHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions: the first half of each head turns against the second."""
    left, right = x_NHE.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
