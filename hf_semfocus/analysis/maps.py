"""Attention maps: the weights of every layer and head, dense or sparse, of any model that ``capture`` can watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..backends import eager
from ..hf import dense
from ..hf.observe import Call
from ..hf.support import UnsupportedModelError


@torch.no_grad()
def attention_maps(model: nn.Module, **inputs: Tensor) -> list[Tensor]:
    """The attention weights of one forward pass, in the form that bertviz takes.

        maps = hf_semfocus.analysis.attention_maps(model, **inputs)
        bertviz.head_view(maps, tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]))

    They are computed by the formula in float32, whichever backend the model attends with; those of a sparse attention
    have exact zeros. The model need not be asked for weights, and what it computes does not change.

    Args:
        model: any model that goes through Transformers' attention interface, on its device.
        **inputs: of the model.

    Returns:
        For every call of an attention, in order: float32 ``[batch, heads, queries, keys]`` on the CPU.

    Raises:
        UnsupportedModelError: no call of an attention was seen.
    """
    maps: list[Tensor] = []

    def tell(call: Call) -> None:
        with torch.autocast(call.problem.query.device.type, enabled=False):
            _, weights = eager.attend(call.mechanism, call.problem, return_weights=True)
        maps.append(weights.float().cpu())

    with dense.watch(model, tell):
        model(**inputs)
    if not maps:
        raise UnsupportedModelError(
            f"no attention of {type(model).__name__} was seen; expected a model that goes through Transformers' "
            "attention interface"
        )
    return maps


def save_maps(path: str | Path, tokens: Sequence[str], maps: Sequence[Tensor]) -> None:
    """Write attention maps to a file of NumPy.

        held = numpy.load(path)
        maps = [torch.from_numpy(held[f"layer_{layer}"]) for layer in range(len(held) - 1)]
        bertviz.head_view(maps, held["tokens"].tolist())

    Args:
        path: ends in ``.npz``.
        tokens: of the row.
        maps: of :func:`attention_maps`.

    Raises:
        ValueError: another ending.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"{str(path)!r} has no known format; expected a name that ends in .npz")
    arrays = {f"layer_{layer}": weights.numpy() for layer, weights in enumerate(maps)}
    np.savez_compressed(path, tokens=np.asarray(tokens, dtype=np.str_), **arrays)
