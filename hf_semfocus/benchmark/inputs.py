"""Tensors of a case, and the measured step."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .cases import Case

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

PERIOD = 256
"""Distance of the keys of high scores in periodic content: the most groups that the selection on a GPU has."""


class Inputs(NamedTuple):
    """Query, key and value of a case, and the gradient of its output, None where there is no backward pass."""

    query: Tensor
    key: Tensor
    value: Tensor
    upstream: Tensor | None

    @classmethod
    def of(cls, case: Case, device: torch.device, seed: int = 0) -> Inputs:
        """Standard normal tensors of the case's sizes and type, with the scores of its content."""
        generator = torch.Generator(device).manual_seed(seed)

        def normal(heads: int, length: int) -> Tensor:
            sizes = (case.batch, heads, length, case.head_dim)
            made = torch.randn(sizes, generator=generator, device=device, dtype=getattr(torch, case.dtype))
            return made.requires_grad_(case.direction == "train")

        query, key, value = (normal(case.heads, case.queries), *(normal(case.kv_heads, case.keys) for _ in range(2)))
        if case.content in ("hub", "periodic"):
            with torch.no_grad():
                query[..., 0] = 8.0
                key[:, :, :: case.keys if case.content == "hub" else PERIOD, 0] += 16.0
        return cls(query, key, value, normal(case.heads, case.queries).detach() if query.requires_grad else None)


@lru_cache(maxsize=4)
def mask_of(case: Case, device: torch.device) -> Tensor | None:
    """The keys that are not padding, bool ``[batch, 1, 1, keys]``; None without padding."""
    if case.content != "padded":
        return None
    lengths = torch.linspace(case.keys // 2, case.keys, case.batch, device=device).long()
    return (torch.arange(case.keys, device=device) < lengths[:, None])[:, None, None]


def step(attend: Attend, inputs: Inputs) -> tuple[Tensor, ...]:
    """One forward pass, and one backward pass if the case has one.

    Returns:
        The output, then the gradients of query, key and value if there is a backward pass, as new tensors: nothing is
        accumulated.
    """
    query, key, value, upstream = inputs
    if upstream is None:
        with torch.no_grad():
            return (attend(query, key, value),)
    output = attend(query, key, value)
    return output, *torch.autograd.grad(output, (query, key, value), upstream)
