"""Block-local attention: a query keeps the keys of its own block of consecutive positions.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), block-local mask.
"""

from dataclasses import dataclass

from torch import Tensor

from .declare import count
from .global_tokens import GlobalTokens, run
from .registry import register


@register("block_local_sparse")
@dataclass(frozen=True, kw_only=True)
class BlockLocal(GlobalTokens):
    """Every query keeps its own block of ``block_size`` positions (the last may be shorter).

    Causal: the part of the block up to itself. The default of 64 equals that of top-k.
    """

    sized_by = "block_size"

    block_size: int = count(64, "positions of a block")

    def local(self, query: Tensor, key: Tensor, length: Tensor, causal: bool) -> Tensor:
        return query // self.block_size == key // self.block_size

    def near(self, query: Tensor, length: Tensor, keys: int, causal: bool) -> Tensor:
        return query // self.block_size * self.block_size + run(self.block_size, keys, query.device)

    def local_budget(self, length: int) -> int:
        return min(self.block_size, length)
