"""Benchmark cases: an attention problem, a mechanism and its goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

BELOW_SDPA = "below sdpa"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem under one mechanism.

    Args:
        batch, heads, keys, head_dim: sizes of the problem.
        mechanism: as ``NAME:param=value,...``.
        causal: no query sees a later key.
        queries: as many as keys by default; 1 is a step of decoding, the last position.
        kv_heads: heads of keys and values; ``heads`` by default.
        dtype: name of a floating type of torch.
        direction: "train" (forward and backward), "forward" or "decode" (one query); the latter two without a graph.
        content: "normal" for standard normal tensors; "hub": every query keeps the first key; "periodic": every 256th
            key has a high score, so that the highest ones share a group of the selection kernels; "padded": normal,
            with sequences of half to the full length under a mask of keys.
        over_sdpa, over_eager: required speed-up over that contestant; None for no goal.
        memory: required limit of peak memory in 10**6 bytes, or "below sdpa"; None for no goal.
        probe: whether peak memory is measured.

    Raises:
        ValueError: inconsistent sizes.
    """

    batch: int = 1
    heads: int = 12
    keys: int
    head_dim: int = 64
    mechanism: str
    causal: bool = True
    queries: int | None = None
    kv_heads: int | None = None
    dtype: str = "float32"
    direction: Literal["train", "forward", "decode"] = "train"
    content: Literal["normal", "hub", "periodic", "padded"] = "normal"
    over_sdpa: float | None = None
    over_eager: float | None = None
    memory: float | Literal["below sdpa"] | None = None
    probe: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", self.queries or (1 if self.direction == "decode" else self.keys))
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        if self.queries not in (1, self.keys) or (self.direction == "decode" and self.queries != 1):
            raise ValueError(
                f"{self.queries} queries of {self.keys} keys ({self.direction}); expected as many, or 1 to decode"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads}; expected a multiple of kv_heads={self.kv_heads}")

    @property
    def shape(self) -> str:
        """Description of the problem without the mechanism: cases of the same shape are timed together."""
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        words = [f"{self.batch},{heads},{self.keys},{self.head_dim}"]
        words += [] if self.direction == "decode" else ["causal" if self.causal else "bidirectional"]
        words += [] if self.direction == "train" else [self.direction]
        words += [] if self.dtype == "float32" else [self.dtype]
        words += [] if self.content == "normal" else [self.content]
        return " ".join(words)

    @property
    def label(self) -> str:
        """Description of the case."""
        return f"{self.shape} {self.mechanism}"

    def under(self, mechanism: str) -> Case:
        """The same problem under another mechanism, without goals."""
        return replace(self, mechanism=mechanism, over_sdpa=None, over_eager=None, memory=None)

    @property
    def grouped(self) -> bool:
        """Whether query heads share key heads."""
        return self.heads != self.kv_heads

    def bytes_of_scores(self) -> int:
        """Bytes of one dense matrix of float32 scores."""
        return 4 * self.batch * self.heads * self.queries * self.keys


def judged(goal: float | None, met: Callable[[float], bool]) -> dict[str, float | bool]:
    """A goal and whether it is met, for the results; empty without a goal."""
    return {} if goal is None else {"goal": goal, "met": met(goal)}
