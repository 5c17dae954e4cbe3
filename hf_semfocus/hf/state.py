"""Trainable parameters of a mechanism: the submodule ``semfocus`` of every attention layer.

They are made with the model, or when its attention is switched to a mechanism that has parameters. They are trained,
moved, saved and loaded like the layer's other parameters. Switching to another attention leaves them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..mechanisms import Mechanism, base_name, get
from .assigned import shares_of
from .layers import uses_interface
from .settings import is_ours

SLOT = "semfocus"
"""Submodule of an attention layer that holds them."""
OWNER = "_semfocus_owner"
"""Attribute of that submodule: the name of its mechanism."""


def owns_state(name: Any) -> bool:
    """Whether ``name`` (an ``attn_implementation``) is a mechanism that has trainable parameters."""
    return is_ours(name) and get(base_name(name)).owns_state()


def has_state(model: nn.Module) -> bool:
    """Whether a layer of ``model`` has trainable parameters of a mechanism."""
    return any(hasattr(module, OWNER) for module in model.modules())


def attach(model: PreTrainedModel) -> None:
    """Give every layer the parameters of its mechanism, unless it has them.

    Raises:
        ValueError: a layer's attention is not valid, or ``create_state`` did not return a module with
            ``reset_parameters``; no layer is changed then.
    """
    made: list[tuple[nn.Module, nn.Module]] = []
    for layer in model.modules():
        name = getattr(getattr(layer, "config", None), "_attn_implementation", None)
        if not is_ours(name) or not uses_interface(type(layer)) or isinstance(layer, PreTrainedModel):
            continue
        mechanism = shares_of(layer, name, None)[0].mechanism  # others have no parameters
        if mechanism.owns_state() and not _fits(mechanism, layer):
            weight = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
            with torch.device(weight.device):
                state = _create(mechanism, layer).to(weight.dtype)
                state.reset_parameters()
            setattr(state, OWNER, mechanism.name)
            made.append((layer, state.train(layer.training)))
    for layer, state in made:
        setattr(layer, SLOT, state)


def bound(mechanism: Mechanism, layer: nn.Module) -> Mechanism:
    """``mechanism`` with the parameters of ``layer``, if it has any.

    Raises:
        ValueError: the layer does not have them.
    """
    if not mechanism.owns_state():
        return mechanism
    state = getattr(layer, SLOT, None)
    if getattr(state, OWNER, None) != mechanism.name:
        raise ValueError(
            f"{type(layer).__name__} has no parameters of {mechanism.name!r}; expected a model that was made with it "
            "or switched to it, by set_attn_implementation or hf_semfocus.configure"
        )
    return mechanism.bound(state)


def initialize(
    original: Callable[..., None], model: PreTrainedModel, module: nn.Module, *args: Any, **kwargs: Any
) -> None:
    """Set the initial values of parameters that a checkpoint lacks, as Transformers does for its own."""
    if not hasattr(module, OWNER):
        original(model, module, *args, **kwargs)
    elif not all(
        getattr(tensor, "_is_hf_initialized", False) for tensor in module.state_dict(keep_vars=True).values()
    ):
        module.reset_parameters()
        module._is_hf_initialized = True


def _create(mechanism: Mechanism, layer: nn.Module) -> nn.Module:
    state = mechanism.create_state(layer, layer.config)
    if not isinstance(state, nn.Module) or not hasattr(state, "reset_parameters"):
        raise ValueError(
            f"{mechanism.name}: create_state() returned {type(state).__name__}; expected a torch.nn.Module with "
            "reset_parameters()"
        )
    return state


def _fits(mechanism: Mechanism, layer: nn.Module) -> bool:
    """Whether a layer has the parameters of ``mechanism`` already."""
    state = getattr(layer, SLOT, None)
    if getattr(state, OWNER, None) != mechanism.name:
        return False
    with torch.device("meta"):
        wanted = _create(mechanism, layer).state_dict()
    held = getattr(state, "original_module", state).state_dict()  # PEFT trains a copy beside the original
    return held.keys() == wanted.keys() and all(held[name].shape == each.shape for name, each in wanted.items())
