"""Selections with a limit of keys: found by kernels, the same keys as the formula's, or refused."""

from dataclasses import dataclass, replace

import pytest
import torch
from test_finding import Largest, check_formula

from hf_semfocus import explain, sparse_attention
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends.lists import listed, native
from hf_semfocus.backends.lists.native import build
from hf_semfocus.mechanisms import build as made
from hf_semfocus.mechanisms import register
from hf_semfocus.mechanisms.topp import TopP

pytestmark = pytest.mark.skipif(isinstance(missing := build.load(), str), reason=f"no compiled kernels: {missing}")
CAPPED = [
    "threshold_sparse:margin=1.0,max_keys=45",
    "threshold_sparse:margin=0.0,max_keys=20",
    "topp_sparse:p=0.5,max_keys=25",
    "topp_sparse:p=0.8,max_keys=49",
    "topp_sparse:p=1.0,max_keys=50",
    "banded_sparse:window=3+topp_sparse:p=0.5,max_keys=25",
    "sink_sparse:first=2+threshold_sparse:margin=1.0,max_keys=45",
]


@pytest.mark.parametrize("chunk", [2000, 50 * 13])
@pytest.mark.parametrize("hidden", ["none", "padding", "pairs"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("spec", CAPPED)
def test_equals_the_formula_with_ties(spec, causal, hidden, chunk, monkeypatch):
    monkeypatch.setattr("hf_semfocus.backends.chunked.CHUNK_SCORES", chunk)  # unions take their queries in chunks
    check_formula(spec, causal, hidden)


def test_few_scores_are_held(monkeypatch):
    query, key, value = (torch.randn(1, 2, 400, 4) for _ in range(3))
    query *= 8  # few keys have all of the weight
    for spec in ("topp_sparse:p=0.5,max_keys=60", "threshold_sparse:margin=2,max_keys=60"):
        with Largest() as largest:
            sparse_attention(query, key, value, spec, is_causal=True, backend="native")
        assert largest.entries <= 2 * 400 * 61


@pytest.mark.parametrize("backend", ["native", "gather", "chunked", "eager"])
@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ("threshold_sparse:margin=0.0,max_keys=4", 5),
        ("topp_sparse:p=0.5,max_keys=9", 10),
        ("topp_sparse:p=1.0,max_keys=19", 20),
    ],
)
def test_a_query_that_needs_more_is_refused_and_one_that_does_not_is_not(backend, spec, needed):
    """All scores are equal: a threshold keeps all 20 keys, and half of the mass is 10."""
    query, key, value = torch.zeros(1, 1, 2, 4), torch.randn(1, 1, 20, 4), torch.randn(1, 1, 20, 4)
    name, limit = spec.split(":")[0], spec.split("max_keys=")[1]
    with pytest.raises(ValueError, match=rf"{name}: a query, .*, needs more keys than max_keys={limit};"):
        sparse_attention(query, key, value, spec, backend=backend)
    enough = spec.replace(f"max_keys={limit}", f"max_keys={20 if name == 'threshold_sparse' else needed}")
    free = spec.replace(f",max_keys={limit}", "")
    expected = sparse_attention(query, key, value, free, backend="eager")
    torch.testing.assert_close(sparse_attention(query, key, value, enough, backend=backend), expected)


def test_a_query_with_a_cache_finds_what_it_finds_in_the_whole():
    query, key, value = torch.randn(3, 1, 2, 60, 4).unbind()
    spec = "topp_sparse:p=0.7,max_keys=60"
    whole = sparse_attention(query, key, value, spec, is_causal=True, backend="native")
    for at in (0, 7, 59):
        step = (query[:, :, at : at + 1], key[:, :, : at + 1], value[:, :, : at + 1])
        last = sparse_attention(*step, spec, is_causal=True, backend="native")
        torch.testing.assert_close(last, whole[:, :, at : at + 1])


@pytest.mark.parametrize("backend", ["native", "gather", "chunked", "eager"])
@pytest.mark.parametrize("spec", ["topp_sparse:p=0.5,max_keys=12", "threshold_sparse:margin=1.0,max_keys=12"])
def test_not_a_number_shows_where_it_is_seen(spec, backend):
    query, key, value = torch.randn(3, 1, 1, 20, 4).unbind()
    key[0, 0, 5] = torch.nan
    out = sparse_attention(query, key, value, spec, is_causal=True, backend=backend)
    assert out[0, 0, :5].isfinite().all()
    assert out[0, 0, 5:].isnan().all()


@pytest.mark.parametrize("queries", [1, 3, 37])
@pytest.mark.parametrize("hidden", ["none", "pairs"])
def test_kernels_give_scores_and_denominators_with_the_keys(queries, hidden, monkeypatch):
    """Against float64; several strips of scores, and rows that see nothing."""
    monkeypatch.setattr("hf_semfocus.backends.chunked.CHUNK_SCORES", 5000)
    query, key = torch.randn(2, 4, queries, 6) * 3, torch.randn(2, 2, 8200, 6)
    mask = None if hidden == "none" else torch.rand(2, 1, queries, 8200) < torch.rand(2, 1, queries, 1)
    if mask is not None:
        mask[0, :, 0] = False
    seen = Visibility.between(queries, 8200, query.device, mask, causal=True)
    problem = Problem(query, key, key, seen, 0.5)
    index, scores, total = native.select(problem, 9, 1, True)
    assert torch.equal(index, native.select(problem, 9, 1))
    exact = replace(problem, query=query.double(), key=key.double()).scores()
    exact = exact.masked_fill(~problem.allowed, -torch.inf)
    expected = exact.gather(-1, index.clamp(min=0).long()).masked_fill(index < 0, -torch.inf)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    highest = exact.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    torch.testing.assert_close(total.double(), (exact - highest).exp().sum(-1, keepdim=True), rtol=1e-4, atol=1e-6)
    shuffled = index[..., torch.randperm(9)]
    for ours, theirs in zip((index, scores, total), listed.with_softmax(problem, shuffled, 1), strict=True):
        order = (lambda t: t.sort(-1).values) if ours is index else (lambda t: t)
        torch.testing.assert_close(order(ours), order(theirs), rtol=1e-4, atol=1e-5)


def test_what_only_all_scores_can_tell_is_left_to_them():
    query, key, value = torch.randn(3, 1, 1, 9, 4).unbind()
    spec, bias = "topp_sparse:p=0.5,max_keys=9", torch.randn(1, 1, 9, 9)
    ours = sparse_attention(query, key, value, spec, attn_mask=bias, backend="native")
    torch.testing.assert_close(ours, sparse_attention(query, key, value, spec, attn_mask=bias, backend="eager"))
    assert explain(query, key, value, spec).chosen == "native"
    assert explain(query, key, value, "topp_sparse:p=0.5").chosen == "eager"


def test_graphs_compute_all_scores_without_the_limit():
    query, key, value = torch.randn(3, 1, 1, 9, 4).unbind()
    graph = torch.compile(sparse_attention, backend="eager", fullgraph=True)
    ours = graph(query, key, value, "topp_sparse:p=1.0,max_keys=2")
    expected = sparse_attention(query, key, value, "topp_sparse:p=1.0")
    torch.testing.assert_close(ours, expected)
    broken = torch.compile(sparse_attention, backend="eager")
    named = (query, key, value, "topp_sparse:p=1.0,max_keys=2")
    with pytest.raises(ValueError, match=r"topp_sparse.*max_keys=2"):
        broken(*named, backend="native")
    # the second call enters the compiled parts of the first
    torch.testing.assert_close(broken(*named, backend="native"), expected)
    nothing = (tensor.to("meta") for tensor in (query, key, value))
    assert sparse_attention(*nothing, "topp_sparse:p=1.0,max_keys=2").shape == expected.shape


def test_a_subclass_that_chooses_otherwise_is_not_passed_over():
    @register("most_sparse")
    @dataclass(frozen=True, kw_only=True)
    class Most(TopP):
        """Every query keeps its highest-scoring key."""

        def choose(self, scores, allowed, at):
            return super().choose(scores, allowed, at) & (scores == scores.amax(-1, keepdim=True))

    query, key, value = torch.randn(3, 1, 1, 9, 4).unbind()
    ours = sparse_attention(query, key, value, "most_sparse:p=0.9,max_keys=9", backend="native")
    torch.testing.assert_close(ours, value.gather(2, (query @ key.mT).argmax(-1, keepdim=True).expand(-1, -1, -1, 4)))


def test_the_limit_is_part_of_the_name_where_it_is_given():
    assert made("topp_sparse:p=0.5").spec == "topp_sparse:p=0.5"
    assert made("topp_sparse", p=0.5, max_keys=7).spec == "topp_sparse:p=0.5,max_keys=7"
    assert [made("threshold_sparse", max_keys=7).budget(length) for length in (3, 100)] == [3, 7]
    assert made("threshold_sparse").budget(100) is None
    with pytest.raises(ValueError, match=r"max_keys=-1 is not allowed; expected an integer of at least 0"):
        made("threshold_sparse", max_keys=-1)
