"""Static patterns on a GPU through PyTorch's ``flex_attention``, which skips empty blocks of a pattern.

Not yet measured on a GPU; on a CPU its masks are tested against the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from ..attention.positions import Positions
from ..attention.problem import Problem
from ..mechanisms import Mechanism
from .limits import Limits
from .memo import once_per_mask

LIMITS = Limits(
    keeps="pattern",
    devices=("cuda",),
    dtypes=(torch.float32, torch.float16, torch.bfloat16),
    dropout=False,
    bias=False,
    softcap=False,
    sinks=False,
    weights=False,
)


def attend(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> tuple[Tensor, None]:
    """See :func:`hf_semfocus.backends.attend`; ``return_weights`` must be False.

    Raises:
        RuntimeError: PyTorch compiles no more of the shapes and patterns of this process.
    """
    query, key, value = problem.query, problem.key, problem.value
    gqa = query.shape[1] != key.shape[1]
    _, run = functions(query.device.type)
    try:
        mask = _mask(mechanism, problem)
        return run(query, key, value, block_mask=mask, scale=problem.scale, enable_gqa=gqa), None
    except FailOnRecompileLimitHit as error:
        raise RuntimeError(
            f"backend 'flex' is compiled for {torch._dynamo.config.recompile_limit} combinations of patterns and "
            f"kinds of inputs already, {mechanism.spec} would be one more; expected a higher "
            "torch._dynamo.config.recompile_limit, or backend='gather'"
        ) from error


@lru_cache
def functions(device: str, backend: str | Callable[..., Any] = "inductor") -> tuple[Callable[..., Any], ...]:
    """``create_block_mask`` and ``flex_attention``, compiled where they would else hold all pairs of positions.

    Lengths become symbols as soon as they vary. ``fullgraph`` makes an error of what would else be computed without
    compilation: more recompilations than PyTorch allows.
    """
    functions = create_block_mask, flex_attention
    if device == "cpu":
        return functions
    return tuple(torch.compile(function, fullgraph=True, backend=backend) for function in functions)


@once_per_mask(remembered=2)  # the memo keeps the mask alive
def _mask(mechanism: Mechanism, problem: Problem) -> BlockMask:
    """The pattern and the visible keys as a block mask."""
    at, mask, limit = problem.positions(), problem.visibility.mask, problem.visibility.limit

    def keeps(b: Tensor, h: Tensor, q: Tensor, j: Tensor) -> Tensor:
        zero = torch.zeros_like(q)
        place = Positions(
            _at(at.query, b, h, q, zero),
            _at(at.key, b, h, q, j),
            _at(at.length, b, h, q, zero),
            _at(at.head, zero, h, zero, zero),
            at.layer,
            at.causal,
            at.draw,
        )
        keep = mechanism.pattern(place)
        if mask is not None:
            keep = keep & _at(mask, b, h, q, j)
        return keep if limit is None else keep & (j <= limit[q])

    batch, heads, queries, keys = problem.shape
    first = at._replace(query=at.query[..., :1, :], key=at.key[..., :1, :1], length=at.length[..., :1, :])
    by_head = mechanism.kept_by_position(first).shape[-3:-2] == (heads,)
    shared = (1, 1) if mask is None else mask.shape
    sizes = (batch if shared[0] > 1 else None, heads if shared[1] > 1 or by_head else None)
    make, _ = functions(problem.query.device.type)
    return make(keeps, *sizes, queries, keys, device=problem.query.device)


def _at(tensor: Tensor, *where: Tensor) -> Tensor:
    """An entry of a tensor whose dimensions of size 1 are broadcast."""
    return tensor[tuple(torch.zeros_like(i) if size == 1 else i for size, i in zip(tensor.shape, where, strict=True))]
