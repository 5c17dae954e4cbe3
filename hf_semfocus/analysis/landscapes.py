"""A loss landscape and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Landscape:
    """Loss and accuracy at ``Theta + axis[i] d1 + axis[j] d2``.

    Attributes:
        axis: float64 ``[points]``, from -extent to extent.
        loss: float64 ``[points, points]``, mean over the rows' units, in nats.
        accuracy: float64 ``[points, points]``, share of correct units.
        lengths: Euclidean norms of d1 and d2 over all weights.
        settings: what was evaluated, and how.
    """

    axis: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    lengths: tuple[float, float]
    settings: dict[str, Any]

    @classmethod
    def load(cls, file: str | Path) -> Landscape:
        """Read a file of :func:`.landscape`; unfinished points are NaN."""
        held = json.loads(Path(file).read_text(encoding="utf-8"))
        return cls.made(held["settings"], held["lengths"], held["done"])

    @classmethod
    def made(cls, settings: dict[str, Any], lengths: tuple[float, float], done: list[list[float]]) -> Landscape:
        """A landscape from finished points ``[i, j, loss, accuracy]``."""
        points, extent = settings["points"], settings["extent"]
        values = np.full((2, points, points), np.nan)
        for i, j, *found in done:
            values[:, i, j] = found
        return cls(np.linspace(-extent, extent, points), *values, tuple(lengths), settings)


def read_done(file: Path, settings: dict[str, Any]) -> list[list[float]]:
    """Finished points in the file of a landscape with the same settings; none if there is no file.

    Raises:
        ValueError: it holds anything else.
    """
    if not file.exists():
        return []
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        before, done = held["settings"], held["done"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"file={str(file)!r} is not a landscape; expected a new file, or one of a landscape"
        ) from None
    changed = [
        f"{name}: {before.get(name)!r} -> {value!r}" for name, value in settings.items() if before.get(name) != value
    ]
    if changed:
        raise ValueError(f"file={str(file)!r} holds another landscape ({'; '.join(changed)}); expected a new file")
    return done
