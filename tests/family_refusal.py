"""Why a model class is refused: what its own attention is, found apart from what the refusal says."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any

import tiny_configs
import tiny_models
import torch
import transformers
from family_calls import Elsewhere, counted
from torch import nn
from transformers import PreTrainedModel

import hf_semfocus
from hf_semfocus.hf.layers import computes_attention, uses_interface


def reason(eager: PreTrainedModel, inputs: dict[str, Any], refusal: str) -> str | None:
    """Why a class is refused, by what it does under ``eager``; None where nothing speaks for it."""
    if passed := re.search(r"(\w+) passes '(\w+)'", refusal):
        return f"{passed[1]} passes `{passed[2]}`"
    with counted() as calls, Elsewhere() as elsewhere:
        tiny_models.run(eager, inputs)
    if elsewhere.places:
        return "attention of its own: " + ", ".join(sorted(elsewhere.places))
    found = own_attention(type(module) for module in eager.modules())  # some did not run
    return None if calls and found == "no attention" else found


def unbuilt(cls: type[PreTrainedModel], name: str) -> tuple[str, str]:
    """The refusal of a class of which no model runs, and why, by the code of its file; empty if there is none."""
    with contextlib.suppress(Exception), torch.device("meta"):
        for _, config in tiny_configs.configs(cls):
            try:
                if config is not None:
                    cls._from_config(config, attn_implementation=name)
            except hf_semfocus.UnsupportedModelError as error:
                refused = getattr(transformers, str(error).split()[0].rstrip(","), cls)  # maybe a part
                layers = [layer for layer in vars(sys.modules[refused.__module__]).values() if inspect.isclass(layer)]
                return str(error), own_attention(layer for layer in layers if issubclass(layer, nn.Module))
    return "", ""


def own_attention(layers: Iterable[type[nn.Module]]) -> str:
    """The reason that classes of layers give for a refusal."""
    others = [layer for layer in set(layers) if not issubclass(layer, PreTrainedModel) and not uses_interface(layer)]
    own = [layer for layer in others if computes_attention(layer)]
    own = own or [layer for layer in others if "Attention" in layer.__name__]  # without softmax
    names = sorted({layer.__name__ for layer in own})
    return f"attention of its own: {', '.join(names)}" if names else "no attention"
