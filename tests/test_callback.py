"""Schedules of attention in Transformers' Trainer: which attention computes which step, resumed, with LoRA, in TRL."""

import itertools

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import hf_semfocus
from hf_semfocus import AttentionSchedule

SCHEDULE = "sdpa@3>topk_sparse:k=2@60%>banded_sparse:window=3"
STEPS = 10
EXPECTED = ["sdpa"] * 3 + ["topk_sparse:k=2"] * 3 + ["banded_sparse:window=3"] * 4
LORA = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)


class Steps(TrainerCallback):
    """Which attention computed every optimizer step, and every evaluation, as seen where it is computed."""

    def __init__(self, monkeypatch):
        self.steps, self.evaluations, self.seen = [], [], set()
        attend = hf_semfocus.hf.attention.backends.attend
        monkeypatch.setattr(
            hf_semfocus.hf.attention.backends,
            "attend",
            lambda mechanism, *a, **k: (self.seen.add(mechanism.spec), attend(mechanism, *a, **k))[1],
        )

    def used(self):
        [name] = self.seen or {"sdpa"}
        self.seen.clear()
        return name.split(",edge")[0]

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(self.used())

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluations.append(self.used())


def rows(count=24):
    ids = torch.randint(3, VOCABULARY, (count, 8), generator=torch.Generator().manual_seed(1)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def trainer(folder, schedule=SCHEDULE, lora=False, callbacks=(), **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"))
    arguments = TrainingArguments(
        **{
            "max_steps": STEPS,
            "save_strategy": "no",
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            **options,
        },
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(
        get_peft_model(model, LORA) if lora else model,
        arguments,
        train_dataset=rows(),
        eval_dataset=rows(4),
        callbacks=[AttentionSchedule(schedule), *callbacks],
    )


@pytest.mark.parametrize("lora", [False, True])
def test_every_step_has_its_attention_and_a_resumed_training_goes_on_exactly(lora, tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    whole = trainer(tmp_path / "whole", lora=lora, callbacks=[steps], save_strategy="steps", save_steps=3)
    whole.train()
    assert steps.steps == EXPECTED
    for saved in (3, 6, 9):  # the first two lie between two phases
        resumed = Steps(monkeypatch)
        again = trainer(tmp_path / f"{saved}", lora=lora, callbacks=[resumed])
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{saved}"))
        assert resumed.steps == EXPECTED[saved:]
        for parameter, expected in zip(again.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(parameter, expected)


def test_steps_are_those_of_the_optimizer_and_epochs_may_say_how_many(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    options = {"gradient_accumulation_steps": 3, "max_steps": -1, "num_train_epochs": 2}  # 24 rows make 4 steps
    trainer(tmp_path, "sdpa@50%>topk_sparse:k=2", callbacks=[steps], **options).train()
    assert steps.steps == ["sdpa"] * 4 + ["topk_sparse:k=2"] * 4


def test_a_single_name_is_a_schedule(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    trained = trainer(tmp_path, "topk_sparse:k=2", callbacks=[steps], max_steps=2)
    trained.train()
    assert steps.steps == ["topk_sparse:k=2"] * 2
    trained.model.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.config._attn_implementation == "topk_sparse:k=2"


def test_a_schedule_may_train_several_models(tmp_path):
    callback = AttentionSchedule("topk_sparse:k=2")
    for folder in ("one", "two"):
        trained = trainer(tmp_path / folder, "sdpa", max_steps=1)
        trained.pop_callback(AttentionSchedule)
        trained.add_callback(callback)
        trained.train()
        assert trained.model.config._attn_implementation == "topk_sparse:k=2"


def test_the_best_model_has_the_attention_it_was_evaluated_with(tmp_path, monkeypatch):
    steps, falling = Steps(monkeypatch), itertools.count(0, -1)
    trained = trainer(
        tmp_path,
        "sdpa@3>topk_sparse:k=2",
        callbacks=[steps],
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        eval_on_start=True,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trained.compute_metrics = lambda predictions: {"score": next(falling)}
    trained.train()
    assert steps.evaluations == ["sdpa"] * 2 + ["topk_sparse:k=2"] * 4
    assert trained.state.best_global_step == 2
    assert trained.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("sdpa@3", "'sdpa@3' ends the schedule; expected a NAME without an end"),
        ("sdpa>topk_sparse", "'sdpa' does not say when it ends"),
        ("sdpa@5>eager@40%>topk_sparse", r"its phases end at steps \[5, 4\]; expected increasing ones"),
        ("sdpa@3>topk_spares:k=2", "topk_spares"),
        ("sdpa@3>topk_sparse:k=0", "k=0 is not allowed"),
    ],
)
def test_what_does_not_work_ends_it_before_the_first_step(schedule, message, tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, schedule, callbacks=[steps]).train()
    assert steps.steps == []


def test_trl(tmp_path, monkeypatch, own_datasets_cache):
    trl = pytest.importorskip("trl")
    from hf_semfocus.data import train_tokenizer

    lines = [{"text": f"the quick brown fox jumps {number} times"} for number in range(20)]
    tokenizer = train_tokenizer(lines, 300)
    steps = Steps(monkeypatch)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        max_length=16,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trained = trl.SFTTrainer(
        AutoModelForCausalLM.from_config(tiny_config("gpt2", vocab_size=len(tokenizer))),
        arguments,
        train_dataset=Dataset.from_list(lines),
        processing_class=tokenizer,
        peft_config=LORA,
        callbacks=[AttentionSchedule("sdpa@50%>topk_sparse:k=2"), steps],
    )
    trained.train()
    assert steps.steps == ["sdpa"] * 2 + ["topk_sparse:k=2"] * 2
