"""Keys that many queries keep.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), in-degree beta and beta / k.
"""

from torch import Tensor

from .base import of_keys


@of_keys
def in_degree(degree: Tensor, k: int) -> Tensor:
    """Queries that keep a key (beta)."""
    return degree


@of_keys
def sink_ratio(degree: Tensor, k: int) -> Tensor:
    """Queries that keep a key, by the number of keys that a query keeps at most (beta / k)."""
    return degree / k
