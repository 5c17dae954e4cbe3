"""Check that models use the attention interface: by class when a model is made, by call in ``verify``.

About a quarter of the model families in Transformers compute attention in code of their own. They accept any
``attn_implementation`` and then crash or silently run dense.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..mechanisms import Mechanism
from . import observe
from .layers import attention_layers, left_alone, table_user, uses_interface
from .settings import is_ours

FAMILIES = "GPT-2, GPT-NeoX, LLaMA, Qwen, OPT, BERT, RoBERTa, ModernBERT, T5, ViT"
"""Families that a refusal names."""


class UnsupportedModelError(ValueError):
    """A model, or one of its layers, does not compute its attention through the attention interface."""


def check_class(cls: type[PreTrainedModel], name: str) -> None:
    """Refuse a model class that does not use the attention interface, or has a table without our names.

    Raises:
        UnsupportedModelError: names the class and what to use instead.
    """
    if not cls._can_set_attn_implementation():
        raise _unsupported(cls.__name__, name)
    if (part := table_user(cls)) is not None:
        raise _unsupported(cls.__name__ if part is cls else f"{cls.__name__}, in its {part.__name__},", name)


def check_modules(model: PreTrainedModel, name: str, whole: bool) -> None:
    """Refuse a model with attention between tokens that would stay dense.

    Each model checks its own layers, and its submodels check theirs. A model without any attention is refused (Mamba,
    FNet), unless it is part of another one, such as a convolutional backbone.

    Args:
        model: the model to check.
        name: the attention.
        whole: whether it is not part of another model with that attention.

    Raises:
        UnsupportedModelError: names the class, its layers, and what to use instead.
    """
    inner = tuple(f"{path}." for path, part in model.named_modules() if path and isinstance(part, PreTrainedModel))
    layers = dict(attention_layers(model))
    if whole and not layers and not any("Attention" in type(module).__name__ for module in model.modules()):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no attention layers, so attn_implementation={name!r} would be ignored. "
            f"Expected a family with attention, such as {FAMILIES}"
        )
    if whole and not any(uses_interface(type(layer)) for layer in layers.values()):
        raise _unsupported(type(model).__name__, name)
    dense = {
        path: left_alone(model, path)
        for path, layer in layers.items()
        if not uses_interface(type(layer)) and not path.startswith(inner)
    }
    if refused := [f"{path} ({type(layers[path]).__name__})" for path, meaning in dense.items() if meaning is None]:
        raise _unsupported(f"{type(model).__name__}, in {_some(refused)},", name)
    if dense:
        others = [f"{path} ({meaning})" for path, meaning in dense.items()]
        warnings.warn(
            f"{type(model).__name__}: {name!r} leaves dense what is not attention between tokens: {_some(others)}",
            stacklevel=4,
        )


def is_part(model: PreTrainedModel) -> bool:
    """Whether a model is being made as a part of another one with one of our attentions."""
    frame = sys._getframe(1)
    while frame is not None:
        outer = frame.f_locals.get("self") if frame.f_code.co_name == "__init__" else None
        if isinstance(outer, PreTrainedModel) and outer is not model:
            config = outer.__dict__.get("config", frame.f_locals.get("config"))  # its own may not be set yet
            if is_ours(getattr(config, "_attn_implementation", None)):
                return True
        frame = frame.f_back
    return False


def verify(model: PreTrainedModel, **inputs: Any) -> dict[str, str]:
    """Run one forward pass and check that every attention layer computed its attention through this package.

    Args:
        model: a model whose attention implementation is one of ours; wrapped (PEFT, DDP) is fine.
        **inputs: its arguments, e.g. ``input_ids=...``; its ``dummy_inputs`` by default.

    Returns:
        The mechanism of every attention layer: ``{"h.0.attn": "topk_sparse:k=8", ...}``, or several where calls of a
        layer differ. Static patterns report ``full`` for cross-attention, where positions have no meaning, and so do
        layers that are left alone, such as a head that pools with one query.

    Raises:
        UnsupportedModelError: some layers did not; names them.
        ValueError: the model's attention implementation is none of ours.
    """
    name = model.config._attn_implementation
    used = {name} | {m.config._attn_implementation for m in model.modules() if isinstance(m, PreTrainedModel)}
    if not any(map(is_ours, used)):
        raise ValueError(f"the model's attn_implementation is {name!r}; expected one of hf_semfocus's names")
    seen: dict[nn.Module, list[str]] = defaultdict(list)
    with observe.watch(model, lambda call: seen[call.module].append(call.mechanism.spec)), torch.no_grad():
        model(**(inputs or model.dummy_inputs))
    layers = {path: module for path, module in model.named_modules() if module in seen} | dict(attention_layers(model))
    alone = {path for path, module in layers.items() if module not in seen and _left_alone(model, path)}
    missed = [f"{p} ({type(m).__name__})" for p, m in layers.items() if m not in seen and p not in alone]
    if missed or not layers:
        raise UnsupportedModelError(
            f"{type(model).__name__}: {len(missed)} of {len(layers)} attention layers did not compute their "
            f"attention through {name!r}: {', '.join(missed) or 'the model has none'}"
        )
    return {
        path: Mechanism.name if path in alone else ", ".join(dict.fromkeys(seen[module]))
        for path, module in layers.items()
    }


def _left_alone(model: PreTrainedModel, path: str) -> bool:
    return not uses_interface(type(model.get_submodule(path))) and left_alone(model, path) is not None


def _unsupported(what: str, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{what} computes attention in code of its own, not through Transformers' attention interface, so "
        f"attn_implementation={name!r} would crash or be ignored. Use attn_implementation='eager' (dense), name other "
        f"parts of the model only, as in {{'text_config': NAME}}, or a family with the interface, such as {FAMILIES}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
