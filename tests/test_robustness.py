"""Every mechanism at the edges: odd shapes and numbers, NaN that must not spread, threads, and memory over time."""

import gc
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import STATELESS, backends_of, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from hf_semfocus import sparse_attention

RUNS = [(spec, backend) for spec in STATELESS for backend in backends_of(spec)]


@settings(max_examples=60)
@given(
    run=st.sampled_from(RUNS),
    queries=st.integers(1, 6),
    more=st.integers(0, 5),
    size=st.sampled_from([1e-42, 1e-20, 1.0, 1e4, 1e15]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    causal=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_huge_and_denormal_scores_make_finite_outputs(run, queries, more, size, dtype, causal, seed):
    spec, backend = run
    g = torch.Generator().manual_seed(seed)
    limit = torch.finfo(dtype).max / 2
    draw = lambda n: (torch.randn(1, 2, n, 4, generator=g) * size).clamp(-limit, limit).to(dtype)  # noqa: E731
    q, k = draw(queries).requires_grad_(), draw(queries + more).requires_grad_()
    v = torch.randn(1, 2, queries + more, 3, generator=g).to(dtype).requires_grad_()
    out = sparse_attention(q, k, v, spec, is_causal=causal, backend=backend)
    bound = v.abs().amax(2, keepdim=True) * (1 + 2 * torch.finfo(dtype).eps)
    assert (out.abs() <= bound).all()
    # weights sum to 1, so equal values come out as they are
    ones = sparse_attention(q, k, torch.ones_like(v), spec, is_causal=causal, backend=backend)
    torch.testing.assert_close(ones, torch.ones_like(ones), rtol=0, atol=1e-2)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("spec", "backend"), RUNS)
def test_numbers_that_are_none_stay_in_the_rows_that_see_them(spec, backend, junk):
    """A key of NaN or infinity at position 5: causal queries before it are bit-equal to those without it."""
    q, k, v = torch.randn(3, 1, 2, 9, 4)
    clean = sparse_attention(q, k, v, spec, is_causal=True, backend=backend)
    for tensor in (k, v):
        broken = tensor.clone()
        broken[:, :, 5] = junk
        given_ = (q, broken, v) if tensor is k else (q, k, broken)
        assert torch.equal(sparse_attention(*given_, spec, is_causal=True, backend=backend)[:, :, :5], clean[:, :, :5])
    broken = q.clone()
    broken[:, :, 5] = junk
    out = sparse_attention(broken, k, v, spec, is_causal=True, backend=backend)
    others = [i for i in range(9) if i != 5]
    torch.testing.assert_close(out[:, :, others], clean[:, :, others])


@pytest.mark.parametrize(("spec", "backend"), RUNS)
def test_one_token_and_no_sequences(spec, backend):
    q, k, v = torch.randn(3, 2, 3, 1, 4)
    torch.testing.assert_close(sparse_attention(q, k, v, spec, is_causal=True, backend=backend), v)
    for shape in ((0, 3, 5, 4), (2, 3, 0, 4)):
        keys = torch.randn(shape[0], 3, 5, 4)
        assert sparse_attention(torch.randn(shape), keys, keys, spec).shape == shape


@pytest.mark.parametrize("spec", STATELESS)
def test_threads_compute_what_one_does(spec):
    problems = [torch.randn(3, 1, 2, n, 8) for n in range(9, 33)]
    mask = [torch.arange(p.shape[3]) >= n % 3 for n, p in enumerate(problems)]
    run = lambda at: sparse_attention(*problems[at], spec, attn_mask=mask[at], is_causal=True)  # noqa: E731
    expected = [run(at) for at in range(len(problems))]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, one in zip(pool.map(run, range(len(problems))), expected, strict=True):
                assert torch.equal(found, one)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["banded_sparse:window=3+topk_sparse:k=2", "entmax_sparse", "asentmax_sparse"])
def test_memory_does_not_grow_over_a_thousand_steps(spec):
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2", n_layer=1), attn_implementation=spec)

    def steps(count):
        for number in range(count):
            ids = torch.randint(3, 60, (1, 8 + number % 5))
            model(ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
            model.zero_grad()
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    tensors = steps(30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert steps(1000) <= tensors + 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
