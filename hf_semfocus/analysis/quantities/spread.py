"""How far scores lie apart.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), dispersion and separation.
"""

from torch import Tensor

from .base import of_queries
from .rows import Rows


@of_queries()
def dispersion(rows: Rows) -> Tensor:
    """Highest minus lowest score of the keys that a query sees (delta_s)."""
    return rows.highest(rows.visible) - rows.lowest(rows.visible)


@of_queries(needs_kept=True)
def kept_dispersion(rows: Rows) -> Tensor:
    """Highest minus lowest score of the keys that a query keeps (delta_h)."""
    return rows.highest(rows.kept) - rows.lowest(rows.kept)


@of_queries(needs_kept=True)
def separation(rows: Rows) -> Tensor:
    """Lowest kept minus highest dropped score (Delta_h); negative where others than the top are kept."""
    return rows.lowest(rows.kept) - rows.highest(rows.visible & ~rows.kept)


@of_queries(needs_kept=True)
def score_gap(rows: Rows) -> Tensor:
    """Score of rank m minus that of rank m + 1 for a query that keeps m keys."""
    return rows.ranked_score(rows.kept_count) - rows.ranked_score(rows.kept_count + 1)
