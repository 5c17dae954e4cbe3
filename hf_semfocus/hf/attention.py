"""The attention function that Transformers calls, registered under the same name as the mask function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache

from .. import backends
from ..attention.problem import Problem
from ..attention.visibility import Visibility
from ..mechanisms import Mechanism, base_name
from . import observe
from .assigned import Share, shares_of
from .layers import place
from .state import bound
from .support import UnsupportedModelError
from .visibility import mask_function, read

try:  # private, but the only sign that a model which does not pass on output_attentions wants weights
    from transformers.utils.output_capturing import _active_collector
except ImportError:
    _active_collector = None

REFUSED = {
    "indices": "keys chosen by the model's own learned indexer",
    "block_indices": "blocks chosen by the model's own learned indexer",
    "sinks": "sink logits per query",
    "cache": "the cache of continuous batching",
    "read_index": "the places of earlier keys in continuous batching",
    "write_index": "the places of new keys in continuous batching",
    "block_table": "blocks of continuous batching's cache",
}


def attention_function(spec: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function of the mechanism ``spec``, with Transformers' calling convention."""

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        softcap: float | None = None,
        position_bias: Tensor | None = None,
        s_aux: Tensor | None = None,
        sliding_window: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        refuse_cut_keys(module, spec, kwargs)
        shares = shares_of(module, spec, query.shape[1])
        watched = observe.watched(module)
        positional = watched or any(share.mechanism.positional for share in shares)
        visibility, bias, across = read(attention_mask, module, is_causal, query, key, positional)
        whole = assemble(module, query, key, value, visibility, bias, scaling, dropout, softcap, position_bias, s_aux)
        wanted = _wants_weights(kwargs)
        parts = []
        for heads, mechanism, backend in shares:
            problem = whole.of_heads(heads)
            if mechanism.positional:
                mechanism = _positional(mechanism, module, visibility.causal, across, query, key, sliding_window)
            mechanism = bound(mechanism, module)
            if mechanism.redraws and module.training:
                problem = problem.drawn()
            if watched:
                observe.saw(observe.Call(module, mechanism, problem, wanted, backend))
            parts.append(backends.attend(mechanism, problem, wanted, backend))
        output, weights = parts[0] if len(parts) == 1 else _joined(shares, parts)
        return output.transpose(1, 2).contiguous(), weights

    forward._semfocus = spec
    return forward


def _joined(shares: Sequence[Share], parts: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Outputs and weights of all heads, in order, from those of their shares."""
    heads = [head for share in shares for head in share.heads]
    output, weights = (None if part[0] is None else torch.cat(part, 1) for part in zip(*parts, strict=True))
    if heads == sorted(heads):
        return output, weights
    order = torch.tensor(sorted(range(len(heads)), key=heads.__getitem__), device=output.device)
    return output[:, order], None if weights is None else weights[:, order]


def refuse_cut_keys(module: nn.Module, name: str, kwargs: dict[str, Any]) -> None:
    """Refuse a call whose arguments select or locate keys in a way of the model's own.

    Raises:
        UnsupportedModelError: names the argument.
    """
    for argument, meaning in REFUSED.items():
        if kwargs.get(argument) is not None and not isinstance(kwargs[argument], Cache):
            raise UnsupportedModelError(
                f"{type(module).__name__} passes {argument!r} ({meaning}), which {name!r} would ignore; use the "
                "model's own attention, e.g. attn_implementation='eager'"
            )


def assemble(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility,
    bias: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
) -> Problem:
    """The problem of a call, from Transformers' arguments and the mask."""
    if position_bias is not None:
        position_bias = position_bias[..., : key.shape[2]]
        bias = position_bias if bias is None else bias + position_bias
    return Problem(
        query=query,
        key=key,
        value=value,
        visibility=visibility,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        bias=bias,
        softcap=softcap,
        sinks=s_aux,
        dropout_p=dropout if module.training else 0.0,
        layer=place(module)[0],
    )


def register(spec: str) -> None:
    """Register attention and mask function under the name ``spec``. Idempotent.

    Raises:
        ValueError: another library has registered an attention of that name.
    """
    if (name := base_name(spec)) != spec:
        register(name)  # which a configuration has whose parameters are set
    present = AttentionInterface._global_mapping.get(spec)
    if present is None:
        AttentionInterface.register(spec, attention_function(spec))
    elif not hasattr(present, "_semfocus"):
        raise ValueError(
            f"Transformers has an attention {spec!r} already, of {present.__module__}; expected another name"
        )
    AttentionMaskInterface.register(spec, mask_function)


def _positional(
    mechanism: Mechanism,
    module: nn.Module,
    causal: bool,
    across: bool,
    query: Tensor,
    key: Tensor,
    window: int | None,
) -> Mechanism:
    """The positional ``mechanism``, or full attention for a module that attends across two sequences.

    Raises:
        ValueError: the layer's sliding window hides the start of the sequence, which the mechanism needs.
    """
    if across:
        return Mechanism()
    queries, keys = query.shape[2], key.shape[2]
    cut = window is not None and (keys > window or (keys == window and queries < keys))
    if cut and mechanism.anchored(causal):
        raise ValueError(
            f"{mechanism.spec} counts positions from the start or end of the sequence, but {type(module).__name__} "
            f"sees only a sliding window of {window} out of {keys} keys; expected topk_sparse, bottomk_sparse, or "
            "banded_sparse (edge='cut' in encoders) without global tokens"
        )
    return mechanism


def _wants_weights(kwargs: dict[str, Any]) -> bool:
    if kwargs.get("output_attentions") or _active_collector is None:
        return True
    collector = _active_collector.get()
    return collector is not None and any("attentions" in key for key in collector)
