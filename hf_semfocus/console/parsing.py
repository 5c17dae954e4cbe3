"""Read dataclasses of options from the command line and a YAML file.

A YAML file (``--config``) sets defaults; the command line takes precedence.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..messages import nearest
from .translated import translated


def parse(
    *types: type, args: Sequence[str] | None = None, about: str | None = None, first: str | None = None
) -> tuple[Any, ...]:
    """Read dataclasses of options from the command line and from the file it names with ``--config``.

    The modules that ``--import`` names are imported first, so that names they register are valid values.

    Args:
        *types: dataclasses whose fields are the options.
        args: command-line arguments; those of the process by default.
        about: the description in ``--help``.
        first: the option whose value may come first, without its name.

    Raises:
        ValueError: an unknown option (names a similar one, or the choices), a value out of range, or a missing
            module.
    """
    args = list(sys.argv[1:] if args is None else args)
    if first and args and not args[0].startswith("-"):
        args = [f"--{first}", *args]
    parser = _parser(types, about)
    path = parser.parse_known_args(args)[0].config
    names = [f.name for cls in types for f in dataclasses.fields(cls)]
    if path is not None:
        args = [*_as_arguments(Path(path), names), *args]
    for module in getattr(parser.parse_known_args(args)[0], "imports", []):
        _import(module)
    *options, _, unknown = parser.parse_args_into_dataclasses(
        args, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise ValueError(_unknown(unknown[0], names))
    return tuple(options)


@functools.cache
def _parser(types: tuple[type, ...], about: str | None) -> _Parser:
    """A parser is kept, as the points of a grid need it thousands of times."""
    parser = _Parser(
        types,
        allow_abbrev=False,
        description=about,
        usage="%(prog)s [--option value ...]",
        formatter_class=_Formatter,
    )
    parser.add_argument("--config", help="YAML file of options; the command line takes precedence")
    return parser


class _Parser(HfArgumentParser):
    def error(self, message: str) -> None:
        """Raise an error of one line, where argparse would print all options."""
        raise ValueError(message)


class _Formatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of the description."""


def _unknown(given: str, names: Sequence[str]) -> str:
    """The message for an unknown option."""
    name = given.lstrip("-").partition("=")[0].replace("-", "_")
    if (here := translated(name, names)) is not None:
        return f"unknown option {given!r}; {here}"
    if (near := nearest(name, names)) is not None:
        return f"unknown option {given!r}; did you mean --{near}? (--help lists all)"
    return f"unknown option {given!r}; expected some of {', '.join(names)}"


def _import(module: str) -> None:
    """Import a module from the installed packages or the working directory.

    Raises:
        ValueError: there is no such module; errors inside of it pass through.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a script only has its own folder; last, so that it hides no other module
    try:
        importlib.import_module(module)
    except (ModuleNotFoundError, TypeError) as error:
        if getattr(error, "name", None) not in (None, *_packages(module)):
            raise
        raise ValueError(
            f"import={module!r}: no such module; expected the name of a file {module.removesuffix('.py')}.py in "
            f"{here}, without .py, or of an installed module"
        ) from error


def _packages(module: str) -> list[str]:
    """A module's name and those of its parent packages."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _as_arguments(path: Path, names: Sequence[str]) -> list[str]:
    """The options in a YAML file as command-line arguments, so that the same rules apply to both."""
    if not path.is_file():
        raise ValueError(f"config={str(path)!r}; expected a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config={str(path)!r} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected option: value pairs")
    arguments = []
    for key, value in values.items():
        if key not in (*names, "import"):
            raise ValueError(f"{path}: {_unknown(str(key), names)}")
        if value is not None and value != []:
            arguments += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return arguments
