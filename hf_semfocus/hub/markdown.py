"""Escape untrusted text for Markdown, so that it cannot add HTML, images, headings or table cells to a card."""

from __future__ import annotations

import re
from typing import Any

_INLINE = re.compile(r"[\\`\[]")
_START = r"^([ \t>*+\-\d.)]*?)"
_BLOCKS = (
    (re.compile(rf"{_START}(#)", re.MULTILINE), r"\1\\\2"),  # headings
    (
        re.compile(rf"{_START}(=+[ \t]*|-+[ \t]*)$", re.MULTILINE),
        r"\1\\\2",
    ),  # makes the line above a heading, or a rule
    (re.compile(rf"{_START}(```|~~~)", re.MULTILINE), r"\1\\\2"),  # an open block of code
)


def inline(value: Any) -> str:
    """A value as plain text within a line: no HTML, links, images, code or line breaks."""
    return _no_html(_INLINE.sub(r"\\\g<0>", " ".join(str(value).split())))


def cell(value: Any) -> str:
    """A value as plain text within a cell of a table."""
    return inline(value).replace("|", "\\|")


def code(value: Any) -> str:
    """A value as code within a line or a cell."""
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"


def prose(text: str) -> str:
    """Paragraphs and lists with links and emphasis, but no HTML, images, headings or blocks of code."""
    text = "\n".join(text.splitlines())
    for pattern, escaped in _BLOCKS:
        text = pattern.sub(escaped, text)
    return _no_html(text.replace("![", "!\\["))


def _no_html(text: str) -> str:
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
