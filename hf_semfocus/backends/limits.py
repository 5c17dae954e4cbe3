"""Declared limits of a backend: one list of checks decides, and gives reasons on request."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from ..attention.problem import Problem
from ..attention.tracers import is_transforming
from ..mechanisms import Mechanism
from ..mechanisms.base import STRAIGHT_THROUGH
from . import tracing


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a backend; by default there are none.

    Attributes:
        keeps: the kept keys it supports: those of any mechanism, ``"lists"`` of bounded length, a ``"pattern"`` of
            positions, or ``"all"``. The latter three support softmax weights and gradients of kept keys only.
        devices: types of devices; None for all.
        elsewhere: addition to the message about a device: what would allow others.
        dtypes: types of the queries; None for all.
        one_dtype: whether keys and values must have the type of the queries.
        max_keys: the most keys a query may keep; None for no limit.
        max_selected: the most keys a query may keep when they are selected by score alone; None for no limit.
        max_dim: the largest ``head_dim`` and ``value_dim``; None for any.
        bias: whether it supports a bias of the scores.
        softcap: whether it supports a softcap.
        sinks: whether it supports sink logits.
        dropout: whether it supports dropout of the weights.
        weights: whether it can return the weights.
        empty: whether it supports problems without queries, keys or sequences.
        traceable: whether tracers and transforms can follow it, see :mod:`.tracing`.
        in_graphs: whether graphs of ``torch.compile`` can hold it: its kernels are PyTorch operators.
        recomputes: whether its backward pass computes the forward pass again.
        package: an optional package it needs, and the extra of this one that installs it.
        load: loads what it needs and returns None, or why that failed; called when all other checks pass.
    """

    keeps: Literal["any", "lists", "pattern", "all"] = "any"
    devices: tuple[str, ...] | None = None
    elsewhere: str = ""
    dtypes: tuple[torch.dtype, ...] | None = None
    one_dtype: bool = False
    max_keys: int | None = None
    max_selected: int | None = None
    max_dim: int | None = None
    bias: bool = True
    softcap: bool = True
    sinks: bool = True
    dropout: bool = True
    weights: bool = True
    empty: bool = False
    traceable: bool = False
    in_graphs: bool = False
    recomputes: bool = False
    package: tuple[str, str] | None = None
    load: Callable[[], object] | None = None

    def finds(self, mechanism: Mechanism, problem: Problem) -> bool:
        """Whether ``select`` of these kernels finds the keys of a selection."""
        asked = mechanism.asks(problem)
        return asked is not None and (self.max_selected is None or asked <= self.max_selected)

    def allow(self, mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> bool:
        """Whether the backend can compute ``problem`` outside of tracing; formats no messages."""
        return next(self._exceeded(mechanism, problem, return_weights), None) is None

    def objections(self, mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
        """Why the backend cannot compute ``problem``: values found and expected; empty if it can."""
        traced = None if self.traceable else tracing.objection(problem, self.in_graphs)
        if traced is not None and torch.compiler.is_compiling():  # the rest may look at data, or at shapes that vary
            return [traced]
        found = [reason() for reason in self._exceeded(mechanism, problem, return_weights)]
        return found if traced is None else [traced, *found]

    def _exceeded(self, mechanism: Mechanism, problem: Problem, return_weights: bool) -> Iterator[Callable[[], str]]:
        """For every limit that ``problem`` exceeds, a function that makes the message."""
        found = False
        for reason in self._checks(mechanism, problem, return_weights):
            found = True
            yield reason
        if not found and self.load is not None and isinstance(missing := self.load(), str):
            yield lambda: missing

    def _checks(self, mechanism: Mechanism, problem: Problem, return_weights: bool) -> Iterator[Callable[[], str]]:
        query, key, value = problem.query, problem.key, problem.value
        if 0 in problem.shape:
            if not self.empty:
                yield lambda: "there is nothing to attend"
        elif self.keeps == "all" and (mechanism.selects or mechanism.positional):
            yield lambda: f"{mechanism.name} keeps some keys; expected full attention"
        elif self.keeps == "pattern" and mechanism.selects:
            yield lambda: f"{mechanism.name} selects keys; expected a static pattern"
        elif self.keeps == "pattern" and not mechanism.positional:
            yield lambda: f"{mechanism.name} has no static pattern"
        elif self.keeps == "lists" or self.max_keys is not None:
            # whether there is a bound must not depend on the length, or a graph would specialize on it
            keys = budget(mechanism, 1 if self.max_keys is None else key.shape[2])
            if keys is None:
                yield lambda: f"{mechanism.spec} lets a query keep any number of keys"
            elif self.max_keys is not None and keys > self.max_keys:
                yield lambda: f"{mechanism.spec} keeps up to {keys} keys; expected at most {self.max_keys}"
            elif self.max_selected is not None and mechanism.selects_by_score and keys > self.max_selected:
                yield (
                    lambda: (
                        f"{mechanism.spec} selects up to {keys} keys by score; expected at most {self.max_selected}"
                    )
                )
        if self.keeps == "lists" and torch.compiler.is_compiling() and self._chosen_by_data(mechanism, problem):
            yield lambda: f"torch.compile cannot trace how {mechanism.spec} finds its keys"
        if self.keeps != "any" and type(mechanism).normalize is not Mechanism.normalize:
            yield lambda: f"{mechanism.name} has weights of its own; expected softmax"
        # what is dropped must not depend on grad mode, or re-entrant checkpointing would drop other weights again
        wide = torch.is_grad_enabled() or problem.dropout_p
        if self.keeps != "any" and mechanism.gradient == STRAIGHT_THROUGH and wide:
            without = "torch.no_grad without dropout"
            yield lambda: f"gradient={STRAIGHT_THROUGH!r} is of all visible keys; expected 'hard', or {without}"
        if self.devices is not None and query.device.type not in self.devices:
            expected = _either(self.devices) + self.elsewhere
            yield lambda: f"tensors are on {query.device.type}; expected {expected}"
        if self.package is not None and not _is_installed(self.package[0]):
            yield lambda: f"{self.package[0]} is not installed; expected the extra hf_semfocus[{self.package[1]}]"
        if self.dtypes is not None and query.dtype not in self.dtypes:
            yield lambda: f"tensors are {query.dtype}; expected {_either(map(_name, self.dtypes))}"
        if self.one_dtype and not query.dtype == key.dtype == value.dtype:
            yield lambda: f"query, key and value are {query.dtype}, {key.dtype} and {value.dtype}; expected one type"
        if self.max_dim is not None and query.shape[-1] > self.max_dim:
            yield lambda: f"head_dim {query.shape[-1]}; expected at most {self.max_dim}"
        if self.max_dim is not None and value.shape[-1] > self.max_dim:
            yield lambda: f"value_dim {value.shape[-1]}; expected at most {self.max_dim}"
        if problem.dropout_p and not self.dropout:
            yield lambda: f"dropout_p={problem.dropout_p}; expected none"
        if problem.softcap is not None and not self.softcap:
            yield lambda: f"softcap={problem.softcap}; expected none"
        for name in ("bias", "sinks"):
            if getattr(problem, name) is not None and not getattr(self, name):
                yield lambda name=name: f"{name} is given; expected none"
        if return_weights and not self.weights:
            yield lambda: "weights are requested; expected the output alone"
        if self.recomputes and torch.is_grad_enabled() and is_transforming():
            yield lambda: "torch.func cannot differentiate what is computed again in the backward pass"

    def _chosen_by_data(self, mechanism: Mechanism, problem: Problem) -> bool:
        """Whether the sizes of the lists, or the dense rows, depend on more than shapes and parameters."""
        if mechanism.selects and not self.finds(mechanism, problem):
            return True
        return mechanism.positional and mechanism.sees_all(problem.positions()) is not None


@torch.compiler.assume_constant_result
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def budget(mechanism: Mechanism, length: int) -> int | None:
    """``mechanism.budget(length)``, cached, as every call needs it."""
    return mechanism.budget(length) if torch.compiler.is_compiling() else _remembered(mechanism.unbound, length)


@lru_cache(maxsize=1024)
def _remembered(mechanism: Mechanism, length: int) -> int | None:
    return mechanism.budget(length)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _either(options: Iterator[str] | Sequence[str]) -> str:
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last
