"""The chunked cross-entropy: parity with the plain one, values and gradients, and a bound on the logits alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from arena.trainers.sft.loss import default_chunk, liger_available, linear_argmax, linear_cross_entropy


def inputs(count: int, hidden: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    states = torch.randn(count, hidden, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocabulary, hidden) / hidden**0.5).requires_grad_()
    return states, weight, torch.randint(0, vocabulary, (count,))


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 1000])
def test_values_and_gradients_equal_the_plain_computation(chunk: int) -> None:
    states, weight, targets = inputs(100, 16, 211)
    plain = functional.cross_entropy(states @ weight.T, targets, reduction="sum")
    wanted = torch.autograd.grad(plain / 100, (states, weight))
    chunked = linear_cross_entropy(states, weight, targets, chunk=chunk)
    got = torch.autograd.grad(chunked / 100, (states, weight))
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=1e-4)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_are_right_by_finite_differences() -> None:
    torch.manual_seed(0)
    states = torch.randn(6, 3, dtype=torch.float64)
    weight = torch.randn(5, 3, dtype=torch.float64)
    targets = torch.randint(0, 5, (6,))
    states32, weight32 = states.float().requires_grad_(), weight.float().requires_grad_()
    linear_cross_entropy(states32, weight32, targets, chunk=2).backward()
    step = 1e-6
    for tensor, gradient in ((states, states32.grad), (weight, weight32.grad)):
        flat = tensor.view(-1)
        for place in range(0, len(flat), 4):
            values = []
            for sign in (1, -1):
                flat[place] += sign * step
                values.append(functional.cross_entropy(states @ weight.T, targets, reduction="sum").item())
                flat[place] -= sign * step
            assert gradient is not None
            assert gradient.view(-1)[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)


@pytest.mark.parametrize("frozen", ["weight", "states", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    states, weight, targets = inputs(50, 8, 31)
    states.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "states")
    loss = linear_cross_entropy(states, weight, targets, chunk=9)
    plain = functional.cross_entropy(states @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(loss, plain)
    if frozen == "both":
        assert not loss.requires_grad
        return
    loss.backward()
    learning = states if frozen == "weight" else weight
    (wanted,) = torch.autograd.grad(plain, learning)
    torch.testing.assert_close(learning.grad, wanted, rtol=1e-5, atol=1e-6)


def test_bfloat16_states_with_float32_weights_stay_close() -> None:
    states, weight, targets = inputs(200, 32, 97, torch.bfloat16)
    plain = functional.cross_entropy((states @ weight.T.bfloat16()).float(), targets, reduction="sum")
    wanted = torch.autograd.grad(plain, (states, weight))
    with torch.autocast("cpu", torch.bfloat16):
        chunked = linear_cross_entropy(states, weight, targets, chunk=32)
    got = torch.autograd.grad(chunked, (states, weight))
    torch.testing.assert_close(chunked, plain, rtol=1e-3, atol=1e-1)
    assert (got[0].dtype, got[1].dtype) == (torch.bfloat16, torch.float32)
    for a, b in zip(got, wanted, strict=True):
        assert (a.float() - b.float()).norm() / b.float().norm() < 0.02


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and tensor.shape[1] == self.columns:
                self.rows = max(self.rows, tensor.shape[0])
        return out


def test_logits_of_a_large_vocabulary_never_exist_whole() -> None:
    states, weight, targets = inputs(600, 4, 20_011)
    with Largest(20_011) as whole:
        functional.cross_entropy(functional.linear(states, weight), targets, reduction="sum").backward()
    with Largest(20_011) as chunked:
        linear_cross_entropy(states, weight, targets, chunk=50).backward()
    assert whole.rows == 600
    assert 0 < chunked.rows <= 50


def test_the_default_chunk_is_bounded_in_bytes() -> None:
    assert default_chunk(151_936) * 151_936 * 4 <= 64 * 1024 * 1024
    assert default_chunk(1024) >= 16_384


def test_argmax_in_chunks_is_argmax() -> None:
    states, weight, _ = inputs(100, 8, 53)
    assert torch.equal(linear_argmax(states, weight, chunk=7), (states @ weight.T).argmax(-1))
    assert linear_argmax(states[:0], weight).shape == (0,)


@pytest.mark.gpu
def test_on_a_gpu_memory_stays_flat_and_liger_agrees() -> None:
    torch.manual_seed(0)
    states = torch.randn(8192, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(151_936, 1024, device="cuda") / 32).requires_grad_()
    targets = torch.randint(0, 151_936, (8192,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = linear_cross_entropy(states, weight, targets)
    loss.backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 3 * 151_936 * 1024 * 4 + 512 * 1024**2  # gradients of the weight, no logits
    if liger_available():
        other = linear_cross_entropy(states, weight, targets, fused=True)
        torch.testing.assert_close(other, loss, rtol=2e-3, atol=1.0)
