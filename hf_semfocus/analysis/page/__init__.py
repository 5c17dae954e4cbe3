"""One self-contained page on what was measured of models: every panel is a file in ``panels/``."""

from .build import page, write_page, write_pictures
from .sections import Section, panel
from .study import Course, Pair, Side, Study

__all__ = ["Course", "Pair", "Section", "Side", "Study", "page", "panel", "write_page", "write_pictures"]
