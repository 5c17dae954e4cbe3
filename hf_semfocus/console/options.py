"""Options of commands: fields of dataclasses, which :func:`.parsing.parse` reads, and checks of their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from ..messages import check_integer

MOST_THREADS = 1024
"""CPU threads that may be asked for."""


def option(default: Any, text: str, *aliases: str) -> Any:
    """Declare a dataclass field with its help text; a list becomes an option that takes several values.

    Args:
        default: the default value.
        text: the text in ``--help``.
        *aliases: other names on the command line.
    """
    metadata = {"help": text.replace("%", "%%"), "aliases": list(aliases)}  # argparse formats help texts with %
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def imports() -> Any:
    """Declare the field for modules that :func:`parse` imports before it reads the options."""
    return option([], "modules, such as my_module, that register custom mechanisms or tasks", "--import")


def check_unset(options: Any, names: Sequence[str], why: str) -> None:
    """Refuse options that would have no effect.

    Args:
        options: dataclass of options.
        names: options without an effect.
        why: the reason, for the message.

    Raises:
        ValueError: names the first that differs from its default.
    """
    for f in dataclasses.fields(options):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if f.name in names and (value := getattr(options, f.name)) != default:
            raise ValueError(f"{f.name}={value!r} has no effect {why}")


def check_threads(value: int | None) -> None:
    """Refuse a number of CPU threads that no machine has, with which PyTorch would crash; None is allowed.

    Raises:
        ValueError: names the value.
    """
    check_at_least("cpu_threads", value, 1)
    if value is not None and value > MOST_THREADS:
        raise ValueError(f"cpu_threads={value!r}; expected at most {MOST_THREADS}")


def check_folder(name: str, value: str | None) -> None:
    """Refuse a path at or below a file, where no folder can be made; None is allowed.

    Raises:
        ValueError: names the option and its value.
    """
    if value is None:
        return
    place = next(place for place in (Path(value).absolute(), *Path(value).absolute().parents) if place.exists())
    if not place.is_dir():
        raise ValueError(f"{name}={value!r} is a file, or in one; expected a folder")


def check_parent(name: str, value: str | None) -> None:
    """Refuse a file whose folder does not exist; None is allowed.

    Raises:
        ValueError: names the option and its value.
    """
    if value is not None and not Path(value).parent.is_dir():
        raise ValueError(f"{name}={value!r}; expected a file in a folder that exists")


def check_at_least(name: str, value: int | None, least: int) -> None:
    """Refuse a number below ``least``; None is allowed.

    Raises:
        ValueError: names the option, its value and the limit.
    """
    if value is not None:
        check_integer(name, value, least)
