"""Watch a model that runs Transformers' own attention: ``sdpa``, ``eager``, flash or flex attention.

Every layer asks ``AttentionInterface.get_interface`` for the function to call, at every call. While a watch is open
that method hands out functions which tell of a call and then make it, with the very arguments; otherwise it is
untouched.
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
"""``get_interface`` as it was, once for every watch that is open."""


@contextmanager
def watch(model: nn.Module, tell: Callable[[observe.Call], None]) -> Iterator[None]:
    """Call ``tell`` with every call of an attention function by a layer of ``model`` while the context is open.

    What the model computes does not change. Not seen are layers that compute attention in code of their own, and calls
    within graphs that ``torch.compile`` has made.

    Raises:
        UnsupportedModelError: (when the model runs) who sees whom cannot be told from the arguments of a call.
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
    """``function``, telling of its calls first."""

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
                f"{name!r} with packed sequences does not say in a mask who sees whom; expected 'sdpa' or padded rows"
            )
        visibility, bias = _flash(attention_mask, module, is_causal, query, key, sliding_window), None
    elif attention_mask is None:
        visibility, bias = _without_mask(name, module, is_causal, query, key), None
    else:
        visibility, bias, _ = read(attention_mask, module, is_causal, query, key)
    problem = assemble(module, query, key, value, visibility, bias, scaling, dropout, softcap, position_bias, s_aux)
    return observe.Call(module, Mechanism(), problem, name == "eager", name)


def _without_mask(name: str, module: nn.Module, is_causal: bool | None, query: Tensor, key: Tensor) -> Visibility:
    """``eager`` hides nothing, ``sdpa`` the future in a causal layer, whose first query stands at the first key."""
    queries, keys = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if name == "sdpa" and causal and queries > 1:
        return Visibility(None, 0, True, queries, query.device)
    return Visibility.between(queries, keys, query.device)


def _flash(
    mask: Tensor | None, module: nn.Module, is_causal: bool | None, query: Tensor, key: Tensor, window: int | None
) -> Visibility:
    """A mask of flash attention says which keys are padding; causality and the window come beside it."""
    queries, keys = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if mask is not None:
        mask = mask[:, None, None, -keys:].bool()
    if window is not None and window < keys:
        own = torch.arange(queries, device=query.device).unsqueeze(-1) + (keys - queries)
        near = (torch.arange(keys, device=query.device) - own).abs() < window
        mask = near[None, None] if mask is None else mask & near
    return Visibility.between(queries, keys, query.device, mask, bool(causal))
