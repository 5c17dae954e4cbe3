"""What a grid holds: points, each a command with one value for every option.

A grid file has what it is about, the command, what all points share, and blocks whose lists span the points::

    about: Does focus help?
    command: pretrain
    defaults: {epochs: 100}
    grid:
      - task: [even_pairs, parity]
        seeds: [1, 2, 3]
        attention: [sdpa, topk_sparse:k=5]

The first list of a block varies slowest. Blocks follow each other; a point that comes twice counts once. With ``joins:
NAME``, the results are shown in the tables of the grid of that name. With ``together: true``, its tasks ask the same
question and are tested together, too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..messages import shown
from .jobs import as_arguments

Scalar = str | int | float | bool
KEYS = ("about", "joins", "together", "command", "defaults", "grid")
SET_BY_SWEEP = ("output_dir", "resume", "overwrite_output_dir", "part", "workers", "cpu_threads")
"""Options that no grid sets, as the sweep gives every point its own."""


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        command: what runs it, such as "pretrain".
        options: the options that the grid sets, one value each.
        configuration: all options in force, which give the point its name.
        shared: names of the options that all points of the grid share.
    """

    command: str
    options: Mapping[str, Scalar]
    configuration: Mapping[str, Any]
    shared: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the point sets, for people, and a hash of all that is in force, for the truth."""
        own = "-".join(str(value) for name, value in self.options.items() if name not in self.shared)
        readable = re.sub(r"[^\w.=+%-]+", "_", own)[:80]
        return f"{readable}-{self.digest}"

    @cached_property
    def digest(self) -> str:
        """The hash of all that is in force: the same run has it in any grid."""
        text = json.dumps([self.command, self.configuration], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def arguments(self) -> list[str]:
        """The options as arguments of the command."""
        return as_arguments(self.options)


def digest_of(name: str) -> str:
    """The hash in the name of a point."""
    return name.rpartition("-")[2]


def read_grid(path: Path, configure: Callable[[str, list[str]], Mapping[str, Any]]) -> list[Point]:
    """The points of a grid file.

    Args:
        path: YAML, see above.
        configure: from a command and its arguments to all options in force.

    Raises:
        ValueError: the file is not a grid, or ``configure`` refuses a point; names the place.
    """
    content = _content(path)
    command, shared = content.get("command", "pretrain"), content.get("defaults") or {}
    points: dict[str, Point] = {}
    for number, block in enumerate(content["grid"], start=1):
        if not isinstance(block, dict):
            raise ValueError(f"{path}, block {number}: {shown(block)}; expected options and their values")
        if taken := [name for name in SET_BY_SWEEP if name in {**shared, **block}]:
            raise ValueError(
                f"{path}, block {number}: {', '.join(taken)} is set by the sweep; expected it to be left out"
            )
        for options in _product({**shared, **block}):
            point = Point(command, options, {}, tuple(name for name in shared if name not in block))
            try:
                point = replace(point, configuration=configure(command, point.arguments))
            except ValueError as error:
                raise ValueError(f"{path}, block {number}, {shown(dict(options))}: {error}") from error
            points.setdefault(point.digest, point)
    return list(points.values())


class About(NamedTuple):
    """What a grid file says of the grid, for people.

    Attributes:
        text: what it is about.
        joins: name of the grid whose tables show its results, if that is another.
        together: whether its tasks are also tested together.
    """

    text: str
    joins: str | None
    together: bool


def read_about(path: Path) -> About:
    """What a grid file says of the grid.

    Raises:
        ValueError: it is not a grid, or ``together`` is not true or false.
    """
    content = _content(path)
    if not isinstance(together := content.get("together", False), bool):
        raise ValueError(f"{path}: together={together!r}; expected true or false")
    return About(content.get("about", ""), content.get("joins"), together)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"grid={str(path)!r} cannot be read: {error}") from error
    expected = f"expected {', '.join(KEYS)}, where grid is a list of blocks of options"
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; {expected}")
    if unknown := [str(key) for key in content if key not in KEYS]:
        raise ValueError(f"{path} is not a grid, as it has {', '.join(unknown)}; {expected}")
    if not isinstance(content.get("grid"), list):
        raise ValueError(f"{path}: grid={content.get('grid')!r}; {expected}")
    return content


def _product(block: Mapping[str, Any]) -> list[dict[str, Scalar]]:
    """Every combination of a block's lists, as options in the order of the block."""
    axes = [value if isinstance(value, list) else [value] for value in block.values()]
    return [dict(zip(block, values, strict=True)) for values in itertools.product(*axes)]
