"""Measuring attention while a model trains: what is logged, when, and that nothing else changes."""

import os

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import tiny_config
from peft import LoraConfig, get_peft_model
from test_callback import rows as trainer_rows
from transformers import AttentionInterface, AutoModelForCausalLM, Trainer, TrainingArguments

from hf_semfocus import FocusLogger
from hf_semfocus.analysis import capture
from hf_semfocus.training.focus import MEASURED, FocusProbe

INTERFACE = AttentionInterface.get_interface


@pytest.fixture(autouse=True)
def restored():
    yield
    assert AttentionInterface.get_interface is INTERFACE


def trainer(folder, attention="topk_sparse:k=3", lora=False, **changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2", resid_pdrop=0.1), attn_implementation=attention)
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True))
    settings = {"max_steps": 5, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, **changes}
    arguments = TrainingArguments(output_dir=str(folder), save_strategy="no", disable_tqdm=True, **settings)
    return Trainer(model, arguments, train_dataset=trainer_rows())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("attention", ["topk_sparse:k=3", "sdpa"])
def test_a_trainer_logs_medians_and_trains_as_without(tmp_path, attention, lora):
    plain, probed = (trainer(tmp_path, attention, lora, gradient_accumulation_steps=2) for _ in range(2))
    probed.add_callback(FocusLogger(probed.log, every=2))
    for each in (plain, probed):
        torch.manual_seed(1)
        each.train()
    for one, other in zip(plain.model.parameters(), probed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    logged = [line for line in probed.state.log_history if "focus/dispersion" in line]
    assert [line["step"] for line in logged] == [2, 4]
    names = [name for name in MEASURED if attention != "sdpa" or name in ("dispersion", "entropy")]
    places = ["", "/layer_0", "/layer_1"]
    assert {f"focus/{name}{place}" for name in names for place in places} == {
        name for name in logged[0] if name.startswith("focus/")
    }
    assert logged[0] != logged[1]
    assert not probed.model._forward_hooks
    assert not probed.model._forward_pre_hooks


def test_a_probe_measures_one_pass_and_ends_with_it():
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation="topk_sparse:k=3").eval()
    probe, ids = FocusProbe(model), torch.arange(1, 10)[None]
    assert probe.take() == {}
    probe.arm()
    model(ids)
    model(ids.flip(-1))
    with capture(model, MEASURED) as record:
        model(ids)
    assert probe.take() == record.medians()
    probe.arm()
    with pytest.raises(TypeError):
        model(input_ids=3)
    assert not model._forward_hooks
    assert probe.take() == {}


def test_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())  # TrainingArguments writes to it, for all that come after
    with pytest.raises(ValueError, match="every=0; expected an integer of at least 1"):
        FocusLogger(print, every=0)
    compiled = trainer(tmp_path, torch_compile=True)
    compiled.add_callback(FocusLogger(compiled.log))
    with pytest.raises(ValueError, match="a compiled model does not show its attention to FocusLogger"):
        compiled.train()
    AcceleratorState._reset_state(True)  # it would compile the models of later tests
