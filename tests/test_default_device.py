"""``torch.set_default_device`` says where a user's new tensors lie, never where ours do."""

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, backends_of, tiny_config
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import hf_semfocus
from hf_semfocus import mechanisms, sparse_attention
from hf_semfocus.data import SequenceRows, TokenRows


@pytest.fixture
def elsewhere():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


NAMES = [name for name in mechanisms.names() if not mechanisms.get(name).owns_state()]
NAMES += ["banded_sparse:num_global_tokens=2", "banded_sparse:window=3+topk_sparse:k=2"]
RUNS = [(name, backend) for name in NAMES for backend in (*backends_of(name), "auto")]
BOTH = np.array([0, 1])


def on_cpu(*shape):
    return torch.randn(shape, device="cpu")


@pytest.mark.parametrize(("name", "backend"), RUNS)
@pytest.mark.parametrize("kind", ["none", "padding", "bias"])
def test_attention(name, backend, kind, elsewhere):
    mask = {
        "none": None,
        "padding": torch.arange(30, device="cpu").view(1, 1, 1, 30) > 4,
        "bias": on_cpu(2, 30, 30),
    }[kind]
    results = []
    for device in ("meta", None):
        torch.set_default_device(device)
        generator = torch.Generator("cpu").manual_seed(0)
        q, k, v = (torch.randn(2, 2, 30, 8, generator=generator, device="cpu").requires_grad_() for _ in range(3))
        out = sparse_attention(q, k, v, name, attn_mask=mask, is_causal=kind == "none", backend=backend)
        results.append([out, *torch.autograd.grad(out.sin().sum(), (q, k, v))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kind"), [("llama", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)])
def test_models_train_and_decode(family, kind, elsewhere):
    torch.set_default_device(None)
    model = kind.from_config(tiny_config(family), attn_implementation="topk_sparse:k=3")
    ids = torch.randint(3, VOCABULARY, (2, 12))
    seen = torch.ones_like(ids)
    seen[0, :4] = 0
    expected = model(ids, attention_mask=seen).logits
    torch.set_default_device("meta")
    output = model(ids, attention_mask=seen, labels=ids)
    torch.testing.assert_close(output.logits, expected)
    output.loss.backward()
    assert hf_semfocus.verify(model, input_ids=ids)


def test_the_encoder_and_its_dropout(elsewhere):
    torch.set_default_device(None)
    config = hf_semfocus.SemFocusEncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_global_tokens=1,
        dropout=0.05,
    )
    model = hf_semfocus.SemFocusEncoderModel._from_config(config, attn_implementation="topk_sparse:k=3").train()
    ids = torch.randint(3, VOCABULARY, (2, 12))
    torch.set_default_device("meta")
    hidden = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    hidden.sum().backward()
    assert hidden.isfinite().all()


def test_saved_encoders_load(elsewhere, tmp_path):
    torch.set_default_device(None)
    config = hf_semfocus.SemFocusEncoderConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1)
    model = hf_semfocus.SemFocusEncoderModel(config)
    model.save_pretrained(tmp_path)
    torch.set_default_device("meta")
    loaded = hf_semfocus.SemFocusEncoderModel.from_pretrained(tmp_path, device_map={"": "cpu"})
    torch.testing.assert_close(loaded.positions, model.positions)


def test_batches(elsewhere):
    ids, labels = [[1, 2, 3], [4, 5]], [0, 1]
    examples = SequenceRows(ids, labels, pad_token_id=0)
    assert {t.device.type for t in examples.batch(BOTH, BOTH).values()} == {"cpu"}
    rows = TokenRows(ids, [[0, 1, 1], [1, 0]], pad_token_id=0)
    assert {t.device.type for t in rows.batch(BOTH, BOTH).values()} == {"cpu"}
