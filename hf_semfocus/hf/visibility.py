"""Visible keys in a Transformers model: the mask function, and how the attention function reads its masks.

Without a mask function for our names, Transformers silently drops causality and padding. A model's own code may also
read the mask, so a mask has the form that this code expects, noted on the configuration by :func:`mark`:

``causal``         None for plain causality: every attention module has ``is_causal=True``, and reading a mask of
                   all pairs would take time
``bidirectional``  None where every query sees all keys: no attention module has ``is_causal=True``
``bool``           always a tensor, True where a query may see a key, as ``sdpa`` makes it: modules differ
``additive``       always a tensor of 0 and the type's minimum, as ``eager`` makes it: the family has no ``sdpa``
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask

from ..attention.masks import allowed_and_bias
from ..attention.visibility import Visibility
from .layers import is_leaf

FORM = "_semfocus_mask"

# what the mask function knows, attached to its mask: (causal, column of the first query's own key, version)
_MADE = "_semfocus_made"


def mark(model: PreTrainedModel) -> None:
    """Note on every configuration of ``model`` the form of its masks."""
    forms: dict[int, tuple[PreTrainedConfig, str]] = {}
    for module in model.modules():
        config = getattr(module, "config", model.config)
        if isinstance(config, PreTrainedConfig) and (form := _form(module)) is not None:
            # models that share a configuration share its masks
            _, before = forms.get(id(config), (config, getattr(config, FORM, None)))
            forms[id(config)] = config, _both(before, form)
    for config, form in forms.values():
        setattr(config, FORM, form)


def _form(module: nn.Module) -> str | None:
    """The form that a module needs; None for any."""
    if isinstance(module, PreTrainedModel):
        return None if type(module)._supports_sdpa else "additive"
    if not is_leaf(module) or _is_marked_cross(module):
        return None
    return "causal" if getattr(module, "is_causal", False) is True else "bidirectional"


def _both(one: str | None, other: str) -> str:
    if one is None or one == other:
        return other
    return "additive" if "additive" in (one, other) else "bool"


def mask_function(**kwargs: Any) -> Tensor | None:
    """The mask ``[batch, 1, queries, keys]`` in the form the model expects, from Transformers' keywords."""
    form = getattr(kwargs.get("config"), FORM, "bool")
    queries, keys = kwargs["q_length"], kwargs["kv_length"]
    start, first = kwargs.get("q_offset", 0), kwargs.get("kv_offset", 0)
    # a static cache has an empty end, and its offset may be a tensor
    offset = start - first if isinstance(start, int) and isinstance(first, int) else None
    bidirectional = "allow_is_bidirectional_skip" in kwargs
    causal = kwargs.get("allow_is_causal_skip", False) and not bidirectional
    plain = causal and form == "causal" and offset is not None and offset + queries == keys
    everything = kwargs.get("allow_is_bidirectional_skip", False) and form == "bidirectional"
    kwargs.update(allow_is_causal_skip=plain, allow_is_bidirectional_skip=everything)
    made = eager_mask(**kwargs) if form == "additive" else sdpa_mask(**kwargs)
    # without a version counter, a later change of the mask could not be noticed
    traced = made is not None and (torch.compiler.is_compiling() or not made.is_inference())
    if traced and (causal or bidirectional or queries == 1):
        setattr(made, _MADE, (not bidirectional, offset if causal else None, _version(made)))
    return made


def read(
    attention_mask: Tensor | None,
    module: nn.Module,
    is_causal: bool | None,
    query: Tensor,
    key: Tensor,
    positional: bool = True,
) -> tuple[Visibility, Tensor | None, bool]:
    """The meaning of an attention module's mask; without a mask the module's flag decides.

    Args:
        attention_mask: a mask of :func:`mask_function`, the caller's own, or None.
        module: the attention module.
        is_causal: the module's flag, if it passes it on.
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, kv_heads, keys, head_dim]``.
        positional: whether positions of queries are needed; if not, a caller's own mask is not searched for them.

    Returns:
        ``(visibility, bias, across)``: the visible keys; what the mask adds to the scores; whether the queries attend
        to another sequence, where positions have no meaning.
    """
    queries, keys = query.shape[2], key.shape[2]
    flagged = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    mask, bias = allowed_and_bias(attention_mask, keys)
    if mask is None:
        causal, offset = flagged, keys - queries
    else:
        made = _made(attention_mask)
        if made is None and positional:
            made = _found(mask, flagged, queries, keys)
        causal, offset = made or (False, None)
    if bias is not None and not torch.compiler.is_compiling() and not bias.any():
        bias = None
    across = not causal and (queries > keys or (not flagged and is_cross_attention(module)))
    first = offset if causal else keys - queries
    return Visibility(mask, first, causal, queries, query.device), bias, across


def is_cross_attention(module: nn.Module) -> bool:
    """Whether a non-causal attention module looks from one sequence into another."""
    return _is_marked_cross(module) or bool(getattr(module, "is_decoder", False))


def _is_marked_cross(module: nn.Module) -> bool:
    return bool(getattr(module, "is_cross_attention", False)) or "Cross" in type(module).__name__


def _made(mask: Tensor) -> tuple[bool, int | None] | None:
    """What :func:`mask_function` noted of a mask that was not changed since."""
    made = getattr(mask, _MADE, None)
    return made[:2] if made is not None and made[2] == _version(mask) else None


def _version(mask: Tensor) -> int | None:
    return None if torch.compiler.is_compiling() else mask._version


def _found(mask: Tensor, flagged: bool, queries: int, keys: int) -> tuple[bool, None]:
    """Whether a caller's own mask is causal: no query sees a key after its own."""
    if torch.compiler.is_compiling():  # a graph cannot read data
        return flagged, None
    own = torch.arange(queries, device=mask.device) + (keys - queries)
    later = torch.arange(keys, device=mask.device) > own.unsqueeze(-1)
    return not (mask & later).any(), None
