"""The contract every registered mechanism keeps, on every backend."""

from dataclasses import dataclass

import oracle
import pytest
import torch
from conftest import backends_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hf_semfocus import mechanisms, sparse_attention
from hf_semfocus.backends import chunked

# float64 tells exact from nearly; the compiled kernels are float32 alone: as many units in the last place
PRECISION = {
    "eager": (torch.float64, 1e-12),
    "chunked": (torch.float64, 1e-12),
    "gather": (torch.float64, 1e-12),
    "native": (torch.float32, 4e-6),
}
UNIONS = ["banded_sparse+topk_sparse", "sink_sparse+banded_sparse", "sink_sparse+strided_sparse+random_sparse"]
UNIONS += ["block_local_sparse+bottomk_sparse"]
NAMES = [name for name in mechanisms.names() if not mechanisms.get(name).owns_state()] + UNIONS
SOFTMAX = [name for name in NAMES if mechanisms.get(name).normalize is mechanisms.Mechanism.normalize]
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
EVERY = pytest.mark.parametrize("name", NAMES)
LARGEST = {"p": 1.0, "margin": 1e3}
"""Parameters that are no counts, where they keep everything."""


def runs(names):
    """Those names with every backend that can compute them."""
    return [(name, backend) for name in names for backend in backends_of(name)]


EVERYWHERE = pytest.mark.parametrize(("name", "backend"), runs(NAMES))


def sized(name, size):
    """Parameters that make a mechanism keep few (size 3) or all (size 1000) keys: every count is ``size``."""
    fields = mechanisms.fields(mechanisms.get(name)).values()
    counts = {f.name: size for f in fields if isinstance(f.default, int) and f.default > 0}
    return counts | {f.name: LARGEST[f.name] for f in fields if f.name in LARGEST and size >= 1000}


def defaults(name, **params):
    return {**{n: f.default for n, f in mechanisms.fields(mechanisms.get(name)).items()}, **params}


def inputs(batch=2, heads=3, queries=13, keys=None, dim=5, dtype=torch.float64, requires_grad=False):
    keys = keys or queries
    shapes = [(batch, heads, queries, dim), (batch, heads, keys, dim), (batch, heads, keys, dim + 1)]
    return [torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for shape in shapes]


def attend(q, k, v, name, backend, /, weights=False, **kwargs):
    """Output, and weights where they are asked for and the backend has them."""
    weights = weights and backend != "native"
    found = sparse_attention(q, k, v, name, backend=backend, return_weights=weights, **kwargs)
    return found if weights else (found, None)


def near(backend):
    """Tolerances of a backend, for values of order one."""
    return {"rtol": 0, "atol": PRECISION[backend][1]}


def causal_mask(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def expected(q, k, v, name, params, allowed, causal):
    """The oracle's outputs and weights, and which queries are beyond doubt.

    ``allowed`` is bool ``[batch, queries, keys]``.
    """
    tensors = [t.double().numpy() for t in (q, k, v)]
    shown = allowed[:, None].expand(-1, q.shape[1], -1, -1).numpy()
    found, doubtful = oracle.attention(
        *tensors, name, defaults(name, **params), allowed=shown, causal=causal, scale=q.shape[-1] ** -0.5, exact=True
    )
    return *(torch.from_numpy(found[part].value) for part in ("output", "weights")), torch.from_numpy(~doubtful)


def test_every_mechanism_has_an_oracle():
    assert sorted(set(NAMES) - set(UNIONS)) == oracle.NAMES


def test_lists_refuse_an_unbounded_number_of_keys():
    q, k, v = inputs(dtype=torch.float32)
    unbounded = {name for name in NAMES if (name, "native") not in runs(NAMES)}
    assert unbounded == {"threshold_sparse", "topp_sparse", "entmax_sparse", "sparsemax_sparse"}
    for name in unbounded:
        for backend in ("gather", "native"):
            with pytest.raises(ValueError, match=f"{name}.* lets a query keep any number of keys; .*expected one of"):
                sparse_attention(q, k, v, name, backend=backend)


GLOBAL = [
    {"num_global_tokens": 2, "global_position": "first"},
    {"num_global_tokens": 1, "global_position": "last"},
    {"num_global_tokens": 40},
]
CASES = [(name, {}) for name in NAMES] + [
    (name, extra) for name in NAMES if "num_global_tokens" in defaults(name) for extra in GLOBAL
]
CASES += [("banded_sparse", {"edge": "cut"}), ("banded_sparse", {"window": 4}), ("random_sparse", {"seed": 7})]
CASES += [("topp_sparse", {"p": p}) for p in (0.01, 0.5)] + [("threshold_sparse", {"margin": m}) for m in (0.0, 0.5)]
CASES += [("topk_sparse", {"share": share}) for share in (0.1, 0.35, 1.0)]
CASES += [("entmax_sparse", {"alpha": alpha}) for alpha in (1.1, 1.75, 2.0)]
CASES += [("block_topk_sparse", {"block_size": size, "k": k}) for size, k in ((1, 3), (2, 1), (5, 2))]
CASES += [("banded_sparse+topk_sparse", {"num_global_tokens": 2}), ("sink_sparse+topp_sparse", {"p": 0.5})]
RUNS = [(name, extra, backend) for name, extra in CASES for _, backend in runs([name])]


@CAUSAL
@pytest.mark.parametrize(("name", "extra", "backend"), RUNS, ids=str)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_equals_the_definition(name, extra, causal, padding, backend, poisoned_memory):
    if causal and extra.get("global_position") == "last":
        pytest.skip("refused, see test_causal_global_tokens_must_come_first")
    params = {**sized(name, 3), **extra}
    if "share" in extra:
        del params["k"]
    q, k, v = inputs(dtype=PRECISION[backend][0])
    n = q.shape[2]
    allowed = torch.ones(2, n, n, dtype=torch.bool)
    if causal:
        allowed &= causal_mask(n)
    if padding != "none":
        real = torch.ones(2, n, dtype=torch.bool)
        real[0, :4] = False
        real[1, :9] = False
        real = real if padding == "left" else real.flip(-1)
        # queries that are padding themselves are nobody's business
        allowed &= real[:, None] & real[:, :, None]
    mask = None if padding == "none" else allowed[:, None]
    out, weights = attend(q, k, v, name, backend, weights=True, attn_mask=mask, is_causal=causal, **params)
    out_true, weights_true, clear = expected(q, k, v, name, params, allowed, causal)
    assert clear.double().mean() > 0.99
    torch.testing.assert_close(out.double()[clear], out_true[clear], **near(backend))
    if weights is not None:
        torch.testing.assert_close(weights[clear], weights_true[clear], **near(backend))


@CAUSAL
@pytest.mark.parametrize(("name", "backend"), runs(SOFTMAX))
def test_keeping_everything_is_full_attention(name, causal, backend):
    q, k, v = inputs(dtype=PRECISION[backend][0])
    out, _ = attend(q, k, v, name, backend, is_causal=causal, **sized(name, 1000))
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(out, full, **near(backend))


@EVERYWHERE
def test_future_keys_never_matter(name, backend):
    q, k, v = inputs(queries=11, dtype=PRECISION[backend][0])
    params = sized(name, 3)
    before = sparse_attention(q, k, v, name, is_causal=True, backend=backend, **params)
    for t in (q, k, v):
        t[:, :, 7:] = torch.randn_like(t[:, :, 7:]) * 100
    after = sparse_attention(q, k, v, name, is_causal=True, backend=backend, **params)
    torch.testing.assert_close(after[:, :, :7], before[:, :, :7], rtol=0, atol=0)
    assert not torch.equal(after[:, :, 7:], before[:, :, 7:])


@CAUSAL
@EVERYWHERE
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_matters(name, causal, side, backend):
    q, k, v = inputs(queries=9, dtype=PRECISION[backend][0])
    params = sized(name, 3)
    alone = sparse_attention(q, k, v, name, is_causal=causal, backend=backend, **params)
    extra = 4
    wide = []
    for t in (q, k, v):
        junk = torch.randn(*t.shape[:2], extra, t.shape[-1], dtype=t.dtype) * 100
        wide.append(torch.cat([junk, t] if side == "left" else [t, junk], 2))
    real = torch.ones(9 + extra, dtype=torch.bool)
    real[slice(0, extra) if side == "left" else slice(9, None)] = False
    out = sparse_attention(*wide, name, attn_mask=real, is_causal=causal, backend=backend, **params)
    torch.testing.assert_close(out[:, :, real], alone, **near(backend))


@CAUSAL
@EVERYWHERE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_row_without_keys_gives_zeros_and_finite_gradients(name, causal, dtype, backend, poisoned_memory):
    q, k, v = inputs(queries=6, dtype=dtype, requires_grad=True)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[0, :, :3] = False
    mask[1] = False
    out, weights = attend(q * 30, k * 30, v, name, backend, weights=True, attn_mask=mask, is_causal=causal)
    assert (out[1] == 0).all()
    assert (out[0, :, :3] == 0).all()
    assert weights is None or (weights[1] == 0).all()
    out.float().square().sum().backward()
    for t in (q, k, v):
        assert t.grad.isfinite().all()
        assert (t.grad[1] == 0).all()


@CAUSAL
@EVERY
@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_chunk_size_changes_nothing(name, causal, rows, monkeypatch, poisoned_memory):
    params = sized(name, 3)
    mask = torch.rand(2, 1, 13, 13) < 0.8
    results = []
    for _, backend in runs([name]):
        if backend == "native":  # has no weights
            continue
        torch.manual_seed(1)
        q, k, v = inputs(requires_grad=True)
        bias = torch.randn(1, 3, 13, 13, dtype=q.dtype).masked_fill(~mask[:1], -torch.inf).requires_grad_()
        monkeypatch.setattr(chunked, "CHUNK_SCORES", rows * 2 * 3 * 13)
        out, weights = sparse_attention(
            q, k, v, name, attn_mask=bias, is_causal=causal, backend=backend, return_weights=True, **params
        )
        gradients = torch.autograd.grad(out.sin().sum() + weights.square().sum(), (q, k, v, bias))
        results.append((out, weights, *gradients))
    for eager, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(other, eager, rtol=0, atol=1e-12)


@CAUSAL
@pytest.mark.parametrize(("name", "backend"), [run for run in runs(NAMES) if PRECISION[run[1]][0] == torch.float64])
def test_gradients(name, causal, backend):
    q, k, v = inputs(batch=1, heads=2, queries=5, dim=3, requires_grad=True)
    params = sized(name, 2)

    def run(q, k, v):
        return sparse_attention(q, k, v, name, is_causal=causal, backend=backend, return_weights=True, **params)

    assert torch.autograd.gradcheck(run, (q, k, v))


@EVERYWHERE
def test_decoding_equals_prefill(name, backend):
    q, k, v = inputs(queries=12, dtype=PRECISION[backend][0])
    params = sized(name, 3)
    prefill = sparse_attention(q, k, v, name, is_causal=True, backend=backend, **params)
    for n in range(1, 13):
        step = sparse_attention(
            q[:, :, n - 1 : n], k[:, :, :n], v[:, :, :n], name, is_causal=True, backend=backend, **params
        )
        torch.testing.assert_close(step[:, :, 0], prefill[:, :, n - 1], **near(backend))


@CAUSAL
@EVERYWHERE
def test_grouped_heads_equal_repeated_keys(name, causal, backend):
    params = sized(name, 3)
    q, k, v = inputs(heads=6, requires_grad=True, dtype=PRECISION[backend][0])
    shared_k, shared_v = k[:, ::3].detach().requires_grad_(), v[:, ::3].detach().requires_grad_()
    out = sparse_attention(q, shared_k, shared_v, name, is_causal=causal, enable_gqa=True, backend=backend, **params)
    repeated = [t.repeat_interleave(3, 1) for t in (shared_k, shared_v)]
    same = sparse_attention(q, *repeated, name, is_causal=causal, backend=backend, **params)
    torch.testing.assert_close(out, same, **near(backend))
    for t in (shared_k, shared_v):
        ours, theirs = (torch.autograd.grad(o.cos().sum(), t, retain_graph=True)[0] for o in (out, same))
        torch.testing.assert_close(ours, theirs, **near(backend))


@EVERYWHERE
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_costs_no_more_than_rounding(name, dtype, backend):
    q, k, v = inputs(dtype=dtype)
    params = sized(name, 3)
    out = sparse_attention(q, k, v, name, is_causal=True, backend=backend, **params)
    true = sparse_attention(q.double(), k.double(), v.double(), name, is_causal=True, backend="eager", **params)
    assert out.dtype == dtype
    # scores and weights are float32, so only the output's own rounding remains
    bound = torch.finfo(dtype).eps * true.abs() + 1e-5
    assert ((out.double() - true).abs() <= bound).all()


@EVERYWHERE
def test_autocast_leaves_scores_in_float32(name, backend):
    q, k, v = inputs(dtype=torch.float32)
    params = sized(name, 3)
    plain = sparse_attention(q, k, v, name, backend=backend, **params)
    with torch.autocast("cpu", torch.bfloat16):
        cast = sparse_attention(q, k, v, name, backend=backend, **params)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


@EVERYWHERE
def test_dropout_drops_weights_and_keeps_their_mean(name, backend):
    q, k, v = inputs(batch=1, heads=64, queries=64, dim=4, dtype=torch.float32)
    ones = torch.ones_like(v)
    out, weights = attend(q, k, ones, name, backend, weights=True, dropout_p=0.5, **sized(name, 8))
    # weights are reported before dropout; sums of dropped weights are random with mean 1
    if weights is not None:
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 64, 64))
    assert abs(out.mean().item() - 1) < 5 * out[..., 0].std().item() / out[..., 0].numel() ** 0.5
    assert out[..., 0].std() > 0.1


@EVERY
def test_dropout_gradient_uses_the_same_mask(name):
    """With dropout the output is linear in the values: gradient times values gives the output back."""
    for _, backend in runs([name]):
        q, k, v = inputs(queries=17, requires_grad=True, dtype=PRECISION[backend][0])
        out = sparse_attention(q, k, v, name, dropout_p=0.4, backend=backend, **sized(name, 3))
        for row in (0, 9, 16):
            (grad,) = torch.autograd.grad(out[0, 1, row, 2], v, retain_graph=True)
            torch.testing.assert_close((grad * v).sum(), out[0, 1, row, 2], **near(backend))


@settings(max_examples=60)
@given(
    run=st.sampled_from(runs(NAMES)),
    causal=st.booleans(),
    n=st.integers(1, 9),
    size=st.integers(1, 10),
    g=st.integers(0, 4),
    seed=st.integers(0, 10_000),
    levels=st.integers(1, 3),
)
def test_any_mask_any_size_with_ties(run, causal, n, size, g, seed, levels):
    generator = torch.Generator().manual_seed(seed)
    name, backend = run
    # few different vectors make many exact ties
    table = torch.randint(-1, 2, (levels, 2), generator=generator).to(PRECISION[backend][0])
    q, k, v = (table[torch.randint(levels, (1, 2, n), generator=generator)] for _ in range(3))
    params = sized(name, size)
    if "num_global_tokens" in defaults(name):
        params["num_global_tokens"] = g
    allowed = torch.rand(1, n, n, generator=generator) < 0.7
    allowed |= torch.eye(n, dtype=torch.bool)
    if causal:
        allowed &= causal_mask(n)
    out, weights = attend(q, k, v, name, backend, weights=True, attn_mask=allowed[:, None], is_causal=causal, **params)
    out_true, weights_true, clear = expected(q, k, v, name, params, allowed, causal)
    torch.testing.assert_close(out.double()[clear], out_true[clear], **near(backend))
    if weights is not None:
        torch.testing.assert_close(weights.double()[clear], weights_true[clear], **near(backend))


SIZED = [{size: value} for size in ("k", "window", "block_size") for value in (1, 3, 4, 8)]
SIZED += [
    {"window": 4, "edge": "cut"},
    {"window": 5, "num_global_tokens": 2},
    {"block_size": 3, "num_global_tokens": 1},
]
SIZED += [{"window": w, "stride": s, "edge": e} for w in (1, 4) for s in (2, 3, 7) for e in ("shifted", "cut")]
SIZED += [{"window": 3, "stride": 2, "num_global_tokens": 2}]


SIZED = [(name, params) for name in oracle.NAMES for params in SIZED if set(params) <= set(defaults(name))]


@pytest.mark.parametrize(("name", "params"), SIZED, ids=str)
def test_budget_is_the_most_keys_that_a_query_keeps(name, params):
    mechanism = mechanisms.build(name, **params)
    assert params.get(mechanism.sized_by, 1) <= mechanism.budget(10_000) < 10_000
    for n in (1, 2, 3, 4, 5, 8, 9, 13, 17):
        most = []
        for causal in (False, True):
            kept = [
                len(oracle.kept(name, i, keys, torch.rand(keys).tolist(), defaults(name, **params), causal, (0, 0))[0])
                for i in range(n)
                if causal or i >= params.get("num_global_tokens", 0)
                for keys in [i + 1 if causal else n]
            ]
            most.append(max(kept, default=0))
        assert max(most) == mechanism.budget(n), n
    assert mechanism.budget(0) == 0


def test_budget_where_a_mechanism_does_not_say_it():
    @dataclass(frozen=True, kw_only=True)
    class Few(mechanisms.Mechanism):
        def pattern(self, at):
            return (at.query - at.key).abs() <= 1

        def reach(self, at):
            return at.query + torch.arange(-1, 2)

    assert [Few().budget(length) for length in (0, 2, 9)] == [0, 2, 3]
    assert mechanisms.Mechanism().budget(9) is None


def test_causal_global_tokens_must_come_first():
    q, k, v = inputs()
    with pytest.raises(ValueError, match=r"global_position='last'.*expected 'first'"):
        sparse_attention(q, k, v, "banded_sparse", is_causal=True, num_global_tokens=1, global_position="last")


def test_random_keys_are_spread_evenly_and_differ_by_seed_head_and_query():
    q, k, v = inputs(batch=1, heads=50, queries=40)
    _, weights = sparse_attention(q, k, v, "random_sparse", k=8, return_weights=True)
    kept = weights > 0
    assert (kept.sum(-1) == 8).all()
    # each key is kept by binomial(2000, 0.2) queries: 400 give or take 18
    assert (kept[0].sum((0, 1)) - 400).abs().max() < 5 * 18
    assert len({tuple(row.nonzero().flatten().tolist()) for row in kept[0].flatten(0, 1)}) > 1990
    _, other = sparse_attention(q, k, v, "random_sparse", k=8, seed=1, return_weights=True)
    # two independent choices of 8 in 40 share 1.6
    assert abs((kept & (other > 0)).sum(-1).float().mean().item() - 1.6) < 0.15


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that an operation made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self.size = max(self.size, t.untyped_storage().nbytes() // t.element_size())
        return out


MOST = 2**31 - 1
HUGE = [(name, sized(name, MOST)) for name in SOFTMAX]
HUGE += [(name, {"num_global_tokens": MOST}) for name in NAMES if "num_global_tokens" in defaults(name)]
HUGE += [("banded_sparse", {"window": MOST, "edge": "cut"}), ("strided_sparse", {"window": MOST, "stride": 3})]
HUGE += [("banded_sparse", {"num_global_tokens": MOST, "global_position": "last"})]
HUGE += [("block_local_sparse", {"block_size": MOST, "num_global_tokens": 2, "global_position": "last"})]


@CAUSAL
@pytest.mark.parametrize(
    ("name", "params", "backend"), [(name, params, b) for name, params in HUGE for _, b in runs([name])], ids=str
)
def test_counts_above_the_length_cost_what_the_length_costs(name, params, causal, backend):
    if causal and params.get("global_position") == "last":
        pytest.skip("refused, see test_causal_global_tokens_must_come_first")
    n = 13
    q, k, v = inputs(batch=1, heads=2, queries=n, dtype=PRECISION[backend][0])
    with Largest() as seen:
        out = sparse_attention(q, k, v, name, is_causal=causal, backend=backend, **params)
    assert seen.size <= 8 * n * n
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(out, full, **near(backend))


@pytest.mark.parametrize(("name", "backend"), [run for run in runs(NAMES) if run[1] in ("chunked", "gather")])
def test_never_holds_a_full_score_matrix(name, backend, monkeypatch):
    """Every tensor that attention in parts makes or saves stays below the full score matrix."""
    n = 512
    monkeypatch.setattr(chunked, "CHUNK_SCORES", 32 * n)
    params = {**sized(name, 4), **({"stride": n} if "stride" in sized(name, 4) else {})}
    q, k, v = inputs(batch=1, heads=1, queries=n, dim=8, dtype=torch.float32, requires_grad=True)
    saved = []
    pack = lambda t: saved.append(t.numel()) or t  # noqa: E731
    with Largest() as seen, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = sparse_attention(q, k, v, name, is_causal=True, backend=backend, **params)
        out.sum().backward()
    assert seen.size <= 64 * n
    assert max(saved, default=0) <= 16 * n


def test_entmax_is_exact_near_softmax_and_refuses_what_float32_would_round():
    scores = 3 * torch.randn(4, 200, dtype=torch.float64)
    near, exact = (
        mechanisms.build("entmax_sparse:alpha=1.001").normalize(s, s == s) for s in (scores.float(), scores)
    )
    torch.testing.assert_close(near.double(), exact, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"alpha=1.0005 is not allowed; expected a finite number at least 1.001 and"):
        mechanisms.build("entmax_sparse:alpha=1.0005")
