"""The quantities, conditions and plots of arXiv 2506.14095 for any model.

Names are imported on first use. No module here has the name of a public function, as the imported module would hide
the function.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "capture": "capturing",
    "lambda_w": "claims",
    "lambda_x": "claims",
    "smallest_c2_w": "claims",
    "smallest_c2_x": "claims",
    "Condition": "compared",
    "conditions": "compared",
    "proven_table": "compared",
    "table": "compared",
    "Sharpness": "curvature",
    "sharpness": "curvature",
    "Directions": "directions",
    "moved": "directions",
    "neighborhood": "directions",
    "random_directions": "directions",
    "Landscape": "landscapes",
    "attention_maps": "maps",
    "save_maps": "maps",
    "spectral_norms": "norms",
    "Speedup": "paired",
    "speedups": "paired",
    "border_jump": "proven",
    "largest_weight": "proven",
    "softmax_bound": "proven",
    "softmax_constant": "proven",
    "topk_constant": "proven",
    "proven_lambda_w": "proven_attention",
    "proven_lambda_x": "proven_attention",
    "topk_lambda_w": "proven_attention",
    "QUANTITIES": "quantities",
    "Record": "records",
    "draw_regions_w": "regions",
    "draw_regions_x": "regions",
    "Run": "runs",
    "Target": "runs",
    "bands": "runs",
    "find_runs": "runs",
    "read_records": "runs",
    "lipschitz": "slopes",
    "landscape": "surface",
    "draw_landscapes": "surface_plots",
    "draw_lipschitz": "surface_plots",
    "TimeToTarget": "times",
    "times_to_target": "times",
}
"""Public names and their modules."""

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_LAZY)
