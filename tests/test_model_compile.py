"""Compiled layers compute what they compute eagerly."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from lang1.model import attention
from lang1.model.attention import Backend
from lang1.model.config import ModelSettings
from lang1.model.layout import build_layout
from lang1.model.llama import Llama
from lang1.training.compile import compile_layers
from lang1.training.loss import linear_cross_entropy

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = ModelSettings(
    vocab_size=64, hidden_size=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate_size=96, context=256
)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type == "cpu" and shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_step_equals_an_eager_one() -> None:
    """Two passes of other lengths: documents, then notes with questions, activations computed again."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    grads: dict[bool, list[torch.Tensor]] = {}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for compiled in (False, True):
        model = Llama(SHAPE, dtype)
        model.initialise(0)
        model.to(DEVICE)
        if compiled:
            compile_layers(model)
            torch._dynamo.config.suppress_errors = False
        for lengths, branched in (([20, 30, 40], False), ([20, 60], True)):
            model.checkpointing = "layer" if branched else "none"
            n = sum(lengths)
            branch = np.repeat([0, 1, 0, 2], [10, 10, 40, 20]) if branched else None
            layout = build_layout(lengths, branch=branch, device=DEVICE)
            tokens = (torch.arange(n) * 7 % 64).to(DEVICE)
            read = torch.arange(0, n, 3, device=DEVICE)
            scale = torch.full((len(read),), 1 / len(read), device=DEVICE)
            loss = linear_cross_entropy(model(tokens, layout, read), model.head_weight, tokens[read], scale)
            loss.backward()  # type: ignore[no-untyped-call]
        grads[compiled] = [p.grad.float() for p in model.parameters() if p.grad is not None]
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "nothing was compiled"
    if DEVICE.type == "cuda":
        assert not torch._dynamo.utils.counters["graph_break"]
    close = 3e-2 if DEVICE.type == "cuda" else 1e-5
    for a, b in zip(grads[True], grads[False], strict=True):
        torch.testing.assert_close(a, b, atol=close * float(b.abs().max()), rtol=close)


def packed_dense(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
    """What a variable-length kernel computes, for machines without one."""
    rows = torch.arange(q.shape[0])
    block = torch.searchsorted(ends[1:].contiguous(), rows, right=True)
    visible = (block[:, None] == block[None]) & (rows[:, None] >= rows[None]) & (rows[:, None] - rows[None] < longest)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    out: Tensor = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=visible)
    return out[0].transpose(0, 1)


@pytest.mark.parametrize("backend", ["varlen", "flex"])
def test_a_gpus_layer_is_one_graph_whatever_the_documents(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    """Two graphs, of the layers before the last and of the last, which reads some tokens alone; no breaks, no more."""
    monkeypatch.setitem(attention._KERNELS, "varlen", packed_dense)
    torch._dynamo.reset()
    counter = CompileCounter()
    model, plain = Llama(SHAPE), Llama(SHAPE)
    for one in (model, plain):
        one.initialise(0)
    model.backend, plain.backend = backend, "dense"
    for layer in model.layers:
        layer.compile(backend=counter, fullgraph=True, dynamic=False)
    tokens, read = torch.arange(450) % 64, torch.arange(0, 450, 2)
    for lengths in ([10, 140, 300], [30, 30, 50, 40, 300], [450], [20, 120, 310]):
        branch = None if backend == "varlen" else np.repeat([0, 1, 0], [5, 5, 440])
        layout = build_layout(lengths, branch=branch)
        with torch.no_grad():
            torch.testing.assert_close(model(tokens, layout, read), plain(tokens, layout, read), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 2
