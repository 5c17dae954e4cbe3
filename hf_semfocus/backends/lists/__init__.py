"""Attention over lists of keys: one pipeline for all sets of kernels, in O(n k) memory.

    make    the lists, by the kernels' ``select`` where a mechanism finds its keys by it
    attend  over the lists, with the bias at them, by the kernels' ``attend``
    fill    the few rows that keep every key, by the formula

A set of kernels is a folder below this one, of which a line in :data:`hf_semfocus.backends.BACKENDS` makes a backend.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ...attention.problem import Problem
from ...mechanisms import Mechanism
from ...mechanisms.select import Select
from ..limits import Limits
from . import wide
from .making import make, take


class Kernels(Protocol):
    """A set of kernels: two functions and their limits.

    They get a problem whose tensors have a contiguous last dimension (the bias aside), and lists of keys: int32
    ``[batch, heads, queries, slots]``, columns in any order, -1 in empty slots; batch and heads are 1 where the
    lists are shared.

    Attributes:
        LIMITS: their limits; ``keeps`` must be ``"lists"``.
        COMPILED: whether they are faster than dense products at any size.
        UPCAST: whether they need every tensor in the type of the scores.
        select: ``(problem, k, sign, softmax=False) -> lists`` of the ``k`` keys of highest ``sign * score`` of every
            query, of equal scores the later key; ``k`` is at most the number of keys. With ``softmax``, which compiled
            graphs do not ask for, the columns ascend, and there come with them their scores, -inf in empty slots, and
            ``[batch, heads, queries, 1]``: the sum of ``exp(sign * score)`` over all keys of a query, divided by the
            highest. None to select in PyTorch.
    """

    LIMITS: Limits
    COMPILED: bool
    UPCAST: bool
    select: Select | None

    def attend(
        self, problem: Problem, index: Tensor, bias: Tensor | None, return_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Softmax attention of every query over its list, differentiable with respect to every floating tensor.

        Args:
            problem: the problem; its ``visibility`` is already in the lists, and its ``bias`` in ``bias``.
            index: the lists.
            bias: ``[batch, heads, queries, slots]``, added to the scores of the lists; None for none.
            return_weights: whether to return the weights.

        Returns:
            ``(output, weights)``: ``[batch, heads, queries, value_dim]``, and the weights of the lists before dropout,
            ``[batch, heads, queries, slots]``, or None if not wanted.
        """
        ...


class ListBackend:
    """The backend of a set of kernels."""

    def __init__(self, kernels: Kernels):
        self.kernels = kernels
        self.LIMITS, self.compiled = kernels.LIMITS, kernels.COMPILED

    def attend(
        self, mechanism: Mechanism, problem: Problem, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See :func:`hf_semfocus.backends.attend`."""
        kernels, problem = self.kernels, _laid_out(problem, self.kernels.UPCAST)
        index, dense = make(mechanism, problem, kernels.select if self.LIMITS.finds(mechanism, problem) else None)
        bias = problem.bias
        if bias is not None:
            bias = take(bias, index.expand(*problem.shape[:2], -1, -1)).contiguous()
        output, weights = kernels.attend(problem, index, bias, return_weights)
        if weights is not None:
            weights = _in_full(weights, index, problem.shape[3])
        return (output, weights) if dense is None else wide.fill(problem, dense, output, weights)


def _laid_out(problem: Problem, upcast: bool) -> Problem:
    """``problem`` with tensors as :class:`Kernels` describes them."""
    changed, dtype = {}, problem.compute_dtype
    for name in ("query", "key", "value", "bias", "sinks"):
        tensor = given = getattr(problem, name)
        if tensor is None:
            continue
        if upcast and tensor.dtype != dtype:
            tensor = tensor.to(dtype)
        if name != "bias" and tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
            tensor = tensor.contiguous()
        if tensor is not given:
            changed[name] = tensor
    return replace(problem, **changed) if changed else problem


def _in_full(weights: Tensor, index: Tensor, keys: int) -> Tensor:
    """Weights of lists ``[batch, heads, queries, slots]`` -> ``[batch, heads, queries, keys]``."""
    # an additional column receives the empty slots
    index = torch.where(index < 0, keys, index).long().expand(weights.shape)
    return weights.new_zeros(*weights.shape[:3], keys + 1).scatter_add(-1, index, weights)[..., :keys]
