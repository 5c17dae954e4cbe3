"""Which models go through the attention interface: by class when a model is made, by call in ``verify``.

About a quarter of the model families in Transformers compute attention in code of their own. They accept any
``attn_implementation`` and then crash or, worse, run dense while their configuration says otherwise.
"""

from __future__ import annotations

import inspect
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from . import observe
from .settings import is_ours

INTERFACE = "ALL_ATTENTION_FUNCTIONS"


class UnsupportedModelError(ValueError):
    """A model, or one of its layers, does not compute its attention through the attention interface."""


def check_class(cls: type[PreTrainedModel], name: str) -> None:
    """Refuse a model class whose code never asks the attention interface.

    Raises:
        UnsupportedModelError: names the class and what to use instead.
    """
    if not cls._can_set_attn_implementation():
        raise _unsupported(cls, name)


def check_modules(model: PreTrainedModel, name: str) -> None:
    """Refuse a model without any attention module that asks the interface (Mamba, FNet).

    Raises:
        UnsupportedModelError: names the class and what to use instead.
    """
    # models made of several leave the question to their parts
    if not model.config.sub_configs and not any(_asks(type(module)) for module in model.modules()):
        raise _unsupported(type(model), name)


def verify(model: PreTrainedModel, **inputs: Any) -> dict[str, str]:
    """Run one forward pass and check that every attention layer computed its attention through us.

    Args:
        model: a model whose attention implementation is one of ours; wrapped (PEFT, DDP) is fine.
        **inputs: what to call it with, e.g. ``input_ids=...``; its ``dummy_inputs`` by default.

    Returns:
        The mechanism of every attention layer: ``{"h.0.attn": "topk_sparse:k=8", ...}``. Static patterns report
        ``full`` for cross-attention, where positions have no meaning.

    Raises:
        UnsupportedModelError: some layers did not come through; names them.
        ValueError: the model was not given one of our implementations.
    """
    name = model.config._attn_implementation
    used = {name} | {m.config._attn_implementation for m in model.modules() if isinstance(m, PreTrainedModel)}
    if not any(map(is_ours, used)):
        raise ValueError(f"the model's attn_implementation is {name!r}; expected one of hf_semfocus's names")
    with observe.watch() as seen, torch.no_grad():
        model(**(inputs or model.dummy_inputs))
    layers = {path: module for path, module in model.named_modules() if module in seen or is_leaf(module)}
    missed = [f"{path} ({type(module).__name__})" for path, module in layers.items() if module not in seen]
    if missed or not layers:
        raise UnsupportedModelError(
            f"{type(model).__name__}: {len(missed)} of {len(layers)} attention layers did not compute their "
            f"attention through {name!r}: {', '.join(missed) or 'the model has none'}"
        )
    return {path: seen[module].spec for path, module in layers.items()}


def _unsupported(cls: type, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{cls.__name__} computes attention in code of its own, not through Transformers' attention interface, so "
        f"attn_implementation={name!r} would crash or be ignored. Use attn_implementation='eager' (dense), or a "
        "family with the interface, such as GPT-2, GPT-NeoX, LLaMA, Qwen, OPT, BERT, RoBERTa, ModernBERT, T5, ViT"
    )


def is_leaf(module: nn.Module) -> bool:
    """Whether ``module`` is attention and holds no other attention."""

    def attends(m: nn.Module) -> bool:
        return "Attention" in type(m).__name__ or INTERFACE in _source(type(m))

    return attends(module) and not any(attends(m) for m in module.modules() if m is not module)


def _asks(cls: type[nn.Module]) -> bool:
    if INTERFACE in _source(cls):
        return True
    # attention that asks through a helper function of its file
    return "Attention" in cls.__name__ and INTERFACE in _source(sys.modules.get(cls.__module__))


@lru_cache(maxsize=4096)
def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""
