"""``describe``: a table of what every layer and head attends with."""

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from transformers import AutoModel, AutoModelForCausalLM, SiglipConfig, SiglipModel, T5Config

import hf_semfocus
from hf_semfocus.backends import BACKENDS


def model(spec, **settings):
    config = tiny_config("llama", **({"semfocus": settings} if settings else {}))
    return AutoModelForCausalLM.from_config(config, attn_implementation=spec).eval()


def rows(found):
    return [(row.layer, row.heads, row.mechanism, row.parameters, *row.keys.values()) for row in found.rows]


def test_every_layer_and_head_has_a_row():
    tables = {"layers": {"0": "banded_sparse:window=200"}, "heads": {"0": "sdpa", "2-3": "sdpa"}}
    found = hf_semfocus.describe(model("topk_sparse", k=1000, **tables))
    band = {"window": 200, "edge": "shifted", "num_global_tokens": 0, "global_position": "first"}
    assert rows(found) == [
        ("model.layers.0.self_attn", "all", "banded_sparse", band, 128, 200, 200),
        ("model.layers.1.self_attn", "0, 2-3", "full", {}, 128, 1024, 8192),
        ("model.layers.1.self_attn", "1", "topk_sparse", {"k": 1000, "gradient": "hard"}, 128, 1000, 1000),
    ]
    assert found.rows[1].backend == "sdpa"
    found = hf_semfocus.describe(model("banded_sparse+topk_sparse", share=0.25))
    assert found.rows[0].parameters == {**band, "window": 64, "share": 0.25, "gradient": "hard"}
    assert {row.backend for row in found.rows} <= set(BACKENDS)


def test_backends_are_those_of_a_training_step():
    for settings, expected in [({"backend": "gather"}, "gather"), ({"gradient": "straight_through"}, "chunked")]:
        found = hf_semfocus.describe(model("topk_sparse", k=4, **settings))
        assert [row.backend for row in found.rows] == [expected] * 2
    found = hf_semfocus.describe(model("topk_sparse:k=4").double())
    q = torch.randn(1, 4, 1024, 8, dtype=torch.float64)
    assert found.rows[0].backend == hf_semfocus.explain(q, q, q, "topk_sparse:k=4", is_causal=True).chosen


def test_print_and_notebooks_show_a_table():
    found = hf_semfocus.describe(model("topk_sparse:k=4"))
    header, _, first, _ = [[cell.strip() for cell in line.split("|")[1:-1]] for line in str(found).splitlines()]
    assert header == [
        *("layer", "heads", "mechanism", "parameters", "backend"),
        *("keys of 128", "keys of 1,024", "keys of 8,192"),
    ]
    assert first == [
        *("model.layers.0.self_attn", "all", "topk_sparse", "k=4, gradient=hard", found.rows[0].backend),
        *("4", "4", "4"),
    ]
    html = found._repr_html_()
    assert html.count("<tr>") == 3
    assert "<td>k=4, gradient=hard</td>" in html


def test_layers_that_differ_and_are_left_alone_are_told():
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=VOCABULARY)
    built = AutoModel.from_config(config, attn_implementation="banded_sparse:window=3").eval()
    ids = torch.arange(3, 12)[None]
    found = hf_semfocus.describe(built, input_ids=ids, decoder_input_ids=ids[:, :4])
    assert [row.mechanism for row in found.rows] == ["banded_sparse", "banded_sparse", "full"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": VOCABULARY}, vision_config={**sizes, "image_size": 16, "patch_size": 8}
    )
    with pytest.warns(UserWarning, match="one pooled query"):
        built = SiglipModel._from_config(config, attn_implementation="topk_sparse:k=2").eval()
    found = hf_semfocus.describe(built, input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16))
    [head] = [row for row in found.rows if row.layer == "vision_model.head.attention"]
    assert (head.mechanism, head.backend, head.cells()[4]) == ("full", None, "its own")
    with pytest.raises(ValueError, match=r"attn_implementation is 'sdpa'; expected one of hf_semfocus's names"):
        hf_semfocus.describe(AutoModelForCausalLM.from_config(tiny_config("llama")))
