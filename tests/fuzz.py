"""Random attention problems, from a seed alone, and their check against :mod:`oracle` on every backend of the CPU.

python tests/fuzz.py 1234           # run the case of seed 1234 again, and show it
python tests/fuzz.py 0 20000        # run a range of seeds
"""

from __future__ import annotations

import collections
import dataclasses
import math
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import oracle
import torch
from torch import Tensor

from hf_semfocus import functional, mechanisms, sparse_attention
from hf_semfocus.backends import BACKENDS, chunked

CPU = ("eager", "chunked", "gather", "native")
UNIT = 2.0**-24
HALF = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 0.0}
TINY = {torch.float16: 2.0**-23, torch.bfloat16: 1e-30, torch.float32: 1e-30}  # where floating numbers end


UNIONS = ["banded_sparse+topk_sparse", "sink_sparse+banded_sparse+topk_sparse", "sink_sparse+block_local_sparse"]
UNIONS += ["topp_sparse+strided_sparse", "sink_sparse+threshold_sparse", "sink_sparse+banded_sparse+random_sparse"]
UNIONS += ["block_local_sparse+bottomk_sparse"]
NAMES = [name for name in mechanisms.names() if not mechanisms.get(name).owns_state()] + UNIONS
REALS = {"share": (0.1, 0.3, 0.5, 0.75, 1.0), "alpha": (1.1, 1.25, 1.5, 1.75, 2.0)}
REALS |= {"p": (0.05, 0.3, 0.6, 0.9, 1.0), "margin": (0.0, 0.5, 1.0, 2.5, 30.0)}
# in memory, and seen from there
LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "plain": (lambda t: t, lambda t: t),
    "transposed": (lambda t: t.transpose(1, 2).contiguous(), lambda t: t.transpose(1, 2)),
    "sliced": (lambda t: torch.stack([torch.full_like(t, torch.nan), t], -1).flatten(3), lambda t: t[..., 1::2]),
    "turned": (lambda t: t.permute(3, 2, 1, 0).contiguous(), lambda t: t.permute(3, 2, 1, 0)),
}


@dataclasses.dataclass
class Case:
    """One problem; ``describe`` says it in a line."""

    seed: int
    spec: str
    leaves: dict[str, Tensor]  # of query, key and value
    views: dict[str, Callable[[Tensor], Tensor]]  # from a leaf to what is attended to
    mask: Tensor | None  # what a caller passes as attn_mask
    bias_leaf: Tensor | None
    causal: bool
    scale: float
    softcap: float | None
    sinks: Tensor | None
    layer: int
    exact: bool
    words: list[str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: self.views[name](leaf) for name, leaf in self.leaves.items()}

    def describe(self) -> str:
        shapes = {name: (*t.shape, str(t.dtype)[6:]) for name, t in self.tensors.items()}
        return f"seed {self.seed}: {self.spec} causal={self.causal} scale={self.scale:.3g} {shapes} {self.words}"


def make(seed: int, without: tuple[str, ...] = (), always: tuple[str, ...] = ()) -> Case:
    """The case of a seed; features ``without`` are left out, features ``always`` are in."""
    r = random.Random(seed)
    g = torch.Generator().manual_seed(seed)
    words: list[str] = []

    def feature(name: str, chance: float) -> bool:
        drawn = r.random() < chance
        if chosen := (drawn or name in always) and name not in without:
            words.append(name)
        return chosen

    batch, kv_heads, groups = r.choice((1, 1, 2)), r.choice((1, 1, 2)), r.choice((1, 1, 2, 3))
    heads, queries, dim, width = kv_heads * groups, r.randint(1, 7), r.randint(1, 6), r.randint(1, 5)
    keys = queries if r.random() < 0.5 else queries + r.randint(0, 6)
    if feature("one query", 0.1):
        queries = 1
    causal = r.random() < 0.5
    spec = _spec(r, causal, keys)
    if not oracle.positional(mechanisms.base_name(spec)) and feature("more queries than keys", 0.1):
        keys = r.randint(1, max(1, queries - 1))
    dtype = r.choice((torch.float16, torch.bfloat16)) if feature("half", 0.2) else torch.float32
    exact = not feature("any numbers", 0.5)

    def numbers(*shape: int) -> Tensor:
        drawn = torch.randint(-2, 3, shape, generator=g).float() if exact else torch.randn(shape, generator=g)
        return drawn.to(dtype)

    shapes = {"query": (batch, heads, queries, dim), "key": (batch, kv_heads, keys, dim)}
    shapes["value"] = (batch, kv_heads, keys, width)
    values = {name: numbers(*shape) for name, shape in shapes.items()}
    if keys > 1 and feature("repeated keys", 0.2):
        values["key"] = values["key"][:, :, torch.randint(0, keys, (keys,), generator=g)]
    scale = r.choice((0.25, 0.5, 1.0)) if exact else r.uniform(0.1, 1.2) * r.choice((1, 1, 1, -1))

    mask, bias_leaf = _mask(r, g, feature, (batch, heads, queries, keys), dtype, exact)
    allowed = _allowed(mask, causal, (batch, heads, queries, keys))
    if feature("unseen not numbers", 0.25):
        seen = allowed.reshape(batch, kv_heads, groups, queries, keys).any(3).any(2)
        for name in ("key", "value"):
            bad = torch.tensor([torch.nan, torch.inf, -torch.inf])[
                torch.randint(0, 3, values[name].shape, generator=g)
            ]
            values[name] = torch.where(seen[..., None], values[name], bad.to(dtype))

    softcap = r.uniform(0.5, 3.0) if feature("softcap", 0.1) else None
    sinks = torch.randn(heads, generator=g) if feature("sinks", 0.1) else None
    leaves, views = {}, {}
    for name, value in values.items():
        layout = r.choice(list(LAYOUTS))
        words.append(layout)
        leaves[name], views[name] = LAYOUTS[layout][0](value).clone().requires_grad_(), LAYOUTS[layout][1]
    layer = r.choice((0, 0, 3))
    return Case(
        seed, spec, leaves, views, mask, bias_leaf, causal, scale, softcap, sinks, layer,
        exact and softcap is None, words,
    )  # fmt: skip


def _spec(r: random.Random, causal: bool, keys: int) -> str:
    name = r.choice(NAMES)
    params: dict[str, Any] = {}
    others = list(mechanisms.get(name).alternatives)
    if others:
        others.remove(r.choice(others))
    for field in mechanisms.fields(mechanisms.get(name)).values():
        if field.name in others:
            continue
        if field.name == "seed":
            params["seed"] = r.randint(0, 99)
        elif field.name == "num_global_tokens":
            params[field.name] = r.choice((0, 0, 1, 2, keys + 2))
        elif field.name == "global_position":
            params[field.name] = "first" if causal else r.choice(("first", "last"))
        elif field.name == "edge":
            params[field.name] = r.choice(("shifted", "cut"))
        elif field.name == "max_keys":
            params[field.name] = r.choice((0, keys))  # no limit, or one that no query exceeds
        elif field.metadata.get("implied") and field.name != "share":
            continue
        elif field.name in REALS:
            params[field.name] = r.choice(REALS[field.name])
        elif isinstance(field.default, int):
            params[field.name] = r.choice((1, 2, 2, 3, 3, 4, 5, keys, keys + 3))
    return _written(name, params)


def _written(name: str, params: dict[str, Any]) -> str:
    """The spec, with the parameters of a union at one of the parts that have them."""
    parts = []
    for part in name.split("+"):
        own = [f"{key}={params.pop(key)}" for key in mechanisms.parameters(mechanisms.get(part)) if key in params]
        parts.append(part + ":" * bool(own) + ",".join(own))
    return "+".join(parts)


def _mask(r, g, feature, shape, dtype, exact) -> tuple[Tensor | None, Tensor | None]:
    """A mask of any kind, and its leaf if it is a bias that learns."""
    batch, heads, _, keys = shape
    kind = r.choice(("none", "none", "pairs", "padding", "padding", "bias", "bias and mask"))
    if kind == "none":
        return None, None
    size = tuple(full if r.random() < 0.6 else 1 for full in shape)
    if feature("per head", 0.2):
        size = (size[0], heads, *size[2:])
    drawn = torch.rand(size, generator=g) < r.choice((0.5, 0.8, 1.0))
    if feature("empty rows", 0.2):
        drawn &= torch.rand((*size[:3], 1), generator=g) < 0.6
    if kind == "padding":
        real = torch.arange(keys) >= torch.randint(0, keys, (batch, 1), generator=g)
        drawn = (real if r.random() < 0.5 else real.flip(-1))[:, None, None]
    feature(kind, 1.0)
    if kind in ("pairs", "padding"):
        return drawn, None
    bias = torch.randint(-4, 5, drawn.shape, generator=g) / 4 if exact else torch.randn(drawn.shape, generator=g)
    bias = bias.to(dtype)
    if kind == "bias and mask":
        hidden = r.choice((-torch.inf, torch.finfo(dtype).min))
        bias = bias.masked_fill(~drawn, hidden)
    bias.requires_grad_()
    return bias, bias


def _allowed(mask: Tensor | None, causal: bool, shape: tuple[int, ...]) -> Tensor:
    _, _, queries, keys = shape
    if mask is None:
        allowed = torch.ones(shape, dtype=torch.bool)
    elif mask.is_floating_point():
        allowed = mask.detach() > torch.finfo(mask.dtype).min / 2
    else:
        allowed = mask.bool()
    allowed = allowed.expand(shape)
    if causal:
        allowed = allowed & (torch.arange(keys) <= torch.arange(queries)[:, None] + keys - queries)
    return allowed


# ---- the check


class MismatchError(AssertionError):
    """A backend differs from the definition; says how to see it again."""


def check(case: Case, counts: collections.Counter[str], backends: Sequence[str] = (*CPU, "auto")) -> None:
    """Compare those of ``backends`` that can with the oracle, and count them.

    Raises:
        MismatchError: one of them differs by more than rounding explains.
    """
    name, params = mechanisms.parse(case.spec)
    params = {**{n: f.default for n, f in mechanisms.fields(mechanisms.get(name)).items()}, **params}
    shape = (*case.tensors["query"].shape[:3], case.tensors["key"].shape[2])
    dtype = case.tensors["query"].dtype
    allowed = _allowed(case.mask, case.causal, shape).numpy()
    grad = torch.randn(*shape[:3], case.tensors["value"].shape[3], generator=torch.Generator().manual_seed(case.seed))
    grad = grad.to(dtype)
    bias = None if case.bias_leaf is None else case.bias_leaf.detach().double().expand(shape).numpy()
    true, doubtful = oracle.attention(
        *(t.detach().double().numpy() for t in case.tensors.values()),
        name, params, allowed=allowed, causal=case.causal, scale=case.scale, bias=bias, softcap=case.softcap,
        sinks=None if case.sinks is None else case.sinks.double().numpy(), layer=case.layer,
        grad=grad.double().numpy(), unit=UNIT, exact=case.exact,
    )  # fmt: skip
    clear = torch.from_numpy(~doubtful)
    grad = torch.where(clear[..., None], grad, torch.zeros((), dtype=dtype))

    sinks = None if case.sinks is None else case.sinks.clone().requires_grad_()
    leaves = {**case.leaves, "bias": case.bias_leaf, "sinks": sinks}
    asked = {what: leaf for what, leaf in leaves.items() if leaf is not None}
    for backend in backends:
        if (run := _runner(case, backend, sinks)) is None:
            continue
        counts[backend] += 1
        try:
            output = run().to(dtype)
            gradients = torch.autograd.grad(output, list(asked.values()), grad, allow_unused=True)
        except Exception as error:
            raise MismatchError(f"{backend}: {type(error).__name__}: {error}; {case.describe()}") from error
        found = {"output": output.detach()}
        for (what, leaf), gradient in zip(asked.items(), gradients, strict=True):
            found[what] = torch.zeros_like(leaf) if gradient is None else gradient
        for what, value in found.items():
            if what in case.leaves:
                value = case.views[what](value)
            _close(case, backend, what, value, true[what], clear, dtype)


def _runner(case: Case, backend: str, sinks: Tensor | None) -> Callable[[], Tensor] | None:
    """What computes the case on a backend; None if it cannot."""
    if backend == "auto":
        if case.softcap is not None or sinks is not None or case.layer:
            return None
        return lambda: sparse_attention(
            *case.tensors.values(), case.spec, attn_mask=case.mask, is_causal=case.causal, scale=case.scale,
            enable_gqa=True,
        )  # fmt: skip
    mechanism, problem = functional._problem(
        *case.tensors.values(), case.spec, {}, case.mask, case.causal, case.scale, 0.0, True
    )
    problem = dataclasses.replace(problem, softcap=case.softcap, sinks=sinks, layer=case.layer)
    if BACKENDS[backend].LIMITS.objections(mechanism, problem):
        return None

    def run() -> Tensor:
        with mock.patch.object(chunked, "CHUNK_SCORES", math.prod(problem.shape) // (1 + case.seed % 4)):
            return BACKENDS[backend].attend(mechanism, problem)[0]

    return run


def _close(case: Case, backend: str, what: str, value: Tensor, true: Any, clear: Tensor, dtype: torch.dtype) -> None:
    expected, noise, size = (torch.from_numpy(t) for t in (true.value, true.noise, true.size))
    if what == "bias":
        expected, noise, size = (t.sum_to_size(value.shape) for t in (expected, noise, size))
    bound = noise + 4 * HALF[dtype] * size + TINY[dtype]
    gap = (value.double() - expected).abs()
    if what == "output":
        gap = torch.where(clear[..., None], gap, 0.0)
    if not (gap <= bound).all():
        share = torch.where(gap <= bound, 0.0, gap / bound).nan_to_num(nan=torch.inf).max().item()
        raise MismatchError(
            f"{backend}: {what} differs by {gap.max().item():.3g}, {share:.3g} times what rounding explains; "
            f"{case.describe()}; run again with: python tests/fuzz.py {case.seed}"
        )


def main() -> None:
    torch.set_num_threads(1)
    first = int(sys.argv[1])
    seeds = range(first, int(sys.argv[2]) if len(sys.argv) > 2 else first + 1)
    counts: collections.Counter[str] = collections.Counter()
    failed = 0
    for seed in seeds:
        case = make(seed, tuple(sys.argv[3:]))
        if len(seeds) == 1:
            print(case.describe())
        try:
            check(case, counts)
        except MismatchError as error:
            failed += 1
            print(error)
    print(f"{len(seeds)} cases, {failed} failed; runs: {dict(counts)}")


if __name__ == "__main__":
    main()
