"""Watch a model that runs Transformers' own attention: ``sdpa``, ``eager``, flash or flex attention.

Every layer gets its function from ``AttentionInterface.get_interface`` at every call. While a watch is open, that
method returns functions that report a call and then make it with the same arguments; otherwise it is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import AttentionInterface

from ..attention.visibility import Visibility
from ..mechanisms import Mechanism
from . import observe
from .attention import assemble, refuse_cut_keys
from .support import UnsupportedModelError
from .visibility import read

_LOCK = Lock()
_OPEN: list[Callable[..., Any]] = []
"""The original ``get_interface``, once for every open watch."""


@contextmanager
def watch(model: nn.Module, tell: Callable[[observe.Call], None]) -> Iterator[None]:
    """Call ``tell`` with every call of an attention function by a layer of ``model`` while the context is open.

    Results do not change. Layers that compute attention in code of their own, and calls within compiled graphs, are
    not seen.

    Raises:
        UnsupportedModelError: (when the model runs) the arguments of a call do not tell which keys are visible.
    """
    with observe.watch(model, tell):
        with _LOCK:
            _OPEN.append(AttentionInterface.get_interface if not _OPEN else _OPEN[0])
            if len(_OPEN) == 1:
                AttentionInterface.get_interface = _telling(_OPEN[0])
        try:
            yield
        finally:
            with _LOCK:
                original = _OPEN.pop()
                if not _OPEN:
                    AttentionInterface.get_interface = original


def _telling(get_interface: Callable[..., Callable]) -> Callable[..., Callable]:
    @wraps(get_interface)
    def get(self: AttentionInterface, name: str, default: Callable) -> Callable:
        function = get_interface(self, name, default)
        return function if hasattr(function, "_semfocus") else _observed(name, function)

    return get


def _observed(name: str, function: Callable) -> Callable:
    """``function``, which reports its calls first."""

    @wraps(function)
    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if observe.watched(module) and not torch.compiler.is_compiling():
            observe.saw(_call(name or "eager", module, *args, **kwargs))
        return function(module, *args, **kwargs)

    return attend


def _call(
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> observe.Call:
    refuse_cut_keys(module, name, kwargs)
    if isinstance(attention_mask, BlockMask):
        batch, heads, *_ = attention_mask.shape
        sizes = (batch, heads, query.shape[2], key.shape[2])
        attention_mask = create_mask(attention_mask.mask_mod, *sizes, device=query.device)
    if "flash" in name:
        if any(kwargs.get(packed) is not None for packed in ("cu_seq_lens_q", "cu_seqlens_q")):
            raise UnsupportedModelError(
                f"{name!r} with packed sequences has no mask of the visible keys; expected 'sdpa' or padded rows"
            )
        visibility, bias = _flash(attention_mask, module, is_causal, query, key, sliding_window), None
    elif attention_mask is None:
        visibility, bias = _without_mask(name, module, is_causal, query, key), None
    else:
        visibility, bias, _ = read(attention_mask, module, is_causal, query, key)
    problem = assemble(module, query, key, value, visibility, bias, scaling, dropout, softcap, position_bias, s_aux)
    return observe.Call(module, Mechanism(), problem, name == "eager", name)


def _without_mask(name: str, module: nn.Module, is_causal: bool | None, query: Tensor, key: Tensor) -> Visibility:
    """``eager`` hides nothing; ``sdpa`` hides the future in a causal layer, whose first query is at the first key."""
    queries, keys = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if name == "sdpa" and causal and queries > 1:
        return Visibility(None, 0, True, queries, query.device)
    return Visibility.between(queries, keys, query.device)


def _flash(
    mask: Tensor | None, module: nn.Module, is_causal: bool | None, query: Tensor, key: Tensor, window: int | None
) -> Visibility:
    """A mask of flash attention only marks padding; causality and the window are arguments of their own."""
    queries, keys = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if mask is not None:
        mask = mask[:, None, None, -keys:].bool()
    if window is not None and window < keys:
        own = torch.arange(queries, device=query.device).unsqueeze(-1) + (keys - queries)
        near = (torch.arange(keys, device=query.device) - own).abs() < window
        mask = near[None, None] if mask is None else mask & near
    return Visibility.between(queries, keys, query.device, mask, bool(causal))
