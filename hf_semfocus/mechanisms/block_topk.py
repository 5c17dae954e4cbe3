"""Block top-k attention: a query keeps the blocks of consecutive keys that it scores highest on average.

Source: "MoBA: Mixture of Block Attention for Long-Context LLMs" (arXiv 2502.13189), whose score of a block is that of
the mean of its keys: the mean of their scores, where nothing else is added to these.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.positions import Positions
from ..attention.problem import Problem
from ..attention.selection import highest
from .block_means import find_blocks, fits
from .by_score import ByScore
from .declare import count
from .registry import register
from .select import Select


@register("block_topk_sparse")
@dataclass(frozen=True, kw_only=True)
class BlockTopK(ByScore):
    """Every query keeps its own block of ``block_size`` positions, and of the others those of highest mean score.

    ``k`` blocks in all, of the two with equal means the later. Means are over the keys that the query sees. Causal:
    the other blocks lie wholly in the past, and of its own block a query sees the part up to itself.
    """

    k: int = count(4, "blocks a query keeps, its own among them")
    block_size: int = count(64, "positions of a block")

    @property
    def positional(self) -> bool:
        return True

    @property
    def by_layer(self) -> bool:
        return False

    def choose(self, scores: Tensor, allowed: Tensor, at: Positions) -> Tensor:
        keys, allowed = scores.shape[-1], allowed.expand(scores.shape)
        block = (at.key // self.block_size).clamp(min=0).long().expand(scores.shape)
        blocks = (keys + self.block_size - 1) // self.block_size
        empty = scores.new_zeros(*scores.shape[:-1], blocks)
        seen = empty.scatter_add(-1, block, allowed.to(scores.dtype))
        mean = empty.scatter_add(-1, block, scores.masked_fill(~allowed, 0.0)) / seen.clamp(min=1)
        own = at.query.clamp(min=0) // self.block_size == torch.arange(blocks, device=scores.device)
        return highest(mean.masked_fill(own, torch.inf), seen > 0, self.k).gather(-1, block) & allowed

    def asks(self, problem: Problem) -> int | None:
        replaced = type(self).choose is not BlockTopK.choose
        return None if replaced or not fits(problem) else min(self.k - 1, -(-problem.shape[3] // self.block_size))

    def find(self, problem: Problem, select: Select) -> Tensor:
        return find_blocks(problem, self.k, self.block_size, select)

    def budget(self, length: int) -> int:
        return min(self.k * self.block_size, length)
