"""What is saved comes back sparse, over any number of hops, or fails loudly without the package."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    CLIPConfig,
    T5Config,
)

import hf_semfocus

FAMILIES = ["gpt2", "bert", "llama"]


def auto(family):
    return AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM


def ids():
    return torch.arange(3, 27).view(2, 12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "settings"),
    [("topk_sparse", {"k": 2}), ("topk_sparse:k=2", {}), ("banded_sparse", {"window": 3, "backend": "chunked"})],
)
def test_three_hops_keep_name_parameters_and_logits(family, name, settings, tmp_path):
    model = auto(family).from_config(tiny_config(family), attn_implementation=name).eval()
    if settings:
        model.config.semfocus = settings
    logits = model(ids()).logits
    dense = auto(family).from_config(tiny_config(family), attn_implementation="sdpa").eval()
    dense.load_state_dict(model.state_dict())
    assert not torch.allclose(logits, dense(ids()).logits)
    for hop in "abc":
        model.save_pretrained(tmp_path / hop)
        model = auto(family).from_pretrained(tmp_path / hop).eval()
        assert model.config._attn_implementation == name
        assert model.config.semfocus == (settings or {"k": 2})
    assert torch.equal(model(ids()).logits, logits)
    # the base model of the checkpoint, and its bare configuration, carry it too
    assert AutoModel.from_pretrained(tmp_path / "c").config._attn_implementation == name
    assert AutoConfig.from_pretrained(tmp_path / "c")._attn_implementation == name


def test_override_is_possible_and_is_saved_as_such(tmp_path):
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation="topk_sparse:k=2")
    model.save_pretrained(tmp_path)
    dense = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert dense.config._attn_implementation == "sdpa"
    eager = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    torch.testing.assert_close(dense(ids()).logits, eager(ids()).logits, rtol=1e-5, atol=1e-6)
    dense.save_pretrained(tmp_path / "dense")
    assert "attn_implementation" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    other = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="banded_sparse:window=3")
    assert other.config._attn_implementation == "banded_sparse:window=3"


LOADING = """
import sys
from functools import partial
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
load = partial(AutoModelForCausalLM.from_pretrained, sys.argv[1])
try:
    load()
except Exception as error:
    print(str(error).splitlines()[-1])
print(load(attn_implementation="sdpa").config._attn_implementation)
import hf_semfocus
print(load().config._attn_implementation)
encoder = AutoModelForSequenceClassification.from_pretrained(sys.argv[2])
print(encoder.config._attn_implementation, type(encoder).__name__)
print(encoder(torch.arange(5)[None]).logits.tolist())
"""


def test_without_the_package_loading_fails_loudly_and_the_papers_encoder_needs_no_more_than_it(tmp_path):
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation="topk_sparse:k=2")
    model.save_pretrained(tmp_path / "gpt2")
    config = hf_semfocus.SemFocusEncoderConfig(vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    encoder = AutoModelForSequenceClassification.from_config(config, attn_implementation="topk_sparse:k=2").eval()
    encoder.save_pretrained(tmp_path / "encoder")
    command = [sys.executable, "-c", LOADING, tmp_path / "gpt2", tmp_path / "encoder"]
    done = subprocess.run(command, capture_output=True, text=True)
    refused, knowingly, imported, name, logits = done.stdout.splitlines()
    assert "topk_sparse:k=2" in refused
    assert (knowingly, imported) == ("sdpa", "topk_sparse:k=2")
    assert name == "topk_sparse:k=2 SemFocusEncoderForSequenceClassification"
    assert json.loads(logits) == encoder(torch.arange(5)[None]).logits.tolist()


def test_composite_models_keep_each_part(tmp_path):
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": VOCABULARY}, vision_config={**sizes, "image_size": 8, "patch_size": 4}
    )
    model = AutoModel.from_config(config, attn_implementation={"text_config": "topk_sparse:k=2"})
    for hop in "ab":
        model.save_pretrained(tmp_path / hop)
        model = AutoModel.from_pretrained(tmp_path / hop)
        parts = (model.text_model.config, model.vision_model.config)
        assert [part._attn_implementation for part in parts] == ["topk_sparse:k=2", "sdpa"]
    model.set_attn_implementation("topk_sparse")
    model.config.semfocus = {"k": 1}
    model.save_pretrained(tmp_path / "all")
    model = AutoModel.from_pretrained(tmp_path / "all").eval()
    inputs = {"input_ids": ids(), "pixel_values": torch.randn(2, 3, 8, 8)}
    assert set(hf_semfocus.verify(model, **inputs).values()) == {"topk_sparse:k=1"}


def test_encoder_decoder_copies_follow_configure(tmp_path):
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=VOCABULARY)
    config.semfocus = {"k": 3}
    model = AutoModel.from_config(config, attn_implementation="topk_sparse").eval()
    inputs = {"input_ids": ids(), "decoder_input_ids": ids()}
    assert set(hf_semfocus.verify(model, **inputs).values()) == {"topk_sparse:k=3"}
    model.config.semfocus = {"k": 4}
    with pytest.raises(ValueError, match=r"\{'k': 4\} on the model but \{'k': 3\} .*hf_semfocus.configure"):
        model(**inputs)
    hf_semfocus.configure(model, k=5)
    assert set(hf_semfocus.verify(model, **inputs).values()) == {"topk_sparse:k=5"}
    model.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path).eval()
    assert set(hf_semfocus.verify(model, **inputs).values()) == {"topk_sparse:k=5"}


def test_generation_config_stays_clean(tmp_path):
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation="topk_sparse")
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "generation_config.json").read_text()
