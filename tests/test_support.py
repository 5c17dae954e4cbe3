"""What cannot work is refused when the model is made, by a message that says what to do instead."""

import pytest
import torch
import transformers
from conftest import VOCABULARY, tiny_config
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

import hf_semfocus
from hf_semfocus import UnsupportedModelError


def model(family="llama", spec="topk_sparse:k=3"):
    return AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation=spec)


@pytest.mark.parametrize(
    "family",
    ["Bloom", "Mpt", "DebertaV2", "GPTNeo", "Falcon", "XLNet", "MPNet", "OpenAIGPT"],
)
def test_classes_with_their_own_attention_are_refused(family):
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCABULARY)
    with torch.device("meta"):
        built = AutoModel.from_config(config)
        with pytest.raises(UnsupportedModelError, match=rf"{family}Model computes .* Use attn_implementation='eager'"):
            built.set_attn_implementation("topk_sparse")
        with pytest.raises(UnsupportedModelError, match=f"{family}Model .*attn_implementation='topk_sparse:k=8'"):
            AutoModel.from_config(config, attn_implementation="topk_sparse:k=8")


@pytest.mark.parametrize("family", ["Mamba", "FNet"])
def test_classes_without_any_attention_are_refused_as_such(family):
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCABULARY)
    with torch.device("meta"):
        refused = pytest.raises(UnsupportedModelError, match=f"^{family}Model has no attention layers, so .* GPT-2")
        with refused:
            AutoModel.from_config(config).set_attn_implementation("topk_sparse")
        with refused:
            AutoModel.from_config(config, attn_implementation="topk_sparse:k=8")


def test_a_part_without_the_interface_is_refused_unless_left_out():
    from transformers import BertConfig, BloomConfig, EncoderDecoderConfig, EncoderDecoderModel

    small = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": VOCABULARY}
    encoder = BertConfig(**small, num_hidden_layers=1, intermediate_size=32)
    decoder = BloomConfig(hidden_size=32, n_head=4, n_layer=1, vocab_size=VOCABULARY)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, encoder)
    whole = EncoderDecoderModel(config=config)
    whole.set_attn_implementation("topk_sparse:k=2")
    assert whole.encoder.config._attn_implementation == "topk_sparse:k=2"
    with pytest.raises(UnsupportedModelError, match="Bloom"):
        AutoModel.from_config(decoder).set_attn_implementation("topk_sparse")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("topk_spars", r"topk_spars.* is not supported.*hf_semfocus adds asentmax_sparse, .*topk_sparse"),
        ("topk_sparse:k=0", "k=0 is not allowed; expected an integer of at least 1"),
        ("topk_sparse:k=1.5", "k=1.5"),
        ("topk_sparse:window=3", "no parameter 'window'"),
        ("banded_sparse:window=-1", "window=-1"),
        ("topk_sparse:k", "cannot read 'k'"),
    ],
)
def test_bad_names_are_refused_when_set(name, message):
    dense = model(spec="sdpa")
    with pytest.raises(ValueError, match=message):
        dense.set_attn_implementation(name)
    assert dense.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=message):
        model(spec=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, r"k=0 is not allowed.*config.semfocus=\{'k': 0\}"),
        ({"k": 8.0}, "k=8.0"),
        ({"k": "8"}, "k='8'"),
        ({"k": [8]}, r"k=\[8\]"),
        ({"k": True}, "k=True"),
        ({"window": 3}, r"no parameter 'window' \('window' belongs to banded_sparse, strided_sparse\)"),
        ({"color": 3}, "no parameter 'color'; expected some of k"),
        ({"backend": "triton2"}, "unknown backend 'triton2'; expected one of auto"),
        (8, r"config.semfocus=8; expected a dict of parameters such as \{'k': 8\}"),
    ],
)
def test_bad_settings_are_refused_at_construction_and_live(settings, message):
    config = tiny_config("llama", semfocus=settings)
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_config(config, attn_implementation="topk_sparse")
    built = model(spec="topk_sparse")
    built(torch.arange(3, 9)[None])
    built.config.semfocus = settings
    with pytest.raises(ValueError, match=message):
        built(torch.arange(3, 9)[None])


def test_settings_after_a_valid_twin_of_another_type_are_still_refused():
    built = model(spec="topk_sparse")
    for settings in ({"k": 1}, {"k": True}, {"k": 1.0}):
        built.config.semfocus = settings
        if type(settings["k"]) is int:
            built(torch.arange(3, 9)[None])
        else:
            with pytest.raises(ValueError, match="is not allowed"):
                built(torch.arange(3, 9)[None])


def test_the_name_wins_over_settings_which_win_over_defaults():
    built = model(spec="topk_sparse")
    inputs = {"input_ids": torch.arange(3, 9)[None]}

    def used():
        return set(hf_semfocus.verify(built, **inputs).values())

    assert used() == {"topk_sparse:k=64"}
    built.config.semfocus = {"k": 8}
    assert used() == {"topk_sparse:k=8"}
    built.set_attn_implementation("topk_sparse:k=2")
    assert used() == {"topk_sparse:k=2"}


def test_configure_switches_name_and_parameters_together():
    built = model(spec="topk_sparse")
    hf_semfocus.configure(built, k=4)
    with pytest.raises(ValueError, match=r"banded_sparse has no parameter 'k'.*config.semfocus=\{'k': 4\}"):
        built.set_attn_implementation("banded_sparse")
    with pytest.raises(ValueError, match="no parameter 'k'"):
        hf_semfocus.configure(built, "banded_sparse", k=4)
    assert (built.config._attn_implementation, built.config.semfocus) == ("topk_sparse", {"k": 4})
    hf_semfocus.configure(built, "banded_sparse", window=4)
    assert set(hf_semfocus.verify(built, input_ids=torch.arange(3, 9)[None]).values()) == {
        "banded_sparse:window=4,edge=shifted,num_global_tokens=0,global_position=first"
    }
    hf_semfocus.configure(built, "sdpa")
    assert (built.config._attn_implementation, built.config.semfocus) == ("sdpa", {})


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_verify_names_every_layer(family):
    layers = hf_semfocus.verify(model(family))
    assert len(layers) == 2
    assert set(layers.values()) == {"topk_sparse:k=3"}


def test_verify_sees_through_peft():
    wrapped = get_peft_model(model("gpt2"), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    assert len(hf_semfocus.verify(wrapped, input_ids=torch.arange(3, 9)[None])) == 2


def test_verify_raises_where_a_layer_goes_its_own_way():
    built = model("llama")

    class OwnAttention(type(built.model.layers[1].self_attn)):
        def forward(self, hidden_states, **kwargs):
            return hidden_states, None

    built.model.layers[1].self_attn.__class__ = OwnAttention
    with pytest.raises(UnsupportedModelError, match=r"1 of 2 attention layers .*model.layers.1.self_attn \(OwnAtt"):
        hf_semfocus.verify(built)
    with pytest.raises(ValueError, match="attn_implementation is 'sdpa'; expected one of hf_semfocus's names"):
        hf_semfocus.verify(model(spec="sdpa"))


def test_a_mechanism_registered_later_becomes_a_name():
    from dataclasses import dataclass

    from hf_semfocus import mechanisms

    @mechanisms.register("own_key_test")
    @dataclass(frozen=True, kw_only=True)
    class OwnKey(mechanisms.Mechanism):
        """Every query keeps its own key only."""

        def pattern(self, at):
            return at.key == at.query

    try:
        layers = hf_semfocus.verify(model(spec="own_key_test"))
        assert set(layers.values()) == {"own_key_test"}
    finally:
        mechanisms.registry._REGISTRY.pop("own_key_test")
