"""Sweep over every model family that Transformers can build: is our attention right there, or refused?

    python tests/families.py --output families.md            # all classes, about 15 minutes on one core
    python tests/families.py GPT2LMHeadModel BartModel        # some, with what was found about each

For every class a tiny random model is made (:mod:`tiny_models`) and checked:

* everything kept: the outputs equal those of ``eager``, with and without padding;
* few keys kept: every attention layer of ``eager`` calls us, as often, no attention is computed elsewhere, and the
  output changes;
* models whose earlier outputs do not depend on later tokens under ``eager`` do not under ours; of the others, a band
  looks both ways;
* ``hf_semfocus.verify`` agrees;

or the class is refused with ``UnsupportedModelError``. Each class is checked in a process that is replaced when it
crashes or hangs. The table lists every class; ``--json`` writes the findings for further use.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import json
import os
import re
import select
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny_configs
import tiny_inputs
import tiny_models
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, PreTrainedModel

import hf_semfocus

ALL, FEW, BAND = "topk_sparse:k=9999", "topk_sparse:k=1", "banded_sparse:window=3,edge=cut"
TOLERANCE = 1e-4  # of the largest output: a hundred times what float32 rounding makes of it, and what is wrong is 0.1
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
BAD = ("wrong", "dense", "error", "strict", "crashed", "timed out")
# classes that are known to be bad, and why that is left; every entry is needed
RANKS = "picks queries by rank: eager itself differs by 1 from its twin with weights a millionth apart"
ALIKE = "all keys are alike in so small a model: one position, or empty codebooks"
KNOWN = {
    "DFineModel": RANKS,
    "DFineForObjectDetection": RANKS,
    "Deimv2Model": RANKS,
    "Deimv2ForObjectDetection": RANKS,
    "MimiModel": ALIKE,
    "PPOCRV5ServerRecForTextRecognition": ALIKE,
    "PPOCRV6SmallRecForTextRecognition": ALIKE,
}
# heads that add a projection to a model that is swept itself
SAME = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
        "ForNextSentencePrediction")  # fmt: skip
Found = dict[str, Any]


def classes() -> list[str]:
    """Every public model class, without the heads that only add a projection."""
    public = (name for name in dir(transformers) if not name.startswith("_") and name[0].isupper())
    return [name for name in public if _is_model(getattr(transformers, name)) and not name.endswith(SAME)]


def _is_model(thing: Any) -> bool:
    return (
        isinstance(thing, type)
        and issubclass(thing, PreTrainedModel)
        and not re.search("Pre[tT]rained", thing.__name__)
    )


# ---- one class


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
    expected = _paths(eager, calls)
    with counted() as calls, Elsewhere() as elsewhere:
        tiny_models.run(ours, inputs)
    seen = _paths(ours, calls)
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


# ---- what is called


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter[nn.Module]]:
    """Calls of the functions that the interface gives out, by module."""
    original = AttentionInterface.get_interface
    calls: collections.Counter[nn.Module] = collections.Counter()

    def get_interface(self: Any, name: str, default: Any) -> Any:
        function = original(self, name, default)

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            calls[module] += 1
            Elsewhere.inside += 1
            try:
                return function(module, *args, **kwargs)
            finally:
                Elsewhere.inside -= 1

        return call

    AttentionInterface.get_interface = get_interface
    try:
        yield calls
    finally:
        AttentionInterface.get_interface = original


def _paths(model: nn.Module, calls: collections.Counter[nn.Module]) -> dict[str, int]:
    return {path: calls[module] for path, module in model.named_modules() if module in calls}


class Elsewhere(TorchDispatchMode):
    """Finds attention that no function of the interface computes: a softmax whose result enters a batched product."""

    inside = 0
    FUSED = ("_scaled_dot_product", "_flash_attention", "_efficient_attention", "_native_multi_head_attention")
    SOFTMAX = ("aten::_softmax", "aten::_safe_softmax")
    SAME = ("aten::clone", "aten::_to_copy", "aten::mul.Tensor", "aten::where.self", "aten::masked_fill.Scalar")
    PRODUCT = ("aten::bmm", "aten::baddbmm")

    def __init__(self):
        super().__init__()
        self.places: set[str] = set()
        self._weights: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if Elsewhere.inside:
            return out
        name = func.name()
        if any(part in name for part in self.FUSED):
            self.places.add(_place())
        elif name.startswith(self.SOFTMAX):
            if out.dim() > 2:
                self._mark(out)
        elif name.startswith(self.SAME):
            if any(self._marked(arg) and arg.shape == out.shape for arg in args):
                self._mark(out)
        elif name.startswith(self.PRODUCT) and any(map(self._marked, args)):
            self.places.add(_place())
        return out

    def _mark(self, tensor: Tensor) -> None:
        self._weights[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that its memory is not given anew

    def _marked(self, thing: Any) -> bool:
        return isinstance(thing, Tensor) and thing.untyped_storage().data_ptr() in self._weights


def _place() -> str:
    """Class and method of the model's code that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        if "/transformers/" in frame.f_code.co_filename and isinstance(frame.f_locals.get("self"), nn.Module):
            return type(frame.f_locals["self"]).__name__
        frame = frame.f_back
    return "unknown code"


def _short(calls: dict[str, int]) -> str:
    return f"{sum(calls.values())} of {len(calls)} modules"


# ---- many classes


def work() -> None:
    """Check the classes named on standard input, one line of JSON each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # an error here rather than the machine's memory
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # models print
    for line in sys.stdin:
        try:
            found = check(line.strip())
        except Exception as error:
            found = {"outcome": "error", "why": f"in the sweep itself: {type(error).__name__}: {error}"}
        print(json.dumps({"class": line.strip(), **found}), file=out, flush=True)


WORKER = [sys.executable, __file__, "--work"]


def sweep(names: list[str], limit: float = 180.0) -> Iterator[Found]:
    """Check classes in a process of their own, which is replaced where it crashes or takes ``limit`` seconds."""
    worker = None
    for name in names:
        started = time.monotonic()
        if worker is None:
            worker = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            started += 60  # it imports first
        worker.stdin.write(name + "\n")
        worker.stdin.flush()
        ready = select.select([worker.stdout], [], [], limit + max(0.0, started - time.monotonic()))[0]
        line = worker.stdout.readline() if ready else ""
        if line:
            yield {**json.loads(line), "seconds": round(time.monotonic() - started, 2)}
            continue
        worker.kill()
        code = worker.wait()
        worker = None
        why = f"exit status {code}" if ready else f"no answer in {limit} s"
        yield {"class": name, "outcome": "crashed" if ready else "timed out", "why": why}
    if worker is not None:
        worker.stdin.close()
        worker.wait()


def table(found: list[Found]) -> str:
    """The findings in Markdown: totals, then every class that is not supported, then those that are."""
    totals = collections.Counter(one["outcome"] for one in found)
    lines = [f"# {len(found)} model classes of Transformers {transformers.__version__}", ""]
    lines += ["| outcome | classes | meaning |", "| --- | ---: | --- |"]
    lines += [f"| {outcome} | {totals[outcome]} | {meaning} |" for outcome, meaning in OUTCOMES.items()]
    for outcome in [*list(OUTCOMES)[2:], "refused"]:
        rows = [one for one in found if one["outcome"] == outcome]
        if rows:
            lines += ["", f"## {outcome}", ""]
        for one in rows:
            why = one["why"].replace("\n", " ")[:300] if outcome != "refused" else ""
            if reason := KNOWN.get(one["class"]) if outcome in BAD else None:
                why += f" (known: {reason})"
            lines.append(f"- `{one['class']}`" + (f": {why}" if why else ""))
    lines += ["", "## supported", "", ", ".join(f"`{one['class']}`" for one in found if one["outcome"] == "supported")]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("classes", nargs="*", help="names of model classes; all by default")
    parser.add_argument("--output", type=Path, help="where to write the table; printed by default")
    parser.add_argument("--json", type=Path, help="where to write the findings, a line for each class, as they come")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one class")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work()
    found = []
    names = args.classes or classes()
    for one in sweep(names, args.limit):
        found.append(one)
        print(f"{len(found)}/{len(names)} {one['class']}: {one['outcome']} {one['why']}"[:400], flush=True)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps(one) + "\n")
    text = table(found)
    args.output.write_text(text) if args.output else print(text)


if __name__ == "__main__":
    main()
