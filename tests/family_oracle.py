"""Mechanisms without parameters of their own, with few keys, against :mod:`oracle` on what layers attend to."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import tiny_models
import torch
from conftest import STATELESS
from family_calls import captured
from fuzz import HALF, TINY, UNIT
from torch import Tensor
from transformers import PreTrainedModel

from hf_semfocus import mechanisms
from hf_semfocus.hf.observe import Call

ROWS = 48  # queries that are compared per mechanism, over all layers
LARGEST = 1_000_000  # scores of a call; of larger ones the last queries are compared


def compare(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is wrong with each mechanism, and the mechanisms that a layer's sliding window refuses."""
    problems, refused = [], []
    for spec in STATELESS:
        model.set_attn_implementation(spec)
        try:
            with captured(model) as calls:
                tiny_models.run(model, inputs)
        except ValueError as error:
            if "sees only a sliding window" not in str(error):
                raise
            refused.append(mechanisms.base_name(spec))
            continue
        worst = max((_gap(call, output, len(calls)) for call, output in calls), default=0.0)
        if not worst <= 1:
            problems.append(f"{spec} differs from the definition by {worst:.1e} times what rounding explains")
    return problems, refused


def holds(model: PreTrainedModel, inputs: dict[str, Any]) -> bool:
    """Whether every layer's output is that of its mechanism by definition."""
    with captured(model) as calls:
        tiny_models.run(model, inputs)
    return bool(calls) and all(_gap(call, output, len(calls)) <= 1 for call, output in calls)


def _gap(call: Call, output: Tensor, calls: int) -> float:
    """The largest error of a call's output, as a multiple of what rounding explains."""
    rows = _rows(call, calls)
    true, doubtful = _truth(call, rows)
    found = output[:, :, -rows.shape[2] :].double().numpy()
    dtype = call.problem.query.dtype
    bound = true.noise + 4 * HALF[dtype] * true.size + TINY[dtype]
    share = np.nan_to_num(np.abs(found - true.value) / bound, nan=np.inf)
    return float(np.where((rows & ~doubtful)[..., None], share, 0.0).max(initial=0.0))


def _rows(call: Call, calls: int) -> np.ndarray:
    """Some queries of a call: bool ``[batch, heads, queries]``, of the last queries where there are many scores."""
    batch, heads, queries, keys = call.problem.shape
    last = max(1, min(queries, LARGEST // (batch * heads * keys)))
    drawn = np.random.default_rng(queries + keys).permutation(batch * heads * last)
    return (drawn < max(2, ROWS // calls)).reshape(batch, heads, last)


def _truth(call: Call, rows: np.ndarray) -> tuple[oracle.Truth, np.ndarray]:
    """The output by definition of the chosen queries, and which of them rounding decides."""
    problem = call.problem
    spec = f"topk_sparse:k={problem.shape[3]}" if call.mechanism.name == "full" else call.mechanism.spec
    name, params = mechanisms.parse(spec)
    params = {**{n: f.default for n, f in mechanisms.fields(mechanisms.get(name)).items()}, **params}
    last = rows.shape[2]
    allowed = problem.allowed.expand(problem.shape)[:, :, -last:].numpy() & rows[..., None]
    bias = None if problem.bias is None else _numbers(problem.bias.expand(problem.shape))[:, :, -last:]
    true, doubtful = oracle.attention(
        _numbers(problem.query)[:, :, -last:], _numbers(problem.key), _numbers(problem.value), name, params,
        allowed=allowed, causal=problem.visibility.causal, scale=problem.scale, bias=bias, softcap=problem.softcap,
        sinks=None if problem.sinks is None else _numbers(problem.sinks), layer=problem.layer, unit=UNIT,
    )  # fmt: skip
    return true["output"], doubtful


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy()
