"""Strided attention: a query keeps a window around it and every key a multiple of the stride away.

Source: "Generating Long Sequences with Sparse Transformers" (arXiv 1904.10509), strided attention.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .banded import Banded
from .declare import count
from .registry import register


@register("strided_sparse")
@dataclass(frozen=True, kw_only=True)
class Strided(Banded):
    """Every query keeps a band of ``window`` keys and the keys at multiples of ``stride`` from it.

    The band is :class:`~hf_semfocus.mechanisms.banded.Banded`'s. The default stride equals the default window, as
    in the source.
    """

    stride: int = count(64, "distance between the far keys")

    def local(self, query: Tensor, key: Tensor, length: Tensor, causal: bool) -> Tensor:
        return super().local(query, key, length, causal) | ((query - key) % self.stride == 0)

    def near(self, query: Tensor, length: Tensor, keys: int, causal: bool) -> Tensor:
        steps = keys // self.stride
        far = query + self.stride * torch.arange(-steps, 1 if causal else steps + 1, device=query.device)
        return torch.cat([super().near(query, length, keys, causal), far], -1)

    def local_budget(self, length: int) -> int:
        if torch.compiler.is_compiling():  # an upper limit, as a graph for any length cannot iterate over queries
            return min(self.window + (length - 1) // self.stride, length)
        query = np.arange(length)  # not a tensor, which a default device or a tracer would affect
        most = 0
        for causal in (False, True):
            first = self._first(query, length, causal)
            last = (first + self.window - 1).clip(max=length - 1)
            first = first.clip(min=0)
            before = query // self.stride - (query - first) // self.stride
            after = 0 if causal else (length - 1 - query) // self.stride - (last - query) // self.stride
            most = max(most, int((last - first + 1 + before + after).max())) if length else 0
        return most
