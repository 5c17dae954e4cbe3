"""What only the formula can follow: tracers that record operations, and transforms that batch or differentiate them.

They see neither into a compiled kernel nor behind a choice by data: a trace would hold garbage, or the keys of the
first input for ever. What reaches a forward pass is told here; a batch of gradients reaches the backward pass alone.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor, peek_interpreter_stack
from torch.autograd.forward_ad import unpack_dual

from ..attention.problem import Problem

PLAIN = (Tensor, torch.nn.Parameter)


def is_transforming() -> bool:
    """Whether a transform of ``torch.func`` is at work."""
    return peek_interpreter_stack() is not None


def objection(problem: Problem, in_graphs: bool = False) -> str | None:
    """Why a kernel or lists of keys cannot serve ``problem`` here, while the formula can; None if they can.

    ``in_graphs``: whether the kernels are operators of PyTorch, which a graph of ``torch.compile`` can hold.
    """
    if in_graphs and torch.compiler.is_compiling():
        return None
    if (tracer := _tracer()) is not None:
        return f"{tracer} a choice by data or compiled kernels"
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


def _tracer() -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile cannot trace"
    if torch.jit.is_tracing():
        return "torch.jit.trace cannot record"
    if is_transforming():
        return "torch.func (grad, vmap, jvp, ...) cannot transform"
    # what is traced was imported by whoever traces
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if proxies is not None and proxies.get_proxy_mode() is not None:
        return "make_fx cannot record"
    return None


def refuse_batches(grad: Tensor, backend: str) -> None:
    """Refuse a batch of gradients in a backward pass, which no forward pass can foresee.

    Raises:
        ValueError: says what to use instead.
    """
    if is_functorch_wrapped_tensor(grad) or is_legacy_batchedtensor(grad):
        raise ValueError(
            f"backend {backend!r} cannot take a batch of gradients (is_grads_batched, vectorize=True or torch.func "
            "around a backward pass); expected backend='eager' in the forward pass"
        )
