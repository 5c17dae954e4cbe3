"""What commands share: options and how they are read, progress, signals, and mistakes told in one line."""

from .display import watched
from .errors import one_line_errors, program
from .options import check_at_least, check_unset, imports, option
from .parsing import parse

__all__ = ["check_at_least", "check_unset", "imports", "one_line_errors", "option", "parse", "program", "watched"]
