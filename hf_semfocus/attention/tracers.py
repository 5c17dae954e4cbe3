"""Detection of tracers and transforms, under which a choice by data would be garbage, or that of the first input."""

from __future__ import annotations

import sys

import torch
from torch._C._functorch import peek_interpreter_stack


def is_transforming() -> bool:
    """Whether a transform of ``torch.func`` is active."""
    return peek_interpreter_stack() is not None


def tracer() -> str | None:
    """What follows the operations, and what it cannot do, in words; None if nothing does."""
    if torch.compiler.is_compiling():
        return "torch.compile cannot trace"
    if torch.jit.is_tracing():
        return "torch.jit.trace cannot record"
    if is_transforming():
        return "torch.func (grad, vmap, jvp, ...) cannot transform"
    # imported already if anything is traced
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if proxies is not None and proxies.get_proxy_mode() is not None:
        return "make_fx cannot record"
    return None
