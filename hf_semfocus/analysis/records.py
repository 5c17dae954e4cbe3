"""What was captured of a model: the distribution of every quantity, per layer and head."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray

from ..files import write_text
from ..tables import html_table, markdown_table
from .quantities import QUANTITIES
from .sketches import EXACT, Sketch

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Those of the paper's scripts."""
STATE = b"hf_semfocus"
"""Name of the metadata of a Parquet file that holds what its rows do not."""


class Record:
    """Distributions of quantities of attention, over all queries (or keys) of all calls that were captured.

    Args:
        layers: the path of every attention layer; a layer's number is its place here.
        exact: as for :class:`~hf_semfocus.analysis.sketches.Sketch`.

    Attributes:
        sketches: by number of the layer, head and quantity.
        calls: calls of attention functions that were captured.
    """

    def __init__(self, layers: Sequence[str], exact: int = EXACT):
        self.layers, self.exact, self.calls = list(layers), exact, 0
        self.sketches: dict[tuple[int, int, str], Sketch] = {}

    def add(self, layer: int, head: int, quantity: str, values: NDArray[np.float64]) -> None:
        """Add values, float64 ``[any]``."""
        self.sketches.setdefault((layer, head, quantity), Sketch(self.exact)).update(values)

    def pooled(self, quantity: str, layer: int | None = None, head: int | None = None) -> Sketch:
        """The distribution of a quantity over all layers or one, and over all heads or one."""
        return self._pool(
            sketch
            for place, sketch in sorted(self.sketches.items())
            if place[2] == quantity and layer in (None, place[0]) and head in (None, place[1])
        )

    def rows(self, quantiles: Sequence[float] = QUANTILES) -> list[dict[str, Any]]:
        """Rows of ``layer``, ``head``, ``quantity``, ``quantile`` and ``value``.

        A layer of None stands for all layers together, a head of None for all heads. Those come first.
        """
        return [
            {"layer": layer, "head": head, "quantity": quantity, "quantile": at, "value": float(value)}
            for group in self._grouped()
            for (layer, head, quantity), sketches in group.items()
            for at, value in zip(quantiles, self._pool(sketches).quantiles(quantiles), strict=True)
        ]

    def medians(self) -> dict[str, float]:
        """The median of every quantity over all layers, by its name, and of every layer, as ``entropy/layer_0``."""
        over_all, by_layer, _ = self._grouped()
        return {
            quantity if layer is None else f"{quantity}/layer_{layer}": float(self._pool(sketches).quantiles([0.5])[0])
            for (layer, _, quantity), sketches in (over_all | by_layer).items()
        }

    def __str__(self) -> str:
        return markdown_table(self._cells())

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def _cells(self) -> list[list[str]]:
        """A table of every quantity over all layers and heads."""
        cells = [["quantity", "5 %", "median", "95 %", "values", "rank error", "meaning"]]
        over_all, *_ = self._grouped()
        for (*_, name), sketches in over_all.items():
            pooled = self._pool(sketches)
            values = [f"{value:.4g}" for value in pooled.quantiles([0.05, 0.5, 0.95])]
            meaning = QUANTITIES[name].meaning if name in QUANTITIES else ""
            cells.append([name, *values, f"{pooled.count:,}", f"{pooled.rank_error:.2%}", meaning])
        return cells

    def _grouped(self) -> list[dict[tuple[int | None, int | None, str], list[Sketch]]]:
        """Sketches by layer, head and quantity: of all layers together, of every layer, and of every head."""
        groups = [defaultdict(list) for _ in range(3)]
        for (layer, head, quantity), sketch in sorted(self.sketches.items()):
            for group, place in zip(groups, ((None, None), (layer, None), (layer, head)), strict=True):
                group[(*place, quantity)].append(sketch)
        return groups

    def _pool(self, sketches: Iterable[Sketch]) -> Sketch:
        made = Sketch(self.exact)
        for sketch in sketches:
            made.merge(sketch)
        return made

    def frame(self, quantiles: Sequence[float] = QUANTILES) -> pd.DataFrame:
        """:meth:`rows` as a table of pandas; layers and heads are nullable integers.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame(self.rows(quantiles)).astype({"layer": "Int64", "head": "Int64"})

    def merge(self, other: Record) -> None:
        """Add all that was captured in another record of the same model, e.g. by another process.

        Raises:
            ValueError: it has other layers.
        """
        if other.layers != self.layers:
            raise ValueError(f"a record of layers {other.layers} does not fit {self.layers}; expected the same model")
        self.calls += other.calls
        for place, sketch in other.sketches.items():
            self.sketches.setdefault(place, Sketch(self.exact)).merge(sketch)

    def gathered(self) -> Record:
        """The records of all processes together, the same in each; every process must call this."""
        if PartialState().num_processes == 1:
            return self
        first, *others = (Record._of(state) for state in gather_object([self._state()]))
        for other in others:
            first.merge(other)
        return first

    def save(self, path: str | Path) -> None:
        """Write everything to a file, from which :meth:`load` makes the same record.

        Args:
            path: ends in ``.json`` or ``.parquet``; the latter holds :meth:`rows` as its table.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        if _format(path) == ".json":
            write_text(path, json.dumps(self._state()))
            return
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(self.rows())
        pyarrow.parquet.write_table(table.replace_schema_metadata({STATE: json.dumps(self._state())}), path)

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: it is no such file.
        """
        path = Path(path)
        if _format(path) == ".json":
            text = path.read_text()
        else:
            import pyarrow.parquet

            text = (pyarrow.parquet.read_schema(path).metadata or {}).get(STATE, b"{}")
        try:
            return cls._of(json.loads(text))
        except (KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(f"{path} is not a record; expected what Record.save wrote") from None

    def _state(self) -> dict[str, Any]:
        sketches = [[*place, sketch.state()] for place, sketch in sorted(self.sketches.items())]
        return {"layers": self.layers, "exact": self.exact, "calls": self.calls, "sketches": sketches}

    @classmethod
    def _of(cls, state: dict[str, Any]) -> Record:
        made = cls(state["layers"], state["exact"])
        made.calls = state["calls"]
        made.sketches = {(layer, head, name): Sketch.of(held) for layer, head, name, held in state["sketches"]}
        return made


def _format(path: Path) -> str:
    if path.suffix not in (".json", ".parquet"):
        raise ValueError(f"{str(path)!r} has no known format; expected a name that ends in .json or .parquet")
    return path.suffix
