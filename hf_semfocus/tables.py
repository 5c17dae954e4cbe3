"""Tables in Markdown that also read well as plain text, in HTML, and the quartiles that their cells show."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns.

    Args:
        rows: the header and then the lines, all with the same number of cells; ``|`` in them is escaped.
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in ruled
    )


def html_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """The same in HTML, which notebooks show.

    Args:
        rows: the header, and then the lines.
        caption: text above the table.
    """
    lines = [
        "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row) + "</tr>"
        for kind, part in (("th", rows[:1]), ("td", rows[1:]))
        for row in part
    ]
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{above}{''.join(lines)}</table>"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile; infinite values (never reached) are larger than any other."""
    huge = 1e300
    found = np.quantile(np.minimum(np.asarray(values, dtype=np.float64), huge), [0.25, 0.5, 0.75])
    return tuple(math.inf if value > huge * 1e-3 else float(value) for value in found)
