"""Distributions of streams of numbers in little memory: exact up to a limit, then a quantile sketch.

The sketch is KLL (Karnin, Lang, Liberty 2016, arXiv 1603.05346) of Apache DataSketches: the fraction of numbers below
its value for quantile q is within :data:`RANK_ERROR` of q, with a confidence of 99 %. The extremes are exact.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 4096
"""Numbers kept exactly by default: 32 KiB."""
SIZE = 1024
"""Parameter of the sketch, which holds about three times as many numbers."""
RANK_ERROR = 0.0028


class Sketch:
    """The distribution of a stream of numbers.

    Args:
        exact: numbers up to which quantiles are exact; beyond, ``datasketches`` must be installed.
    """

    def __init__(self, exact: int = EXACT):
        self.exact, self.count = exact, 0
        self._kept: list[NDArray[np.float64]] = []
        self._kll: Any = None

    @property
    def rank_error(self) -> float:
        """Largest error of the rank of a quantile, as a fraction of all numbers."""
        return 0.0 if self._kll is None else RANK_ERROR

    def update(self, values: NDArray[np.float64]) -> None:
        """Add numbers: float64 ``[any]``, none of them NaN.

        Raises:
            ImportError: there are more than ``exact``, and ``datasketches`` is not installed.
        """
        self.count += len(values)
        self._kept.append(np.array(values, dtype=np.float64))
        if self._kll is not None or self.count > self.exact:
            self._condense()

    def merge(self, other: Sketch) -> None:
        """Add all numbers of another stream."""
        if other._kll is None:
            for values in other._kept:
                self.update(values)
            return
        self._condense()
        self._kll.merge(other._kll)
        self.count += other.count

    def quantiles(self, at: Sequence[float]) -> NDArray[np.float64]:
        """Quantiles ``at``, linearly interpolated; NaN without numbers."""
        if self._kll is not None:
            ends = {0: self._kll.get_min_value(), 1: self._kll.get_max_value()}
            return np.asarray([ends[q] if q in ends else self._kll.get_quantile(q) for q in at])
        if not self.count:
            return np.full(len(at), np.nan)
        return np.quantile(np.concatenate(self._kept), at)

    def state(self) -> dict[str, Any]:
        """The whole state, ready for JSON."""
        held = np.concatenate([np.empty(0), *self._kept]).tobytes() if self._kll is None else self._kll.serialize()
        kind = "values" if self._kll is None else "kll"
        return {"exact": self.exact, "count": self.count, kind: base64.b64encode(held).decode()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Sketch:
        """The sketch from what :meth:`state` returned."""
        made = cls(state["exact"])
        if "kll" in state:
            made._kll, made.count = _kll().deserialize(base64.b64decode(state["kll"])), state["count"]
        else:
            made.update(np.frombuffer(base64.b64decode(state["values"]), dtype=np.float64))
        return made

    def _condense(self) -> None:
        """Move the exact numbers into the sketch."""
        if self._kll is None:
            self._kll = _kll()(SIZE)
        for values in self._kept:
            self._kll.update(values)
        self._kept = []


def _kll() -> Any:
    try:
        from datasketches import kll_doubles_sketch
    except ImportError:
        raise ImportError(
            "quantiles of so many numbers need datasketches; pip install 'hf_semfocus[analysis]', or raise the "
            "limit of exact quantiles with capture(..., exact=...)"
        ) from None
    return kll_doubles_sketch
