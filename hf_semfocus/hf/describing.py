"""``describe``: the attention of every layer and head of a model, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .. import backends
from ..attention.problem import Problem
from ..attention.visibility import Visibility
from ..mechanisms import Mechanism
from ..tables import html_table, markdown_table
from . import observe
from .support import verify

LENGTHS = (128, 1024, 8192)
"""Lengths in tokens for which kept keys are counted."""
TRAINED = 1024
"""Length in tokens of the training step for which the backend is chosen."""


@dataclass(frozen=True)
class Row:
    """Heads of a layer that attend alike.

    Attributes:
        layer: path of the module.
        heads: their numbers from 0, such as ``0-3, 5``, or ``all``.
        mechanism: its name; ``full`` keeps all keys.
        parameters: of the mechanism, all that are in force.
        backend: what computes a training step of one sequence of 1,024 tokens, without dropout, on the model's
            device; None for a layer that computes its attention itself.
        keys: the most keys that a query keeps, by the number of tokens.
    """

    layer: str
    heads: str
    mechanism: str
    parameters: dict[str, int | float | str]
    backend: str | None
    keys: dict[int, int]

    def cells(self) -> list[str]:
        """The row as text."""
        stated = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        counts = [f"{count:,}" for count in self.keys.values()]
        return [self.layer, self.heads, self.mechanism, stated or "-", self.backend or "its own", *counts]


@dataclass(frozen=True)
class Attentions:
    """The attention of every layer and head of a model; ``print`` and notebooks show a table.

    Attributes:
        rows: in the order of the layers.
    """

    rows: list[Row]

    def __str__(self) -> str:
        return markdown_table(self._cells())

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def _cells(self) -> list[list[str]]:
        header = ["layer", "heads", "mechanism", "parameters", "backend", *(f"keys of {n:,}" for n in LENGTHS)]
        return [header, *(row.cells() for row in self.rows)]


def describe(model: PreTrainedModel, **inputs: Any) -> Attentions:
    """Describe the attention of every layer and head of a model, which is run once.

    Args:
        model: a model whose attention implementation is one of ours; wrapped (PEFT, DDP) is fine.
        **inputs: its arguments, e.g. ``input_ids=...``; its ``dummy_inputs`` by default.

    Raises:
        UnsupportedModelError: some layers do not compute their attention through this package; names them.
        ValueError: the model's attention implementation is none of ours.
    """
    seen: dict[nn.Module, dict[tuple[Any, ...], tuple[Any, ...]]] = {}

    def note(call: observe.Call) -> None:
        mechanism, heads = call.mechanism.unbound, call.problem.heads
        found = seen.setdefault(call.module, {})
        if (heads, mechanism) not in found:
            found[heads, mechanism] = _numbers(heads), mechanism, _backend(call)

    with observe.watch(model, note):
        layers = verify(model, **inputs)
    modules = dict(model.named_modules())
    own = {None: ("all", Mechanism(), None)}
    return Attentions(
        [_row(path, *entry) for path in layers for entry in seen.get(modules[path], own).values()],
    )


def _row(path: str, heads: str, mechanism: Mechanism, backend: str | None) -> Row:
    values = {name: getattr(mechanism, name) for name in mechanism.in_force}
    budgets = {length: mechanism.budget(length) for length in LENGTHS}
    keys = {length: length if most is None else most for length, most in budgets.items()}
    return Row(path, heads, mechanism.name, values, backend, keys)


def _backend(call: observe.Call) -> str:
    """What computes a training step with the attention of a call."""
    problem = call.problem

    def long(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.new_empty(1, tensor.shape[1], TRAINED, tensor.shape[3])

    step = Problem(
        *(long(tensor) for tensor in (problem.query, problem.key, problem.value)),
        Visibility.between(TRAINED, TRAINED, problem.query.device, causal=problem.visibility.causal),
        problem.scale,
        bias=None if problem.bias is None else problem.bias.new_zeros(1, 1, 1, 1),
        softcap=problem.softcap,
        sinks=problem.sinks,
        heads=problem.heads,
    )
    with torch.enable_grad():
        return backends.explain(call.mechanism, step, backend=call.backend).chosen


def _numbers(heads: tuple[int, ...] | None) -> str:
    """Numbers in ascending order as text, with ranges."""
    if heads is None:
        return "all"
    spans: list[list[int]] = []
    for head in heads:
        if spans and head == spans[-1][1] + 1:
            spans[-1][1] = head
        else:
            spans.append([head, head])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
