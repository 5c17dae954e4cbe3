"""The type of what finds the highest-scoring keys for a mechanism."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..attention.problem import Problem


class Select(Protocol):
    """``select`` of a set of kernels, see :class:`hf_semfocus.backends.lists.Kernels`."""

    def __call__(
        self, problem: Problem, k: int, sign: int, softmax: bool = False
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Lists of keys, with ``softmax`` also their scores and the denominators."""
        ...
