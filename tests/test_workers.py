"""The runs of a comparison side by side: what comes out is what one run after another gives."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial

import pytest
from conftest import wait_until
from faults import Life
from recipe import pretrain, timeless

from hf_semfocus.console import parse
from hf_semfocus.experiments import compare, synthetic, workers
from hf_semfocus.experiments.workers import SMALL, number_of_workers
from hf_semfocus.grid import LocalExecutor, semfocus
from hf_semfocus.machine import cores
from hf_semfocus.training import ComparisonOptions, OutputFolder, TrainingOptions, start

TINY = "--train_size 43 --eval_size 31 --batch_size 5 --target_accuracy 2 --hidden_size 8 --intermediate_size 8 "
TINY += "--num_layers 1 --attention sdpa topk_sparse:k=3 --seeds 3 --dropout 0.1"


def args(folder, epochs, *more):
    return [*TINY.split(), "--epochs", str(epochs), "--output_dir", str(folder), *more]


def saved(folder):
    """Runs that have a checkpoint."""
    return {path.parents[1] for path in folder.glob("runs/*/checkpoint-*/progress.json")}


def test_side_by_side_equals_one_after_another_through_kill_minus_nine(tmp_path):
    whole = pretrain.main(args(tmp_path / "whole", 12, "--cpu_threads", "1"))
    cut = tmp_path / "cut"
    killed = Life("pretrain", args(cut, 12, "--workers", "2"), log=tmp_path / "killed")
    [process] = killed.processes
    wait_until(lambda: saved(cut), process.is_alive)
    os.kill(process.pid, signal.SIGKILL)
    assert killed.end() == [-signal.SIGKILL]
    again = Life("pretrain", args(cut, 12, "--workers", "2", "--resume"), log=tmp_path / "again")
    assert again.end() == [0], again.errors
    # without a terminal, the lines of the runs come through, with no guess at those beside them
    assert " for all runs" not in again.printed
    assert "2 of 2 runs done, " in again.printed
    assert "run 2 of 2, topk_sparse:k=3/3, epoch 12/12" in again.printed
    assert timeless(cut) == timeless(tmp_path / "whole")
    assert re.search(r"computed by these backends: topk_sparse by \w+", (cut / "report.md").read_text())
    finished = pretrain.main(args(cut, 12, "--resume", "--cpu_threads", "1"))
    assert [result["eval_loss"] for result in finished] == [result["eval_loss"] for result in whole]


def test_ctrl_c_saves_all_and_says_how_to_go_on(tmp_path):
    life = Life("pretrain", args(tmp_path / "out", 500, "--workers", "2"), log=tmp_path / "life")
    [process] = life.processes
    wait_until(lambda: len(saved(tmp_path / "out")) >= 2, process.is_alive)
    os.kill(process.pid, signal.SIGINT)
    assert life.end() == [130]
    assert "stopped by Ctrl-C; --resume goes on from there" in life.printed
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert len({record["run"] for record in records}) >= 2
    assert "Traceback" not in life.err.read_text()
    assert len(saved(tmp_path / "out")) >= 2


class OneProcess:
    num_processes, device = 1, type("Device", (), {"type": "cpu"})


class TwoProcesses(OneProcess):
    num_processes = 2


def test_small_models_on_a_cpu_go_side_by_side_unless_told_otherwise():
    comparison = ComparisonOptions(attention=["sdpa", "eager"], seeds=[1])
    how = (OneProcess, TrainingOptions(), comparison)
    assert number_of_workers(*how, SMALL, "pretrain") == min(cores(), 2)
    assert number_of_workers(*how, SMALL + 1, "pretrain") == 1
    assert number_of_workers(TwoProcesses, TrainingOptions(), comparison, 1, "pretrain") == 1
    comparison.cpu_threads = 1
    assert number_of_workers(*how, 1, "pretrain") == 1
    comparison.workers = 5
    assert number_of_workers(*how, 1, "pretrain") == 5


@pytest.mark.parametrize(
    ("accelerator", "options"),
    [(TwoProcesses, TrainingOptions()), (OneProcess, TrainingOptions(report_to="tensorboard"))],
)
def test_workers_that_cannot_be_are_refused(accelerator, options):
    with pytest.raises(ValueError, match="workers=2 with"):
        number_of_workers(accelerator, options, ComparisonOptions(attention=["sdpa"], workers=2), 1, "pretrain")


def test_an_experiment_that_no_command_makes_is_trained_in_this_process(tmp_path):
    options = TrainingOptions(output_dir=str(tmp_path), epochs=1)
    accelerator = start(options, None)
    experiment = synthetic("parity", None, {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1}, 50, 25)
    comparison = ComparisonOptions(attention=["sdpa", "topk_sparse:k=3"])
    # another process would train on what its command's options say, and there are none
    assert [result["step"] for result in compare(accelerator, experiment, options, comparison)] == [2, 2]
    with pytest.raises(ValueError, match="workers=2 for an experiment that no command makes"):
        number_of_workers(accelerator, options, ComparisonOptions(attention=["sdpa"], workers=2), 1, None)


def test_side_by_side_saves_as_often_as_is_asked(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(LocalExecutor, "run", lambda executor, jobs: started.extend(jobs) or [])
    output = type("Output", (), {"path": tmp_path})
    runs = [OutputFolder.run_in(tmp_path, "sdpa", 1)]
    workers.train_side_by_side("pretrain", output, runs, runs, 2, save_steps=7)
    [job] = started
    training = parse(*pretrain.OPTIONS, args=[a for a in job.command[4:] if "config" not in a])[3]
    assert training.save_steps == 7


@pytest.mark.parametrize("given", [["--part", "2"], ["--part", "1/2", "--seeds", "1", "2"]])
def test_parts_that_are_none_are_refused(tmp_path, given):
    with pytest.raises(ValueError, match="part="):
        pretrain.main(["--attention", "sdpa", *given, "--output_dir", str(tmp_path)])


def test_lines_come_through_where_only_standard_error_is_a_terminal(tmp_path):
    main, terminal = pty.openpty()
    threading.Thread(target=drain, args=[main], daemon=True).start()
    given = args(tmp_path / "out", 1, "--workers", "2", "--attention", "sdpa")
    life = Life("pretrain", given, partial(show_errors_on, os.ttyname(terminal)), log=tmp_path / "life")
    assert life.end() == [0]
    os.close(terminal)
    assert life.err.read_text() == ""
    assert "run 1 of 1, sdpa/3, epoch 1/1" in life.printed


def show_errors_on(terminal):
    """Let the standard error of this process be a terminal."""
    os.dup2(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), 2)
    assert sys.stderr.isatty()


def drain(main):
    """Read what comes to a terminal, so that nobody waits for it, up to its end."""
    with suppress(OSError):
        while os.read(main, 4096):
            pass


def test_files_in_the_working_directory_hide_no_package(tmp_path):
    (tmp_path / "evaluate.py").write_text("raise SystemExit('not the package')")
    done = subprocess.run(semfocus("--help"), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: semfocus COMMAND" in done.stdout
