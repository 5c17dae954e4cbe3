"""What a panel gives the page, and the registry that panels join: a panel is one file in ``panels/``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Chart
from .study import Study


@dataclass(frozen=True)
class Section:
    """A part of the page; everything but ``html`` is text, and is escaped.

    Attributes:
        title: of the section.
        words: paragraphs.
        charts: pictures, of the page and as files.
        tables: rows of cells, the header first.
        folded: tables that are shown on demand, by what they hold.
        stills: pictures that are only files, where the page has something of its own instead.
        html: markup of its own, in which the panel has escaped all text.
        data: for the ``script``, as JSON; None for none.
        script: file in ``static/`` that brings the markup to life.
    """

    title: str
    words: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Sequence[Sequence[str]]] = ()
    folded: Sequence[tuple[str, Sequence[Sequence[str]]]] = ()
    stills: Sequence[Chart] = ()
    html: str = ""
    data: Any = None
    script: str | None = None


Panel = Callable[[Study], Section | None]
"""From what was measured to a section; None if there is nothing to show."""
PANELS: dict[str, tuple[int, Panel]] = {}
"""By name: the place among the others, and the function."""


def panel(place: int) -> Callable[[Panel], Panel]:
    """Decorator: make a function a panel of its own name; the smallest ``place`` comes first."""

    def register(function: Panel) -> Panel:
        PANELS[function.__name__] = (place, function)
        return function

    return register


def sections(study: Study) -> dict[str, Section]:
    """Every section of a page, by the name of its panel, in order."""
    made = {name: function(study) for name, (_, function) in sorted(PANELS.items(), key=lambda item: item[1][0])}
    return {name: section for name, section in made.items() if section is not None}
