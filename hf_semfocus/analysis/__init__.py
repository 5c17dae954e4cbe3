"""Why focus helps, or does not: the quantities, conditions and pictures of arXiv 2506.14095, for any model.

A name is imported when it is first used. No module here has the name of a function that is public, which would hide
the function once the module is imported.
"""

from importlib import import_module
from typing import Any

_LATER = {
    "Condition": "claims",
    "conditions": "claims",
    "lambda_w": "claims",
    "lambda_x": "claims",
    "smallest_c2_w": "claims",
    "smallest_c2_x": "claims",
    "table": "claims",
    "Run": "runs",
    "Speedup": "paired",
    "Target": "runs",
    "TimeToTarget": "times",
    "QUANTITIES": "quantities",
    "Record": "records",
    "bands": "runs",
    "capture": "capturing",
    "find_runs": "runs",
    "read_records": "runs",
    "speedups": "paired",
    "times_to_target": "times",
    "draw_regions_w": "regions",
    "draw_regions_x": "regions",
    "Directions": "directions",
    "Landscape": "surface",
    "Sharpness": "curvature",
    "draw_landscapes": "surface_plots",
    "draw_lipschitz": "surface_plots",
    "landscape": "surface",
    "lipschitz": "slopes",
    "moved": "directions",
    "neighbourhood": "directions",
    "random_directions": "directions",
    "sharpness": "curvature",
    "border_jump": "proven",
    "largest_weight": "proven",
    "proven_lambda_w": "proven",
    "proven_lambda_x": "proven",
    "softmax_bound": "proven",
    "softmax_constant": "proven",
    "topk_constant": "proven",
    "topk_lambda_w": "proven",
}
"""Public names, and the module that each is in."""

__all__ = sorted(_LATER)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_LATER)
