"""Exact top-k attention and lists of any other keys in Triton, for training and inference: O(queries x k) memory.

Tested in Triton's interpreter (``TRITON_INTERPRET=1``) and compiled ahead of time, not yet measured on a GPU.
Importing this package does not import Triton.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ....attention.problem import Problem
from ...limits import Limits
from .. import listed
from . import operators

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

LIMITS = Limits(
    keeps="lists",
    devices=("cpu", "cuda") if INTERPRETED else ("cuda",),
    elsewhere="" if INTERPRETED else " (or TRITON_INTERPRET=1)",
    # the interpreter computes bfloat16 wrongly, in silence
    dtypes=(torch.float32, torch.float16) if INTERPRETED else (torch.float32, torch.float16, torch.bfloat16),
    one_dtype=True,
    # beyond this the gathers cost as much as a dense product
    max_keys=1024,
    # beyond this the candidates of most rows do not fit, and all scores are computed once more
    max_selected=200,
    max_dim=256,
    bias=False,
    softcap=False,
    weights=False,
    in_graphs=True,
    package=("triton", "gpu"),
)
COMPILED = True
UPCAST = False


def select(problem: Problem, k: int, sign: int, softmax: bool = False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """See :class:`hf_semfocus.backends.lists.Kernels`."""
    if torch.compiler.is_compiling():
        seen = problem.visibility
        first = seen.first if seen.causal else None
        return operators.select(problem.query, problem.key, k, problem.scale, sign, seen.mask, first)
    from . import selection

    with torch.cuda.device_of(problem.query):
        index = selection.select(problem, k, sign)
    return listed.with_softmax(problem, index, sign) if softmax else index


def attend(problem: Problem, index: Tensor, bias: None, return_weights: bool) -> tuple[Tensor, None]:
    """See :meth:`hf_semfocus.backends.lists.Kernels.attend`."""
    if torch.compiler.is_compiling():
        inputs = (problem.query, problem.key, problem.value, problem.sinks)
        index = index.expand(*problem.shape[:2], -1, -1)
        seed = operators.draw_seed(problem)
        return operators.attend(*inputs, index, problem.scale, problem.dropout_p, seed)[0], None
    from . import function

    return function.attend(problem, index), None
