"""Shared by all commands: options and their parsing, progress, signals, and errors of one line."""

from .display import watched
from .errors import one_line_errors, program
from .options import check_at_least, check_folder, check_parent, check_threads, check_unset, imports, option
from .parsing import parse

__all__ = [
    "check_at_least",
    "check_folder",
    "check_parent",
    "check_threads",
    "check_unset",
    "imports",
    "one_line_errors",
    "option",
    "parse",
    "program",
    "watched",
]
