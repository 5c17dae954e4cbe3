"""Measure a model on rows: what ``capture`` records, attention maps of a few rows, and the landscape of its loss."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...analysis import attention_maps, capture, landscape
from ...analysis.page import Pair, Side
from ...hf.settings import resolve
from .inputs import Inputs
from .models import Model
from .pairs import Planned

MAP_WEIGHTS = 1_200_000
"""Weights that all attention maps of a page hold together: 3.2 MB in it."""
LONGEST_MAP = 48
"""Tokens of an attention map."""


@dataclass
class Measurement:
    """How every model is measured; none twice.

    Attributes:
        sides: how many models there are, which share the space for attention maps.
        sentences: rows whose attention maps are shown.
        points: of a side of the landscape; None for no landscape.
        folder: where landscapes are kept, so that an interrupted one goes on.
    """

    sides: int
    sentences: int
    points: int | None
    folder: Path
    _done: dict[Model, Side] = field(default_factory=dict)

    def pair(self, planned: Planned, inputs: Inputs) -> Pair:
        """Measure both models of a pair."""
        who = planned.name.partition(":")[0]
        dense, sparse = (self._side(model, who, inputs) for model in (planned.dense, planned.sparse))
        keys = max(batch["input_ids"].shape[-1] for batch in inputs.batches)
        mechanism, _ = resolve(sparse.attention, None)
        if (k := mechanism.budget(keys)) is None:
            raise ValueError(
                f"{mechanism.spec} lets a query keep any number of keys; expected a limit, as of topk_sparse"
            )
        shown = zip(inputs.tokens, dense.maps, strict=False)
        sentences = [tokens[: maps[0].shape[-1]] for tokens, maps in shown]
        swapped = planned.dense.path == planned.sparse.path
        return Pair(planned.name, dense, sparse, k, keys, len(inputs.batches), inputs.source, swapped, sentences)

    def _side(self, model: Model, who: str, inputs: Inputs) -> Side:
        if model not in self._done:
            self._done[model] = self._measured(model, f"{who}: {model.own_attention}", inputs)
        return self._done[model]

    def _measured(self, model: Model, name: str, inputs: Inputs) -> Side:
        loaded = model.load()
        with torch.no_grad(), capture(loaded) as record:
            for batch in inputs.batches:
                loaded(**batch)
        heads = len({(layer, head) for layer, head, _ in record.sketches})
        longest = min(LONGEST_MAP, math.isqrt(MAP_WEIGHTS // (self.sides * self.sentences * heads)))
        maps = []
        for batch in inputs.batches[: self.sentences]:
            first = {column: tensor[:, :longest] for column, tensor in batch.items()}
            maps.append([layer[0].numpy() for layer in attention_maps(loaded, **first)])
        held = None
        if self.points is not None:
            file = self.folder / f"landscape_{slug(name)}.json"
            held = landscape(loaded, inputs.rows, inputs.objective, points=self.points, file=file)
        return Side(name, model.own_attention, record, maps, held)


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "_", name)
