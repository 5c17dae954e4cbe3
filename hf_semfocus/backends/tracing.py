"""Detection of tracers and transforms, which only the formula supports.

They can follow neither a compiled kernel nor a choice by data: a trace would hold garbage, or the keys of its first
input. A forward pass detects them here; a batch of gradients only reaches the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd.forward_ad import unpack_dual

from ..attention.problem import Problem
from ..attention.tracers import tracer

PLAIN = (Tensor, torch.nn.Parameter)


def objection(problem: Problem, in_graphs: bool = False) -> str | None:
    """Why only the formula can compute ``problem`` here, not a kernel or lists of keys; None if they can, too.

    ``in_graphs``: whether the kernels are PyTorch operators, which a graph of ``torch.compile`` can hold.
    """
    if in_graphs and torch.compiler.is_compiling():
        return None
    if (found := tracer()) is not None:
        return f"{found} a choice by data or compiled kernels"
    for name in ("query", "key", "value", "bias", "sinks", "mask"):
        tensor = problem.visibility.mask if name == "mask" else getattr(problem, name)
        if tensor is None:
            continue
        if type(tensor) not in PLAIN:
            return f"{name} is a {type(tensor).__name__}; expected a plain tensor"
        if tensor.is_meta:
            return f"{name} is on meta, without data; expected data"
        if tensor.is_floating_point() and unpack_dual(tensor).tangent is not None:
            return f"{name} has a tangent; forward-mode differentiation expects the formula"
    return None


def refuse_batches(grad: Tensor, backend: str) -> None:
    """Refuse a batch of gradients in a backward pass, which the forward pass cannot detect.

    Raises:
        ValueError: names the alternatives.
    """
    if is_functorch_wrapped_tensor(grad) or is_legacy_batchedtensor(grad):
        raise ValueError(
            f"backend {backend!r} cannot take a batch of gradients (is_grads_batched, vectorize=True or torch.func "
            "around a backward pass); expected backend='eager' in the forward pass"
        )
