"""Graphs of ``torch.compile`` and ``torch.export``: they hold the compiled kernels as operators, or the formula."""

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from torch._dynamo.backends.registry import lookup_backend
from transformers import AutoModelForCausalLM, StaticCache

from hf_semfocus import explain, sparse_attention
from hf_semfocus.backends.lists.native import build, operators
from hf_semfocus.mechanisms import random

pytestmark = pytest.mark.skipif(isinstance(missing := build.load(), str), reason=f"no compiled kernels: {missing}")
LISTED = ["topk_sparse:k=3", "bottomk_sparse:k=3", "banded_sparse:window=4,num_global_tokens=1"]
LISTED += ["strided_sparse:window=2,stride=5", "banded_sparse:window=3+topk_sparse:k=2"]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs(list):
    """A backend of ``torch.compile`` that notes which of our operators each graph holds."""

    def __call__(self, graph, inputs):
        names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        self.append({name for name in names if name.startswith("hf_semfocus.")})
        return lookup_backend("aot_eager")(graph, inputs)


def model(family, spec):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family, num_hidden_layers=1), attn_implementation=spec).eval()


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("gpt2", LISTED[0]),
        pytest.param("llama", LISTED[1], marks=pytest.mark.slow),
        ("llama", LISTED[2]),
        pytest.param("gpt2", LISTED[3], marks=pytest.mark.slow),
        ("llama", LISTED[4]),
        ("llama", "block_topk_sparse:k=2,block_size=3"),
    ],
)
def test_models_keep_the_kernels(family, spec):
    """Forward and backward, in one graph for all lengths but the first, with and without padding."""
    plain, graphs = model(family, spec), Graphs()
    compiled = torch.compile(plain, backend=graphs, fullgraph=True)
    for length in (11, 14, 19):
        ids = torch.randint(3, VOCABULARY, (2, length))
        padded = torch.ones_like(ids)
        padded[0, :4] = 0
        for mask in (None, padded):
            seen = 1 if mask is None else mask.unsqueeze(-1)
            outputs = [run(ids, attention_mask=mask, use_cache=False).logits * seen for run in (plain, compiled)]
            torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
            grads = [torch.autograd.grad(out.sin().sum(), list(plain.parameters())) for out in outputs]
            torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)
    wanted = {"hf_semfocus.native_attend.default"}
    wanted |= {"hf_semfocus.native_select.default"} if "topk" in spec or "bottomk" in spec else set()
    if spec.startswith("block_topk"):
        wanted = set()  # the formula, as graphs do not hold how blocks are found
    # a graph without and one with padding, of the first length and of any
    assert list(graphs) == 4 * [wanted]


def test_decoding_with_a_static_cache_is_one_graph():
    plain, graphs = model("llama", "topk_sparse:k=3"), Graphs()
    ids = torch.randint(3, VOCABULARY, (2, 9))
    compiled = torch.compile(plain, backend=graphs, fullgraph=True)
    outputs = []
    for run in (plain, compiled):
        cache = StaticCache(config=plain.config, max_cache_len=16)
        with torch.no_grad():
            plain(ids[:, :4], past_key_values=cache, cache_position=torch.arange(4))
            steps = [
                run(ids[:, at : at + 1], past_key_values=cache, cache_position=torch.tensor([at])).logits
                for at in range(4, 9)
            ]
        outputs.append(torch.cat(steps, 1))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
    assert "hf_semfocus.native_attend.default" in graphs[0]


@pytest.mark.parametrize(
    ("spec", "causal", "held"),
    [
        ("random_sparse:k=3", True, {"hf_semfocus.mix.default"}),
        ("banded_sparse:window=3,num_global_tokens=1", False, set()),
    ],
)
def test_the_formula_where_lists_depend_on_data(spec, causal, held):
    graphs, tensors = Graphs(), torch.randn(3, 2, 2, 9, 4)

    def attend(query, key, value):
        return sparse_attention(query, key, value, spec, is_causal=causal)

    compiled = torch.compile(attend, backend=graphs, fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), attend(*tensors), rtol=1e-4, atol=1e-5)
    assert list(graphs) == [held]


def test_a_mask_of_known_size_beside_lengths_that_vary():
    def attend(tensor, mask):
        return sparse_attention(tensor, tensor, tensor, "banded_sparse:window=3", attn_mask=mask)

    tensor, mask = torch.randn(2, 2, 9, 4), torch.rand(2, 1, 9, 9) < 0.7
    torch._dynamo.mark_static(mask)
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(tensor, mask), attend(tensor, mask), rtol=1e-4, atol=1e-5)


def test_what_has_no_kernels_is_computed_or_refused_at_any_length():
    """Though the keys of a strided pattern grow with the length, and kernels have a limit."""
    spec = "strided_sparse:window=2,stride=3"

    def attend(tensor, backend):
        return sparse_attention(tensor, tensor, tensor, spec, backend=backend)

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    tensor = torch.randn(2, 2, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(compiled(tensor, "auto"), attend(tensor, "auto"))
    with pytest.raises(Exception, match=r"'native' cannot compute strided_sparse:stride=3,window=2,.* float64"):
        compiled(tensor, "native")


def test_explain_says_so(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    tensor = torch.randn(1, 2, 9, 4)
    told = explain(tensor, tensor, tensor, "topk_sparse:k=3")
    assert told.chosen == "native"
    assert told.objections["gather"] == ["torch.compile cannot trace a choice by data or compiled kernels"]
    told = explain(tensor, tensor, tensor, "random_sparse:k=3")
    assert told.chosen == "eager"
    assert told.objections["native"] == ["torch.compile cannot trace how random_sparse:k=3,seed=0 finds its keys"]


@pytest.mark.parametrize("extras", [False, True])
def test_operators_are_as_they_declare(extras):
    torch.manual_seed(0)
    query, value = torch.randn(2, 4, 7, 5), torch.randn(2, 2, 9, 3).requires_grad_()
    key = torch.randn(2, 9, 2, 5).transpose(1, 2).requires_grad_()
    query.requires_grad_()
    mask = torch.rand(2, 1, 7, 9) < 0.7 if extras else None
    bias = torch.randn(1, 4, 7, 9) if extras else None
    limit = torch.arange(2, 9) if extras else None
    selected = (query.detach(), key.detach(), 3, 0.4, 1, mask, bias, limit)
    torch.library.opcheck(operators.select, selected)
    index = operators.select(*selected)
    bias = torch.randn(2, 4, 7, 3, requires_grad=True) if extras else None
    sinks = torch.randn(4, requires_grad=True) if extras else None
    dropout = 2.0 * (torch.rand(2, 4, 7, 3) < 0.5) if extras else None
    attended = (query, key, value, bias, sinks, index, dropout, 0.4)
    torch.library.opcheck(operators.attend, attended)
    output, weights = operators.attend(*attended)
    inputs = [tensor.detach() for tensor in (query, key, value)]
    given = (*inputs, index, weights.detach(), torch.randn_like(output), 0.4, dropout)
    torch.library.opcheck(operators.attend_backward, given)
    torch.library.opcheck(operators.attend_backward, (*given, extras, extras))


def test_the_hash_of_random_keys_is_one_node_per_round_of_a_graph():
    """Inductor took minutes to write what it would have fused (see the operator)."""
    numbers = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**40])
    torch.library.opcheck(random._mix_in_graphs, (numbers,))
    assert torch.equal(random._mix_in_graphs(numbers), random._scramble(numbers))


@pytest.mark.parametrize("spec", LISTED)
def test_export_holds_the_kernels(spec):
    class Attend(torch.nn.Module):
        def forward(self, query, key, value):
            return sparse_attention(query, key, value, spec, is_causal=True)

    tensors = torch.randn(3, 2, 2, 9, 4).unbind()
    length = torch.export.Dim("length", min=5, max=64)
    program = torch.export.export(Attend(), tensors, dynamic_shapes=({2: length},) * 3)
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    assert any("native_attend" in str(node.target) for graph in graphs for node in graph.nodes)
    longer = torch.randn(3, 2, 2, 13, 4).unbind()
    torch.testing.assert_close(program.module()(*longer), Attend()(*longer), rtol=1e-4, atol=1e-5)
