"""Attention masks of any type, split into visible keys and additive bias."""

from __future__ import annotations

import torch
from torch import Tensor


def allowed_and_bias(mask: Tensor | None, keys: int) -> tuple[Tensor | None, Tensor | None]:
    """Split a mask into allowed keys and additive bias.

    Args:
        mask: None; bool or integer (nonzero: may attend); or floating, added to the scores, where values at or
            below half the type's minimum (-inf included) mean "may not attend".
        keys: number of keys; a mask that is longer (a static cache) is cut.

    Returns:
        ``(allowed, bias)``: bool with at least 4 dimensions whose last is ``keys`` (None for None), and the finite
        part of a floating mask (None for the other kinds).
    """
    if mask is None:
        return None, None
    mask = mask.view((1,) * (4 - mask.dim()) + mask.shape)[..., :keys]
    if mask.shape[-1] != keys:
        mask = mask.expand(*mask.shape[:-1], keys)
    if not mask.is_floating_point():
        return mask.bool(), None
    allowed = mask > torch.finfo(mask.dtype).min / 2
    return allowed, mask.masked_fill(~allowed, 0.0)
