"""LoRA: which modules are adapted, what is trained, and that an adapter brings all of it to another base model."""

import warnings

import pytest
import torch
from conftest import tiny_config
from peft import PeftModel
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BloomConfig,
    DistilBertConfig,
    ElectraConfig,
    MistralConfig,
    ModernBertConfig,
    OpenAIGPTConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from hf_semfocus import SemFocusEncoderConfig
from hf_semfocus.adapters.lora import TARGETS, add_lora, lora_targets

AUTO = {
    "classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "causal_lm": AutoModelForCausalLM,
}
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "gpt2": tiny_config("gpt2"),
    "bert": tiny_config("bert"),
    "llama": tiny_config("llama"),
    "roberta": RobertaConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "albert": AlbertConfig(**SIZES, embedding_size=16),
    "distilbert": DistilBertConfig(vocab_size=61, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "modernbert": ModernBertConfig(**SIZES, **SPECIAL, cls_token_id=1, sep_token_id=2),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, pad_token_id=0),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, pad_token_id=0),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, pad_token_id=0, head_dim=8),
    "semfocus_encoder": SemFocusEncoderConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, dropout=0.0),
}
ADAPTED = {
    "gpt2": {"c_attn"},
    **{family: {"query", "value"} for family in ("bert", "roberta", "electra", "albert")},
    "distilbert": {"q_lin", "v_lin"},
    "modernbert": {"Wqkv"},
    **{family: {"q_proj", "v_proj"} for family in ("llama", "mistral", "qwen2", "qwen3", "semfocus_encoder")},
}
CASES = [
    *[(family, "classification") for family in CONFIGS],
    *[(family, "token_classification") for family in ("gpt2", "bert", "llama", "distilbert", "modernbert")],
    *[(family, "causal_lm") for family in ("gpt2", "llama", "qwen3")],
]
TOKENS = torch.tensor([[1, 7, 9, 4, 2], [1, 3, 5, 60, 2]])


def build(family, kind="classification", seed=0):
    torch.manual_seed(seed)
    return AUTO[kind].from_config(CONFIGS[family]).eval()


def test_every_family_with_a_default_of_its_own_is_tested():
    assert set(TARGETS) <= set(CONFIGS) == set(ADAPTED)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_an_adapter_brings_the_attention_and_the_head(family, kind, tmp_path):
    model = build(family, kind)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = model(TOKENS).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapted = add_lora(model, kind, r=3, alpha=6)
    assert torch.equal(adapted(TOKENS).logits, before)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in lora} == ADAPTED[family]
    layers = 1 if family == "albert" else 2  # which shares them
    assert len(lora) == 2 * layers * len(ADAPTED[family])
    assert {min(tensor.shape) for name, tensor in adapted.named_parameters() if name in lora} == {3}

    # a base model without a head lacks all of this, after masked language modeling also BERT's pooler
    head = {name.replace("base_model.model.", "").replace("modules_to_save.default.", "") for name in trained - lora}
    prefix = model.base_model_prefix + "."
    expected = {name for name in base if not name.startswith(prefix) or name.startswith(f"{prefix}pooler.")}
    assert head == (set() if kind == "causal_lm" else expected)
    assert (kind == "causal_lm") == (not head)

    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(TOKENS).logits.square().sum().backward()
        assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
        optimizer.step()
    after = adapted.eval()(TOKENS).logits
    assert not torch.equal(after, before)
    for name, tensor in adapted.get_base_model().state_dict().items():
        plain = name.replace("base_layer.", "").replace("original_module.", "")
        if plain in base:
            assert torch.equal(tensor, base[plain])

    # another head, as whoever loads a bare base model has
    adapted.save_pretrained(tmp_path)
    other = build(family, kind, seed=1)
    bare = {name: tensor for name, tensor in base.items() if kind == "causal_lm" or name not in head}
    other.load_state_dict(bare, strict=False)
    loaded = PeftModel.from_pretrained(other, tmp_path).eval()
    torch.testing.assert_close(loaded(TOKENS).logits, after, rtol=0, atol=0)


def test_scale_and_dropout_are_passed_on():
    layer = add_lora(build("bert"), "classification", r=4, alpha=10, dropout=0.25).base_model.model.bert.encoder.layer[
        0
    ]
    query = layer.attention.self.query
    assert query.scaling["default"] == 10 / 4
    assert query.lora_dropout["default"].p == 0.25


@pytest.mark.parametrize(
    "targets", [["c_proj"], ["attn.c_proj", "mlp.c_fc"], ["transformer.h.1.attn.c_attn"], ("c_fc",)]
)
def test_other_targets(targets):
    adapted = add_lora(build("gpt2"), "classification", target_modules=targets)
    found = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    modules = {f"base_model.model.{name}" for name, _ in build("gpt2").named_modules()}
    assert found == {name for name in modules if name.endswith(tuple(f".{target}" for target in targets))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "masked_lm"}, "kind='masked_lm'; expected one of classification, token_classification, causal_lm"),
        ({"r": 0}, "r=0; expected an integer of at least 1"),
        ({"r": 2.0}, r"r=2\.0; expected an integer"),
        ({"r": True}, "r=True; expected an integer"),
        ({"alpha": 0}, "alpha=0; expected a positive number"),
        ({"alpha": float("nan")}, "alpha=nan; expected a positive number"),
        ({"dropout": 1}, "dropout=1; expected a probability below 1"),
        ({"dropout": -0.1}, r"dropout=-0\.1; expected"),
        ({"target_modules": []}, r"target_modules=\[\]; expected at least one"),
        (
            {"target_modules": ["c_attn", "q_proj"]},
            "'q_proj' is not a linear layer of GPT2ForSequenceClassification outside its head; expected some of "
            "c_attn, c_proj, c_fc$",
        ),
        ({"target_modules": ["attn"]}, "'attn' is not a linear layer"),
        ({"target_modules": ["_attn"]}, "'_attn' is not a linear layer"),
        ({"target_modules": ["ln_1"]}, "'ln_1' is not a linear layer"),
        ({"target_modules": ["score"]}, "'score' is not a linear layer .* outside its head"),
    ],
)
def test_what_is_refused(options, message):
    model = build("gpt2")
    with pytest.raises(ValueError, match=message) as caught:
        add_lora(model, **{"kind": "classification", **options})
    assert "\n" not in str(caught.value)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_unknown_families_are_named():
    model = AutoModelForSequenceClassification.from_config(
        OpenAIGPTConfig(vocab_size=61, n_embd=32, n_layer=1, n_head=4, pad_token_id=0)
    )
    message = "known for models of the family 'openai-gpt'; expected some of c_attn, .* as --lora_target_modules"
    with pytest.raises(ValueError, match=message):
        lora_targets(model)
    with pytest.raises(ValueError, match=message):
        add_lora(model, "classification")
    assert add_lora(model, "classification", target_modules=["c_attn"])


def test_families_that_only_peft_knows():
    config = BloomConfig(vocab_size=61, hidden_size=32, n_layer=1, n_head=4)
    assert lora_targets(AutoModelForSequenceClassification.from_config(config)) == ["query_key_value"]
