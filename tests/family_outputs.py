"""Outputs of two models, or of one for two inputs, side by side."""

from __future__ import annotations

import copy
from typing import Any

import tiny_configs
import tiny_inputs
import tiny_models
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TOLERANCE = 1e-4  # of the largest output: a hundred times what float32 rounding makes of it, and what is wrong is 0.1
Found = dict[str, Any]


def fresh(config: Any) -> Any:
    """The configuration without what a model was made with."""
    config = copy.deepcopy(config)
    config._attn_implementation = None
    return config


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give ``target`` the parameters and buffers of ``source``."""
    with torch.no_grad():
        for (_, a), (_, b) in zip(source.named_parameters(), target.named_parameters(), strict=True):
            b.copy_(a)
        for (_, a), (_, b) in zip(source.named_buffers(), target.named_buffers(), strict=True):
            if a.shape == b.shape:  # others are made for an input
                b.copy_(a)


def expected_gap(cls: type, eager: PreTrainedModel, inputs: Found, true: dict[str, Tensor]) -> float:
    """How far from ``eager`` another computation may be: as Transformers' ``sdpa``, or ``eager`` with rounded weights.

    Models that pick queries by rank change as a whole where two of them are close.
    """
    gaps = [0.0]
    for name in ("sdpa", "eager"):
        try:
            other = cls._from_config(fresh(eager.config), attn_implementation=name).eval()
            copy_weights(eager, other)
            if name == "eager":
                nudge(other)
            gaps.append(difference(tiny_models.run(other, inputs), true, inputs.get("attention_mask")))
        except Exception:  # the class has no sdpa
            continue
    return 2 * max(gaps)


def nudge(model: nn.Module) -> None:
    """Change every weight by a millionth of it, up or down."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator).sign())


def padded(inputs: Found) -> Found | None:
    """The same inputs with the first row padded on the left; None where there are no tokens."""
    ids = inputs.get("input_ids")
    if ids is None or "attention_mask" in inputs or ids.dim() != 2 or ids.shape[1] != tiny_inputs.LENGTH:
        return None
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return {**inputs, "attention_mask": mask}


def difference(found: dict[str, Tensor], true: dict[str, Tensor], real: Tensor | None) -> float:
    """The largest difference of two outputs, as a share of the largest value; infinite where they do not match."""
    found, true = ({k: v for k, v in out.items() if "attentions" not in k} for out in (found, true))
    if found.keys() != true.keys() or any(found[key].shape != true[key].shape for key in true):
        return float("inf")
    worst = 0.0
    for key, value in true.items():
        a, b = found[key], value
        if real is not None:
            if value.shape[:2] != real.shape:
                continue
            a, b = a[real.bool()], b[real.bool()]
        if not b.numel():
            continue
        size = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 1.0
        gap = torch.where(a == b, 0.0, a - b).abs()
        gap = torch.where(a.isnan() & b.isnan(), 0.0, gap).nan_to_num(nan=float("inf"))
        worst = max(worst, gap.max().item() / max(size, 1e-6))
    return worst


def looks(model: PreTrainedModel, inputs: Found, before: dict[str, Tensor] | None) -> float | None:
    """How much the last token changes earlier outputs; None where no output has a place for every token."""
    key = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    if (ids := inputs.get(key)) is None or ids.dim() != 2:
        return None
    changed = ids.clone()
    changed[:, -1] = torch.where(ids[:, -1] == tiny_configs.TOKENS[0], ids[:, -1] + 7, tiny_configs.TOKENS[0])
    before = before or tiny_models.run(model, inputs)
    after = tiny_models.run(model, {**inputs, key: changed})
    rows = {k: v for k, v in before.items() if v.dim() > 2 and v.shape[:2] == ids.shape and k in after}
    gaps = [difference({k: after[k][:, :-1]}, {k: v[:, :-1]}, None) for k, v in rows.items()]
    return max(gaps) if gaps else None
