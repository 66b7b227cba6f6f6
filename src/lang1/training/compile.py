"""Optional compilation of the layers, with eager execution where it fails."""

from __future__ import annotations

import torch

from lang1.common.progress import say
from lang1.model.decoder import Decoder

# Compiled forms that one layer may have before it runs eagerly: training and inference, the last layer that reads
# some tokens alone, and a few rounded numbers of rows (`lang1.model.layout.round_rows`) of each.
FORMS = 64


def compile_layers(model: Decoder) -> None:
    """Compile each layer in place. Warm-up costs tens of seconds a shape, so short runs are faster without.

    On CUDA with fixed shapes, since rows are rounded to few numbers and kernels are chosen by shape; on a CPU, where
    every step has other shapes in attention, with shapes left open and attention between the compiled parts.
    """
    try:
        config = torch._dynamo.config
        # An error inside the compiler (no C++ compiler, say) then means eager execution, not a failed run.
        config.suppress_errors = True
        for limit in ("recompile_limit", "cache_size_limit"):  # by PyTorch's version
            if hasattr(config, limit):
                setattr(config, limit, max(FORMS, getattr(config, limit)))
        for layer in model.layers:
            layer.compile(dynamic=model.device.type == "cpu")
    except Exception as error:  # whatever the compiler raises, training can go on without it
        say(f"torch.compile is not available here ({type(error).__name__}); training goes on without it.")
