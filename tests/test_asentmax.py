"""Entmax at a learned scale in models: the definition, training, files, and adapters."""

import math

import numpy as np
import oracle
import pytest
import torch
from conftest import tiny_config
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import hf_semfocus
from hf_semfocus import mechanisms
from hf_semfocus.analysis import capture
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import chunked, eager
from hf_semfocus.mechanisms.asentmax import Scale

IDS = torch.arange(3, 19).view(2, -1)


def model(attention="asentmax_sparse", family="gpt2"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation=attention)


def scales(model):
    return {name: p for name, p in model.named_parameters() if "semfocus" in name}


@pytest.mark.parametrize("backend", [eager, chunked])
@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_equals_the_definition(alpha, backend):
    state = Scale(3).double()
    torch.nn.init.normal_(state.beta)
    torch.nn.init.normal_(state.gamma)
    made = mechanisms.build("asentmax_sparse", alpha=alpha, delta=0.5).bound(state)
    q, k, v = torch.randn(3, 2, 3, 9, 4, dtype=torch.float64)
    mask = torch.rand(2, 1, 9, 9) < 0.8
    mask[0, :, 4] = False
    seen = Visibility.between(9, 9, q.device, mask, causal=True)
    output, weights = backend.attend(made, Problem(q, k, v, seen, 0.7), True)
    for b, h, i in np.ndindex(2, 3, 9):
        columns = [j for j in range(i + 1) if mask[b, 0, i, j]]
        row = np.zeros(9)
        if columns:
            beta, gamma = state.beta[h].item(), state.gamma[h].item()
            scale = 0.5 + beta * math.log(len(columns)) ** gamma if len(columns) > 1 else 1.0
            row[columns], _ = oracle.entmax(scale * 0.7 * (k[b, h, columns] @ q[b, h, i]).numpy(), alpha)
        np.testing.assert_allclose(weights[b, h, i].detach().numpy(), row, atol=1e-12)
        np.testing.assert_allclose(output[b, h, i].detach().numpy(), row @ v[b, h].numpy(), atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    state = Scale(2).double()
    state.reset_parameters()
    made = mechanisms.build("asentmax_sparse")
    q, k, v = torch.randn(3, 1, 2, 6, 3, dtype=torch.float64)
    torch.nn.init.uniform_(state.beta, 0.5, 1.5)
    visibility = Visibility.between(6, 6, q.device, None, True)

    def run(q, *values):
        learned = dict(zip(("beta", "gamma"), values, strict=True))
        replaced = lambda seen: torch.func.functional_call(state, learned, (seen,))  # noqa: E731
        return eager.attend(made.bound(replaced), Problem(q, k, v, visibility, 1.0))[0]

    learned = [p.detach().clone().requires_grad_() for p in (state.beta, state.gamma)]
    assert torch.autograd.gradcheck(run, (q.requires_grad_(), *learned))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_begins_as_entmax_and_learns(family):
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    one = kind.from_config(tiny_config(family), attn_implementation="asentmax_sparse").eval()
    assert len(scales(one)) == 4
    with torch.no_grad():
        first = one(IDS).logits
        one.set_attn_implementation("entmax_sparse")
        assert torch.equal(one(IDS).logits, first)
        one.set_attn_implementation("asentmax_sparse")
    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    for _ in range(2):  # gamma moves once beta has
        optimizer.zero_grad()
        loss = one(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
    assert all((p.grad != 0).all() for p in scales(one).values())
    assert one(IDS, labels=IDS).loss < loss


def test_saved_and_loaded_by_the_plain_call(tmp_path):
    one = model().eval()
    with torch.no_grad():
        for p in scales(one).values():
            p.uniform_(0.2, 0.9)
    one.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert set(hf_semfocus.verify(again).values()) == {"asentmax_sparse:delta=1.0,alpha=1.5"}
    assert torch.equal(again.eval()(IDS).logits, one(IDS).logits)


def test_adapters_train_and_keep_the_scales(tmp_path):
    options = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    frozen = get_peft_model(model(), LoraConfig(**options))
    assert not any(p.requires_grad for p in scales(frozen).values())
    adapted = get_peft_model(model(), LoraConfig(**options, modules_to_save=["semfocus"]))
    trained = {name: p for name, p in scales(adapted).items() if p.requires_grad}
    assert len(trained) == 4
    assert adapted.get_nb_trainable_parameters()[0] == frozen.get_nb_trainable_parameters()[0] + 4 * 4
    optimizer = torch.optim.SGD(adapted.parameters(), 1.0)
    for _ in range(2):
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert all(p.abs().sum() > 0 and (p.grad != 0).all() for p in trained.values())
    adapted.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(model(), tmp_path).eval()
    assert torch.equal(again(input_ids=IDS).logits, adapted(input_ids=IDS).logits)
    torch.testing.assert_close(adapted.merge_and_unload()(IDS).logits, again(input_ids=IDS).logits)


def test_kept_keys_are_those_of_positive_weight():
    one = model("entmax_sparse").eval()
    with capture(one, ["entropy"]) as record:
        one(IDS)
    assert record.calls == 2
    made = mechanisms.build("entmax_sparse")
    scores, seen = torch.randn(1, 2, 5, 5), torch.ones(5, 5, dtype=torch.bool).tril()
    assert torch.equal(made.keep(scores, seen, None), made.normalize(scores, seen) > 0)
