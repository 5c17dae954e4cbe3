"""The recipe on several processes, replicated and sharded: one process's numbers, and resumption by another number.

Sums of float32 in another order differ by some 1e-7 of a loss, which ten to thirty steps carry on: 1e-5 leaves room
for that and for nothing else.
"""

import os
import re
import subprocess

import pytest
import torch
from conftest import PATIENCE
from faults import Life
from recipe import assert_close
from test_pretrain_recipe import ROOT, command, pretrain, timeless
from transformers import AutoModelForSequenceClassification

from hf_semfocus.training.checkpoint import Checkpoints

SHARDED = ["--config_file", str(ROOT / "recipes" / "accelerate" / "fsdp2.yaml"), "--mixed_precision", "no"]
SHARDED += ["--main_process_port", "0", "--num_processes"]
ARGS = ["--task", "parity", "--model", "llama", "--attention", "sdpa", "topk_sparse:k=3", "--seeds", "3"]
ARGS += ["--train_size", "23", "--eval_size", "11", "--batch_size", "5", "--eval_batch_size", "7", "--epochs", "2"]
ARGS += ["--hidden_size", "8", "--intermediate_size", "12", "--num_layers", "2", "--num_heads", "2"]
ARGS += ["--optimizer", "adamw", "--learning_rate", "1e-2", "--dropout", "0", "--cpu_threads", "1"]
ARGS += ["--save_steps", "2", "--gradient_accumulation_steps", "2", "--logging_steps", "1"]
# the recipe, which dies when it has written the checkpoint of step 7
DYING = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_sharded_recipe import die_after_step_7, pretrain

die_after_step_7()
pretrain.main(sys.argv[1:])
"""


def die_after_step_7():
    """Let this process die when it has written that checkpoint."""
    save = Checkpoints.save

    def fatal(self, accelerator, progress):
        save(self, accelerator, progress)
        if progress.step >= 7:
            accelerator.wait_for_everyone()
            os._exit(7)

    Checkpoints.save = fatal


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of it, in a folder."""
    folder = tmp_path_factory.mktemp("one")
    pretrain.main([*ARGS, "--output_dir", str(folder)])
    return folder


def launch(folder, how, *more, dying=None):
    """Launch the recipe; ``dying`` is a file for the script that dies early."""
    arguments = command(*ARGS, "--output_dir", folder, *more, launch=how)
    if dying is not None:
        dying.write_text(DYING)
        script = next(i for i, part in enumerate(arguments["args"]) if part.endswith("pretrain.py"))
        arguments["args"][script] = str(dying)
    return subprocess.run(**arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)


def check(folder, one, processes):
    """Records and models are those of one process."""
    assert f"{processes} x cpu" in (folder / "report.md").read_text()
    assert_close(timeless(folder), timeless(one))
    for path in one.glob("runs/*/last"):
        models = [
            AutoModelForSequenceClassification.from_pretrained(place / path.relative_to(one))
            for place in (one, folder)
        ]
        assert type(models[0]) is type(models[1])
        configs = [(place / path.relative_to(one) / "config.json").read_text() for place in (one, folder)]
        assert configs[0] == configs[1]
        for (name, weight), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            # AdamW divides a sum by its own size: where it is near zero, its order shows in the step
            torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sharded_run_of_two_resumes_on_another_number_of_processes(tmp_path, one, processes):
    done = launch(tmp_path / "run", [*SHARDED, "2"], dying=tmp_path / "dying.py")
    assert done.returncode != 0
    [newest] = (tmp_path / "run").glob("runs/sdpa_3/checkpoint-00000008")
    parts = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*.distcp"))
    assert parts == [
        f"{what}/__{rank}_0.distcp" for what in ("optimizer_0", "pytorch_model_fsdp_0") for rank in (0, 1)
    ]
    done = launch(tmp_path / "run", [*SHARDED, str(processes)], "--resume")
    assert done.returncode == 0, done.stderr
    assert ("was written by 2 processes, and there are 1" in re.sub(r"\s+", " ", done.stderr)) == (processes == 1)
    check(tmp_path / "run", one, processes)


def test_run_of_one_resumes_on_two(tmp_path, one):
    args = [*ARGS, "--output_dir", tmp_path / "run"]
    dying = Life("pretrain", args, die_after_step_7, log=tmp_path / "dying")
    assert dying.end() == [7], dying.errors
    resumed = Life("pretrain", [*args, "--resume"], world=2, log=tmp_path / "resumed")
    assert resumed.end() == [0, 0], resumed.errors
    assert "written by 1 processes, and there are 2" in re.sub(r"\s+", " ", resumed.err.read_text())
    check(tmp_path / "run", one, 2)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_sharded_runs_of_other_families(tmp_path, model):
    args = ["--model", model, "--gradient_checkpointing"]
    pretrain.main([*ARGS, *args, "--output_dir", str(tmp_path / "one")])
    done = launch(tmp_path / "two", [*SHARDED, "2"], *args)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "two", tmp_path / "one", 2)
