"""Attention maps, dense beside sparse, for a pair, a sentence, a layer and a head of the reader's choice."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ..charts import Chart, Heat
from ..sections import Section, panel
from ..study import Pair, Side, Study

SCALE = 65535
"""What a weight of 1 is stored as."""
HTML = """
<form class="choices" onsubmit="return false">
 <label>models <select id="map-pair"></select></label>
 <label>sentence <select id="map-sentence"></select></label>
 <label>layer <select id="map-layer"></select></label>
 <label>head <select id="map-head"></select></label>
</form>
<div class="charts"><div id="map-dense" class="plot"></div><div id="map-sparse" class="plot"></div></div>
<form class="choices" onsubmit="return false"><label>query <select id="map-query"></select></label></form>
<div id="map-table" aria-live="polite"></div>
"""


@panel(40)
def attention_maps(study: Study) -> Section | None:
    """Maps that a script draws; as files, those of the first pair's first sentence in its middle layer."""
    pairs = [pair for pair in study.pairs if pair.sentences]
    if not pairs:
        return None
    sides = study.sides
    data = {
        "scale": SCALE,
        "sides": [_packed(side) for side in sides],
        "pairs": [
            {
                "name": pair.name,
                "dense": _index(sides, pair.dense),
                "sparse": _index(sides, pair.sparse),
                "sentences": [list(tokens) for tokens in pair.sentences],
            }
            for pair in pairs
        ],
    }
    words = [
        "A line is a query, a column a key. Point at a cell for its tokens and weight, or choose a query to list its "
        "keys. Both maps have one scale, from 0 to the largest weight of either; colors go with its square root."
    ]
    return Section("Attention maps", words, stills=_stills(pairs[0]), html=HTML, data=data, script="attention_maps.js")


def _index(sides: list[Side], side: Side) -> int:
    return next(number for number, each in enumerate(sides) if each is side)


def _packed(side: Side) -> dict[str, Any]:
    """Weights as 16-bit numbers, layer after layer, head after head, query after query."""
    return {
        "attention": side.attention,
        "heads": [len(layer) for layer in side.maps[0]] if side.maps else [],
        "sentences": [
            base64.b64encode(b"".join(np.rint(layer * SCALE).astype("<u2").tobytes() for layer in maps)).decode()
            for maps in side.maps
        ],
    }


def _stills(pair: Pair) -> list[Chart]:
    tokens, layer = pair.sentences[0], len(pair.dense.maps[0]) // 2
    labels = [f"{token} {place}" for place, token in enumerate(tokens)]
    return [
        Chart(
            f"attention_{which}",
            f"{side.name}, layer {layer}, head 0",
            "key (token, position)",
            "query (token, position)",
            heat=Heat(side.maps[0][layer][0], labels, labels, "weight", weights=True),
        )
        for which, side in (("dense", pair.dense), ("sparse", pair.sparse))
    ]
