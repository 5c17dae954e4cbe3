"""The check of one model class: our attention is right there, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import family_oracle
import family_refusal
import family_training
import tiny_models
import transformers
from family_calls import Elsewhere, counted, paths
from family_outputs import TOLERANCE, Found, copy_weights, difference, expected_gap, fresh, looks, padded
from transformers import PreTrainedModel

import hf_semfocus

ALL, FEW, BAND, TRAINED = "topk_sparse:k=9999", "topk_sparse:k=1", "banded_sparse:window=3,edge=cut", "topk_sparse:k=2"
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
        refusal, reason = family_refusal.unbuilt(cls, FEW)
        if refusal:
            return {"outcome": "refused", "why": refusal, "reason": reason}
        return {"outcome": "not built", "why": str(error)}
    problems: list[tuple[str, str]] = []
    notes: list[str] = []
    try:
        refused = _compare(cls, eager, inputs, problems, notes)
    except hf_semfocus.UnsupportedModelError as error:
        refused = str(error)
    except Exception as error:
        problems.append(("error", f"{type(error).__name__}: {error}"))
        refused = None
    made = {"how": how, "notes": notes}
    if refused and not problems:
        reason = family_refusal.reason(eager, inputs, refused)
        if reason is not None:
            return {"outcome": "refused", "why": refused, "reason": reason, **made}
        problems.append(("strict", f"all of its attention uses the interface; {refused}"))
    problems.sort(key=lambda found: list(OUTCOMES).index(found[0]))
    outcome = problems[0][0] if problems else "supported"
    return {"outcome": outcome, "why": "; ".join(f"{kind}: {why}" for kind, why in problems), **made}


def _compare(
    cls: type, eager: PreTrainedModel, inputs: Found, problems: list[tuple[str, str]], notes: list[str]
) -> str | None:
    """Fill ``problems`` and ``notes`` of what was not compared; the refusal, if the class is refused."""
    try:
        ours = cls._from_config(fresh(eager.config), attn_implementation=ALL).eval()
    except hf_semfocus.UnsupportedModelError as error:
        try:
            eager.set_attn_implementation(ALL)
        except hf_semfocus.UnsupportedModelError:
            return str(error)
        problems.append(("strict", "refused when made, but not when set"))
        return None
    copy_weights(eager, ours)
    with counted() as calls:
        true = tiny_models.run(eager, inputs)
    expected = paths(eager, calls)
    with counted() as calls, Elsewhere() as elsewhere:
        tiny_models.run(ours, inputs)
    seen = paths(ours, calls)
    if not expected:
        hf_semfocus.verify(ours, **inputs)  # refuses it, where the class leaves out post_init, and so our check
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
        if gap > max(TOLERANCE, expected_gap(cls, eager, chosen, reference) if gap > TOLERANCE else 0.0):
            problems.append(("wrong", f"everything kept{words} differs from eager by {gap:.1e}"))
    causal, back = looks(eager, inputs, true), looks(ours, inputs, None)
    if causal == 0 and back > TOLERANCE:
        problems.append(("wrong", "everything kept sees the future"))

    ours.set_attn_implementation(FEW)
    few = tiny_models.run(ours, inputs)
    if difference(few, true, None) <= 3 * TOLERANCE and not family_oracle.holds(ours, inputs):
        problems.append(("dense", "one key kept changes nothing"))
    if causal == 0 and looks(ours, inputs, few) > TOLERANCE:
        problems.append(("wrong", "one key kept sees the future"))
    problems.extend(_verified(ours, inputs, expected, elsewhere.places))

    ours.set_attn_implementation(BAND)
    band = tiny_models.run(ours, inputs)
    seen_after = looks(ours, inputs, band)
    if causal == 0 and seen_after > TOLERANCE:
        problems.append(("wrong", "a band sees the future"))
    if causal and min(causal, back) > 100 * TOLERANCE and seen_after == 0:
        problems.append(("wrong", "a band looks one way only"))

    wrong, refused = family_oracle.compare(ours, inputs)
    problems.extend(("wrong", why) for why in wrong)
    notes.extend(f"{name} refused" for name in refused)
    ours.set_attn_implementation(TRAINED)
    wrong, note = family_training.check(eager, ours, inputs)
    problems.extend(("wrong", f"in training: {why}") for why in wrong)
    notes.extend([note] if note else [])
    return None


def _verified(
    model: PreTrainedModel, inputs: Found, expected: dict[str, int], elsewhere: set[str]
) -> Iterator[tuple[str, str]]:
    """What ``verify`` says otherwise than the calls that were counted, and attention that it does not report."""
    reported: set[str] = set()
    try:
        layers = hf_semfocus.verify(model, **inputs, **tiny_models.without_cache(model))
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
