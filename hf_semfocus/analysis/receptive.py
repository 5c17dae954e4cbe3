"""Which inputs reach a token through the weights of all layers, and which inputs meet, from attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def receptive_field(maps: Sequence[Tensor]) -> Tensor:
    """The inputs that reach every token through the weights of all layers and residual connections.

    The heads of a layer count together. Of a pattern that does not look at the input (bands, blocks, fixed random
    keys), these are all inputs that a token can depend on. Where content decides, an input also acts through the
    choice of keys without any weight, so that there may be more, and the field is that of these rows alone.

    Args:
        maps: of :func:`attention_maps`, one a layer in their order: ``[batch, heads, length, length]``.

    Returns:
        bool ``[batch, length (tokens), length (inputs)]``.

    Raises:
        ValueError: there are no maps, or they are not of one sequence that attends to itself.
    """
    shapes = [tuple(weights.shape) for weights in maps]
    if not shapes or any(len(shape) != 4 or shape[-1] != shape[-2] for shape in shapes):
        raise ValueError(f"maps have shapes {shapes}; expected [batch, heads, length, length] for every layer")
    if len({(batch, length) for batch, _, length, _ in shapes}) > 1:
        raise ValueError(f"maps have shapes {shapes}; expected one batch and length in all layers")
    seen = torch.eye(shapes[0][-1], dtype=torch.bool).expand(shapes[0][0], -1, -1)
    for weights in maps:
        seen = seen | _product(weights.gt(0).any(1), seen)
    return seen


def meeting(field: Tensor) -> Tensor:
    """Which pairs of inputs meet: both reach some token.

    A readout that is linear in a mean of tokens, as the paper's classifier, adds up functions of what single tokens
    depend on. So under a pattern that does not look at the input, it cannot compute the exclusive or of two inputs
    that never meet, however long it is trained. For top-k and its kin this does not follow: which keys are kept
    depends on those that are dropped, too.

    Args:
        field: of :func:`receptive_field`.

    Returns:
        bool ``[batch, length, length]``, symmetric.
    """
    return _product(field.transpose(-1, -2), field)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product of boolean matrices; counts are exact in float32 up to 2^24 tokens."""
    return (left.float() @ right.float()) > 0
