"""The losses against plain PyTorch, value and gradients, in fp32 and bf16."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lang1.training import loss as losses
from lang1.training.loss import letter_loss, linear_cross_entropy


def reference(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(hidden @ weight.t(), target, reduction="none") * scale).sum()


@pytest.mark.parametrize("rows", [1, 7, 2_500])
def test_linear_cross_entropy_equals_plain_in_fp32(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 16, generator=generator, dtype=torch.float32).requires_grad_()
    weight = torch.randn(300, 16, generator=generator).requires_grad_()
    target = torch.randint(0, 300, (rows,), generator=generator)
    scale = torch.rand(rows, generator=generator)
    ours = linear_cross_entropy(hidden, weight, target, scale)
    plain = reference(hidden, weight, target, scale)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(3 * ours, (hidden, weight)), torch.autograd.grad(3 * plain, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_scalar_is_right_in_bf16() -> None:
    """A running sum in bf16 would lose 5 % at this size: 4,096 rows, logits near 0, so ln(32,000) = 10.37 each."""
    generator = torch.Generator().manual_seed(0)
    hidden = (0.01 * torch.randn(4_096, 32, generator=generator)).to(torch.bfloat16)
    weight = torch.randn(32_000, 32, generator=generator)
    target = torch.randint(0, 32_000, (4_096,), generator=generator)
    scale = torch.full((4_096,), 1 / 4_096)
    found = float(linear_cross_entropy(hidden, weight, target, scale))
    exact = float(reference(hidden.float(), weight, target, scale))
    assert abs(found - exact) < 2e-3 and abs(exact - math.log(32_000)) < 0.01


def test_bf16_gradients_are_near_fp32() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3_000, 32, generator=generator)
    weight = torch.randn(500, 32, generator=generator)
    target = torch.randint(0, 500, (3_000,), generator=generator)
    scale = torch.full((3_000,), 1 / 3_000)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        h, w = hidden.to(dtype).requires_grad_(), weight.clone().requires_grad_()
        grads.append([g.float() for g in torch.autograd.grad(linear_cross_entropy(h, w, target, scale), (h, w))])
    for a, b in zip(*grads, strict=True):
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def test_chunking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(100, 8, generator=generator), torch.randn(50, 8, generator=generator)
    target, scale = torch.randint(0, 50, (100,), generator=generator), torch.rand(100, generator=generator)
    whole = linear_cross_entropy(hidden, weight, target, scale)
    monkeypatch.setattr(losses, "CHUNK_ROWS", 9)
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, target, scale), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_z_loss_adds_the_squared_log_sum_exp(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(70, 8, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(50, 8, generator=generator).requires_grad_()
    target, scale = torch.randint(0, 50, (70,), generator=generator), torch.rand(70, generator=generator)
    ours = linear_cross_entropy(hidden, weight, target, scale, z_loss=0.01)
    exact_hidden = hidden.detach().float().requires_grad_()
    logits = exact_hidden @ weight.t()
    plain = ((F.cross_entropy(logits, target, reduction="none") + 0.01 * logits.logsumexp(1) ** 2) * scale).sum()
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 3e-2}
    torch.testing.assert_close(ours, plain, **close)
    found, expected = torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (exact_hidden, weight))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b, **close)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_for_compilers_gives_the_same(dtype: torch.dtype, z_loss: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = (10 * torch.randn(33, 60, generator=generator)).to(dtype)
    target, scale = torch.randint(0, 60, (33, 1), generator=generator), torch.rand(33, 1, generator=generator)
    for need in (True, False):
        fused = losses._pointwise_chunk(logits, target, scale, z_loss, need)
        plain = losses._chunk(logits.clone(), target, scale, z_loss, need)
        torch.testing.assert_close(fused[0], plain[0], rtol=1e-5, atol=1e-5)
        assert (fused[1] is None) == (plain[1] is None) == (not need)
        if fused[1] is not None and plain[1] is not None:
            assert fused[1].dtype == dtype
            torch.testing.assert_close(fused[1], plain[1], rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_loss_on_a_gpu_is_that_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(9_000, 64, generator=generator).to(torch.bfloat16)
    weight = torch.randn(32_000, 64, generator=generator) / 8
    target, scale = torch.randint(0, 32_000, (9_000,), generator=generator), torch.full((9_000,), 1 / 9_000)
    found = []
    for device in ("cpu", "cuda"):
        h, w = hidden.to(device).requires_grad_(), weight.to(device).requires_grad_()
        value = linear_cross_entropy(h, w, target.to(device), scale.to(device))
        found.append([x.float().cpu() for x in (value, *torch.autograd.grad(value, (h, w)))])
    torch.testing.assert_close(found[1][0], found[0][0].detach(), rtol=1e-4, atol=1e-3)
    for a, b in zip(found[1][1:], found[0][1:], strict=True):
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def test_a_gpus_chunks_are_bounded_by_memory() -> None:
    gpu = torch.device("cuda")
    for vocabulary in (4_096, 32_000, 49_152, 128_256, 262_144):
        rows = losses.chunk_rows(1 << 20, vocabulary, gpu)
        assert rows * vocabulary <= losses.GPU_CHUNK or rows == losses.CHUNK_ROWS
    assert losses.chunk_rows(100, 32_000, gpu) == 128


def test_letter_loss_lets_only_a_questions_own_letters_compete() -> None:
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    letters = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    found = letter_loss(hidden, letters, torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1.0, 2.0]))
    first = -math.log(math.e / (math.e + 1))
    second = -math.log(math.e / (1 + math.e + math.exp(5)))
    assert abs(float(found) - (first + 2 * second)) < 1e-5
