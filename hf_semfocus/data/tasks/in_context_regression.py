"""In-context linear regression: what do noisy examples of a linear function predict for one more input?

The prediction is a mean over all examples, as in the constructions of arXiv 2212.07677, so that keeping few keys
should do harm: a control for claims that focus helps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .base import Task, register

_FEATURES = 3
_LEVELS = 4
_INPUTS = 2**_FEATURES
_QUARTILE = 0.6744897501960817  # of the standard normal distribution


@register
@dataclass(frozen=True)
class InContextRegression(Task):
    """Examples of an input and a quantized output, then an input; the label is the sign of its predicted output.

    Inputs are uniform vectors x of signs, and an output is y = w x / sqrt(3) + noise with normal w and noise, in four
    levels that are equally frequent. The prediction is that of least squares after a gradient step from 0, the sum of
    y (x x') over all examples, with levels at -1.5, -0.5, 0.5 and 1.5; the label is whether it is above 0. A sign
    keeps the task a classification, like all others here, with a target that can be reached. The training values are
    those of arXiv 2506.14095 for its tasks of this length. ValueError for a negative noise.

    Attributes:
        noise: standard deviation of the noise; that of the outputs without it is 1.
    """

    name = "in_context_regression"
    vocabulary = (
        *(f"{i:0{_FEATURES}b}:{level}" for i in range(_INPUTS) for level in range(_LEVELS)),
        *(f"{i:0{_FEATURES}b}:?" for i in range(_INPUTS)),
    )
    num_labels = 2
    epochs = 100
    separator = " "
    shortest = 2

    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(f"{self.name}: noise={self.noise}, expected a number of at least 0")

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Draw a function and its examples, and predict from them."""
        # One call for all draws keeps the first rows the same whatever the size.
        draws = rng.standard_normal((size, _FEATURES + self.max_length * (_FEATURES + 1)))
        weights, noise, inputs = np.split(draws, [_FEATURES, _FEATURES + self.max_length], axis=1)
        signs = np.where(inputs.reshape(size, self.max_length, _FEATURES) > 0, 1.0, -1.0)
        outputs = np.einsum("rnf,rf->rn", signs, weights) / math.sqrt(_FEATURES) + self.noise * noise
        edges = np.array([-_QUARTILE, 0.0, _QUARTILE]) * math.hypot(1.0, self.noise)
        levels = np.searchsorted(edges, outputs)
        examples, query = signs[:, :-1], signs[:, -1]
        products = np.einsum("rnf,rf->rn", examples, query)
        labels = ((levels[:, :-1] - (_LEVELS - 1) / 2) * products).sum(axis=1) > 0
        index = (signs > 0) @ (1 << np.arange(_FEATURES)[::-1])
        rows = np.concatenate([index[:, :-1] * _LEVELS + levels[:, :-1], _INPUTS * _LEVELS + index[:, -1:]], axis=1)
        return rows.tolist(), labels.astype(int).tolist()
