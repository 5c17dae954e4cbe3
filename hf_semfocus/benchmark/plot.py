"""Time and memory against the length, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..figures import COLORS, STYLES, new_figure
from .contestants import OURS

LABELS = {"seconds": "seconds of a step", "megabytes": "peak memory of a step (MB)"}


def draw(scaling: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw the series of a run; ours solid, the others dashed.

    Args:
        scaling: field ``scaling`` of the results.
        path: image file to write; the suffix decides the format.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is nothing to draw.
    """
    if not scaling:
        raise ValueError("scaling=[]; expected a run of three or more lengths of one problem")
    figure = new_figure(figsize=(11, 5))
    several = len({line["problem"] for line in scaling}) > 1
    names = list(dict.fromkeys((line["name"], line["problem"]) for line in scaling))
    quantities = [quantity for quantity in LABELS if any(line["quantity"] == quantity for line in scaling)]
    for axis, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        ticks: set[int] = set()
        for line in scaling:
            if line["quantity"] == quantity:
                label = line["name"] + (f" [{line['problem']}]" if several else "")
                number = names.index((line["name"], line["problem"]))
                axis.plot(
                    line["sizes"],
                    line["values"],
                    marker="o",
                    color=COLORS[number % len(COLORS)],
                    linestyle=STYLES[0] if line["name"].startswith(OURS) else STYLES[1],
                    label=f"{label}: n^{line['exponent']:.2f}",
                )
                ticks.update(line["sizes"])
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(sorted(ticks), map(str, sorted(ticks)))
        axis.minorticks_off()
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
        axis.set_xlabel("n, tokens of a sequence")
        axis.set_ylabel(LABELS[quantity])
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
