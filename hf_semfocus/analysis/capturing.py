"""Capture what a model's attention does while it runs, dense or sparse, without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..hf import dense
from ..hf.layers import attention_layers
from ..hf.observe import Call
from ..hf.support import UnsupportedModelError
from ..hf.visibility import is_cross_attention
from ..mechanisms import Mechanism, build
from .measuring import measure
from .quantities import chosen
from .records import Record
from .sketches import EXACT


@contextmanager
def capture(
    model: nn.Module, quantities: Sequence[str] | None = None, mechanism: str | None = None, exact: int = EXACT
) -> Iterator[Record]:
    """Measure every call of a model's attention while the context is open.

    Quantities are taken from the scores (with bias and softcap, no sink logits) of the queries that are not padding
    over the keys they see. Scores are recomputed in float32 (float64 for float64 models) in chunks of queries.

        with hf_semfocus.analysis.capture(model) as record:
            model(**batch)
        record.frame()

    Args:
        model: any model that goes through Transformers' attention interface; wrapped (PEFT, DDP) is fine.
        quantities: names in :data:`~hf_semfocus.analysis.quantities.QUANTITIES`. By default all: for dense attention
            those that need no kept keys.
        mechanism: which keys count as kept, e.g. ``"topk_sparse:k=5"`` to see what a dense model would keep; by
            default the attention's own.
        exact: values per layer, head and quantity up to which all are kept, and quantiles are exact; above, see
            :class:`~hf_semfocus.analysis.sketches.Sketch`.

    Yields:
        The record, which is filled by every call.

    Raises:
        ValueError: unknown quantities, a compiled model, or a quantity that no attention has that was seen.
        UnsupportedModelError: no call of an attention was seen.
    """
    with watch(model, quantities, mechanism, exact) as record:
        yield record
    if not record.calls:
        raise UnsupportedModelError(
            f"no attention of {type(model).__name__} was seen; expected a call of a model that goes through "
            "Transformers' attention interface while the capture is open"
        )
    measured = {name for *_, name in record.sketches}
    if quantities is not None and (lacking := [name for name in quantities if name not in measured]):
        raise ValueError(
            f"{', '.join(lacking)} was not measured, as every attention that was seen keeps all keys; expected "
            "mechanism='topk_sparse:k=...' to say which to count as kept, or other quantities"
        )


@contextmanager
def watch(
    model: nn.Module, quantities: Sequence[str] | None = None, mechanism: str | None = None, exact: int = EXACT
) -> Iterator[Record]:
    """:func:`capture` of those of the ``quantities`` that there are, were it none at all."""
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
        raise ValueError("a compiled model does not show its attention; expected the model before torch.compile")
    named, keeper = chosen(quantities), None if mechanism is None else build(mechanism)
    if keeper is not None and keeper.owns_state():
        raise ValueError(f"{keeper.spec} has trainable parameters; expected one without, or None for the model's own")
    paths = {module: path for path, module in model.named_modules()}
    layers = [module for _, module in attention_layers(model)]
    record = Record([paths[module] for module in layers], exact)

    def tell(call: Call) -> None:
        if torch._C._current_graph_task_id() != -1:  # gradient checkpointing computes it again in the backward pass
            return
        record.calls += 1
        if call.module not in layers:
            layers.append(call.module)
            record.layers.append(paths[call.module])
        keeps = _keeper(call, keeper)
        possible = [each for each in named if type(keeps) is not Mechanism or not each.needs_kept]
        for (head, name), values in measure(call, keeps, possible).items():
            for each in values:
                record.add(layers.index(call.module), head, name, each)

    with dense.watch(model, tell):
        yield record


def _keeper(call: Call, asked: Mechanism | None) -> Mechanism:
    """What says which keys are kept in a call; positions have no meaning across two sequences."""
    if asked is None or (asked.positional and not call.problem.visibility.causal and is_cross_attention(call.module)):
        return call.mechanism
    return asked
