"""Cross-entropy over a large vocabulary without its logits.

The output head of a 151,936-token vocabulary turns 16k positions into 10 GB of float32 logits. Two things avoid it:
only positions that carry loss reach the head, and those go through it in chunks whose gradients are taken at once, so
that at most `chunk` x V logits are alive (the scheme of Liger's fused linear cross-entropy and of Wijmans et al. 2024,
"Cut your losses"). Where liger-kernel is installed and the tensors are on a GPU its fused kernel does the same.

Axes: N labelled positions, H hidden, V vocabulary. The result is the SUM over positions, float32; the caller divides
by the tokens of the whole optimizer step, so that micro-batches add up to exactly the big batch's loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOGITS_BYTES = 64 * 1024 * 1024
"""Float32 logits that may be alive at once when nothing else is asked for."""


def default_chunk(vocabulary: int) -> int:
    """Return the positions whose float32 logits fit into LOGITS_BYTES."""
    return max(16, LOGITS_BYTES // (4 * vocabulary))


def linear_cross_entropy(
    hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, *, chunk: int | None = None, fused: bool = False
) -> Tensor:
    """Return the summed cross-entropy of `hidden @ weight.T` against the targets.

    With one chunk it is the plain computation. `fused` asks for Liger's kernel. The head's product is taken in the
    dtype of `hidden`, the softmax in float32.
    """
    if fused:
        return _liger(hidden_NH, weight_VH, targets_N)
    chunk = chunk or default_chunk(weight_VH.shape[0])
    if hidden_NH.shape[0] <= chunk:
        return functional.cross_entropy(_logits(hidden_NH, weight_VH), targets_N, reduction="sum")
    return _ChunkedCrossEntropy.apply(hidden_NH, weight_VH, targets_N, chunk)


@torch.no_grad()
def linear_argmax(hidden_NH: Tensor, weight_VH: Tensor, *, chunk: int | None = None) -> Tensor:
    """Return the most likely token of each position, int64 [N], in chunks."""
    chunk = chunk or default_chunk(weight_VH.shape[0])
    parts = [_logits(part, weight_VH).argmax(-1) for part in hidden_NH.split(chunk)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=hidden_NH.device)


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(hidden, weight.to(hidden.dtype)).float()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes loss and gradients chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(hidden.dtype)
            need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if need_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
            for begin in range(0, hidden.shape[0], chunk):
                part, wanted = hidden[begin : begin + chunk], targets[begin : begin + chunk]
                logits = functional.linear(part, head).float()
                total += functional.cross_entropy(logits, wanted, reduction="sum")
                if not (need_hidden or need_weight):
                    continue
                slope = torch.softmax(logits, dim=-1, out=logits) if not logits.requires_grad else logits.softmax(-1)
                slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1.0
                slope = slope.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[begin : begin + chunk] = slope @ head
                if grad_weight is not None:
                    grad_weight += slope.T @ part
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_output,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_output.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad_output).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None


def liger_available() -> bool:
    """Tell whether Liger's fused linear cross-entropy can run here: CUDA and the package, both."""
    if not torch.cuda.is_available():
        return False
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction  # noqa: F401
    except Exception:  # a broken kernel package must not stop a run that does not need it
        return False
    return True


def _liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    result = liger_fused_linear_cross_entropy(hidden, weight.to(hidden.dtype), targets, reduction="sum")
    return result[0] if isinstance(result, tuple) else result
