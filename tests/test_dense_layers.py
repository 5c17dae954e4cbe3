"""Layers that would stay dense are refused by name, but for those that are not attention between tokens."""

import warnings

import pytest
import torch
import transformers
from conftest import VOCABULARY
from transformers import AutoModel, PreTrainedModel

import hf_semfocus
from hf_semfocus import UnsupportedModelError

SPEC = "topk_sparse:k=2"
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
PICTURE = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
BART = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
WINDOWS = {"global_attn_indexes": [0], "window_size": 2}
DENSE = {
    "Git": ({**TEXT, "vision_config": PICTURE}, "GitModel, in its GitAttention,"),
    "Sam": ({"vision_config": {**PICTURE, **WINDOWS}}, r"SamModel, in its SamVisionLayer,"),
    "SamHQ": ({"vision_config": {**PICTURE, **WINDOWS}}, r"SamHQModel, in its SamHQVisionLayer,"),
    "LongT5": (T5, r"LongT5Stack, in block.0.layer.0.LocalSelfAttention \(LongT5LocalAttention\),"),
    "PegasusX": (BART, r"PegasusXEncoder, in layers.0.self_attn \(PegasusXGlobalLocalAttention\),"),
    "BigBirdPegasus": (BART, r"BigBirdPegasusEncoder, in .* \(BigBirdPegasusBlockSparseAttention\),"),
    "BridgeTower": (
        {
            "vision_config": {**PICTURE, "num_hidden_layers": 2, "hidden_size": 64},
            "text_config": TEXT,
            "num_hidden_layers": 1,
        },
        r"BridgeTowerVisionModel, in visual.transformer.resblocks.0.attn \(MultiheadAttention\)",
    ),
    "Gemma3nAudio": ({"conf_num_hidden_layers": 1}, "Gemma3nAudioEncoder"),
    "PatchTSMixer": ({"num_layers": 1}, "PatchTSMixerModel"),
}


def build(family, options, attention=None):
    config = getattr(transformers, f"{family}Config")(**options)
    with torch.device("meta"):
        return AutoModel.from_config(config, **({} if attention is None else {"attn_implementation": attention}))


@pytest.mark.parametrize("family", DENSE)
def test_attention_of_a_models_own_is_refused_by_name(family):
    options, message = DENSE[family]
    with pytest.raises(UnsupportedModelError, match=rf"{message}.* computes attention in code of its own"):
        build(family, options, SPEC)
    dense = build(family, options)
    with pytest.raises(UnsupportedModelError, match="computes attention in code of its own"):
        dense.set_attn_implementation(SPEC)
    assert not any("topk" in part.config._attn_implementation for part in dense.modules() if is_model(part))


def is_model(module):
    return isinstance(module, PreTrainedModel)


def siglip(attention):
    config = transformers.SiglipConfig(
        text_config={**TEXT, "intermediate_size": 32}, vision_config={**PICTURE, "intermediate_size": 32}
    )
    return transformers.SiglipModel._from_config(config, attn_implementation=attention).eval()


def test_a_head_that_pools_is_left_alone_and_said_so():
    with pytest.warns(UserWarning, match=r"SiglipVisionModel: .*head.attention \(one pooled query\)") as caught:
        model = siglip(SPEC)
    assert len(caught) == 1
    ids = torch.arange(3, 11)[None]
    layers = hf_semfocus.verify(model, input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16))
    assert layers.pop("vision_model.head.attention") == "full"
    assert set(layers.values()) == {SPEC}
    assert len(layers) == 2
    model.set_attn_implementation("sdpa")
    with pytest.warns(UserWarning, match="one pooled query"):
        model.set_attn_implementation(SPEC)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        siglip({"text_config": SPEC})


def test_other_attention_than_softmax_over_keys_is_no_attention_of_ours():
    layers = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    model = build("MiniMax", {**TEXT, "num_key_value_heads": 2, "intermediate_size": 32, **layers}, SPEC)
    model = type(model)(model.config).eval()
    assert hf_semfocus.verify(model, input_ids=torch.arange(3, 11)[None]) == {"layers.1.self_attn": SPEC}


def detr(attention):
    sizes = {"encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 32, "d_model": 32}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 32, "num_queries": 3}
    backbone = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "out_features": ["stage2"]}
    backbone = transformers.ResNetConfig(**backbone)
    config = transformers.DetrConfig(backbone_config=backbone, use_timm_backbone=False, **sizes)
    return transformers.DetrModel._from_config(config, attn_implementation=attention).eval()


def test_a_part_without_attention_is_a_part_and_no_model_of_its_own():
    model = detr(SPEC)
    pixels = torch.randn(1, 3, 32, 32)
    assert set(hf_semfocus.verify(model, pixel_values=pixels).values()) == {SPEC}
    with torch.no_grad():
        sparse = model(pixel_values=pixels).last_hidden_state
        model.set_attn_implementation("eager")  # what ResNet has
        dense = model(pixel_values=pixels).last_hidden_state
        model.set_attn_implementation("topk_sparse:k=9999")
        torch.testing.assert_close(model(pixel_values=pixels).last_hidden_state, dense)
    assert not torch.allclose(sparse, dense)
    with pytest.raises(UnsupportedModelError, match="ResNetModel has no attention layers"):
        AutoModel.from_config(transformers.ResNetConfig(), attn_implementation=SPEC)
    # whoever names the part alone asks for something
    with pytest.raises(UnsupportedModelError, match="ResNetBackbone has no attention layers"):
        detr({"backbone_config": SPEC})


class BeginsWithItsPart(transformers.BertPreTrainedModel):
    def __init__(self, config):
        part = transformers.BertModel(config)
        super().__init__(config)
        self.bert = part
        self.post_init()


def test_a_model_may_make_its_parts_before_itself():
    built = BeginsWithItsPart._from_config(transformers.BertConfig(**TEXT), attn_implementation=SPEC)
    assert built.bert.config._attn_implementation == SPEC
