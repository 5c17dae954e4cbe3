"""The base class of mechanisms, which decide which keys a query keeps and how kept scores become weights.

A mechanism fills up to three slots, which backends apply in this order to the keys a query may see (after causality
and padding):

    pattern(at)             static: a predicate on positions
    priority(scores, at)    selection: of the keys left, the ``k`` of highest priority stay; any other selection
                            overrides choose(scores, allowed, at)
    normalize(scores, keep) kept scores -> weights, softmax unless overridden

A static pattern that defines its ``reach`` (and the few queries that see all keys, ``sees_all``) is computed from
lists of keys instead of all pairs. Every slot is row-local: the keys of one query never depend on another query. So a
backend may process any chunk of queries, and decoding with a cache equals the forward pass without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..attention.positions import Positions
from ..attention.problem import Problem
from ..attention.selection import highest
from .declare import implied, parameters
from .select import Select

STRAIGHT_THROUGH = "straight_through"


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Base of all mechanisms: a frozen dataclass whose fields are the parameters, checked when it is made.

    Raises:
        ValueError: a parameter is not valid for its field.
    """

    name: ClassVar[str] = "full"
    by_score: ClassVar[int | None] = None
    """1 or -1 if the priority is exactly that times the score, so that kernels can select by it; else None."""
    sized_by: ClassVar[str] = "k"
    """The parameter that sets the number of kept keys, if the mechanism has one of that name."""

    alternatives: ClassVar[tuple[str, ...]] = ()
    """Parameters of which at most one is given: one that is not at its default counts in place of the first."""
    gradient: ClassVar[str] = "hard"
    """How the selection is differentiated, see :class:`.by_score.ByScore`."""
    differentiable_selection: ClassVar[bool] = False
    """Whether ``priority`` is computed with gradients and passed to ``normalize`` as a third argument."""
    static: ClassVar[Mechanism | None] = None
    """The static pattern whose keys are kept beside those of the selection; None without."""
    state: ClassVar[nn.Module | None] = None
    """In ``priority`` and ``normalize``: what ``create_state`` returned for the layer; None without parameters."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            checked = field.metadata["check"](f"{self.name}: {field.name}", getattr(self, field.name))
            object.__setattr__(self, field.name, checked)

    @property
    def positional(self) -> bool:
        """Whether kept keys depend on positions, which have no meaning across two sequences."""
        return type(self).pattern is not Mechanism.pattern

    @property
    def selects(self) -> bool:
        """Whether this mechanism selects keys, as by their scores."""
        return self.ranks or type(self).choose is not Mechanism.choose

    @property
    def ranks(self) -> bool:
        """Whether it selects the ``k`` keys of highest priority."""
        return type(self).priority is not Mechanism.priority and type(self).choose is Mechanism.choose

    @classmethod
    def owns_state(cls) -> bool:
        """Whether this mechanism has trainable parameters."""
        return cls.create_state is not Mechanism.create_state

    @property
    def redraws(self) -> bool:
        """Whether keys are drawn anew at every forward pass in training, with the number ``at.draw``."""
        return False

    @property
    def selects_by_score(self) -> bool:
        """Whether keys are selected by score alone (see ``by_score``), so that a kernel can do it."""
        return self.by_score is not None and self.ranks and not self.positional

    @property
    def by_layer(self) -> bool:
        """Whether kept keys may depend on the layer, so that layers cannot share lists."""
        return True

    @property
    def spec(self) -> str:
        """The mechanism with its parameters as one string, e.g. ``topk_sparse:k=8``."""
        cls, quiet = type(self), implied(type(self))
        said = [n for n in self.in_force if n not in quiet or getattr(self, n) != getattr(cls, n)]
        stated = ",".join([f"{name}={getattr(self, name)}" for name in said])
        return f"{self.name}:{stated}" if stated else self.name

    @property
    def in_force(self) -> list[str]:
        """Names of the parameters, of :attr:`alternatives` only the one that counts."""
        cls, others = type(self), self.alternatives[1:]
        used = [n for n in others if getattr(self, n) != getattr(cls, n)] or self.alternatives[:1]
        return [n for n in parameters(cls) if n in used or n not in self.alternatives]

    def anchored(self, causal: bool) -> bool:
        """Whether kept keys depend on where the sequence starts or ends, not on distances or scores alone."""
        return self.positional

    def budget(self, length: int) -> int | None:
        """The most keys that a query keeps of ``length`` visible ones, causal or not; None for any number.

        The few queries that :meth:`sees_all` marks do not count. By default ``k`` for a selection by priority, and the
        width of ``reach`` for a static pattern.
        """
        if self.ranks:
            return min(self.k, length)
        if self.selects or type(self).reach is Mechanism.reach:
            return None
        last = torch.full((1, 1, 1, 1), length - 1)
        key = torch.arange(length).view(1, 1, 1, -1)
        near = self.reach(Positions(last, key, last + 1, torch.zeros_like(last), 0, False))
        return None if near is None else min(near.shape[-1], length)

    def pattern(self, at: Positions) -> Tensor | None:
        """Static pattern: bool, broadcastable to ``[batch, heads, queries, keys]``; None keeps all."""
        return None

    def reach(self, at: Positions) -> Tensor | None:
        """Positions that ``pattern`` may keep, integers ``[..., queries, few]``; None if there is no such limit.

        They may be in any order, repeated and out of range: only those that ``pattern`` keeps count. A static pattern
        then costs O(n few) instead of O(n²). The width of the result must depend on shapes and parameters alone, as
        for ``torch.compile``: use only the shape of ``at.key``, whose last size is an upper limit of all lengths.
        """
        return None

    def sees_all(self, at: Positions) -> Tensor | None:
        """The few queries that keep every key, which ``reach`` need not include: bool ``[..., queries, 1]``."""
        return None

    def priority(self, scores: Tensor, at: Positions) -> Tensor | None:
        """Priority of every key, broadcastable to ``scores``; None for no selection."""
        return None

    def choose(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        """The keys that the selection keeps, of those ``allowed``: bool that broadcasts to ``scores``.

        By default the ``k`` of highest priority. A mechanism that overrides it says in ``budget`` how many keys it
        keeps at most; where that is None, back ends compute all scores.
        """
        priority = self.ranked(scores, at)
        return allowed if priority is None else highest(priority, allowed, self.k)

    def asks(self, problem: Problem) -> int | None:
        """The most keys of a query that :meth:`find` asks ``select`` for; None if the selection needs all scores."""
        return min(self.k, problem.shape[3]) if self.selects_by_score else None

    def find(self, problem: Problem, select: Select) -> Tensor:
        """The keys that the selection keeps, by kernels that hold no matrix of scores; see :meth:`asks`.

        Returns: lists of columns, int32 ``[batch, heads, queries, slots]``, -1 in empty slots.
        """
        return select(problem, self.asks(problem), self.by_score)

    def normalize(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Softmax over the kept keys; exact zeros elsewhere, so a row that keeps nothing is all zeros."""
        drop = ~keep
        return scores.masked_fill(drop, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(drop, 0.0)

    def create_state(self, layer: nn.Module, config: Any) -> nn.Module | None:
        """The trainable parameters of one attention layer of a model; None for a mechanism without any.

        They become the layer's submodule ``semfocus``, trained and saved with the model. Static patterns must not
        depend on them.

        Args:
            layer: the attention module, e.g. a ``GPT2Attention``.
            config: its configuration, e.g. a ``GPT2Config``.

        Returns: a module whose ``reset_parameters()`` sets their initial values, by ``torch.nn.init``.
        """
        return None

    def bound(self, state: nn.Module) -> Mechanism:
        """The same mechanism with the ``state`` of one layer."""
        twin = copy(self)
        object.__setattr__(twin, "state", state)
        return twin

    @property
    def unbound(self) -> Mechanism:
        """The same mechanism without the ``state`` of a layer, to remember what depends on neither."""
        return self if self.state is None else dataclasses.replace(self)

    def keep(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        """Which of the ``allowed`` keys every query keeps: bool; ``at`` may be None if positions do not matter."""
        return self.select(scores, allowed, at)[0]

    def select(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> tuple[Tensor, Tensor | None]:
        """The result of :meth:`keep`, and the priority if ``normalize`` takes it."""
        with nullcontext() if self.differentiable_selection else torch.no_grad():
            if (pattern := self.kept_by_position(at)) is not None:
                allowed = allowed & pattern
            if not self.selects:
                return allowed, None
            if self.differentiable_selection:
                priority = self.ranked(scores, at)
                return highest(priority.detach(), allowed, self.k), priority
            return self._chosen(scores, allowed, at), None

    def _chosen(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        """:meth:`choose`, checked."""
        keep = self.choose(scores, allowed, at)
        fits = isinstance(keep, Tensor) and keep.dtype == torch.bool
        self._expect(fits, "choose", keep, "bool", scores.shape)
        return keep

    def kept_by_position(self, at: Positions | None) -> Tensor | None:
        """:meth:`pattern`, checked."""
        pattern = self.pattern(at)
        if pattern is not None:
            _, *shape = torch.broadcast_shapes(at.query.shape, at.key.shape, at.head.shape)
            fits = isinstance(pattern, Tensor) and pattern.dtype == torch.bool
            self._expect(fits, "pattern", pattern, "bool", [None, *shape])
        return pattern

    def ranked(self, scores: Tensor, at: Positions | None) -> Tensor | None:
        """:meth:`priority` of every score, checked."""
        priority = self.priority(scores, at)
        if priority is None:
            return None
        fits = isinstance(priority, Tensor) and priority.is_floating_point()
        self._expect(fits, "priority", priority, "floating", scores.shape)
        return priority.expand_as(scores)

    def _expect(self, fits: bool, slot: str, found: Any, kind: str, shape: Sequence[int | None]) -> None:
        """Refuse the result of a slot unless it ``fits`` and broadcasts to ``shape`` (None: any size)."""
        if fits and found.dim() <= len(shape):
            sizes = zip(reversed(found.shape), reversed(shape), strict=False)
            if all(want is None or size in (1, want) for size, want in sizes):
                return
        given = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{self.name}: {slot}() gives {given}; expected a {kind} tensor that broadcasts to [batch, heads, "
            f"queries, keys], here [{', '.join('any' if size is None else str(size) for size in shape)}]"
        )
