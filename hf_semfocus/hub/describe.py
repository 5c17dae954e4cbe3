"""Describe a model by running it once: which layer uses which attention, and which class loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from .. import kinds, mechanisms
from ..hf import UnsupportedModelError, verify
from ..hf.settings import is_ours
from ..kinds import Kind
from ..mechanisms import Mechanism

FULL = Mechanism.name


@dataclass(frozen=True)
class Description:
    """What a card says about a model.

    Attributes:
        name: its class.
        layers: attention of every attention layer, all parameters stated.
        kind: its kind; None if no Auto class builds it.
        loader, package: the class that loads it, and the package of that class.
        ours: whether it is a model of this library, which Transformers knows once ``hf_semfocus.models`` is imported.
        parameters: number of parameters.
        adapter: type of the PEFT adapter, such as "LORA"; None for a whole model.
        num_labels: number of classes; None if it does not classify.
    """

    name: str
    layers: dict[str, str]
    kind: Kind | None
    loader: str
    package: str
    ours: bool
    parameters: int
    adapter: str | None
    num_labels: int | None

    @cached_property
    def attentions(self) -> dict[str, list[str]]:
        """The layers of every attention in use."""
        found: dict[str, list[str]] = {}
        for layer, attention in self.layers.items():
            found.setdefault(attention, []).append(layer)
        return found

    @cached_property
    def mechanisms(self) -> list[Mechanism]:
        """The sparse mechanisms in use, without duplicates."""
        return [mechanisms.build(spec) for spec in self.specs]

    @cached_property
    def specs(self) -> list[str]:
        """The sparse attentions in use, where the heads of a layer differ, each of them."""
        each = [spec for attention in self.attentions for spec in attention.split(", ")]
        return [spec for spec in dict.fromkeys(each) if spec != FULL]


def describe(model: nn.Module, example_inputs: Mapping[str, Any] | None = None) -> Description:
    """Run the model once and describe it.

    Args:
        model: a Transformers model, or a PEFT model on one.
        example_inputs: its arguments; a few token ids by default.

    Raises:
        TypeError: neither kind of model.
        ValueError: it, or one of its layers, does not use one of our attentions, or it needs other inputs.
    """
    base = base_of(model)
    kind = next((kind for kind in kinds.KINDS if type(base) in kind.classes(base.config)), None)
    known = kind is not None or hasattr(transformers, type(base).__name__)
    return Description(
        name=type(base).__name__,
        layers=_layers(base, example_inputs),
        kind=kind,
        loader=kind.loader if kind else type(base).__name__,
        package="transformers" if known else type(base).__module__,
        ours=type(base).__module__.startswith("hf_semfocus.models"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapter=None if base is model else model.active_peft_config.peft_type.value,
        num_labels=base.config.num_labels if kind and kind.name.endswith("classification") else None,
    )


def base_of(model: nn.Module) -> PreTrainedModel:
    """The Transformers model itself, without adapters around it.

    Raises:
        TypeError: there is none.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    if not isinstance(base, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} is not a Transformers or PEFT model; unwrap it first, for example with "
            "accelerator.unwrap_model(model)"
        )
    return base


def _layers(model: PreTrainedModel, inputs: Mapping[str, Any] | None) -> dict[str, str]:
    names = [part.config._attn_implementation for part in model.modules() if isinstance(part, PreTrainedModel)]
    if not any(map(is_ours, names)):
        raise ValueError(
            f"the model's attn_implementation is {names[0]!r}; expected one of {', '.join(mechanisms.names())}"
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return verify(model, **(_default_inputs(model) if inputs is None else inputs))
    except UnsupportedModelError:
        raise
    except Exception as error:
        given = "a few token ids" if inputs is None else ", ".join(inputs)
        raise ValueError(
            f"cannot run {type(model).__name__} on {given} to see which layer uses which attention "
            f"({type(error).__name__}: {error}); expected example_inputs={{...}} that it can be called with"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def _default_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None) or 1
    ids = torch.arange(4, device=model.device).unsqueeze(0) % vocabulary
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**inputs, "decoder_input_ids": ids} if model.config.is_encoder_decoder else inputs
