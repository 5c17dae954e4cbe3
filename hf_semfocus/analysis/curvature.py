"""Largest eigenvalues of the Hessian of a model's loss (its sharpness), by Hessian-vector products.

Needs SciPy, which comes with the extra ``hf_semfocus[analysis]``. A product is the gradient of a gradient's inner
product with the vector. ``curvlinops`` 3.0 takes forward-mode derivatives of ``jacrev`` instead; with PyTorch 2.13
there is none of SiLU's, and that of a LayerNorm with weights is wrong.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data.batches import Rows, iterate
from ..hf.parameters import SETTINGS, stored_settings
from ..hf.settings import is_ours
from ..hf.switching import configurations
from .surface import Objective

DIFFERENTIABLE = ("eager", "sdpa")
"""Transformers' attentions that have a second derivative: the formula, and PyTorch's where it computes the formula."""


@dataclass(frozen=True)
class Sharpness:
    """Largest eigenvalues of a Hessian.

    Attributes:
        eigenvalues: largest first, in nats per squared unit of the weights.
        residuals: ``||H v - lambda v||`` for each, with ``||v|| = 1``: a bound of its error.
        products: number of Hessian-vector products.
    """

    eigenvalues: tuple[float, ...]
    residuals: tuple[float, ...]
    products: int


def sharpness(
    model: nn.Module,
    rows: Rows,
    objective: Objective,
    *,
    count: int = 1,
    batch_size: int = 250,
    tolerance: float = 1e-4,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Sharpness:
    """Largest eigenvalues of the Hessian of the mean loss over all rows, with respect to all trainable weights.

    It is computed on a copy of the model, without dropout, whose attention is computed by the formula (``eager``):
    fused kernels have no second derivative. Where a selection such as top-k, or a ReLU, switches there is none either;
    the Hessian is that of the smooth piece that the weights are in.

    Args:
        model: left unchanged.
        rows: rows over which the loss is averaged.
        objective: of :mod:`hf_semfocus.training`, such as ``classification`` or ``causal_lm``.
        count: number of eigenvalues.
        batch_size: rows of a forward pass; it does not change the result.
        tolerance: relative, of the eigenvalues.
        dtype: of the copy.
        seed: of the start vector of the iteration.

    Raises:
        ImportError: SciPy is not installed.
        ValueError: the model's attention has no second derivative.
        scipy.sparse.linalg.ArpackNoConvergence: the iteration did not converge.
    """
    try:
        from scipy.sparse.linalg import LinearOperator, eigsh
    except ImportError:
        raise ImportError("eigenvalues need SciPy; pip install 'hf_semfocus[analysis]'") from None
    formula = _by_formula(copy.deepcopy(model).to(dtype).eval())
    parameters = [parameter for parameter in formula.parameters() if parameter.requires_grad]
    size = sum(parameter.numel() for parameter in parameters)
    products = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return hessian_product(formula, rows, objective, parameters, vector.ravel(), batch_size)

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    values, vectors = eigsh(operator, k=count, which="LA", tol=tolerance, v0=start)
    residuals = [float(np.linalg.norm(product(v) - value * v)) for value, v in zip(values, vectors.T, strict=True)]
    return Sharpness(tuple(map(float, values[::-1])), tuple(residuals[::-1]), products)


def hessian_product(
    model: nn.Module, rows: Rows, objective: Objective, parameters: list[Tensor], vector: np.ndarray, batch_size: int
) -> np.ndarray:
    """Product of the Hessian of the mean loss over all rows with a flat vector over all parameters, in float64.

    PyTorch's own attention is computed by the formula.
    """
    given = torch.from_numpy(vector).to(parameters[0])
    parts = [part.view_as(p) for part, p in zip(given.split([p.numel() for p in parameters]), parameters, strict=True)]
    order, total = np.arange(len(rows)), np.zeros(len(vector))
    for batch in iterate(rows, order, batch_size, device=parameters[0].device):
        with sdpa_kernel(SDPBackend.MATH):
            loss, *_ = objective(model, batch.parts[0].inputs)
        gradients = torch.autograd.grad(
            loss / rows.units(order), parameters, create_graph=True, materialize_grads=True
        )
        along = sum((gradient * part).sum() for gradient, part in zip(gradients, parts, strict=True))
        second = torch.autograd.grad(along, parameters, materialize_grads=True)
        total += torch.cat([part.flatten() for part in second]).double().cpu().numpy()
    return total


def _by_formula(model: Any) -> Any:
    """Have the backend ``eager`` compute this package's mechanisms in a model.

    Raises:
        ValueError: an attention that has no formula with a second derivative.
    """
    for config in configurations(model):
        name = config._attn_implementation or "eager"
        if is_ours(name):
            config.__dict__[SETTINGS] = {**(stored_settings(config) or {}), "backend": "eager"}  # others in the name
        elif name not in DIFFERENTIABLE:
            raise ValueError(
                f"attn_implementation={name!r} is a fused kernel, which has no second derivative; expected "
                f"{', '.join(DIFFERENTIABLE)} or one of this package's mechanisms"
            )
    return model
