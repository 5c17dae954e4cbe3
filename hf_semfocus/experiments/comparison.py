"""What a swap on a text has found: a table, a curve, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..reports import plots
from ..tables import html_table, markdown_table
from .swap import Point

TOLERANCE = 0.1
"""Share by which a perplexity may exceed that of full attention and still count as near."""


@dataclass(frozen=True)
class Comparison:
    """One model under several attentions, on one text; ``print`` and notebooks show it.

    Attributes:
        points: one for each attention, dense first: ``attention``, ``keys`` (the most that a query keeps; None for
            any number), ``eval_perplexity``, ``eval_loss`` (nats), ``eval_accuracy``, ``seconds`` per 1,000 tokens,
            and ``back_ends``.
        block_size: tokens of a row.
        tokens: of all rows together.
    """

    points: tuple[Point, ...]
    block_size: int
    tokens: int

    @property
    def verdict(self) -> str:
        """How few keys do, in words."""
        dense, *others = self.points
        level, near = dense["eval_perplexity"], f"within {TOLERANCE:.0%} of full attention's perplexity"
        scored = [point for point in others if math.isfinite(point["eval_perplexity"])]
        if not math.isfinite(level) or not scored:
            return f"Nothing can be said: the perplexity is {level:.4g} with full attention, and finite in no other."
        close = [point for point in scored if point["keys"] and point["eval_perplexity"] <= level * (1 + TOLERANCE)]
        if close:
            best = min(close, key=lambda point: (point["keys"], point["eval_perplexity"]))
            found = f"The fewest keys that stay {near} ({level:.2f}) are {best['keys']} of {self.block_size}:"
        else:
            best = min(scored, key=lambda point: point["eval_perplexity"])
            found = f"No attention with few keys stays {near} ({level:.2f}); the nearest is"
        return (
            f"{found} `{best['attention']}` with {best['eval_perplexity']:.2f} ({self._difference(best):+.1%}). "
            f"This is the model as it is, on {self.tokens:,} tokens; training with few keys can narrow the gap."
        )

    def draw(self, path: str | Path, title: str = "") -> None:
        """Draw the perplexity against the number of keys.

        Args:
            path: image file to write; the suffix decides the format.
            title: of the picture.

        Raises:
            ImportError: matplotlib is not installed.
        """
        points = [{**point, "seed": 0} for point in self.points]
        plots.swap(points, [], {point["attention"]: point["keys"] for point in points}, Path(path), title)

    def __str__(self) -> str:
        return f"{markdown_table(self._cells())}\n\n{self.verdict}"

    def _repr_html_(self) -> str:
        return html_table(self._cells(), self.verdict)

    def _difference(self, point: Point) -> float:
        """Share by which a perplexity exceeds the dense one."""
        return point["eval_perplexity"] / self.points[0]["eval_perplexity"] - 1

    def _cells(self) -> list[list[str]]:
        cells = [["attention", "keys kept", "perplexity", "to full attention", "s / 1,000 tokens", "backend"]]
        for number, point in enumerate(self.points):
            keys, difference = point["keys"], self._difference(point)
            cells.append(
                [
                    point["attention"],
                    "all" if number == 0 else "any number" if keys is None else f"{keys} of {self.block_size}",
                    f"{point['eval_perplexity']:.2f}",
                    f"{difference:+.1%}" if number else "",
                    f"{point['seconds']:.2f}",
                    ", ".join(point["back_ends"]),
                ]
            )
        return cells
