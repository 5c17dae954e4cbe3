"""The page: one HTML file that needs nothing else, made from the sections of all panels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ...files import write_text
from . import panels, still
from .charts import Chart
from .interactive import figure, plotly_js
from .sections import Section, sections
from .study import Study

LARGEST = 10_000_000
"""Bytes that a page may have."""

assert panels  # which registers them


def write_page(study: Study, path: Path, title: str, subtitle: str = "") -> None:
    """Write the page.

    Args:
        study: what it shows.
        path: of the file.
        title, subtitle: of the page, as text.

    Raises:
        RuntimeError: Plotly is not installed.
        ValueError: it would be too large.
    """
    text = page(study, title, subtitle)
    if (size := len(text.encode())) > LARGEST:
        raise ValueError(f"the page has {size / 1e6:.1f} MB; expected at most {LARGEST / 1e6:g}: fewer models at once")
    write_text(path, text)


def page(study: Study, title: str, subtitle: str = "") -> str:
    """The page as text."""
    made = sections(study)
    scripts = [
        _script(_static("charts.js")),
        *(_script(_static(each.script)) for each in made.values() if each.script),
    ]
    return Template(_static("template.html")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=_static("page.css"),
        navigation="".join(f'<a href="#{name}">{escape(each.title)}</a>' for name, each in made.items()),
        body="\n".join(_section(name, each) for name, each in made.items()),
        plotly=plotly_js(),
        scripts="\n".join(scripts),
    )


def write_pictures(study: Study, folder: Path) -> None:
    """Write every picture of the page to ``folder``, as PNG and as SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections(study).values():
        for chart in (*section.charts, *section.stills):
            still.save(chart, folder)


def _section(name: str, section: Section) -> str:
    parts = [f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(section.title)}</h2>']
    parts += [f"<p>{escape(each)}</p>" for each in section.words]
    parts += map(_table, section.tables)
    if section.charts:
        parts.append(f'<div class="charts">{"".join(map(_chart, section.charts))}</div>')
    parts.append(section.html)
    parts += [_folded(what, table) for what, table in section.folded]
    if section.data is not None:
        parts.append(f'<script type="application/json" id="{name}-data">{_json(section.data)}</script>')
    return "\n".join([*parts, "</section>"])


def _chart(chart: Chart) -> str:
    name, label = f"chart-{chart.name}", escape(f"{chart.title}: {chart.y_label} against {chart.x_label}")
    table = chart.table()
    numbers = _folded("Numbers", table) if table else ""
    return (
        f'<figure><div id="{name}" class="plot" role="img" aria-label="{label}"></div>{numbers}</figure>'
        f'<script type="application/json" class="chart" data-target="{name}">{_json(figure(chart))}</script>'
    )


def _folded(what: str, table: Sequence[Sequence[str]]) -> str:
    return f"<details><summary>{escape(what)}</summary>{_table(table)}</details>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row) + "</tr>"
        for row, kind in zip(rows, ["th", *["td"] * len(rows)], strict=False)
    ]
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>{"".join(lines)}</table></div>'


def _json(value: Any) -> str:
    """JSON that no parser of HTML takes for the end of a script."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _script(source: str) -> str:
    return f"<script>\n{source}</script>"


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")
