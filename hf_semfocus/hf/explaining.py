"""``explain``: which backend computes attention, and why not the others, for tensors or a whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import backends, functional
from . import observe


@dataclass(frozen=True)
class ModelExplanation:
    """Which backend computes every attention layer of a model; ``print`` groups equal layers.

    Attributes:
        layers: by path, the mechanism, the backend and the objections of the others; calls of one layer that differ
            have entries of their own.
    """

    layers: dict[str, backends.Explanation]

    def __str__(self) -> str:
        return "\n".join(f"{paths}:\n{explanation}" for paths, explanation in self._grouped())

    def _repr_html_(self) -> str:
        return "".join(explanation.html(f"{paths}: ") for paths, explanation in self._grouped())

    def _grouped(self) -> list[tuple[str, backends.Explanation]]:
        """The paths of layers that agree, and what they agree on."""
        groups: dict[str, list[str]] = {}
        for path, explanation in self.layers.items():
            groups.setdefault(str(explanation), []).append(path)
        return [(", ".join(paths), self.layers[paths[0]]) for paths in groups.values()]


def explain(
    model: nn.Module | torch.Tensor | None = None, *tensors: Any, **inputs: Any
) -> ModelExplanation | backends.Explanation:
    """Explain which backend computes attention, with the objections of the others.

    For a model it runs one forward pass: ``explain(model, **inputs)``. For tensors it computes nothing:
    ``explain(query, key, value, mechanism, ...)`` takes the arguments of :func:`hf_semfocus.sparse_attention`.

    Args:
        model: a model whose attention implementation is one of ours; or ``query``.
        *tensors: ``key``, ``value`` and the mechanism, after ``query``.
        **inputs: arguments of the model, e.g. ``input_ids=...``; its ``dummy_inputs`` by default. For tensors,
            the other arguments of :func:`hf_semfocus.sparse_attention`.

    Returns:
        For tensors, the backend that ``"auto"`` takes and the objections of all; for a model, the same for every
        attention layer, with the backend in its configuration. ``print`` shows either as a table.

    Raises:
        ValueError: no layer of the model computes its attention through this package, a requested backend cannot
            compute a layer, or as :func:`hf_semfocus.sparse_attention` does.
    """
    if not isinstance(model, nn.Module):
        return functional.explain(*([] if model is None else [model]), *tensors, **inputs)
    if tensors:
        raise ValueError(f"explain(model) takes inputs by name, got {len(tensors)} without; expected input_ids=...")
    seen: dict[nn.Module, list[backends.Explanation]] = {}

    def note(call: observe.Call) -> None:
        explanation = backends.explain(call.mechanism, call.problem, call.weights, call.backend)
        if explanation not in seen.setdefault(call.module, []):
            seen[call.module].append(explanation)

    with observe.watch(model, note), torch.no_grad():
        model(**(inputs or model.dummy_inputs))
    layers = {
        f"{path} (other call {number})" if number else path: explanation
        for path, module in model.named_modules()
        for number, explanation in enumerate(seen.get(module, ()))
    }
    if not layers:
        name = model.config._attn_implementation
        raise ValueError(
            f"no layer of {type(model).__name__} computes its attention through hf_semfocus; its attn_implementation "
            f"is {name!r}, expected one of hf_semfocus's names"
        )
    return ModelExplanation(layers)
