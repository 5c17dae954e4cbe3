"""The compiled kernels: exact selection at sizes of many strips, ties and NaN, gradients, and how they are built."""

import platform
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_semfocus import explain, sparse_attention
from hf_semfocus.attention.selection import highest
from hf_semfocus.backends.lists.native import build, kernels

missing = build.load()
pytestmark = pytest.mark.skipif(isinstance(missing, str), reason=f"no compiled kernels: {missing}")


def kept(index, keys):
    """The lists as a bool tensor ``[batch, heads, queries, keys]``; no column is listed twice."""
    counts = torch.zeros(*index.shape[:3], keys + 1, dtype=torch.int64)
    counts.scatter_add_(-1, torch.where(index < 0, keys, index).long(), torch.ones_like(index, dtype=torch.int64))
    assert (counts[..., :keys] <= 1).all()
    return counts[..., :keys] == 1


def integers(*shape, levels=3):
    """Values whose products are exact in float32, so that equal scores are equal in any order of summation."""
    return torch.randint(-levels, levels + 1, shape).float()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("k", [1, 5, 64, 700, 6000])
@pytest.mark.parametrize("sign", [1, -1])
def test_selection_over_many_strips_with_ties(sign, k, threads, poisoned_memory):
    query, key = integers(1, 2, 13, 5), integers(1, 1, 5003, 5)
    mask = torch.rand(1, 1, 13, 5003) < 0.9
    mask[..., 3, :] = False
    limit = torch.arange(13) * 400 + 7
    torch.set_num_threads(threads)
    try:
        index = kernels.select(query, key, min(k, 5003), 1.0, sign, mask, None, limit)
    finally:
        torch.set_num_threads(1)
    allowed = mask & (torch.arange(5003) <= limit[:, None])
    scores = query @ key.mT
    assert torch.equal(kept(index, 5003), highest(sign * scores, allowed.expand_as(scores), k))


@pytest.mark.parametrize("keys", [1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 129])
def test_selection_from_few_keys_with_ties(keys):
    query, key = integers(1, 2, 13, 7), integers(1, 2, keys, 7)
    query[0, 0, 4], key[0, 1, keys // 2] = 0, torch.nan
    scores = (query @ key.mT).nan_to_num(torch.inf)  # NaN counts as highest
    for k in {min(k, keys) for k in (1, 2, 5, 15, 16, 17, 32, 33)}:
        index = kernels.select(query, key, k, 1.0, 1, None, None, None)
        assert torch.equal(kept(index, keys), highest(scores, torch.ones_like(scores, dtype=torch.bool), k))


@pytest.mark.parametrize("queries", [1, 3, 4, 12, 50])
def test_all_scores_equal_keeps_the_last_keys(queries):
    index = kernels.select(torch.zeros(1, 1, queries, 8), torch.randn(1, 1, 9000, 8), 6, 1.0, 1, None, None, None)
    assert (index.sort(-1).values == torch.arange(8994, 9000)).all()


@pytest.mark.parametrize("shape", [(1, 1, 8, 40), (1, 1, 1, 40), (1, 1, 8, 1), (1, 2, 8, 40)])
def test_masks_of_any_layout(shape):
    query, key = integers(1, 2, 8, 5), integers(1, 2, 40, 5)
    mask = (torch.rand(shape).mT.contiguous() < 0.6).mT  # queries beside each other in memory
    index = kernels.select(query, key, 3, 1.0, 1, mask, None, None)
    scores = query @ key.mT
    assert torch.equal(kept(index, 40), highest(scores, mask.expand_as(scores), 3))


def test_zero_and_minus_zero_tie():
    key = torch.tensor([[0.0], [-1.0], [0.0], [-1.0]]).view(1, 1, 4, 1)
    index = kernels.select(torch.tensor([0.0]).view(1, 1, 1, 1), key, 1, 1.0, 1, None, None, None)
    assert index.item() == 3


def test_adversarial_order_keeps_the_best():
    """Growing and falling scores make every key, or only the first ones, a candidate."""
    for values in (torch.arange(9000.0), -torch.arange(9000.0)):
        index = kernels.select(torch.ones(1, 1, 5, 1), values.view(1, 1, -1, 1), 7, 1.0, 1, None, None, None)
        assert (values[index.long()].sort().values == values.topk(7).values.sort().values).all()


def test_nan_shows():
    q, k, v = torch.randn(3, 1, 1, 20, 8)
    k[0, 0, 4, 2] = torch.nan
    out = sparse_attention(q, k, v, "topk_sparse:k=3", is_causal=True, backend="native")
    assert out[0, 0, :4].isfinite().all()
    assert out[0, 0, 4:].isnan().all()


@settings(max_examples=80)
@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(1, 150),
    dim=st.integers(1, 40),
    value_dim=st.integers(1, 40),
    k=st.integers(1, 20),
    name=st.sampled_from(["topk_sparse:k", "bottomk_sparse:k", "banded_sparse:window", "random_sparse:k"]),
    causal=st.booleans(),
    sparse=st.booleans(),
    biased=st.booleans(),
    transposed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_output_and_gradients(
    batch, groups, queries, keys, dim, value_dim, k, name, causal, sparse, biased, transposed, seed
):
    """Against the reference in float64, with float32's own rounding as the bound."""
    torch.manual_seed(seed)
    # more queries than keys have no positions, and only selection by score serves them
    keys = keys if "topk" in name or "bottomk" in name else max(keys, queries)
    shapes = ((2 * groups, queries, dim), (2, keys, dim), (2, keys, value_dim))
    tensors = [torch.randn(batch, *shape) for shape in shapes]
    if transposed:  # as models pass them: heads beside head_dim
        tensors = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    mask = None
    if biased:
        mask = torch.randn(1, 2 * groups, queries, keys)
        mask = mask.masked_fill(torch.rand(mask.shape) < 0.2, -torch.inf) if sparse else mask
    elif sparse:
        mask = torch.rand(batch, 1, 1, keys) < 0.7
    weight = torch.randn(batch, 2 * groups, queries, value_dim)
    results = []
    for backend, dtype in (("native", torch.float32), ("eager", torch.float64), ("eager", torch.float32)):
        inputs = [t.to(dtype, copy=True, memory_format=torch.preserve_format).requires_grad_() for t in tensors]
        bias = mask
        if biased:
            inputs.append(bias := mask.to(dtype).requires_grad_())
        out = sparse_attention(
            *inputs[:3], f"{name}={k}", attn_mask=bias, is_causal=causal, enable_gqa=True, backend=backend
        )
        results.append([out, *torch.autograd.grad((out * weight.to(dtype)).sum(), inputs)])
    for ours, true, eager in zip(*results, strict=True):
        bound = 4 * (eager.double() - true).abs().max() + 1e-6 * (1 + true.abs().max())
        assert (ours.double() - true).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_inputs_get_gradients_of_their_type(dtype):
    q, k, v = (torch.randn(1, 2, 30, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    sparse_attention(q, k, v, "topk_sparse:k=4", is_causal=True, backend="native").sum().backward()
    assert {t.grad.dtype for t in (q, k, v)} == {dtype}


def test_gradients_are_the_same_every_time_and_for_any_number_of_threads():
    q, k, v = (torch.randn(1, 2, 300, 16, requires_grad=True) for _ in range(3))
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        out = sparse_attention(q, k, v, "topk_sparse:k=9", is_causal=True, backend="native")
        found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    torch.set_num_threads(1)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("empty", [(0, 2, 5, 4), (2, 2, 0, 4)])
def test_nothing_to_attend_is_left_to_the_formula(empty):
    q, _k, _v = (torch.randn(empty, requires_grad=True) for _ in range(3))
    keys = torch.randn(*empty[:2], 5, 4)
    out = sparse_attention(q, keys, keys, "topk_sparse:k=2")
    out.sum().backward()
    assert out.shape == q.grad.shape == empty
    with pytest.raises(ValueError, match=r"backend 'native' cannot compute .*there is nothing to attend"):
        sparse_attention(q, keys, keys, "topk_sparse:k=2", backend="native")


@pytest.mark.parametrize("seen", [0, 40])
def test_sinks_take_part_in_the_softmax_and_learn(seen):
    from hf_semfocus.attention.problem import Problem
    from hf_semfocus.attention.visibility import Visibility
    from hf_semfocus.backends import BACKENDS
    from hf_semfocus.mechanisms import build as made

    results = []
    for backend, dtype in (("native", torch.float32), ("eager", torch.float64)):
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, 3, 40, 8).to(dtype).requires_grad_() for _ in range(3))
        sinks = torch.tensor([0.5, -1.0, -torch.inf]).to(dtype).requires_grad_()
        mask = torch.zeros(1, 1, 1, 40, dtype=torch.bool)
        mask[..., :seen] = True
        problem = Problem(q, k, v, Visibility.between(40, 40, q.device, mask, causal=True), 0.3, sinks=sinks)
        out, _ = BACKENDS[backend].attend(made("topk_sparse:k=4"), problem)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v, sinks))])
    for ours, true in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: ((q.double(), k.double(), v.double()), {}), "tensors are torch.float64; expected float32"),
        (lambda q, k, v: ((q, k, v), {"return_weights": True}), "weights are requested"),
        (lambda q, k, v: ((q.to("meta"), k.to("meta"), v.to("meta")), {}), "tensors are on meta; expected cpu"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_the_reason(change, words):
    tensors, extra = change(*torch.randn(3, 1, 1, 6, 4))
    with pytest.raises(
        ValueError, match=f"backend 'native' cannot compute topk_sparse:k=2 .*{words}.*expected one of"
    ):
        sparse_attention(*tensors, "topk_sparse:k=2", backend="native", **extra)


def look_anew(monkeypatch):
    """Let the kernels be found or compiled at the next call, as in a new process."""
    monkeypatch.setattr(build, "load", cache(build.load.__wrapped__))


def test_without_a_compiler_another_back_end_serves_and_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    look_anew(monkeypatch)
    q, k, v = torch.randn(3, 1, 1, 1500, 8)
    with pytest.warns(RuntimeWarning, match="goes without the compiled kernels"):
        out = sparse_attention(q, k, v, "topk_sparse:k=2")
    assert out.shape == (1, 1, 1500, 8)
    told = str(explain(q, k, v, "topk_sparse:k=2"))
    assert "no C++ compiler: no-such-compiler is not on the PATH" in told
    assert "gather   chosen" in told


def test_a_compiler_that_fails_is_reported_with_its_first_words(tmp_path, monkeypatch):
    broken = tmp_path / "cxx"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit 0\necho no room left >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    look_anew(monkeypatch)
    with pytest.warns(RuntimeWarning, match="no room left"):
        told = explain(*torch.randn(3, 1, 1, 1500, 8), "topk_sparse:k=2")
    assert "failed to compile the kernels: no room left" in str(told.objections["native"])
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_the_library_is_compiled_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def chosen():
        look_anew(monkeypatch)
        return explain(*torch.randn(3, 1, 1, 1500, 8), "topk_sparse:k=2").chosen

    assert chosen() == "native"
    (library,) = (tmp_path / "hf_semfocus").iterdir()
    assert (tmp_path / "hf_semfocus").stat().st_mode & 0o077 == 0
    before = library.stat().st_mtime_ns
    assert chosen() == "native"
    assert library.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instruction sets of x86-64")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3"])
def test_other_instruction_sets_compute_the_same(march, monkeypatch, tmp_path):
    """The source has a branch for AVX-512, one for AVX2 and one for neither."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", tuple(flag.replace("native", march) for flag in build.FLAGS))
    library = build.load.__wrapped__()
    assert not isinstance(library, str), library
    monkeypatch.setattr(build, "load", lambda: library)
    for k in (1, 64, 6000):
        test_selection_over_many_strips_with_ties(1, k, 2, None)
    test_all_scores_equal_keeps_the_last_keys(12)
    test_output_and_gradients()


def test_memory_is_of_the_order_of_the_lists():
    """Nothing that PyTorch holds for the backward pass, or makes on the way, grows with queries times keys."""
    n, saved = 2048, []
    q, k, v = (torch.randn(1, 1, n, 8, requires_grad=True) for _ in range(3))
    assert explain(q, k, v, "topk_sparse:k=4", is_causal=True).chosen == "native"
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        sparse_attention(q, k, v, "topk_sparse:k=4", is_causal=True, backend="native").sum().backward()
    assert max(saved) <= 8 * n


@pytest.mark.parametrize("mechanism", ["topk_sparse:k=3", "banded_sparse:window=3"])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_without_gradients_the_output_is_the_same(mechanism, heads):
    query, key, value = torch.randn(2, heads[0], 9, 8), *torch.randn(2, 2, heads[1], 9, 8)
    call = partial(sparse_attention, mechanism=mechanism, enable_gqa=True, backend="native")
    expected = call(query, key, value.requires_grad_())
    with torch.no_grad():
        found = call(query, key, value)
    assert expected.requires_grad
    assert not found.requires_grad
    assert torch.equal(found, expected)
    assert found.transpose(1, 2).is_contiguous()
