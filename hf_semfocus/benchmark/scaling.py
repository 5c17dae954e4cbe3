"""Growth of time and memory with the sequence length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .contestants import DENSE

FEWEST = 3
"""Least number of lengths for an exponent."""


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent e of ``values ~ sizes ** e``: the slope of a line through the logarithms, by least squares.

    Raises:
        ValueError: fewer than two sizes, or a number that is not positive.
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        raise ValueError(f"sizes={list(sizes)!r}, values={list(values)!r}; expected two or more positive pairs")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def series(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Time and memory of every contestant with three or more lengths of the same problem.

    Args:
        results: the results of cases, as :func:`hf_semfocus.benchmark.run` returns them.

    Returns:
        A dict per series: ``name``, ``problem`` (sizes without the length), ``quantity`` ("seconds" or "megabytes"),
        ``sizes``, ``values`` and ``exponent``.
    """
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for result in results:
        case = result["case"]
        if case["queries"] != case["keys"]:
            continue
        problem = f"{case['batch']},{case['heads']},n,{case['head_dim']}"
        problem += " causal" if case["causal"] else " bidirectional"
        problem += "" if case["dtype"] == "float32" else f" {case['dtype']}"
        measured = {"seconds": {name: timing["median"] for name, timing in result["seconds"].items()}}
        measured["megabytes"] = {name: m["megabytes"] for name, m in result["memory"].items() if "megabytes" in m}
        for quantity, values in measured.items():
            for name, value in values.items():
                full = name if name in DENSE else f"{name} {case['mechanism']}"
                if value > 0:
                    found.setdefault((full, problem, quantity), {})[case["keys"]] = value
    fields = ("name", "problem", "quantity")
    made = []
    for key, points in found.items():
        if len(points) >= FEWEST:
            sizes, values = zip(*sorted(points.items()), strict=True)
            line = {"sizes": list(sizes), "values": list(values), "exponent": round(exponent(sizes, values), 3)}
            made.append({**dict(zip(fields, key, strict=True)), **line})
    return made
