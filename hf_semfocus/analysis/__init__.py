"""The quantities, conditions and plots of arXiv 2506.14095 for any model.

Names are imported on first use. No module here has the name of a public function, as the imported module would hide
the function.
"""

from ..lazy import lazy_imports

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
    "holm": "paired",
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
    "meeting": "receptive",
    "receptive_field": "receptive",
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

__getattr__, __dir__ = lazy_imports(__name__, _LAZY)
