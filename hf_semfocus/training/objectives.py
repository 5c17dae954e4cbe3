"""Objectives for the training loop: summed loss in nats, predictions and references."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from ..data.rows import IGNORED

Objective = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]
"""From a model and its inputs to the loss, summed over the units, and to predictions and references.

Predictions and references are int64 of one shape; a reference of -100 is not a unit.
"""


def classification(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Objective of a classifier, whose units are examples: cross entropy in nats, predicted and true classes.

    Args:
        model: returns ``logits`` ``[examples, classes]``.
        inputs: its inputs, and ``labels`` int64 ``[examples]``.
    """
    labels = inputs["labels"]
    logits = model(**{name: tensor for name, tensor in inputs.items() if name != "labels"}).logits
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum"), logits.argmax(-1), labels


def causal_lm(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Objective of a causal language model, whose units are the labels after the first position that are not -100.

    Args:
        model: returns ``logits`` ``[rows, length, vocabulary]``.
        inputs: its inputs, and ``labels`` int64 ``[rows, length]``; those at a position are predicted before it.
    """
    labels = nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
    inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    # with a cache Transformers would not look for pieces in the positions, and they would see each other
    return _totals(model(**inputs, use_cache=False).logits, labels)


def masked_lm(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Objective of a masked language model, whose units are the labels that are not -100.

    Args:
        model: returns ``logits`` ``[rows, length, vocabulary]``.
        inputs: its inputs, and ``labels`` int64 ``[rows, length]``. An ``attention_mask``, if there is one, is bool
            ``[rows, 1, length, length]``.

    Raises:
        ValueError: the model, or its attention implementation, takes no such mask.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    if "attention_mask" in inputs:
        inputs["attention_mask"] = _fitting(extract_model_from_parallel(model), inputs["attention_mask"])
    return _totals(model(**inputs).logits, labels)


def token_classification(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Objective of a model that classifies tokens, whose units are the labels that are not -100.

    Args:
        model: returns ``logits`` ``[rows, length, classes]``.
        inputs: its inputs, and ``labels`` int64 ``[rows, length]``.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    loss = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, logits.argmax(-1), labels


OBJECTIVES = {
    "causal_lm": causal_lm,
    "classification": classification,
    "masked_lm": masked_lm,
    "token_classification": token_classification,
}
"""By the name of what a model is for, see :mod:`hf_semfocus.kinds`."""


def _fitting(model: nn.Module, mask: Tensor) -> Tensor:
    """The mask in the form the attention implementation takes; given a bool one, some would add 1 and 0."""
    name = model.config._attn_implementation or "eager"
    if "flash" in name:
        raise ValueError(
            f"attn_implementation={name!r} cannot keep packed documents apart in an encoder; expected 'sdpa', 'eager' "
            "or one of this package's mechanisms"
        )
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        raise ValueError(
            f"{type(model).__name__} has layers with a sliding window, which the mask of packed documents would open; "
            "expected an encoder with full attention in every layer, such as BERT or RoBERTa"
        )
    if name not in ("eager", "flex_attention"):
        return mask
    return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, torch.finfo(model.dtype).min)


def _totals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = labels != IGNORED
    # the loss needs two more tensors of this size in float32: where few labels count, only for them
    if 2 * int(chosen.sum()) < chosen.numel():
        logits, labels = logits[chosen], labels[chosen]
    logits, labels = logits.flatten(0, -2), labels.flatten()
    loss = nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return loss, logits.argmax(-1), labels
