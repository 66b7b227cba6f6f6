"""Optional compilation of the layers, with eager execution where it fails."""

from __future__ import annotations

import torch

from lang1.common.progress import say
from lang1.model.decoder import Decoder


def compile_layers(model: Decoder) -> None:
    """Compile each layer in place. Warm-up costs tens of seconds a shape, so short runs are faster without."""
    try:
        # An error inside the compiler (no C++ compiler, say) then means eager execution, not a failed run.
        torch._dynamo.config.suppress_errors = True
        for layer in model.layers:
            layer.compile(dynamic=True)
    except Exception as error:  # whatever the compiler raises, training can go on without it
        say(f"torch.compile is not available here ({type(error).__name__}); training goes on without it.")
