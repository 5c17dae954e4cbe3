"""Spectral norms: projections are those that queries and keys come from, and norms those of NumPy."""

import numpy as np
import pytest
import torch
from conftest import tiny_config
from test_observe import CONFIGS, SIZES, inputs
from transformers import (
    AutoModel,
    DistilBertConfig,
    GPTNeoXConfig,
    ModernBertConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
)

from hf_semfocus import UnsupportedModelError
from hf_semfocus.analysis import capture, spectral_norms
from hf_semfocus.analysis.norms import product_norm, spectral_norm
from hf_semfocus.analysis.projections import heads_of
from hf_semfocus.hf import dense
from hf_semfocus.hf.layers import attention_layers
from hf_semfocus.models import SemFocusEncoderConfig

BARE = {name: value for name, value in SIZES.items() if name not in ("num_key_value_heads", "head_dim")}
LAYOUTS = {
    **CONFIGS,
    "qwen2": lambda: Qwen2Config(**SIZES),
    "phi3": lambda: Phi3Config(**SIZES),
    "modernbert": lambda: ModernBertConfig(**BARE, cls_token_id=1, sep_token_id=2),
    "gpt_neox": lambda: GPTNeoXConfig(**BARE),
    "distilbert": lambda: DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=61),
    "opt": lambda: OPTConfig(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=61,
                             word_embed_proj_dim=32),
    "paper": lambda: SemFocusEncoderConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, intermediate_size=48),
    "gpt2_cross": lambda: tiny_config("gpt2", add_cross_attention=True),
}  # fmt: skip
BLOCKS = {"t5": 4, "albert": 1}


def make(family):
    torch.manual_seed(0)
    model = AutoModel.from_config(LAYOUTS[family](), attn_implementation="eager").eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p)
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", LAYOUTS)
def test_projections_are_those_that_queries_keys_and_values_come_from(family):
    """Rotations keep the norm of a head's query and key."""
    model, given = make(family), inputs(family)
    if family == "gpt2_cross":
        given["encoder_hidden_states"] = torch.randn(2, 6, 32)
    calls, incoming = {}, {}
    for _, layer in attention_layers(model):
        for name, module in layer.named_modules():
            if getattr(module, "weight", torch.empty(0)).dim() == 2 and not name.endswith(("o_proj", "c_proj")):
                module.register_forward_hook(
                    lambda m, args, out, layer=layer: incoming.setdefault(layer, []).append(args[0])
                )
    with dense.watch(model, lambda call: calls.setdefault(call.module, call)):
        model(**given)
    assert len(calls) == len(list(attention_layers(model)))
    for layer, call in calls.items():
        heads, problem = heads_of(layer), call.problem
        across = problem.shape[2] != problem.shape[3]
        x = [incoming[layer][0], incoming[layer][1] if across else incoming[layer][0]]
        x = [torch.cat([each, torch.ones_like(each[..., :1])], -1).double() for each in x]
        pairs = [(heads.query, problem.query, x[0]), (heads.key, problem.repeat_heads(problem.key), x[1])]
        pairs += [(heads.value, problem.repeat_heads(problem.value), x[1])]
        for weight, found, hidden in pairs:
            made = torch.einsum("hdc,bnc->bhnd", weight, hidden.expand(2, -1, -1)).norm(dim=-1)
            if weight is heads.query and family == "opt":  # scales the queries itself
                made = made * heads.scale
            if weight is not heads.value and family == "gpt_oss":  # as YaRN scales its rotations
                made = made * model.rotary_emb.attention_scaling
            torch.testing.assert_close(made, found.double().norm(dim=-1), rtol=1e-4, atol=1e-5)
        assert family == "opt" or heads.scale == pytest.approx(problem.scale)


@pytest.mark.parametrize("family", LAYOUTS)
def test_norms_are_those_of_numpy(family):
    model = make(family)
    rows = spectral_norms(model)
    layers = list(attention_layers(model))
    for row in rows:
        assert row["value"] > 0
        if row["quantity"] == "b":
            linear = model.get_submodule(row["matrix"])
            weight = linear.weight.detach().numpy()
            weight = weight.T if type(linear).__name__ == "Conv1D" else weight
            if linear.bias is not None:
                weight = np.concatenate([weight, linear.bias.detach().numpy()[:, None]], 1)
            assert row["value"] == pytest.approx(np.linalg.norm(weight.astype(float), 2), rel=1e-6)
        else:
            heads = heads_of(layers[row["layer"]][1])
            q, k, v = (each[row["head"]].numpy() for each in (heads.query, heads.key, heads.value))
            wanted = v if row["quantity"] == "upsilon" else heads.scale * q.T @ k
            assert row["value"] == pytest.approx(np.linalg.norm(wanted, 2), rel=1e-9)
    heads = {(row["layer"], row["head"]) for row in rows if row["quantity"] == "gamma"}
    assert len(heads) == len(layers) * (1 if family == "paper" else 4)
    matrices = {row["matrix"] for row in rows if row["quantity"] == "b"}
    assert not any("attn" in name or "attention" in name for name in matrices)
    assert len(matrices) >= 2 or family == "gpt_oss"
    if family in BLOCKS:
        assert len({row["layer"] for row in rows if row["quantity"] == "b"}) == BLOCKS[family]


def test_layers_are_numbered_as_in_a_record():
    model = make("t5")
    with capture(model, ["dispersion"]) as record:
        model(**inputs("t5"))
    assert record.layers == [path for path, _ in attention_layers(model)]
    assert {row["layer"] for row in spectral_norms(model)} == set(range(6))


def test_adapters_count():
    from peft import LoraConfig, get_peft_model

    model = make("gpt2")
    before = spectral_norms(model)
    config = LoraConfig(target_modules=["c_attn", "c_fc"], init_lora_weights=False, fan_in_fan_out=True)
    adapted = get_peft_model(model, config)
    with_adapter = [row["value"] for row in spectral_norms(adapted)]
    assert with_adapter != [row["value"] for row in before]
    merged = adapted.merge_and_unload()
    assert with_adapter == pytest.approx([row["value"] for row in spectral_norms(merged)], rel=1e-5)
    assert [row["quantity"] for row in before] == [row["quantity"] for row in spectral_norms(merged)]


def test_a_layer_without_known_projections_is_refused():
    model = make("gpt2")
    del model.h[1].attn.c_attn
    with pytest.raises(UnsupportedModelError, match="GPT2Attention has no query, key and value projections under"):
        spectral_norms(model)


def test_rank_deficient_and_tall_matrices():
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(3, 7, 2, generator=generator, dtype=torch.float64)
    wide = torch.cat([tall.mT, tall.mT], -2)
    for each in (tall, wide, tall * 0):
        assert torch.allclose(spectral_norm(each), torch.linalg.matrix_norm(each, 2), atol=1e-12)
    a, b = torch.randn(2, 3, 4, 9, generator=generator, dtype=torch.float64)
    assert torch.allclose(product_norm(a, b), torch.linalg.matrix_norm(a.mT @ b, 2))
    assert torch.allclose(product_norm(a.mT, b.mT), torch.linalg.matrix_norm(a @ b.mT, 2))
