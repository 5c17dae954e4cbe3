"""Exact top-k attention in Triton, for training and inference: no score matrix, O(queries x k) saved state.

Tested in Triton's interpreter (``TRITON_INTERPRET=1``) and compiled ahead of time, not yet measured on a GPU.
Importing this package does not import Triton.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from ....attention.problem import Problem
from ....mechanisms import Mechanism
from ... import tracing

# Candidates of a row are sorted out in registers; beyond this the gathers cost as much as a dense product.
MAX_K = 1024
MAX_DIM = 256


def objections(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
    """Why this back end cannot do the job, each with what was found and what was expected; empty if it can."""
    query, key, value = problem.query, problem.key, problem.value
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    # the interpreter computes bfloat16 wrongly, in silence
    known = [torch.float16, torch.float32] if interpreted else [torch.bfloat16, torch.float16, torch.float32]
    types = sorted({tensor.dtype for tensor in (query, key, value)}, key=str)
    device, head_dim, value_dim, keys = query.device.type, query.shape[-1], value.shape[-1], key.shape[2]
    k = getattr(mechanism, "k", 0)
    reachable = device == "cuda" or interpreted
    missing = importlib.util.find_spec("triton") is None
    found = [
        (missing, "triton is not installed; expected the extra hf_semfocus[gpu]"),
        (not reachable, f"tensors are on {device}; expected cuda (or TRITON_INTERPRET=1)"),
        (
            not _by_score(mechanism),
            f"{mechanism.name} does not select by score alone; expected topk_ or bottomk_sparse",
        ),
        (min(k, keys) > MAX_K, f"k={k}; expected at most {MAX_K}"),
        (len(types) > 1 or types[0] not in known, f"types {_listed(types)}; expected one of {_listed(known)}"),
        (head_dim > MAX_DIM, f"head_dim {head_dim}; expected at most {MAX_DIM}"),
        (value_dim > MAX_DIM, f"value_dim {value_dim}; expected at most {MAX_DIM}"),
        (keys == 0, "no keys; expected at least one"),
        (problem.bias is not None, "a bias of the scores; expected none"),
        (problem.softcap is not None, f"softcap {problem.softcap}; expected none"),
        (return_weights, "return_weights; expected the output alone"),
    ]
    return [*tracing.objections(problem), *(reason for holds, reason in found if holds)]


def _listed(types: list[torch.dtype]) -> str:
    return ", ".join(map(str, types))


def _by_score(mechanism: Mechanism) -> bool:
    plain = type(mechanism).normalize is Mechanism.normalize and type(mechanism).pattern is Mechanism.pattern
    return mechanism.by_score is not None and plain


def attend(
    mechanism: Mechanism, problem: Problem, return_weights: bool = False, deterministic: bool = True
) -> tuple[Tensor, None]:
    """See :func:`hf_semfocus.backends.attend`.

    Args:
        mechanism: topk_sparse or bottomk_sparse.
        problem: one that has no :func:`objections`.
        return_weights: must be False.
        deterministic: whether gradients of keys and values are summed in a fixed order, which costs a sort of the
            queries x k kept entries, or by atomic additions. The default keeps training runs reproducible.
    """
    from . import function

    k = min(mechanism.k, problem.key.shape[2])
    return function.attend(problem, k, mechanism.by_score, deterministic), None
