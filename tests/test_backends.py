"""Which backend is taken and why, lists of static patterns made once a mask, and flex_attention's masks."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hf_semfocus
from hf_semfocus import backends, explain, functional, mechanisms, sparse_attention
from hf_semfocus.backends import BACKENDS, eager, flex
from hf_semfocus.backends.lists import gather, making


def test_explain_names_every_back_end_with_its_objections():
    q, k, v = torch.randn(3, 1, 2, 300, 8)
    told = explain(q, k, v, "topk_sparse:k=8", is_causal=True)
    assert list(told.objections) == list(BACKENDS)
    assert told.objections["chunked"] == []
    assert told.objections["flex"] == [
        "topk_sparse selects keys; expected a static pattern",
        "tensors are on cpu; expected cuda",
    ]
    text = str(told)
    assert text.startswith(
        "topk_sparse:k=8 (causal, batch 1, heads 2, queries 300, keys 300, head_dim 8, float32 on cpu)"
    )
    assert sum("chosen: " in line for line in text.splitlines()) == 1


def test_auto_takes_what_explain_says(monkeypatch):
    calls = []
    for name, module in BACKENDS.items():
        original = module.attend
        monkeypatch.setattr(module, "attend", lambda *a, n=name, f=original: calls.append(n) or f(*a))
    for n in (5, 1500):
        for dtype in (torch.float32, torch.float64):
            for spec in ("topk_sparse:k=4", "banded_sparse:window=4"):
                q, k, v = torch.randn(3, 1, 2, n, 8, dtype=dtype)
                calls.clear()
                sparse_attention(q, k, v, spec)
                assert calls[0] == explain(q, k, v, spec).chosen


def test_small_problems_without_kernels_take_the_dense_product():
    q, k, v = torch.randn(3, 1, 1, 30, 8, dtype=torch.float64)
    told = explain(q, k, v, "topk_sparse:k=4")
    assert told.chosen == "eager"
    assert "the cheapest up to" in str(told)


def test_global_tokens_are_few_rows_beside_the_lists(monkeypatch):
    """Queries that see all keys make neither the other lists longer nor the other rows dense."""
    seen = []
    original = eager.attend
    monkeypatch.setattr(eager, "attend", lambda m, p, *rest: seen.append(p.shape) or original(m, p, *rest))
    q, k, v = torch.randn(3, 1, 2, 300, 8)
    spec = "banded_sparse:window=4,num_global_tokens=3"
    out = sparse_attention(q, k, v, spec, backend="gather")
    assert seen == [(1, 2, 3, 300)]
    assert lists(*problem(spec)).shape[-1] == 4 + 3
    torch.testing.assert_close(out, sparse_attention(q, k, v, spec, backend="eager"))


@pytest.mark.parametrize("position", ["first", "last"])
def test_global_tokens_under_a_mask_of_every_head(position):
    mask = torch.rand(2, 4, 75, 75) < 0.7
    mechanism, made = problem(f"banded_sparse:window=5,num_global_tokens=3,global_position={position}", mask)
    (true, weights), *others = [module.attend(mechanism, made, True) for module in (eager, BACKENDS["gather"])]
    for output, found in others:
        torch.testing.assert_close(output, true, rtol=0, atol=2e-6)
        torch.testing.assert_close(found, weights, rtol=0, atol=2e-6)


def test_a_pattern_that_does_not_tell_its_reach_has_no_lists():
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Even(mechanisms.Mechanism):
        """Every query keeps the keys at even positions."""

        def pattern(self, at):
            return at.key % 2 == 0

    _, made = problem("topk_sparse")
    assert gather.LIMITS.objections(Even(), made) == ["full lets a query keep any number of keys"]


def problem(spec, mask=None, causal=False, n=75, **sizes):
    batch, heads, kv_heads = sizes.get("batch", 2), sizes.get("heads", 4), sizes.get("kv_heads", 2)
    q, k, v = (torch.randn(batch, h, n, 16) for h in (heads, kv_heads, kv_heads))
    return functional._problem(q, k, v, spec, {}, mask, causal, None, 0.0, True)


def lists(mechanism, problem):
    return making.make(mechanism, problem).index


def padding(n=75):
    mask = torch.ones(2, 1, 1, n, dtype=torch.bool)
    mask[0, ..., :9] = False
    mask[1, ..., n - 5 :] = False
    return mask


STATIC = [
    "banded_sparse:window=7",
    "banded_sparse:window=7,num_global_tokens=3",
    "block_local_sparse:block_size=10",
    "strided_sparse:window=4,stride=9",
]


@pytest.mark.parametrize("spec", STATIC)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "padding", "any"])
def test_lists_are_the_pattern(spec, causal, kind):
    mask = {"none": None, "padding": padding(), "any": torch.rand(2, 1, 75, 75) < 0.7}[kind]
    mechanism, made = problem(spec, mask, causal)
    index = lists(mechanism, made)
    shape = (*index.shape[:3], 76)
    listed = torch.zeros(shape, dtype=torch.bool).scatter(-1, torch.where(index < 0, 75, index).long(), True)[..., :75]
    at = made.positions()
    true = mechanism.keep(None, made.allowed, at)
    if (wide := mechanism.sees_all(at)) is not None:
        true = true & ~wide
    assert torch.equal(listed.expand(2, 1, -1, -1), true.expand(2, 1, 75, 75))
    # in order, and no column twice
    assert (index[..., 1:] > index[..., :-1]).logical_or(index[..., 1:] < 0).all()


@pytest.mark.parametrize("spec", STATIC)
@pytest.mark.parametrize("backend", ["gather", "native", "chunked"])
def test_where_no_query_sees_a_key_there_are_zeros(spec, backend):
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    nobody = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    assert not sparse_attention(q, k, v, spec, attn_mask=nobody, backend=backend).any()


def test_layers_with_one_mask_share_one_list():
    mask = padding()
    mechanism, first = problem(STATIC[0], mask)
    _, second = problem(STATIC[0], mask)
    made = lists(mechanism, first)
    assert lists(mechanism, second) is made
    assert lists(mechanisms.build("banded_sparse:window=8"), first) is not made
    mask[0, 0, 0, 20] = False  # written in place
    changed = lists(mechanism, problem(STATIC[0], mask)[1])
    assert not torch.equal(changed, made)
    assert not (changed == 20)[0].any()


def test_layers_share_lists_unless_the_pattern_may_look_at_the_layer():
    from dataclasses import dataclass, replace

    @dataclass(frozen=True, kw_only=True)
    class Shifting(mechanisms.get("banded_sparse")):
        """A band that every layer shifts by one."""

        def pattern(self, at):
            return super().pattern(at._replace(query=at.query - at.layer))

        def reach(self, at):
            return super().reach(at._replace(query=at.query - at.layer))

    mechanism, made = problem("banded_sparse:window=4", padding())
    assert lists(mechanism, replace(made, layer=3)) is lists(mechanism, made)
    shifting = Shifting(window=4)
    assert not torch.equal(lists(shifting, replace(made, layer=3)), lists(shifting, made))


WRITES = {
    "in place": lambda mask: mask[0, 0, 0, 20].fill_(False),
    "by data": lambda mask: mask.data[0, 0, 0, 20].fill_(False),
    "by numpy": lambda mask: np.ndarray.__setitem__(mask.numpy(), (0, 0, 0, 20), False),
    "detached": lambda mask: mask.detach()[0, 0, 0, 20].fill_(False),
}


@pytest.mark.parametrize("layout", ["own", "view", "repeated", "words"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_mask_that_was_written_to_gets_its_own_list(write, layout):
    mask = torch.ones(2, 1, 75, 80, dtype=torch.bool)[:, :, :1] if layout == "view" else padding()
    seen = mask.expand(2, 1, 75, 75) if layout == "repeated" else mask[..., :75]
    n = 75
    if layout == "words":
        mask = seen = torch.ones(2, 1, 1, 80, dtype=torch.bool)
        n = 80
    before = lists(*problem(STATIC[0], seen, n=n))
    assert (before[0] == 20).any()
    assert lists(*problem(STATIC[0], seen, n=n)) is before
    write(mask)
    after = lists(*problem(STATIC[0], seen, n=n))
    assert not (after[0] == 20).any()
    assert (after[1] == 20).any()


@pytest.mark.parametrize("layout", ["cut", "cut and shifted", "odd"])
def test_a_mask_that_is_a_part_of_another_is_remembered(layout):
    whole = torch.ones(2, 1, 80, 160, dtype=torch.bool)
    mask = {
        "cut": whole[..., :80],
        "cut and shifted": whole[..., 3:83],
        "odd": torch.ones(1 + 2 * 80 * 80, dtype=torch.bool)[1:].view(2, 1, 80, 80),
    }[layout]
    before = lists(*problem(STATIC[0], mask, n=80))
    assert lists(*problem(STATIC[0], mask, n=80)) is before
    mask[0, 0, :, 20] = False
    after = lists(*problem(STATIC[0], mask, n=80))
    assert not (after[0] == 20).any()
    assert (after[1] == 20).any()


def test_threads_may_share_what_is_remembered(monkeypatch):
    # a thread may lose its turn wherever a key is hashed, so within every change of the table
    hashed = mechanisms.get("banded_sparse").__hash__
    monkeypatch.setattr(mechanisms.get("banded_sparse"), "__hash__", lambda self: time.sleep(0) or hashed(self))
    masks = [padding() for _ in range(40)]
    for row, mask in enumerate(masks):
        mask[0, 0, 0, row + 10] = False

    def work(start):
        for turn in range(120):
            row = (start * 7 + turn * (start + 1)) % 40
            listed = lists(*problem(STATIC[turn % 2], masks[row]))
            assert not (listed[0] == row + 10).any()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, start) for start in range(8)]:
            done.result()


def test_a_new_mask_in_the_place_of_an_old_one_gets_its_own_list():
    for fill in range(6):
        mask = torch.ones(2, 1, 1, 75, dtype=torch.bool)
        mask[..., fill] = False
        mechanism, made = problem(STATIC[0], mask)
        assert not (lists(mechanism, made) == fill).any()
        del mask, made


def test_inference_mode_makes_lists_too():
    with torch.inference_mode():
        mechanism, made = problem(STATIC[0], padding())
        index = lists(mechanism, made)
    assert not (index[0] < 9).logical_and(index[0] >= 0).any()


def test_what_inference_mode_has_remembered_serves_training():
    mechanism, made = problem("banded_sparse:window=13")
    with torch.inference_mode():
        lists(mechanism, made)
    q, k, v = (t.requires_grad_() for t in (made.query, made.key, made.value))
    for backend in ("native", "gather"):
        sparse_attention(q, k, v, mechanism.spec, enable_gqa=True, backend=backend).sum().backward()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("backend", ["native", "gather"])
@pytest.mark.parametrize("spec", STATIC)
def test_static_patterns_that_are_remembered_look_at_no_number(spec, backend):
    """On a GPU the host would wait for each of them."""

    class Looks(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    q, k, v = (torch.randn(1, 2, 40, 8, requires_grad=True) for _ in range(3))
    sparse_attention(q, k, v, spec, backend=backend)
    seen = []
    with Looks():
        sparse_attention(q, k, v, spec, backend=backend).sum().backward()
    looks = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default)
    assert seen
    assert not [function for function in seen if function in looks]


def test_a_set_of_kernels_is_two_functions_and_its_limits(monkeypatch):
    """One in plain tensors: padding, dense rows and the bias at the lists are the pipeline's concern."""

    def attend(problem, index, bias, return_weights):
        query = problem.query
        rows = torch.where(index < 0, 0, index).long().expand(*query.shape[:3], -1)
        batch, head = torch.arange(query.shape[0]).view(-1, 1, 1, 1), torch.arange(query.shape[1]).view(1, -1, 1, 1)
        scores = (query.unsqueeze(3) * problem.key[batch, head, rows]).sum(-1) * problem.scale + bias
        weights = scores.masked_fill(index < 0, -1e30).softmax(-1).masked_fill(index < 0, 0)
        output = (weights.unsqueeze(-1) * problem.value[batch, head, rows]).sum(3)
        return output, weights if return_weights else None

    kernels = ModuleType("plain")
    kernels.LIMITS = backends.Limits(keeps="lists", devices=("cpu",), softcap=False, sinks=False, dropout=False)
    kernels.COMPILED, kernels.UPCAST, kernels.select, kernels.attend = False, True, None, attend
    monkeypatch.setitem(BACKENDS, "plain", backends.ListBackend(kernels))
    q, k, v = torch.randn(3, 2, 2, 75, 8)
    bias = torch.randn(75, 75).masked_fill(~padding(), -torch.inf)
    for spec in (*STATIC, "topk_sparse:k=4", "random_sparse:k=4"):
        for causal in (False, True):
            ours, true = (
                sparse_attention(q, k, v, spec, attn_mask=bias, is_causal=causal, backend=name, return_weights=True)
                for name in ("plain", "eager")
            )
            torch.testing.assert_close(ours, true, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match=r"backend 'plain' cannot compute .*dropout_p=0.5; expected none"):
        sparse_attention(q, k, v, "topk_sparse:k=4", dropout_p=0.5, backend="plain")


@dataclass(frozen=True, kw_only=True)
class Widening(mechanisms.Mechanism):
    """A band whose width is the number of the head, moved by the draw."""

    step: int = mechanisms.count(80, "positions per head")

    def pattern(self, at):
        return (at.query - at.key - at.draw).abs() <= self.step * at.head

    def reach(self, at):
        return torch.arange(at.key.shape[-1])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("heads", [None, (1, 3)])
@pytest.mark.parametrize("backend", ["flex", "gather", "native"])
def test_a_pattern_may_depend_on_the_head_and_the_draw(backend, heads):
    """Of more than a block of flex_attention."""
    _, made = problem(STATIC[0], None, True, 300)
    for draw in (0, torch.tensor(1), torch.tensor(100)):
        this = replace(made.of_heads(heads), draw=draw)
        ours, true = (BACKENDS[name].attend(Widening(), this)[0] for name in (backend, "eager"))
        torch.testing.assert_close(ours, true, rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("spec", STATIC)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "padding", "any"])
def test_flex_attention_gets_the_pattern(spec, causal, kind):
    own = torch.eye(75, dtype=torch.bool)
    mask = {"none": None, "padding": padding(), "any": (torch.rand(2, 1, 75, 75) < 0.8) | own}[kind]
    mechanism, made = problem(spec, mask, causal)
    (ours, _), (true, _) = (module.attend(mechanism, made) for module in (flex, eager))
    torch.testing.assert_close(ours, true, rtol=0, atol=2e-6)


def test_flex_attention_is_compiled_for_few_lengths_and_never_in_silence_dense(monkeypatch):
    graphs = []

    def compiler(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = flex.functions("any", compiler)
    monkeypatch.setattr(flex, "functions", lambda device: compiled)
    for number, length in enumerate((130, 200, 333, 500)):
        mechanism, made = problem("banded_sparse:window=5", None, True, length)
        ours, _ = flex.attend(mechanism, made)
        torch.testing.assert_close(ours, eager.attend(mechanism, made)[0], rtol=0, atol=2e-6)
        if number == 2:
            enough = len(graphs)
    assert len(graphs) == enough <= 6

    message = r"'flex' is compiled for 3 combinations.*strided_sparse.*recompile_limit"
    with torch._dynamo.config.patch(recompile_limit=3), pytest.raises(RuntimeError, match=message):
        [flex.attend(*problem(f"strided_sparse:window={window},stride=3", None, True, 130)) for window in range(1, 5)]


def test_flex_attention_says_what_it_cannot_do():
    q, k, v = torch.randn(3, 1, 1, 60, 16)
    bias = torch.randn(60, 60)
    found = explain(q, k, v, "banded_sparse", attn_mask=bias, dropout_p=0.1, return_weights=True).objections["flex"]
    assert found == [
        "tensors are on cpu; expected cuda",
        "dropout_p=0.1; expected none",
        "bias is given; expected none",
        "weights are requested; expected the output alone",
    ]
    with pytest.raises(
        ValueError, match=r"backend 'flex' cannot compute banded_sparse.*expected cuda.*expected one of"
    ):
        sparse_attention(q, k, v, "banded_sparse", backend="flex")


def test_static_patterns_of_models_stay_sparse_on_long_inputs(monkeypatch):
    """A model passes its mask, not causality alone: that must not send a pattern to the dense product."""
    from conftest import VOCABULARY, tiny_config
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(eager, "attend", lambda *a: pytest.fail("the dense product was taken"))
    model = AutoModelForCausalLM.from_config(tiny_config("llama"), attn_implementation="banded_sparse:window=4")
    ids = torch.randint(3, VOCABULARY, (1, 200))
    assert hf_semfocus.verify(model, input_ids=ids)
    assert model(ids).logits.isfinite().all()


def test_what_ran_is_told():
    from conftest import VOCABULARY, tiny_config
    from transformers import AutoModelForCausalLM

    from hf_semfocus.hf import observe

    backends.RAN.clear()
    assert observe.ran() == {}
    model = AutoModelForCausalLM.from_config(tiny_config("llama"), attn_implementation="topk_sparse:k=3")
    for backend in ("gather", "eager"):
        hf_semfocus.configure(model, backend=backend)
        model(torch.randint(3, VOCABULARY, (1, 20)))
    sparse_attention(*torch.randn(3, 1, 1, 9, 4), "banded_sparse", backend="chunked")
    assert observe.ran() == {"banded_sparse": ["chunked"], "topk_sparse": ["eager", "gather"]}


@pytest.mark.parametrize("causal", [False, True])
def test_lists_of_many_keys_are_not_gathered(causal):
    q, k, v = torch.randn(3, 1, 1, 1500, 4, dtype=torch.float64)
    for few, many in (
        ("banded_sparse:window=9", "banded_sparse:window=99999"),
        ("topk_sparse:k=9", "topk_sparse:k=500"),
    ):
        assert explain(q, k, v, few, is_causal=causal).chosen == "gather"
        told = explain(q, k, v, many, is_causal=causal)
        assert (told.chosen, told.objections["gather"]) == ("chunked", [])
        assert "a product costs less than gathering up to" in told.reason
