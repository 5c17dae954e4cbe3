"""Exact top-k attention in Triton, for training and inference: no score matrix, O(queries x k) saved state.

Tested in Triton's interpreter (``TRITON_INTERPRET=1``) and compiled ahead of time, not yet measured on a GPU.
Importing this package does not import Triton.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from ...mechanisms import Mechanism
from ...problem import Problem

# Candidates of a row are sorted out in registers; beyond this the gathers cost as much as a dense product.
MAX_K = 1024
MAX_DIM = 256


def objections(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
    """Why this back end cannot do the job, each with what was found and what was expected; empty if it can."""
    query, key, value = problem.query, problem.key, problem.value
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    types = {torch.float16, torch.float32} | (set() if interpreted else {torch.bfloat16})
    found = {tensor.dtype for tensor in (query, key, value)}
    keys = key.shape[2]
    checks = {
        "triton is not installed; expected the extra hf_semfocus[gpu]": importlib.util.find_spec("triton") is None,
        f"tensors are on {query.device.type}; expected cuda (or TRITON_INTERPRET=1)": query.device.type != "cuda"
        and not interpreted,
        "torch.compile is tracing; expected plain execution": torch.compiler.is_compiling(),
        f"{mechanism.name} does not select by score alone; expected topk_sparse or bottomk_sparse": not _by_score(
            mechanism
        ),
        f"k={getattr(mechanism, 'k', 0)}; expected at most {MAX_K}": min(getattr(mechanism, "k", 0), keys) > MAX_K,
        f"types {', '.join(sorted(map(str, found)))}; expected one of {', '.join(sorted(map(str, types)))}": len(found)
        > 1
        or not found <= types,
        f"head_dim {query.shape[-1]}; expected at most {MAX_DIM}": query.shape[-1] > MAX_DIM,
        f"value_dim {value.shape[-1]}; expected at most {MAX_DIM}": value.shape[-1] > MAX_DIM,
        "no keys; expected at least one": keys == 0,
        "a bias of the scores; expected none": problem.bias is not None,
        f"softcap {problem.softcap}; expected none": problem.softcap is not None,
        "return_weights; expected the output alone": return_weights,
    }
    return [reason for reason, holds in checks.items() if holds]


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

    Raises:
        ValueError: this back end cannot do the job.
    """
    if reasons := objections(mechanism, problem, return_weights):
        raise ValueError(f"the triton back end cannot do this: {'; '.join(reasons)}")
    from . import function

    k = min(mechanism.k, problem.key.shape[2])
    return function.attend(problem, k, mechanism.by_score, deterministic), None
