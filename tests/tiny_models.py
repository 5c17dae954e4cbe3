"""A tiny random model of any class that Transformers can build, and inputs that it accepts.

Of the sizes in :mod:`tiny_configs` and the inputs in :mod:`tiny_inputs`, whatever combination runs first is taken.
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any

import torch
from tiny_configs import configs
from tiny_inputs import inputs, with_images
from torch import Tensor, nn
from transformers import PreTrainedModel

MOST_PARAMETERS = 40_000_000


class NotBuildableError(Exception):
    """No combination of sizes and inputs of a class runs; holds the first error of each."""


def build(cls: type[PreTrainedModel]) -> tuple[PreTrainedModel, dict[str, Any], str]:
    """A random model with the ``eager`` attention, inputs that it accepts, and how the sizes were made.

    Raises:
        NotBuildableError: neither sizes nor inputs were found.
    """
    errors: list[str] = []
    for how, config in configs(cls):
        if config is None:
            errors.append(how)
            continue
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in cls._from_config(copy.deepcopy(config)).parameters())
        except Exception:
            size = 0 if how == "tiny" else MOST_PARAMETERS + 1
        if size > MOST_PARAMETERS:
            errors.append(f"{how}: {size} parameters")
            continue
        try:
            torch.manual_seed(0)
            model = cls._from_config(config, attn_implementation="eager").eval()
        except Exception as error:
            errors.append(f"{how}: {type(error).__name__}: {error}")
            continue
        randomize(model)
        for chosen in inputs(model):
            error = _failure(model, chosen)
            if found := re.search(r"features and image tokens do not match.*features:? (\d+)", error):
                chosen = with_images(model, chosen, int(found[1])) or chosen
                error = _failure(model, chosen)
            if not error:
                return model, chosen, how
            shapes = {k: tuple(v.shape) for k, v in chosen.items() if isinstance(v, Tensor)}
            errors.append(f"{how} {shapes}: {error}")
    raise NotBuildableError(" | ".join(error.splitlines()[0][:200] for error in errors) or "no inputs")


def _failure(model: nn.Module, chosen: dict[str, Any]) -> str:
    """The error of a forward pass in a line; empty if there is none."""
    try:
        run(model, chosen)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def randomize(model: nn.Module) -> None:
    """Weights under which attention is sharp and every layer matters, whatever a class is initialized with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.dim() > 1:
                fan_in = max(1, parameter.numel() // max(1, parameter.shape[0]))
                parameter.copy_(noise * min(1.0, 1.5 * fan_in**-0.5))
            else:
                parameter.add_(noise * 0.1)


def without_cache(model: nn.Module) -> dict[str, bool]:
    """The argument that says so, of models that have it."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def call(model: nn.Module, chosen: dict[str, Any]) -> Any:
    """The output for copies of the inputs, as some models change theirs."""
    copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in chosen.items()}
    return model(**copies, **without_cache(model))


def run(model: nn.Module, chosen: dict[str, Any]) -> dict[str, Tensor]:
    """The floating tensors of the output, by where they stand in it."""
    torch.manual_seed(0)
    with torch.no_grad():
        out = call(model, chosen)
    found: dict[str, Tensor] = {}
    collect("", out, found)
    if not found:
        raise ValueError("the output has no floating tensor")
    return found


def collect(path: str, value: Any, found: dict[str, Tensor]) -> None:
    """Add the floating tensors of a part of an output to ``found``, by where they stand in it."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            found[path] = value.float()
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("past_key_values", "cache", "cache_params"):
                collect(f"{path}.{key}", part, found)
    elif isinstance(value, (list, tuple)):
        for key, part in enumerate(value):
            collect(f"{path}.{key}", part, found)
