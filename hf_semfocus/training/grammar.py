"""The grammar of schedules: what is between two ``>``, as functions of the step.

schedule     phase>phase>...
phase        alternatives, then @linear or @cosine for the course of its parameters, then @end, but for the last
end          200 (steps), 50% (of the run), -200 or -10% (before its end)
alternatives attention~0.5~attention: at every step the first with this probability, else the second
attention    NAME:param=value,..., then |layers=NAME for layers with another attention
value        64..8: from 64 at the first step of the phase to 8 at its last
layers       3, 0-3, 8- or -2 (the last two)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from ..messages import did_you_mean

HELP = (
    "names as NAME:param=value,..., or schedules: A@200>B is A for 200 steps, then B (A@50%>B, A@-200>B: until half "
    "of the run, or 200 steps before its end); NAME:k=64..8 or ...@cosine: k from 64 to 8; A~0.5~B: A with "
    "probability 0.5 at every step, else B; A|0-1=B|-2=B: B in layers 0, 1 and the last two"
)
"""The grammar as the help of an option."""
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}
"""How far a parameter has gone when a share of its phase is over."""
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
RANGE = re.compile(rf"=({NUMBER})\.\.({NUMBER})(?=[,+]|$)")
END = re.compile(r"(-?)([1-9]\d*)(%?)")
LAYERS = re.compile(r"(-?\d+|\d+-\d*)=(.+)")


class Attention(NamedTuple):
    """What a model attends with, all numbers given.

    Attributes:
        name: as ``attn_implementation``.
        layers: numbers of layers, as in ``config.semfocus``, and their names.
    """

    name: str
    layers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Phase:
    """What a model attends with for some steps.

    Attributes:
        choices: alternatives, whose parameters may be ranges.
        odds: the probability of every choice but the last, given that none before it was taken.
        shape: how parameters go from one end of their range to the other, in :data:`SHAPES`.
        end: sign, number and ``%`` of the step at which it ends; None for the last phase.
    """

    choices: tuple[Attention, ...]
    odds: tuple[float, ...] = ()
    shape: str = "linear"
    end: tuple[str, int, str] | None = None

    @property
    def moves(self) -> bool:
        """Whether a parameter changes."""
        return any(RANGE.search(choice.name) for choice in self.choices)

    @property
    def attentions(self) -> list[Attention]:
        """Every choice, at the first and the last step if a parameter changes."""
        ends = [Attention(_at(name, share), layers) for name, layers in self.choices for share in (0.0, 1.0)]
        return list(dict.fromkeys(ends))

    def stop(self, steps: int) -> int:
        """The number of the step after the last, of a run of ``steps``."""
        if self.end is None:
            return steps
        sign, number, percent = self.end
        count = number * steps // 100 if percent else number
        return steps - count if sign else count

    def at(self, step: int, start: int, stop: int, seed: int | None) -> Attention:
        """The attention of a step of the phase, which lasts from ``start`` to before ``stop``.

        ``seed`` draws among the alternatives; None takes the last.
        """
        name, layers = self.choices[-1 if seed is None else self._drawn(Random(f"{seed}/{step}"))]
        share = min(1.0, (step - start) / max(1, stop - start - 1))
        return Attention(_at(name, SHAPES[self.shape](share)), layers)

    def _drawn(self, random: Random) -> int:
        return next((number for number, odds in enumerate(self.odds) if random.random() < odds), len(self.odds))


def phase(text: str, last: bool) -> Phase:
    """Read a phase of a schedule.

    Raises:
        ValueError: it is none; says what was expected.
    """
    text, *marks = text.split("@")
    shape = marks.pop(0) if marks and marks[0] in SHAPES else None
    whole = "@".join((text, *marks))
    if not text:
        raise ValueError(f"{whole!r} has no name; expected NAME, or {'NAME@200>NAME' if last else 'NAME@200'}")
    if last and marks:
        near = did_you_mean(marks[0], SHAPES)
        raise ValueError(
            f"{whole!r} ends the schedule{near}; expected a NAME without an end, and after a range at most "
            f"@{' or @'.join(SHAPES)}"
        )
    end = None if last or len(marks) != 1 else END.fullmatch(marks[0])
    if not last and end is None:
        raise ValueError(
            f"{whole!r} does not say when it ends; expected NAME@200 (steps), NAME@50% (of the run), NAME@-200 or "
            f"NAME@-10% (before its end), and after a range @{' or @'.join(SHAPES)} before that"
        )
    if end is not None and end[3] and int(end[2]) > 100:
        raise ValueError(f"{whole!r} ends after the run; expected at most 100%")
    names, odds = text.split("~")[::2], text.split("~")[1::2]
    if len(names) != len(odds) + 1:
        raise ValueError(f"{text!r} lacks a probability or a name; expected NAME~0.5~NAME")
    if "" in names:
        raise ValueError(f"{text!r} lacks a name; expected NAME~0.5~NAME")
    for odd in odds:
        if not re.fullmatch(r"0?\.\d+", odd) or float(odd) == 0:
            raise ValueError(f"{odd!r} in {text!r} is no probability between 0 and 1; expected NAME~0.5~NAME")
    found = Phase(
        tuple(_attention(name) for name in names),
        tuple(map(float, odds)),
        shape or "linear",
        None if end is None else (end[1], int(end[2]), end[3]),
    )
    if shape and not found.moves:
        raise ValueError(f"no parameter of {text!r} changes; expected a range such as k=64..8@{shape}")
    return found


def _attention(text: str) -> Attention:
    """Read an attention with its layers."""
    name, *others = text.split("|")
    if not name:
        raise ValueError(f"{text!r} has no name; expected NAME|0-1=NAME")
    matches = [LAYERS.fullmatch(other) for other in others]
    if None in matches:
        raise ValueError(
            f"{others[matches.index(None)]!r} names no layers and their attention; expected 3=NAME, 0-1=NAME, 8-=NAME "
            "or -2=NAME (the last two)"
        )
    if ".." in RANGE.sub("", name):
        raise ValueError(f"{name!r} has a range that is none; expected param=64..8, of two numbers")
    if ranges := [other for other in others if ".." in other]:
        raise ValueError(f"{ranges[0]!r} has a range, which single layers cannot; expected a NAME with numbers alone")
    layers = [match[1] for match in matches]
    if len(set(layers)) < len(layers):
        raise ValueError(f"{text!r} names layers {max(layers, key=layers.count)} twice; expected each once")
    return Attention(name, tuple((match[1], match[2]) for match in matches))


def _at(name: str, share: float) -> str:
    """``name`` with the values of its ranges at a share of the way; integers where both ends are, else 3 digits."""

    def value(match: re.Match[str]) -> str:
        first, last = map(float, match.groups())
        now = first + (last - first) * share
        if all(re.fullmatch(r"-?\d+", each) for each in match.groups()):
            return f"={round(now)}"
        return f"={match[1] if share == 0 else match[2] if share == 1 else f'{now:.3g}'}"

    return RANGE.sub(value, name)
