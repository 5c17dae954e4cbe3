"""Spectral norms of a model's weights, as they stand in the paper's bounds (arXiv 2506.14095).

Per head: Upsilon, of the value projection, and Gamma, of ``Wq^T Wk`` with the scale of the scores. Per block: B, of
the matrices of its MLP. Biases are an additional column. The paper's scripts divide Gamma by the root of the model's
width, which is the scale of the scores in its model with one head. Left out is what a layer applies to queries and
keys after projection: rotary embeddings, which differ by position (YaRN also scales them), and norms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..hf.layers import attention_layers
from .projections import heads_of, mlp_of


def spectral_norms(model: nn.Module) -> list[dict[str, Any]]:
    """Spectral norms of all attention layers and MLPs of a model.

    Args:
        model: a PyTorch model on any device; weights of any floating type, PEFT adapters included.

    Returns:
        Rows of ``layer`` (numbered as in a record), ``head``, ``quantity`` (``upsilon``, ``gamma`` or ``b``),
        ``matrix`` (a path, for ``b``) and ``value``.

    Raises:
        UnsupportedModelError: the projections of a layer have no known names, or are quantized.
    """
    rows, blocks = [], {}
    for number, (path, layer) in enumerate(attention_layers(model)):
        heads = heads_of(layer)
        found = {"upsilon": spectral_norm(heads.value), "gamma": heads.scale * product_norm(heads.query, heads.key)}
        for quantity, values in found.items():
            for head, value in enumerate(values.tolist()):
                rows.append(_row(number, head, quantity, None, value))
        blocks |= {name: (number, weight) for name, weight in mlp_of(model, path)}
    for name, (number, weight) in blocks.items():
        rows.append(_row(number, None, "b", name, spectral_norm(weight).item()))
    return rows


def spectral_norm(matrices: Tensor) -> Tensor:
    """The largest singular value of ``[..., rows, columns]``, float64 ``[...]``."""
    short = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    return torch.linalg.eigvalsh(short @ short.mT)[..., -1].clamp(min=0).sqrt()


def product_norm(a: Tensor, b: Tensor) -> Tensor:
    """The spectral norm of ``a^T b`` for ``[..., few, columns]``, float64 ``[...]``, without making the product."""
    return spectral_norm(torch.linalg.qr(a.mT).R @ torch.linalg.qr(b.mT).R.mT)


def _row(layer: int, head: int | None, quantity: str, matrix: str | None, value: float) -> dict[str, Any]:
    return {"layer": layer, "head": head, "quantity": quantity, "matrix": matrix, "value": value}
