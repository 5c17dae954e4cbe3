"""Random directions in the space of a model's weights, and the model moved along them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

NORMALIZATIONS = ("tensor", "filter")


@dataclass(frozen=True)
class Directions:
    """Two directions: for each a tensor per parameter of ``model.parameters()``.

    Attributes:
        first, second: of the parameters' shapes, types and devices.
    """

    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]

    @property
    def lengths(self) -> tuple[float, float]:
        """Euclidean lengths over all parameters."""
        return _length(self.first), _length(self.second)


def _length(direction: tuple[Tensor, ...]) -> float:
    return math.sqrt(math.fsum(float(part.double().square().sum()) for part in direction))


def random_directions(model: nn.Module, seed: int, normalization: str = "tensor") -> Directions:
    """Draw two directions as the paper's official scripts do.

    For one parameter after the other, in the order of ``parameters()``, d1 and then d2 are float32 standard normal
    numbers of the stream of ``torch.manual_seed(seed)`` on a CPU; torch's global stream is left alone. A direction is
    not normal any more where the parameter is 0.

    Args:
        model: its parameters are not changed.
        seed: of the random stream.
        normalization: "tensor" scales every tensor of a direction to the norm of its parameter, as the paper does;
            "filter" scales every row along the first dimension to the norm of the parameter's row, and leaves vectors
            (biases, norms) unmoved, after Li et al. (2018), arXiv 1712.09913.

    Raises:
        ValueError: an unknown normalization.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization={normalization!r}; expected one of {', '.join(NORMALIZATIONS)}")
    stream = torch.Generator(device="cpu").manual_seed(seed)
    drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in model.parameters():
        for direction in drawn:
            normal = torch.randn(parameter.shape, generator=stream, dtype=torch.float32, device="cpu")
            direction.append(_scaled(normal, parameter.detach(), normalization))
    return Directions(*map(tuple, drawn))


def _scaled(normal: Tensor, parameter: Tensor, normalization: str) -> Tensor:
    wide = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
    normal = normal.to(wide)
    if normalization == "tensor":
        normal = normal * (wide.norm() / normal.norm())
    elif wide.dim() < 2:
        normal = torch.zeros_like(wide)
    else:
        across = tuple(range(1, wide.dim()))
        own, drawn = (torch.linalg.vector_norm(each, dim=across, keepdim=True) for each in (wide, normal))
        normal = normal * (own / drawn)
    return normal.to(parameter.dtype)


@contextmanager
def moved(model: nn.Module, directions: Directions, x: float, y: float) -> Iterator[nn.Module]:
    """Yield the model with its weights at ``Theta + x d1 + y d2``, then restore them exactly."""
    parameters = list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, first, second in zip(parameters, directions.first, directions.second, strict=True):
                parameter.add_(first, alpha=x).add_(second, alpha=y)
        yield model
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)


def neighborhood(points: int, extent: float, radius: float, signed: bool = False) -> list[tuple[float, float]]:
    """Points (x, y) of a square grid near (0, 0), where the paper also measures its quantities.

        with analysis.capture(model) as record:
            for x, y in analysis.neighborhood(points=5, extent=0.1, radius=0.1):
                with analysis.moved(model, directions, x, y):
                    model(**batch)

    Args:
        points: points per side of the grid; an even number leaves out the center.
        extent: the grid is in [-extent, extent]^2.
        radius: limit of |x| and |y|.
        signed: compare x and y instead of their absolute values, as the official scripts do by mistake; this keeps
            all points with small or negative x and y.
    """
    axis = np.linspace(-extent, extent, points)
    near = axis[(axis if signed else np.abs(axis)) <= radius * (1 + 1e-9)]
    return [(float(x), float(y)) for x in near for y in near]
