"""A training step of a model with few keys: finite gradients, which gradient checkpointing does not change."""

from __future__ import annotations

from typing import Any

import tiny_models
import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

Gradients = dict[str, Tensor]


def check(eager: PreTrainedModel, ours: PreTrainedModel, inputs: dict[str, Any]) -> tuple[list[str], str]:
    """What is wrong with a training step, and what of it could not be compared as ``eager`` does not do it."""
    try:
        expected = step(eager, inputs)
    except Exception as error:
        return [], f"eager does not train: {type(error).__name__}: {error}"
    if not _finite(expected):
        return [], "eager's gradients are not finite"
    found = step(ours, inputs)
    problems = [] if _finite(found) else ["gradients are not finite"]
    if expected and not any(gradient.any() for gradient in found.values()):
        problems.append("all gradients are 0")
    if not ours.supports_gradient_checkpointing:
        return problems, "no gradient checkpointing"
    try:
        if not equal(expected, step(eager, inputs, checkpointed=True)):
            return problems, "eager's gradients differ with gradient checkpointing"
    except Exception as error:
        return problems, f"eager has no gradient checkpointing: {type(error).__name__}: {error}"
    if not equal(found, step(ours, inputs, checkpointed=True)) and equal(found, step(ours, inputs)):
        problems.append("gradient checkpointing changes gradients")
    return problems, ""


def step(model: PreTrainedModel, inputs: dict[str, Any], checkpointed: bool = False) -> Gradients:
    """The gradients of all parameters that have one, in training mode, of a loss that every output enters.

    Raises:
        ValueError: no output depends on the parameters.
    """
    try:
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return gradients(model.train(), inputs)
    finally:
        model.eval()
        if checkpointed:
            model.gradient_checkpointing_disable()


def gradients(model: PreTrainedModel, inputs: dict[str, Any]) -> Gradients:
    """The gradients of all parameters that have one, of a loss that every output enters.

    Raises:
        ValueError: no output depends on the parameters.
    """
    model.zero_grad()
    set_seed(0)
    out = tiny_models.call(model, inputs)
    found: dict[str, Tensor] = {}
    tiny_models.collect("", out, found)
    outputs = [value[value.isfinite()] for value in found.values() if value.requires_grad]
    if not outputs:
        raise ValueError("no output depends on the parameters")
    weights = torch.Generator().manual_seed(2)
    sum((value * torch.randn(value.shape, generator=weights)).mean() for value in outputs if len(value)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def equal(one: Gradients, other: Gradients) -> bool:
    """Whether the same parameters have the same gradients, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _finite(gradients: Gradients) -> bool:
    return all(bool(gradient.isfinite().all()) for gradient in gradients.values())
