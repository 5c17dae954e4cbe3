"""The check of one model class: our attention is right there, or refused."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import tiny_configs
import tiny_inputs
import tiny_models
import torch
import transformers
from family_calls import Elsewhere, counted, paths
from torch import Tensor, nn
from transformers import PreTrainedModel

import hf_semfocus

ALL, FEW, BAND = "topk_sparse:k=9999", "topk_sparse:k=1", "banded_sparse:window=3,edge=cut"
TOLERANCE = 1e-4  # of the largest output: a hundred times what float32 rounding makes of it, and what is wrong is 0.1
Found = dict[str, Any]
OUTCOMES = {
    "supported": "all checks pass",
    "refused": "`UnsupportedModelError`, when made and when set",
    "wrong": "other outputs, or a look into the future",
    "dense": "attention that is computed elsewhere, without a word",
    "error": "another error than our refusal",
    "strict": "a refusal, when made or by `verify`, of what was not found to be wrong",
    "crashed": "the process ended",
    "timed out": "no answer in time",
    "not built": "no sizes and inputs were found that run under `eager`",
}


def check(name: str) -> Found:
    """What is found of a class: ``outcome``, and ``why``."""
    cls = getattr(transformers, name)
    try:
        eager, inputs, how = tiny_models.build(cls)
    except Exception as error:  # a generator of sizes or inputs may fail as well
        if refusal := _refusal(cls):
            return {"outcome": "refused", "why": refusal}
        return {"outcome": "not built", "why": str(error)}
    problems: list[tuple[str, str]] = []
    try:
        refused = _compare(cls, eager, inputs, problems)
    except hf_semfocus.UnsupportedModelError as error:
        refused = str(error)
    except Exception as error:
        problems.append(("error", f"{type(error).__name__}: {error}"))
        refused = None
    if refused and not problems:
        return {"outcome": "refused", "why": refused, "how": how}
    problems.sort(key=lambda found: list(OUTCOMES).index(found[0]))
    outcome = problems[0][0] if problems else "supported"
    return {"outcome": outcome, "why": "; ".join(f"{kind}: {why}" for kind, why in problems), "how": how}


def _refusal(cls: type[PreTrainedModel]) -> str:
    """Our refusal of a class of which no model runs; empty if there is none."""
    with contextlib.suppress(Exception), torch.device("meta"):
        for _, config in tiny_configs.configs(cls):
            try:
                if config is not None:
                    cls._from_config(config, attn_implementation=FEW)
            except hf_semfocus.UnsupportedModelError as error:
                return str(error)
    return ""


def _compare(cls: type, eager: PreTrainedModel, inputs: Found, problems: list[tuple[str, str]]) -> str | None:
    """Fill ``problems``; the refusal, if the class is refused."""
    try:
        ours = cls._from_config(_fresh(eager.config), attn_implementation=ALL).eval()
    except hf_semfocus.UnsupportedModelError as error:
        try:
            eager.set_attn_implementation(ALL)
        except hf_semfocus.UnsupportedModelError:
            return str(error)
        problems.append(("strict", "refused when made, but not when set"))
        return None
    _copy(eager, ours)
    with counted() as calls:
        true = tiny_models.run(eager, inputs)
    expected = paths(eager, calls)
    with counted() as calls, Elsewhere() as elsewhere:
        tiny_models.run(ours, inputs)
    seen = paths(ours, calls)
    if not expected:
        problems.append(("dense", "no layer asks the interface"))
    if seen != expected:
        problems.append(("dense", f"calls per layer {_short(seen)}, under eager {_short(expected)}"))

    for words, chosen in {"": inputs, " with padding": padded(inputs)}.items():
        try:
            reference = tiny_models.run(eager, chosen) if words and chosen else true
        except Exception:  # eager takes no padding here
            chosen = None
        if chosen is None:
            continue
        found = tiny_models.run(ours, chosen)
        gap = difference(found, reference, chosen["attention_mask"] if words else None)
        if gap > max(TOLERANCE, _between_dense(cls, eager, chosen, reference) if gap > TOLERANCE else 0.0):
            problems.append(("wrong", f"everything kept{words} differs from eager by {gap:.1e}"))
    causal = _looks(eager, inputs, true)
    if causal == 0 and _looks(ours, inputs, None) > TOLERANCE:
        problems.append(("wrong", "everything kept sees the future"))

    ours.set_attn_implementation(FEW)
    few = tiny_models.run(ours, inputs)
    if difference(few, true, None) <= 3 * TOLERANCE:
        problems.append(("dense", "one key kept changes nothing"))
    if causal == 0 and _looks(ours, inputs, few) > TOLERANCE:
        problems.append(("wrong", "one key kept sees the future"))
    problems.extend(_verified(ours, inputs, expected, elsewhere.places))

    ours.set_attn_implementation(BAND)
    band = tiny_models.run(ours, inputs)
    looks = _looks(ours, inputs, band)
    if causal == 0 and looks > TOLERANCE:
        problems.append(("wrong", "a band sees the future"))
    if causal is not None and causal > 100 * TOLERANCE and looks == 0:
        problems.append(("wrong", "a band looks one way only"))
    return None


def _fresh(config: Any) -> Any:
    """The configuration without what a model was made with."""
    config = copy.deepcopy(config)
    config._attn_implementation = None
    return config


def _copy(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for (_, a), (_, b) in zip(source.named_parameters(), target.named_parameters(), strict=True):
            b.copy_(a)
        for (_, a), (_, b) in zip(source.named_buffers(), target.named_buffers(), strict=True):
            if a.shape == b.shape:  # others are made for an input
                b.copy_(a)


def _between_dense(cls: type, eager: PreTrainedModel, inputs: Found, true: dict[str, Tensor]) -> float:
    """How far Transformers' own ``sdpa`` is from ``eager``, which is what is to be expected where they differ."""
    try:
        other = cls._from_config(_fresh(eager.config), attn_implementation="sdpa").eval()
        _copy(eager, other)
        gap = difference(tiny_models.run(other, inputs), true, inputs.get("attention_mask"))
    except Exception:
        return 0.0
    return 2 * gap


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


def _looks(model: PreTrainedModel, inputs: Found, before: dict[str, Tensor] | None) -> float | None:
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


def _verified(
    model: PreTrainedModel, inputs: Found, expected: dict[str, int], elsewhere: set[str]
) -> Iterator[tuple[str, str]]:
    """What ``verify`` says otherwise than the calls that were counted, and attention that it does not report."""
    reported: set[str] = set()
    try:
        layers = hf_semfocus.verify(model, **inputs)
    except hf_semfocus.UnsupportedModelError as error:
        missed = [part.split(" (")[0] for part in str(error).split("through ", 1)[-1].split(": ", 1)[-1].split(", ")]
        ran = _ran(model, inputs)
        if wrong := [path for path in missed if path in ran]:
            yield "dense" if elsewhere or not expected else "strict", f"verify misses {', '.join(wrong[:3])}"
    else:
        if unknown := sorted(expected.keys() - layers.keys()):
            yield "dense", f"verify does not know {unknown[:3]}"
        if others := {used for path, used in layers.items() if used != FEW and (path in expected or used != "full")}:
            yield "dense", f"verify says {sorted(others)}"
        # what is left full is told by a warning when the model is made, as a head that pools with one query
        for path in (path for path, used in layers.items() if used == "full"):
            parents = {path, path.rpartition(".")[0]}
            reported |= {type(model.get_submodule(parent)).__name__ for parent in parents}
    yield from (("dense", f"attention computed in {place}") for place in sorted(elsewhere - reported))


def _ran(model: PreTrainedModel, inputs: Found) -> set[str]:
    """Paths of the modules that a forward pass goes through."""
    ran: set[str] = set()
    hooks = [m.register_forward_pre_hook(lambda *_, p=path: ran.add(p) and None) for path, m in model.named_modules()]
    tiny_models.run(model, inputs)
    for hook in hooks:
        hook.remove()
    return ran


def _short(calls: dict[str, int]) -> str:
    return f"{sum(calls.values())} of {len(calls)} modules"
