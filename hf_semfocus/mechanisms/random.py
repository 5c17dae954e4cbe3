"""Random attention: a query keeps k keys drawn by a keyed hash, independent of their scores.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), random mask. The paper's code draws
anew, with replacement, at every forward; here keys are distinct, and by default the draw is a pure function of
(seed, layer, head, query, key), so that chunks, cached decoding and recomputation in gradient checkpointing use the
same keys. ``redraw="forward"`` adds to the seed a number of every layer's forward pass in training from PyTorch's
random numbers, which training loops seed, save and restore for dropout, and gradient checkpointing, too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.positions import Positions
from .base import Mechanism
from .declare import choice, count
from .registry import register


@register("random_sparse")
@dataclass(frozen=True, kw_only=True)
class Random(Mechanism):
    """Every query keeps ``k`` random keys, an input-agnostic control with as many keys as top-k by default.

    With ``redraw="forward"``, training draws other keys in every layer and forward pass, as the paper does; evaluation
    keeps those of ``redraw="never"``.
    """

    k: int = count(64, "keys a query keeps")
    seed: int = count(0, "seed of the draw", minimum=0, maximum=2**32 - 1)
    redraw: str = choice("never", ("never", "forward"), "when keys are drawn anew in training", True)

    @property
    def positional(self) -> bool:
        return True

    @property
    def redraws(self) -> bool:
        return self.redraw == "forward"

    def priority(self, scores: Tensor, at: Positions) -> Tensor:
        stream = _mix(_mix(torch.full_like(at.head, self.seed) + at.draw + at.layer * 0x9E3779B1) + at.head)
        drawn = _mix(_mix(stream + at.query) + at.key)
        # float32 holds 24 bits exactly
        return (drawn >> 8).to(scores.dtype).expand_as(scores)


def _mix(x: Tensor) -> Tensor:
    """Scramble integers to uniform 32-bit ones (the finalizer of MurmurHash3, in int64 arithmetic)."""
    return _mix_in_graphs(x) if torch.compiler.is_compiling() and not torch.compiler.is_exporting() else _scramble(x)


def _scramble(x: Tensor) -> Tensor:
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


@torch.library.custom_op("hf_semfocus::mix", mutates_args=())
def _mix_in_graphs(x: Tensor) -> Tensor:
    """One node of a graph, as inductor would fuse all rounds: it writes again for each use what is used twice."""
    return _scramble(x)


@_mix_in_graphs.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)
