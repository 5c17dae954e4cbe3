"""A prototype for larger k: the exact lists as a bitmap, which ``flex_attention`` reads as its mask.

Blocks of pairs without a kept key are skipped, the others are dense products on tensor cores. The bitmap takes
``queries * keys / 8`` bytes a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.problem import Problem
from ..attention.visibility import Visibility
from ..backends import flex
from ..backends.lists import making, triton
from ..mechanisms import build
from ..mechanisms.select import Select
from .cases import Case


def attend(query: Tensor, key: Tensor, value: Tensor, *, case: Case, select: Select | None = triton.select) -> Tensor:
    """Attention of a case whose mechanism selects by score; ``select`` as in :class:`.lists.Kernels`."""
    seen = Visibility.between(case.queries, case.keys, query.device, None, case.causal)
    problem = Problem(query.detach(), key.detach(), value.detach(), seen, case.head_dim**-0.5)
    words = bitmap(making.make(build(case.mechanism), problem, select).index, case.keys)

    def keeps(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (words[b, h, i, j // 32] >> (j % 32)) & 1 != 0

    make, run = flex.functions(query.device.type)
    mask = make(keeps, case.batch, case.heads, case.queries, case.keys, device=query.device)
    return run(query, key, value, block_mask=mask, enable_gqa=case.grouped)


def objection(case: Case, device: torch.device) -> str | None:
    """Why a case is not compared; None if it is."""
    if device.type != "cuda":
        return "has no backward pass on a CPU"
    if not build(case.mechanism).selects_by_score or case.direction == "decode" or case.content == "padded":
        return "is compared in selection by score, without padding"
    return None


def bitmap(index: Tensor, keys: int) -> Tensor:
    """Lists of distinct columns, -1 in empty slots, as bits of words: int32 ``[batch, heads, queries, keys / 32]``."""
    words = index.new_zeros((*index.shape[:3], -(-keys // 32)))
    bits = (index >= 0).int() << index.clamp(min=0) % 32
    return words.scatter_add_(-1, index.clamp(min=0).long() // 32, bits)
