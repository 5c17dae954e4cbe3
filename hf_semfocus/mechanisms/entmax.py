"""Entmax attention: weights with exact zeros, in place of softmax; the keys of positive weight are the selection.

    p_j = [(alpha - 1) s_j - tau]_+ ^ (1 / (alpha - 1)),  with tau such that they sum to 1

is softmax in the limit alpha -> 1, and sparsemax at alpha = 2. Source: "Sparse Sequence-to-Sequence Models" (arXiv
1905.05702), "From Softmax to Sparsemax" (arXiv 1602.02068), "Adaptively Sparse Transformers" (arXiv 1909.00015).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention.positions import Positions
from ..attention.tracers import tracer
from .base import Mechanism
from .declare import real
from .registry import register

STEPS = 60
"""More than Newton's method takes: for float64 and 2**20 keys about 50, as each divides value times slope by 4."""


@register("entmax_sparse")
@dataclass(frozen=True, kw_only=True)
class Entmax(Mechanism):
    """Every query keeps the keys that ``alpha``-entmax gives a positive weight, weighed by it.

    The larger ``alpha``, the fewer. Kept keys score at most ``1 / (alpha - 1)`` below the best one. Below 1.001,
    rounding errors of float32 would exceed 1e-5.
    """

    alpha: float = real(1.5, "above 1 (softmax), up to 2 (sparsemax)", minimum=1.001, maximum=2.0)

    def normalize(self, scores: Tensor, keep: Tensor) -> Tensor:
        return entmax(scores, keep, self.alpha)

    def keep(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        with torch.no_grad():
            return self.normalize(scores, super().keep(scores, allowed, at)) > 0


def entmax(scores: Tensor, keep: Tensor, alpha: float) -> Tensor:
    """``alpha``-entmax of the kept scores; zeros elsewhere, so a row that keeps nothing is all zeros.

    Args:
        scores: floating ``[..., keys]``.
        keep: bool of the same shape, or one that broadcasts.
        alpha: in (1, 2].
    """
    drop = ~keep
    return _Entmax.apply(scores.masked_fill(drop, torch.finfo(scores.dtype).min), alpha).masked_fill(drop, 0.0)


class _Entmax(torch.autograd.Function):
    """``alpha``-entmax over the last dimension, differentiable any number of times."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, alpha: float) -> Tensor:
        power = 1 / (alpha - 1)
        scores = (scores - scores.amax(-1, keepdim=True)) * (alpha - 1)
        # Newton's method on the norm of what lies above tau, which is convex: from the left it never overshoots
        tau = torch.full_like(scores[..., :1], -1.0)
        small, reads_data = 2 * torch.finfo(scores.dtype).eps, tracer() is None
        open_rows = torch.ones_like(tau, dtype=torch.bool)  # a row that has converged stays, whatever others need
        for _ in range(STEPS):
            mass, slope, _ = _above(scores, tau, power)
            norm = mass ** (1 / power)
            step = (norm - 1) / norm * (mass / slope)
            tau = torch.where(open_rows, tau + step, tau)
            open_rows = open_rows & (step > small)
            if reads_data and not open_rows.any():
                break
        mass, _, weights = _above(scores, tau, power)
        return weights / mass

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.alpha = inputs[1]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _derivative(*ctx.saved_tensors, grad, ctx.alpha), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _derivative(*ctx.saved_tensors, tangent, ctx.alpha)


def _above(scores: Tensor, tau: Tensor, power: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of ``above ** power`` and ``above ** (power - 1)``, and the former's terms, where scores lie above tau."""
    above = (scores - tau).clamp(min=0)
    slopes = above if power == 2 else (above > 0).to(above.dtype) if power == 1 else above ** (power - 1)
    weights = slopes * above
    return weights.sum(-1, keepdim=True), slopes.sum(-1, keepdim=True), weights


def _derivative(weights: Tensor, change: Tensor, alpha: float) -> Tensor:
    """The derivative along ``change``, which is also the gradient for it: the Jacobian is symmetric."""
    positive = weights > 0
    slopes = torch.where(positive, weights, 1.0) ** (2 - alpha)
    slopes = torch.where(positive, slopes, 0.0)
    mean = (slopes * change).sum(-1, keepdim=True) / slopes.sum(-1, keepdim=True)
    return slopes * (change - mean)
