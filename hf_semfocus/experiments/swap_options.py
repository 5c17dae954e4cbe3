"""Which attentions a model is swapped to: names, and sizes for those that state none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..console import check_at_least, option
from ..mechanisms import build, get, parameters, parse

DENSE = "sdpa"
"""The attention of the models whose attention is swapped."""


@dataclass
class SwapOptions:
    """Under which attentions a model is evaluated that was trained with another.

    Raises:
        ValueError: a name or a value that does not work.
    """

    swap: list[str] = option(  # noqa: RUF009
        [], "attentions that the dense model is evaluated with, as it is: the checkpoint (clm), or the fine-tuned one"
    )
    swap_k: list[int] = option([], "values of k (or window, block_size) for names of swap that state nothing")  # noqa: RUF009
    swap_only: bool = option(False, "train nothing; for clm, whose checkpoints need no new head")

    def __post_init__(self) -> None:
        for k in self.swap_k:
            check_at_least("swap_k", k, 1)
        for name in ("swap_k", "swap_only"):
            if getattr(self, name) and not self.swap:
                raise ValueError(f"{name}={getattr(self, name)!r} is for a swap; expected attentions as swap with it")
        check_names(self.names, f"swap={self.swap!r}, swap_k={self.swap_k!r}")
        if self.swap_k and not any(_size_of(name) for name in self.swap):
            raise ValueError(f"swap_k={self.swap_k!r} applies to none of swap={self.swap!r}; expected one without ':'")

    @property
    def names(self) -> list[str]:
        """Every attention to evaluate with, dense first."""
        names = [DENSE]
        for name in self.swap:
            size = _size_of(name) if self.swap_k else None
            names += [f"{name}:{size}={k}" for k in self.swap_k] if size else [name]
        return names


def check_names(names: Sequence[str], given: str) -> None:
    """Refuse attentions that there are not, and repeated ones.

    Args:
        names: the attentions, dense first.
        given: the options that say so, for the error.

    Raises:
        ValueError: names what does not work.
    """
    for name in names[1:]:
        build(name)
    if len(set(names)) < len(names):
        raise ValueError(f"{given}; expected every attention once")


def _size_of(name: str) -> str | None:
    """The parameter of an attention that ``swap_k`` sets; None if it has none, or states some itself."""
    if ":" in name:
        return None
    mechanism = get(parse(name)[0])
    return mechanism.sized_by if mechanism.sized_by in parameters(mechanism) else None
