"""What a page shows: pairs of a dense and a sparse model, what was measured of them, and courses of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..compared import Condition, conditions
from ..landscapes import Landscape
from ..records import Record
from ..runs import Target


@dataclass(frozen=True)
class Side:
    """One model with one attention.

    Attributes:
        name: of the model and its attention, for lines and file names.
        attention: its name with parameters.
        record: what was captured of it.
        maps: for every sentence, the weights of every layer: float32 ``[heads, queries, keys]``.
        landscape: of its loss, if it was asked for.
    """

    name: str
    attention: str
    record: Record
    maps: Sequence[Sequence[np.ndarray]] = ()
    landscape: Landscape | None = None


@dataclass(frozen=True)
class Pair:
    """A dense and a sparse model on the same rows.

    Attributes:
        name: shown in titles.
        dense, sparse: the two.
        k: keys that a query of the sparse one keeps; None if there is no such number.
        keys: tokens of the longest row.
        rows, source: how many rows were measured, and of what.
        swapped: whether the two are one model whose attention was changed without training.
        sentences: tokens of the rows whose attention maps are shown.
    """

    name: str
    dense: Side
    sparse: Side
    k: int | None
    keys: int
    rows: int
    source: str
    swapped: bool
    sentences: Sequence[Sequence[str]] = ()

    @cached_property
    def judged(self) -> tuple[list[Condition], str]:
        """The paper's conditions over all layers and of each; or none, and why they cannot be stated."""
        if self.k is None:
            return [], f"{self.sparse.attention} keeps no fixed number of keys"
        try:
            return conditions(self.dense.record, self.sparse.record, self.k), ""
        except ValueError as error:
            if np.isnan(self.sparse.record.pooled("separation").quantiles([0.5])[0]):
                return [], f"no query saw more than the {self.k} keys that it keeps, so none was dropped"
            return [], str(error)

    @property
    def conditions(self) -> list[Condition]:
        """Those over all layers together; empty if they cannot be stated."""
        return [each for each in self.judged[0] if each.layer is None]


@dataclass(frozen=True)
class Course:
    """The records of a comparison's training, and what its runs were to reach."""

    name: str
    records: Sequence[Mapping[str, Any]]
    target: Target | None = None


@dataclass(frozen=True)
class Study:
    """All that a page shows."""

    pairs: Sequence[Pair]
    courses: Sequence[Course] = field(default=())

    @property
    def sides(self) -> list[Side]:
        """Every model with its attention, once."""
        return list({id(side): side for pair in self.pairs for side in (pair.dense, pair.sparse)}.values())
