"""Where the mass of the dense softmax lies."""

import torch
from torch import Tensor

from .base import of_queries
from .rows import Rows

SHARE = 0.9
ROUNDING = 1e-6
"""What a sum of float32 weights may lack."""
FEW = 64
"""Keys that are looked at first, as they often have the mass."""


@of_queries()
def entropy(rows: Rows) -> Tensor:
    """Entropy of the dense softmax over the keys that a query sees, in nats."""
    return -torch.special.xlogy(rows.weights, rows.weights).sum(-1)


@of_queries(needs_kept=True)
def kept_mass(rows: Rows) -> Tensor:
    """Dense softmax mass of the keys that a query keeps."""
    return rows.weights.masked_fill(~rows.kept, 0.0).sum(-1).masked_fill(rows.visible_count == 0, torch.nan)


@of_queries()
def keys_of_90_percent(rows: Rows) -> Tensor:
    """Smallest number of keys with 90 % of the dense softmax mass."""
    total = rows.scores.masked_fill(~rows.visible, -torch.inf).logsumexp(-1, keepdim=True)
    count, keys = FEW, rows.scores.shape[-1]
    while True:
        before = (rows.top(count) - total).exp().cumsum(-1) < SHARE - ROUNDING
        if count >= keys or not before[..., -1].any():
            break
        count *= 8
    return (before.sum(-1) + 1).to(rows.scores.dtype).masked_fill(rows.visible_count == 0, torch.nan)


@of_queries(needs_kept=True)
def top_overlap(rows: Rows) -> Tensor:
    """Share of a query's m kept keys that are among the m of highest score."""
    bar = rows.ranked_score(rows.kept_count).unsqueeze(-1)
    return (rows.kept & (rows.scores >= bar)).sum(-1, dtype=bar.dtype) / rows.kept_count
