"""The matrices of an attention layer and of its block's MLP, found by their names in Transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..hf.layers import uses_interface
from ..hf.support import UnsupportedModelError

SEPARATE = ("{}_proj", "{}", "{}_lin", "linear_{}", "to_{}")
"""Names of the three projections of a layer, with q, k and v (or query, key and value) in place of the braces."""
CONCATENATED = ("c_attn", "qkv_proj", "Wqkv", "qkv", "qkv_linear")
"""Names of one projection whose outputs are all queries, then all keys, then all values."""
INTERLEAVED = ("query_key_value",)
"""Names of one projection whose outputs are query, key and value of the first head, then of the second, and so on."""
WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
HEADS = ("num_heads", "num_attention_heads", "n_heads")


@dataclass(frozen=True)
class Heads:
    """Projections of the heads of a layer with their biases as the last column: ``[heads, head_dim, inputs + 1]``.

    Attributes:
        query, key, value: float64; key and value heads are repeated to the number of query heads.
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float


def heads_of(layer: nn.Module) -> Heads:
    """The projections of an attention layer.

    Raises:
        UnsupportedModelError: none has a known name, or the sizes do not fit the number of heads.
    """
    found = _separate(layer) or _fused(layer)
    heads = _attribute(layer, HEADS)
    if found is None or heads is None:
        raise UnsupportedModelError(
            f"{type(layer).__name__} has no query, key and value projections under a known name; expected "
            f"{', '.join(SEPARATE)} or one of {', '.join((*CONCATENATED, *INTERLEAVED))}"
        )
    width = _attribute(layer, WIDTHS) or found[0].shape[0] // heads
    if found[0].shape[0] != heads * width or any(each.shape[0] % width for each in found):
        rows = [each.shape[0] for each in found]
        raise UnsupportedModelError(
            f"{type(layer).__name__} projects to {rows} numbers; expected {heads} query heads of {width}, and key and "
            "value heads of the same width"
        )
    query, key, value = (each.unflatten(0, (-1, width)) for each in found)
    repeats = heads // key.shape[0]
    scale = getattr(layer, "scaling", None)
    scale = scale if isinstance(scale, float) else width**-0.5
    return Heads(query, key.repeat_interleave(repeats, 0), value.repeat_interleave(repeats, 0), scale)


def mlp_of(model: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    """The matrices of an attention layer's block outside of attention, biases as the last column.

    Args:
        model: the model, which has the layer in a list of blocks.
        path: of the attention layer.

    Yields:
        Path and float64 ``[outputs, inputs + 1]``. Experts whose matrices are one tensor are left out.
    """
    parts = path.split(".")
    prefixes = [".".join(parts[:end]) for end in range(1, len(parts))]
    block = next((each for each in prefixes if isinstance(model.get_submodule(_parent(each)), nn.ModuleList)), None)
    if block is None:
        return
    skipped: list[str] = []
    for name, module in model.get_submodule(block).named_modules(prefix=block):
        if any(name.startswith(f"{above}.") for above in skipped):
            continue
        if "Attention" in type(module).__name__ or uses_interface(type(module)):
            skipped.append(name)
        elif _is_linear(module):
            skipped.append(name)
            yield name, matrix(module)


def matrix(linear: nn.Module) -> Tensor:
    """Weight and bias of a linear layer, adapters included: float64 ``[outputs, inputs + 1]``."""
    if (base := getattr(linear, "base_layer", None)) is not None:
        found = matrix(base)
        for adapter in () if linear.merged else linear.active_adapters:
            delta = linear.get_delta_weight(adapter).detach().double()
            found[:, :-1] += delta.T if isinstance(base, Conv1D) else delta
        return found
    weight = linear.weight.detach()
    if weight.dim() != 2 or not weight.is_floating_point():
        raise UnsupportedModelError(
            f"{type(linear).__name__} has a weight of shape {tuple(weight.shape)} and {weight.dtype}; expected a "
            "matrix of floating numbers, not quantized ones"
        )
    weight = (weight.T if isinstance(linear, Conv1D) else weight).double()
    bias = getattr(linear, "bias", None)
    column = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
    return torch.cat([weight, column.unsqueeze(-1)], -1)


def _separate(layer: nn.Module) -> list[Tensor] | None:
    for pattern in SEPARATE:
        for letters in (("q", "k", "v"), ("query", "key", "value")):
            found = [getattr(layer, pattern.format(letter), None) for letter in letters]
            if all(map(_is_linear, found)):
                return [matrix(each) for each in found]
    if _is_linear(getattr(layer, "q_attn", None)):  # cross-attention of GPT-2
        return [matrix(layer.q_attn), *matrix(layer.c_attn).chunk(2)]
    return None


def _fused(layer: nn.Module) -> list[Tensor] | None:
    name = next((each for each in (*CONCATENATED, *INTERLEAVED) if _is_linear(getattr(layer, each, None))), None)
    heads = _attribute(layer, HEADS)
    if name is None or heads is None:
        return None
    packed = matrix(getattr(layer, name))
    if name in INTERLEAVED:
        return [each.flatten(0, 1) for each in packed.unflatten(0, (heads, 3, -1)).unbind(1)]
    key_heads = _attribute(layer, ("num_key_value_heads",)) or heads
    width = len(packed) // (heads + 2 * key_heads)
    return list(packed.split([heads * width, key_heads * width, key_heads * width]))


def _attribute(layer: nn.Module, names: tuple[str, ...]) -> Any:
    """The first of the attributes that a layer, or else its configuration, has."""
    for holder in (layer, getattr(layer, "config", None)):
        for name in names:
            if isinstance(value := getattr(holder, name, None), int):
                return value
    return None


def _is_linear(module: Any) -> bool:
    if isinstance(module, nn.Linear | Conv1D):
        return True
    return isinstance(module, nn.Module) and _is_linear(getattr(module, "base_layer", None))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
