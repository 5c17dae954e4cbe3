"""Schedules: courses of parameters, ends from the end, alternatives by chance, and layers."""

import hashlib
import math
import random

import pytest
import torch
from conftest import tiny_config
from test_callback import LORA, Steps, trainer
from test_course import cut_and_resumed
from test_training import fresh_model, start, timeless
from transformers import AutoModelForCausalLM, TrainerCallback

import hf_semfocus
from hf_semfocus.hf.switching import configurations
from hf_semfocus.reports.conclusion import conclusion
from hf_semfocus.tables import markdown_table
from hf_semfocus.training import FocusSchedule, TrainingOptions
from hf_semfocus.training.schedules import bound_to_length


def course(text, steps, seed=None):
    schedule = FocusSchedule.parse(text)
    return [schedule.at(step, steps, seed).name for step in range(steps)]


def sizes(names):
    return [int(name.split("k=")[1]) for name in names]


def test_a_parameter_goes_from_one_end_to_the_other_in_its_phase():
    assert sizes(course("topk_sparse:k=64..8", 8)) == [64, 56, 48, 40, 32, 24, 16, 8]
    found = sizes(course("topk_sparse:k=64..8@cosine", 21))
    assert found == [round(8 + 56 * (1 + math.cos(math.pi * step / 20)) / 2) for step in range(21)]
    assert course("sdpa@2>topk_sparse:k=9..3@linear@50%>topk_sparse:k=3", 10) == [
        *["sdpa"] * 2,
        *[f"topk_sparse:k={k}" for k in (9, 6, 3)],
        *["topk_sparse:k=3"] * 5,
    ]
    assert course("topk_sparse:k=2..4,gradient=straight_through", 3)[1] == "topk_sparse:k=3,gradient=straight_through"
    assert course("first:p=0.5..1+second:k=4..2", 3) == [
        "first:p=0.5+second:k=4",
        "first:p=0.75+second:k=3",
        "first:p=1+second:k=2",
    ]
    assert course("other:p=0.9..0.1@cosine", 4)[1:3] == ["other:p=0.7", "other:p=0.3"]
    assert course("topk_sparse:k=64..8", 1) == ["topk_sparse:k=64"]
    assert FocusSchedule.parse("sdpa@3>topk_sparse:k=64..8").names == ("sdpa", "topk_sparse:k=64", "topk_sparse:k=8")


def test_a_phase_may_end_before_the_end_of_the_run():
    assert course("topk_sparse@-2>sdpa", 5) == ["topk_sparse"] * 3 + ["sdpa"] * 2
    assert course("sdpa@2>topk_sparse@-20%>sdpa", 10) == ["sdpa"] * 2 + ["topk_sparse"] * 6 + ["sdpa"] * 2
    with pytest.raises(ValueError, match=r"its phases end at steps \[-3\]; expected increasing ones"):
        course("topk_sparse@-8>sdpa", 5)


def test_alternatives_are_drawn_from_seed_and_step_alone():
    text = "sdpa~0.3~topk_sparse:k=8"
    drawn = course(text, 2000, seed=7)
    assert drawn == course(text, 2000, seed=7)
    assert drawn[1500:] == [FocusSchedule.parse(text).at(step, 9999, 7).name for step in range(1500, 2000)]
    assert 500 < drawn.count("sdpa") < 700  # 3.9 standard deviations
    assert drawn != course(text, 2000, seed=8)
    state = random.getstate(), torch.get_rng_state()
    course(text, 10, seed=7)
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    assert set(course(text, 100)) == {"topk_sparse:k=8"}  # what the model is evaluated and saved with
    three = course("a~0.5~b~0.5~c", 4000, seed=1)
    for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.25)):
        assert abs(three.count(name) / 4000 - share) < 0.03  # 4 standard deviations
    assert hashlib.sha256("".join(course(text, 64, 1)).encode()).hexdigest()[:8] == PINNED


PINNED = "c6ad5389"
"""Of the first 64 draws: runs go on as they were on other versions of Python, too."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk_sparse:k=64..", "'topk_sparse:k=64..' has a range that is none; expected param=64..8, of two numbers"),
        ("topk_sparse:k=a..b", "has a range that is none"),
        ("topk_sparse:k=8@cosine", r"no parameter of 'topk_sparse:k=8' changes; expected .* k=64..8@cosine"),
        (
            "topk_sparse:k=64..8@sine",
            r"'topk_sparse:k=64..8@sine' ends the schedule \(did you mean 'cosine'\?\); .* @linear or @cosine",
        ),
        ("topk_sparse:k=64..8@cosine>sdpa", "'topk_sparse:k=64..8' does not say when it ends"),
        ("sdpa@101%>eager", "'sdpa@101%' ends after the run; expected at most 100%"),
        ("topk_sparse|0=sdpa|0=eager", "names layers 0 twice; expected each once"),
        ("sdpa@--2>eager", "'sdpa@--2' does not say when it ends"),
        ("sdpa~topk_sparse", "'sdpa~topk_sparse' lacks a probability or a name; expected NAME~0.5~NAME"),
        ("sdpa~0.5", "lacks a probability or a name"),
        ("sdpa~1.5~topk_sparse", "'1.5' in .* is no probability between 0 and 1"),
        ("sdpa~0.0~topk_sparse", "'0.0' in .* is no probability"),
        ("sdpa~0.5~", "'sdpa~0.5~' lacks a name; expected NAME~0.5~NAME"),
        ("topk_sparse|sdpa", r"'sdpa' names no layers and their attention; expected 3=NAME, 0-1=NAME, 8-=NAME or -2"),
        (
            "topk_sparse|0-1=topk_sparse:k=8..4",
            "'0-1=topk_sparse:k=8..4' has a range, which single layers cannot; expected a",
        ),
        ("|0=sdpa", r"'\|0=sdpa' has no name"),
    ],
)
def test_what_is_no_schedule_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        FocusSchedule.parse(text)
    assert f"attention={text!r}: " in str(refused.value)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("topk_sparse:k=8", False),
        ("sdpa@5>topk_sparse", False),
        ("sdpa@5>topk_sparse:k=8..4@9>sdpa", False),
        ("sdpa~0.5~topk_sparse", False),
        ("sdpa@5%>topk_sparse", True),
        ("sdpa@-5>topk_sparse", True),
        ("topk_sparse:k=8..4", True),
    ],
)
def test_what_depends_on_the_length_of_a_run_is_told(text, bound):
    options = TrainingOptions(lr_scheduler="constant", warmup_steps=0)
    assert (bound_to_length(options, [text]) is not None) == bound


def test_layers_go_with_the_attention_of_the_step():
    model = AutoModelForCausalLM.from_config(tiny_config("llama"), attn_implementation="sdpa")
    schedule = FocusSchedule.parse("topk_sparse:k=4|-1=sdpa@1>bottomk_sparse:k=3|0=topk_sparse:k=2@2>topk_sparse:k=2")
    found = []
    for step in range(3):
        schedule.apply(model, step, 3)
        found.append(list(hf_semfocus.verify(model).values()))
    assert found == [["topk_sparse:k=4", "full"], ["topk_sparse:k=2", "bottomk_sparse:k=3"], ["topk_sparse:k=2"] * 2]
    wrong = FocusSchedule.parse("topk_sparse|2=sdpa")
    with pytest.raises(ValueError, match="layers: '2' is not in the model; expected numbers from 0 to 1"):
        wrong.apply(model, 0, 3)
    with pytest.raises(ValueError, match=r"layers=\{'0': 'topk_sparse'\} cannot be beside .*'sdpa'; expected one of "):
        FocusSchedule.parse("sdpa|0=topk_sparse@1>topk_sparse").apply(model, 0, 3)
    free = FocusSchedule.parse("topk_sparse:k=4@1>topk_sparse:k=2")  # names no layers, and leaves them alone
    hf_semfocus.configure(model, "topk_sparse", k=9, layers={"0": "sdpa"})
    for step, k in ((0, 4), (1, 2)):
        free.apply(model, step, 3)
        assert list(hf_semfocus.verify(model).values()) == ["full", f"topk_sparse:k={k}"]


def test_reports_take_schedules_for_what_they_are():
    [*_, row] = markdown_table([["attention", "k"], ["topk_sparse:k=8|0=sdpa", "8"]]).splitlines()
    assert row == r"| topk_sparse:k=8\|0=sdpa | 8 |"
    for name in (
        "sdpa~0.5~topk_sparse:k=8",
        "topk_sparse:k=8..4",
        "topk_sparse:k=8|0=sdpa",
        "topk_sparse:k=8@-9>sdpa",
    ):
        results = [{"attention": each, "seed": 0, "reached": None, "epoch": 3} for each in ("sdpa", name)]
        assert "numbers of keys" not in conclusion(results, {"target_accuracy": 0.95})
        results[1]["attention"] = "topk_sparse:k=8"
        assert "sdpa topk_sparse:k=4 topk_sparse:k=16" in conclusion(results, {"target_accuracy": 0.95})


# ---- as a callback


@pytest.mark.parametrize("lora", [False, True])
def test_the_trainer_takes_them_and_goes_on_exactly(lora, tmp_path, monkeypatch):
    text = "sdpa~0.5~topk_sparse:k=6..2@8>topk_sparse:k=2"
    expected = course(text, 10, seed=42)
    assert {"sdpa", "topk_sparse:k=2"} < set(expected)
    steps = Steps(monkeypatch)
    options = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 2}
    whole = trainer(tmp_path / "whole", text, lora=lora, callbacks=[steps], **options)
    whole.train()
    assert steps.steps == expected
    assert steps.evaluations == [course(text, 10)[step - 1] for step in (2, 4, 6, 8, 10)]
    resumed = Steps(monkeypatch)
    again = trainer(tmp_path / "again", text, lora=lora, callbacks=[resumed])
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.steps == expected[4:]
    for parameter, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_the_trainer_changes_layers(tmp_path):
    seen = []

    class See(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            for config in configurations(model):
                seen.append((config._attn_implementation, dict(config.semfocus)["layers"]))

    text = "topk_sparse:k=4|0=sdpa@2>topk_sparse:k=2"
    trainer(tmp_path, text, lora=True, callbacks=[See()], max_steps=3).train()
    assert list(dict.fromkeys(map(str, seen))) == [
        "('topk_sparse:k=4', {'0': 'sdpa'})",
        "('topk_sparse:k=2', {})",
    ]
    assert LORA.r == 2


# ---- in the recipes


def test_a_run_with_chance_and_courses_resumes_exactly(tmp_path, monkeypatch):
    name = "sdpa~0.5~topk_sparse:k=4..1"
    changes = {"epochs": 3, "logging_steps": 1}
    result, records = start(tmp_path / "whole", name, model=fresh_model("sdpa"), **changes)
    assert result["last_attention"] == "topk_sparse:k=1"
    again, resumed = cut_and_resumed(tmp_path / "cut", name, monkeypatch, **changes)
    assert timeless(resumed) == timeless(records)
    assert timeless([again]) == timeless([result])
