"""What changes over a run and how a step is computed: schedules, accumulation, precision, targets, and its end."""

import itertools
import math
import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe import assert_close
from safetensors.torch import load_file
from test_training import BATCH, ROWS, fresh_model, interrupted, options, rows, start, timeless
from transformers import AutoModelForSequenceClassification, get_scheduler

from hf_semfocus.console import parse
from hf_semfocus.data.batches import epoch_order
from hf_semfocus.memory import peak_megabytes, reset_peak
from hf_semfocus.training import FocusSchedule, TrainingOptions
from hf_semfocus.training import steps as steps_module
from hf_semfocus.training.checkpoint import Checkpoints
from hf_semfocus.training.schedules import learning_rate

LENGTH = 5  # steps of an epoch


# ---- the learning rate


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_learning_rate_is_that_of_transformers(tmp_path, name, warmup):
    changes = {"lr_scheduler": name, "warmup_steps": warmup, "lr_decay": 1.0, "epochs": 3}
    _, records = start(tmp_path, logging_steps=1, **changes)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = "constant_with_warmup" if name == "constant" else name
    schedule = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=15)
    expected = []
    for _ in range(15):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    found = [record["learning_rate"] for record in records if record["kind"] == "step"]
    assert found == pytest.approx(expected, rel=1e-12)
    assert len(set(found)) > 1 or (name, warmup) == ("constant", 0)


def test_warmup_below_one_is_a_share_of_the_run(tmp_path):
    chosen = options(tmp_path, warmup_steps=0.25, lr_decay=1.0)
    rate = learning_rate(chosen, 40)
    assert [rate(step, 0) for step in (0, 5, 10, 39)] == pytest.approx([0.0, 0.05, 0.1, 0.1])
    with pytest.raises(ValueError, match="warmup_steps=41 are more than the 40 steps of a run"):
        learning_rate(options(tmp_path, warmup_steps=41), 40)


# ---- the attention


def test_schedule_says_which_attention_a_step_has():
    schedule = FocusSchedule.parse("sdpa@3>topk_sparse:k=32@50%>topk_sparse:k=8")
    assert schedule.names == ("sdpa", "topk_sparse:k=32", "topk_sparse:k=8")
    expected = ["sdpa"] * 3 + ["topk_sparse:k=32"] * 2 + ["topk_sparse:k=8"] * 5
    assert [schedule.at(step, 10).name for step in range(10)] == expected
    assert FocusSchedule.parse("sdpa").at(7, 10).name == "sdpa"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdpa>topk_sparse", "'sdpa' does not say when it ends"),
        ("sdpa@0>topk_sparse", "'sdpa@0' does not say when it ends"),
        ("sdpa@x%>topk_sparse", r"expected NAME@200 \(steps\), NAME@50% \(of the run\)"),
        ("sdpa@3>topk_sparse@5", "'topk_sparse@5' ends the schedule"),
        ("sdpa@3>", "'' has no name; expected NAME, or NAME@200>NAME"),
        ("@3>sdpa", "'@3' has no name; expected NAME"),
    ],
)
def test_bad_schedules_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        FocusSchedule.parse(text)


def test_schedule_whose_phases_do_not_follow_each_other_is_refused():
    with pytest.raises(ValueError, match=r"its phases end at steps \[8, 5\]; expected increasing ones"):
        FocusSchedule.parse("sdpa@8>eager@50%>sdpa").at(0, 10)


def cut_and_resumed(folder, name, monkeypatch, **changes):
    """Result and records of a run that was interrupted after its eighth step, and went on."""
    save = Checkpoints.save

    def fatal(self, accelerator, progress):
        save(self, accelerator, progress)
        if progress.step >= 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", fatal)
        with pytest.raises(KeyboardInterrupt):
            start(folder, name, model=fresh_model("sdpa"), save_steps=8, **changes)
    return start(folder, name, model=fresh_model("sdpa"), save_steps=8, resume=True, **changes)


def test_a_schedule_trains_as_its_phases_do_and_resumes(tmp_path, monkeypatch):
    """Step by step: the phases by hand, each from where the one before it ended."""
    name = "sdpa@7>topk_sparse:k=3@60%>topk_sparse:k=1"
    changes = {"epochs": 3, "logging_steps": 1}
    result, records = start(tmp_path / "whole", name, model=fresh_model("sdpa"), **changes)
    losses = [record["train_loss"] for record in records if record["kind"] == "step"]
    for attention, same in (("sdpa", 7), ("topk_sparse:k=3", 0), ("topk_sparse:k=1", 0)):
        _, others = start(tmp_path / attention, attention, **changes)
        alone = [record["train_loss"] for record in others if record["kind"] == "step"]
        agree = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(losses, alone, strict=True)))
        assert agree == same
    [last] = (tmp_path / "whole" / "runs").glob("*/last")
    model = AutoModelForSequenceClassification.from_pretrained(last)
    assert model.config._attn_implementation == "topk_sparse:k=1"

    again, resumed = cut_and_resumed(tmp_path / "cut", name, monkeypatch, **changes)
    assert timeless(resumed) == timeless(records)
    assert timeless([again]) == timeless([result])


# ---- a step


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_accumulated_steps_equal_whole_ones(tmp_path, parts):
    """7 parts of batches of 5: some are empty."""
    changes = {"epochs": 2, "logging_steps": 1}
    _, expected = start(tmp_path / "whole", model=fresh_model(dropout=0.0), **changes)
    changes["gradient_accumulation_steps"] = parts
    _, records = start(tmp_path / "parts", model=fresh_model(dropout=0.0), **changes)
    assert_close(timeless(records), timeless(expected))


@pytest.mark.parametrize("attention", ["sdpa", "topk_sparse:k=3"])
def test_gradient_checkpointing_changes_nothing(tmp_path, attention):
    changes = {"epochs": 2, "logging_steps": 1}
    _, expected = start(tmp_path / "plain", attention, **changes)  # with dropout, which has to be replayed
    _, records = start(tmp_path / "again", attention, gradient_checkpointing=True, **changes)
    assert_close(timeless(records), timeless(expected))


def test_model_that_cannot_checkpoint_gradients_is_refused(tmp_path):
    model = fresh_model()
    model.supports_gradient_checkpointing = False
    with pytest.raises(ValueError, match="SemFocusEncoderForSequenceClassification does not support it"):
        start(tmp_path, model=model, gradient_checkpointing=True)


def test_compiled_model_learns_the_same(tmp_path):
    changes = {"max_steps": 2, "logging_steps": 1, "epochs": 1}
    data = rows(shortest=9)
    model = fresh_model("topk_sparse:k=3", dropout=0.0)
    _, expected = start(tmp_path / "plain", "topk_sparse:k=3", model=model, data=data, **changes)
    model, traced = fresh_model("topk_sparse:k=3", dropout=0.0), []
    torch._dynamo.reset()
    original = torch.nn.Module.compile
    with pytest.MonkeyPatch.context() as patch:  # tracing alone shows it, and takes seconds less than a compiler
        patch.setattr(torch.nn.Module, "compile", lambda self: traced.append(self) or original(self, backend="eager"))
        _, records = start(
            tmp_path / "compiled", "topk_sparse:k=3", model=model, data=data, torch_compile=True, **changes
        )
    assert traced == [model]
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert_close(timeless(records), timeless(expected))
    assert AutoModelForSequenceClassification.from_pretrained(next(tmp_path.glob("compiled/runs/*/last")))


# ---- evaluation within epochs, and targets


def test_evaluation_every_few_steps_changes_no_step(tmp_path):
    _, expected = start(tmp_path / "plain", epochs=3)
    _, records = start(tmp_path / "often", epochs=3, eval_steps=2)
    assert timeless([record for record in records if record["kind"] == "epoch"]) == timeless(expected)
    within = [(record["step"], record["epoch"]) for record in records if record["kind"] == "eval"]
    assert within == [(step, pytest.approx(step / LENGTH)) for step in (2, 4, 6, 8, 12, 14)]


@pytest.mark.parametrize("after", [0, 1])
def test_a_run_ends_at_its_target_loss(tmp_path, after):
    _, records = start(tmp_path / "all", epochs=6, eval_steps=2, learning_rate=0.5)
    losses = [record["eval_loss"] for record in records]
    target = sorted(losses)[len(losses) // 2]
    place = next(index for index, loss in enumerate(losses) if loss <= target)
    changes = {"epochs": 6, "eval_steps": 2, "learning_rate": 0.5, "target_loss": target}
    result, shorter = start(tmp_path / "target", epochs_after_target=after, **changes)
    assert result["status"] == "converged"
    assert result["reached"]["step"] == records[place]["step"]
    expected = records[: place + 1]
    if after:
        whole = math.ceil(records[place]["epoch"]) + after
        if records[place]["epoch"] < whole - after:  # reached within an epoch: one whole epoch from there
            whole = records[place]["epoch"] + after
        expected = [record for record in records if record["epoch"] < whole or record is records[place]]
        expected += [record for record in records if record["epoch"] >= whole][:1]
    assert timeless(shorter) == timeless(expected)


def test_peak_memory_is_of_the_run():
    reset_peak(torch.device("cpu"))
    before = peak_megabytes(torch.device("cpu"))
    block = torch.ones(50_000_000)
    high = peak_megabytes(torch.device("cpu"))
    del block
    assert high > before + 150
    reset_peak(torch.device("cpu"))
    assert peak_megabytes(torch.device("cpu")) < high - 100


def test_tokens_are_counted_with_padding(tmp_path):
    data = rows()
    result, _ = start(tmp_path, data=data, epochs=1)
    order, tokens = epoch_order(ROWS, 7, 0), 0
    for first in range(0, ROWS, BATCH):
        chosen = order[first : first + BATCH]
        tokens += len(chosen) * int(data.lengths[chosen].max())
    assert result["tokens_per_second"] * result["seconds"] == pytest.approx(tokens)


@pytest.mark.parametrize("attention", ["sdpa", "topk_sparse:k=3"])
def test_focus_is_logged_every_few_steps_and_changes_no_step(tmp_path, attention):
    _, expected = start(tmp_path / "plain", attention, epochs=2, logging_steps=1)
    _, records = start(tmp_path / "watched", attention, epochs=2, logging_steps=1, log_focus=4)
    assert timeless([record for record in records if record["kind"] != "focus"]) == timeless(expected)
    focus = [record for record in records if record["kind"] == "focus"]
    assert [record["step"] for record in focus] == [4, 8]
    assert all(0 <= record["entropy"] <= math.log(9) for record in focus)
    assert ("kept_mass" in focus[0]) == (attention != "sdpa")
    with pytest.raises(ValueError, match="log_focus=4 with torch_compile=True; expected one of them at most"):
        options(tmp_path, log_focus=4, torch_compile=True)


# ---- the end


def test_batch_of_a_run_that_diverged_is_kept(tmp_path):
    model = fresh_model()
    model.classifier.register_forward_hook(lambda module, inputs, logits: logits * float("inf"))
    data = rows()
    result, [record] = start(tmp_path, model=model, data=data, gradient_accumulation_steps=2)
    assert (result["status"], record["kind"], record["step"]) == ("diverged", "diverged", 0)
    kept = load_file(tmp_path / "runs" / "sdpa_7" / "diverged" / "batch-0.safetensors")
    parts = np.array_split(record["rows"], 2)
    for number, part in enumerate(parts):
        inputs = data.batch(part, whole_batch=np.array(record["rows"]))
        assert {name.split(".")[1] for name in kept} == set(inputs)
        assert all(torch.equal(kept[f"{number}.{name}"], tensor) for name, tensor in inputs.items())


@pytest.mark.parametrize("step", [3, LENGTH])
def test_sigterm_saves_and_exits_after_the_step(tmp_path, monkeypatch, capsys, step):
    """Within an epoch, and in its last step, after which the epoch is finished first."""
    changes = {"epochs": 3, "logging_steps": 1}
    _, expected = start(tmp_path / "whole", **changes)
    count, backward = 0, steps_module.backward

    def terminated(*args):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(*args)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(steps_module, "backward", terminated)
    with pytest.raises(SystemExit) as exit_info:
        start(tmp_path / "cut", **changes)
    assert exit_info.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert f"stopped by SIGTERM at step {step}; --resume goes on from there" in capsys.readouterr().out
    assert [p.name for p in tmp_path.glob("cut/runs/*/checkpoint-*")] == [f"checkpoint-{step:08d}"]
    _, records = start(tmp_path / "cut", resume=True, **changes)
    assert timeless(records) == timeless(expected)


def test_resumption_with_another_number_of_processes_goes_on_with_the_same_batches(tmp_path, monkeypatch):
    changes = {"logging_steps": 1, "epochs": 3}
    model = lambda: fresh_model(dropout=0.0)  # noqa: E731
    _, expected = start(tmp_path / "whole", model=model(), **changes)
    monkeypatch.setattr(
        "hf_semfocus.training.checkpoint.gather_object", lambda states: [*states, 0]
    )  # as if two had written
    interrupted(tmp_path / "cut", monkeypatch, step=10, model=model(), **changes)
    with pytest.warns(UserWarning, match="written by 2 processes, and there are 1 now"):
        _, records = start(tmp_path / "cut", model=model(), resume=True, **changes)
    assert timeless(records) == timeless(expected)


# ---- options


@settings(max_examples=30)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 9),
            "batch_size": st.integers(1, 9),
            "learning_rate": st.floats(0, 1),
            "target_loss": st.floats(0.1, 9),
            "lr_scheduler": st.sampled_from(["linear", "cosine"]),
        },
    )
)
def test_defaults_fill_only_what_is_not_set(given_options):
    defaults = {"epochs": 60, "batch_size": 25, "learning_rate": 0.5, "lr_scheduler": "constant", "best_by": "loss"}
    filled = TrainingOptions(**given_options).filled(**defaults)
    for name, value in {**defaults, **given_options}.items():
        assert getattr(filled, name) == value


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps=0; expected an integer of at least 1"),
        (["--eval_steps", "0"], "eval_steps=0; expected an integer of at least 1"),
        (["--warmup_steps", "-1"], "warmup_steps=-1.0; expected a number of at least 0"),
        (["--target_loss", "0"], "target_loss=0.0; expected a positive number of nats"),
    ],
)
def test_bad_options_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        parse(TrainingOptions, args=args)
