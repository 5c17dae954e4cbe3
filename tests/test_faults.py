"""The recipes under faults: killed, terminated, damaged, out of space, and misused, always to the same numbers."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from conftest import tiny_config, wait_until
from faults import (
    Life,
    Strike,
    fill,
    halt,
    interrupt,
    interrupt_twice,
    kill,
    kill_while_writing,
    launched,
    limit,
    lose_launcher,
    on_rank,
    spoil,
    terminate,
    write_to_full_disk,
)
from recipe import ROOT, command, load, timeless
from safetensors.torch import load_file
from transformers import AutoModel

from hf_semfocus.console import one_line_errors
from hf_semfocus.data import train_tokenizer
from hf_semfocus.files import locked
from hf_semfocus.models import Sizes, build_model
from hf_semfocus.training.output import LOCK

TERMINATED = 128 + signal.SIGTERM
SENTENCES = ["the cat sat on the mat", "a dog sat there and barked", "one two three four five", "words and more words"]
SIZES = "--hidden_size 8 --intermediate_size 8 --num_layers 1 --num_heads 2 --dropout 0.2"
SHARED = "--cpu_threads 1 --attention sdpa topk_sparse:k=3 --seeds 3 --epochs 2 --save_steps 3 --batch_size 5"


@dataclass(frozen=True)
class Case:
    """A recipe and what it is given; two runs of two epochs of at least seven steps, saved every three."""

    recipe: str
    args: str


CASES = {
    "classification": Case("pretrain", f"--target_accuracy 2 --train_size 33 --eval_size 31 {SIZES}"),
    "clm": Case("pretrain", f"--task clm --dataset TEXT --sample_by line --block_size 8 --vocab_size 270 {SIZES}"),
    "labeled": Case("finetune", "--model MODEL --dataset TABLE --learning_rate 1e-2"),
}


class Scene:
    """A case in a folder: its uninterrupted output is in ``whole``, and lives leave theirs where they are told."""

    def __init__(self, case, folder):
        self.case, self.folder, self.lives = case, folder, 0
        text = folder / "text.txt"
        text.write_text("\n".join(f"{sentence} {n}" for n in range(10) for sentence in SENTENCES))
        table, model = folder / "table.csv", folder / "model"
        rows = [f"{sentence} {n},{int('sat' in sentence)}" for n in range(10) for sentence in SENTENCES]
        table.write_text("\n".join(["text,label", *rows]))
        if "MODEL" in case.args:
            tokenizer = train_tokenizer([{"text": text.read_text()}], 270)
            config = tiny_config("bert", vocab_size=len(tokenizer), hidden_dropout_prob=0.2)
            torch.manual_seed(0)
            AutoModel.from_config(config).save_pretrained(model)
            tokenizer.save_pretrained(model)
        places = {"TEXT": text, "TABLE": table, "MODEL": model}
        self.args = [str(places.get(arg, arg)) for arg in f"{case.args} {SHARED}".split()]
        self.whole = folder / "whole"

    def start(self, output, *faults, more=(), world=1):
        self.lives += 1
        args = [*self.args, "--output_dir", output, *more]
        return Life(self.case.recipe, args, *faults, world=world, log=self.folder / f"life-{self.lives}")

    def live(self, output, *faults, more=(), world=1):
        """A life to its end: its exit statuses and what it left."""
        life = self.start(output, *faults, more=more, world=world)
        return life.end(), life

    def resume(self, output, *faults, **options):
        return self.live(output, *faults, more=["--resume"], **options)

    def train_rows(self, output, monkeypatch):
        """The rows that the recipe trains on, taken from it before it trains."""

        class Taken(BaseException):
            pass

        def take(*args, train_rows, **options):
            raise Taken(train_rows)

        monkeypatch.setattr(sys.modules["hf_semfocus.experiments.compare"], "train", take)
        with pytest.raises(Taken) as taken:
            load(self.case.recipe).main([*self.args, "--output_dir", str(output)])
        return taken.value.args[0]

    def check(self, output, whole=None):
        """The records and the weights of an output folder are those of the uninterrupted one, to the last bit."""
        whole = whole or self.whole
        assert timeless(output) == timeless(whole)
        models = sorted(whole.glob("runs/*/[bl]*/*.safetensors"))  # the best and the last
        assert len(models) == 4
        for model in models:
            assert (output / model.relative_to(whole)).read_bytes() == model.read_bytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module", params=["classification", "clm", pytest.param("labeled", marks=pytest.mark.slow)])
def scene(request, cache, tmp_path_factory):
    scene = Scene(CASES[request.param], tmp_path_factory.mktemp("scene"))
    statuses, life = scene.live(scene.whole)
    assert statuses == [0], life.errors
    return scene


CLM_IS_SLOW = pytest.mark.parametrize(  # where the task makes no difference
    "scene", ["classification", pytest.param("clm", marks=pytest.mark.slow)], indirect=True
)
BACKWARD = "hf_semfocus.training.steps:backward"
EVALUATION = "hf_semfocus.training.evaluation:sums"
SAVE_STATE = "accelerate:Accelerator.save_state"


def in_use(lock):
    """Whether another process holds a lock."""
    try:
        locked(lock).close()
    except ValueError:
        return True
    return False


def checkpoints(output):
    """The checkpoints of the run that is not finished, oldest first."""
    return sorted(
        path for path in output.glob("runs/*/checkpoint-????????") if not (path.parent / "result.json").exists()
    )


def saved_steps(output):
    """The steps of those checkpoints."""
    return [int(path.name.split("-")[1]) for path in checkpoints(output)]


def test_killed_again_and_again(scene, tmp_path):
    moments = [
        Strike(BACKWARD, 6, kill),
        Strike(
            "torch:save", 3, kill_while_writing
        ),  # optimizer and random numbers of a checkpoint, the next optimizer
        Strike(EVALUATION, 1, kill),
        Strike("transformers:PreTrainedModel.save_pretrained", 2, kill),
        Strike("hf_semfocus.reports.report:write_report", 1, kill),
    ]
    for moment in moments:
        statuses, life = scene.resume(tmp_path, moment)
        assert statuses == [-signal.SIGKILL], (moment, life.errors)
    statuses, life = scene.resume(tmp_path)
    assert statuses == [0], life.errors
    scene.check(tmp_path)


@CLM_IS_SLOW
def test_terminated_again_and_again(scene, tmp_path):
    last = len(timeless(scene.whole)) // 2
    for faults, records in (
        ([Strike(BACKWARD, 2, terminate)], 0),
        ([launched, Strike(BACKWARD, 2, lose_launcher)], 0),
        ([Strike(EVALUATION, 1, terminate)], 1),
    ):
        statuses, life = scene.resume(tmp_path, *faults)
        assert statuses == [TERMINATED], life.errors
        [step] = re.findall(r"sdpa/3: stopped by SIGTERM at step (\d+); --resume goes on from there", life.printed)
        assert saved_steps(tmp_path)[-1] == int(step)
        assert len(timeless(tmp_path)) == records
    # during the last evaluation of a run: the next one must not start
    statuses, life = scene.resume(tmp_path, Strike(EVALUATION, 1, terminate))
    assert statuses == [TERMINATED], life.errors
    assert "stopped by SIGTERM" in life.printed
    assert len(timeless(tmp_path)) == last
    # while nothing is computed, there is nothing to save
    statuses, life = scene.resume(tmp_path, Strike("hf_semfocus.training.ending:write_json", 2, terminate))
    assert statuses == [-signal.SIGTERM], life.errors
    assert scene.resume(tmp_path)[0] == [0]
    scene.check(tmp_path)


INTERRUPTED = 128 + signal.SIGINT


@CLM_IS_SLOW
def test_interrupted_again_and_again(scene, tmp_path):
    # like SIGTERM: the running step ends, also where the launcher ends with it
    for faults in ([Strike(BACKWARD, 2, interrupt)], [launched, Strike(BACKWARD, 2, interrupt)]):
        statuses, life = scene.resume(tmp_path, *faults)
        assert (statuses, life.errors) == ([INTERRUPTED], [])
        [step] = re.findall(r"sdpa/3: stopped by Ctrl-C at step (\d+); --resume goes on from there", life.printed)
        assert saved_steps(tmp_path)[-1] == int(step)
    before = checkpoints(tmp_path)
    # a second one does not wait, and before a run and after it there is nothing to wait for
    for moment in (
        Strike(BACKWARD, 1, interrupt_twice),
        Strike("hf_semfocus.experiments.compare:train", 1, interrupt),
        Strike("hf_semfocus.training.ending:write_json", 1, interrupt),
    ):
        statuses, life = scene.resume(tmp_path, moment)
        assert statuses == [INTERRUPTED]
        hint = "interrupted by Ctrl-C; --resume goes on from the last checkpoint, if there is one"
        assert life.errors == [f"pretrain.py: {hint}"]
        assert checkpoints(tmp_path) == before or "write_json" in moment.where
    assert scene.resume(tmp_path)[0] == [0]
    scene.check(tmp_path)


def test_two_processes_are_interrupted_twice_by_their_launcher(tmp_path, cache):
    scene = Scene(CASES["classification"], tmp_path)
    statuses, life = scene.live(tmp_path / "cut", Strike(BACKWARD, 5, interrupt_twice), world=2)
    assert statuses == [INTERRUPTED] * 2, life.errors
    assert life.printed.count("stopped by Ctrl-C at step 5") == 1
    assert saved_steps(tmp_path / "cut")[-1] == 5


@CLM_IS_SLOW
def test_two_processes_are_terminated(scene, tmp_path):
    statuses, life = scene.live(tmp_path / "whole", world=2)
    assert statuses == [0, 0], life.errors
    # one process gets the signal, and both stop after the same step
    first = partial(on_rank, 1, Strike(BACKWARD, 5, terminate))
    statuses, life = scene.live(tmp_path / "cut", first, world=2)
    assert statuses == [TERMINATED] * 2, life.errors
    assert life.printed.count("stopped by SIGTERM at step 5") == 1
    assert saved_steps(tmp_path / "cut") == [3, 5]
    assert scene.resume(tmp_path / "cut", world=2)[0] == [0, 0]
    scene.check(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "group"])
@pytest.mark.parametrize("processes", [1, 2])
def test_launched_processes_are_terminated(tmp_path, processes, whom):
    scene = Scene(CASES["classification"], tmp_path)
    scene.args += ["--epochs", "25"]
    launch = ["--config_file", str(ROOT / "recipes" / "accelerate" / "cpu.yaml")]
    if processes == 2:
        launch = [launch[0], launch[1].replace("cpu.yaml", "multi_cpu.yaml"), "--main_process_port", "0"]
    run = command(*scene.args, "--output_dir", tmp_path / "cut", launch=launch)
    printed = tmp_path / "printed"
    with printed.open("w") as out:
        process = subprocess.Popen(**run, stdout=out, stderr=out, start_new_session=True)
    cut = tmp_path / "cut"
    wait_until(
        lambda: any(log.read_text() for log in cut.glob("runs/*/metrics.jsonl")), lambda: process.poll() is None
    )
    {"launcher": os.kill, "group": os.killpg}[whom](process.pid, signal.SIGTERM)
    assert process.wait() != 0
    wait_until(lambda: "stopped by SIGTERM at step" in printed.read_text())  # one process outlives its launcher
    wait_until(lambda: not in_use(tmp_path / "cut" / LOCK))
    assert scene.live(tmp_path / "whole", world=processes)[0] == [0] * processes
    assert scene.resume(tmp_path / "cut", world=processes)[0] == [0] * processes
    scene.check(tmp_path / "cut", tmp_path / "whole")


@CLM_IS_SLOW
def test_damaged_checkpoints_give_way_to_those_before(scene, tmp_path):
    def flip(path):
        content = path.read_bytes()
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])

    def truncate(path):
        path.write_bytes(path.read_bytes()[:-50])

    assert scene.live(tmp_path, Strike(BACKWARD, 8, kill))[0] == [-signal.SIGKILL]
    damages = [(flip, "model.safetensors"), (truncate, "optimizer.bin"), (Path.unlink, "random_states_0.pkl")]
    for damage, name in [*damages, (flip, "progress.json")]:
        before, newest = checkpoints(tmp_path)
        damage(newest / name)
        statuses, life = scene.resume(tmp_path, Strike(BACKWARD, 5, kill))
        assert statuses == [-signal.SIGKILL]
        [line] = [line for line in life.errors if "Warning" in line]
        assert f"damaged checkpoint deleted, {newest}: {name}" in line
        assert int(before.name[-8:]) < saved_steps(tmp_path)[-1]
    assert scene.resume(tmp_path)[0] == [0]
    scene.check(tmp_path)


@CLM_IS_SLOW
def test_a_full_disk_is_named_with_what_is_left(scene, tmp_path):
    moments = [
        Strike(SAVE_STATE, 2, limit),
        Strike("torch:save", 3, write_to_full_disk),
        Strike("hf_semfocus.training.log:MetricsLog.append", 1, fill),
    ]
    for moment in moments:
        statuses, life = scene.resume(tmp_path, moment)
        assert statuses == [2], life.errors
        [line] = life.errors
        newest = checkpoints(tmp_path)[-1]
        assert "no space left on the disk (" in line
        assert line.endswith(f"; free some, and --resume goes on from {newest}")
    statuses, life = scene.resume(tmp_path, Strike("hf_semfocus.training.ending:write_json", 1, fill))
    assert statuses == [2]
    [line] = life.errors
    assert line.endswith("free some, and --resume goes on from the last checkpoint")
    statuses, life = scene.resume(tmp_path)
    assert statuses == [0], life.errors
    scene.check(tmp_path)


def test_loss_that_is_no_number_ends_its_run_only(scene, tmp_path, monkeypatch):
    output = tmp_path / "output"
    statuses, life = scene.live(output, Strike(BACKWARD, 4, spoil))
    assert statuses == [0], life.errors
    records = timeless(output)
    bad = records[0]
    assert (bad["kind"], bad["run"], bad["step"], bad["train_loss"]) == ("diverged", "sdpa/3", 3, "nan")
    assert records[1:] == [record for record in timeless(scene.whole) if record["run"] != "sdpa/3"]
    assert "sdpa/3 diverged" in (output / "report.md").read_text()
    saved = load_file(output / "runs" / "sdpa_3" / "diverged" / "batch-0.safetensors")
    rows = np.array(bad["rows"])
    expected = scene.train_rows(tmp_path / "rows", monkeypatch).batch(rows, rows)
    assert saved.keys() == {f"0.{name}" for name in expected}
    assert all(torch.equal(saved[f"0.{name}"], tensor) for name, tensor in expected.items())


@CLM_IS_SLOW
def test_a_second_process_is_refused(scene, tmp_path):
    first = scene.start(tmp_path, Strike(BACKWARD, 5, halt))
    wait_until(lambda: checkpoints(tmp_path), first.processes[0].is_alive)
    for option in ("--resume", "--overwrite_output_dir"):
        statuses, second = scene.live(tmp_path, more=[option])
        assert statuses == [2]
        [line] = second.errors
        assert line.endswith(f": error: {tmp_path} is in use by another process; expected it to end first")
    wait_until(lambda: first.state() == "T")
    os.kill(first.processes[0].pid, signal.SIGCONT)
    assert first.end() == [0], first.errors
    scene.check(tmp_path)


# ---- refusals before a training starts


def rows(*values):
    return "\n".join(json.dumps({"text": value}) for value in values) + "\n"


TEXTS = {
    "empty.txt": ("", "has 1 documents and no validation split; expected more of them"),
    "empty.jsonl": ("", "has no documents; expected at least one"),
    "empty.csv": ("", "cannot be read: empty.csv is empty; expected a header"),
    "blank.jsonl": (rows("", None, "", ""), "the documents have no tokens; expected at least one"),
    "column.jsonl": (
        '{"a": "b", "c": "d"}\n' * 4,
        r"has no column 'text'; expected text_column to be one of ['a', 'c']",
    ),
    "number.jsonl": (rows(5, 6, 7), "text_column='text' of dataset='FILE' holds int; expected text"),
    "later.jsonl": (rows(None, 5, 6), "text_column='text' of dataset='FILE' holds int64; expected text"),
    "mixed.jsonl": (
        rows("a", 5, "b"),
        "text_column='text' of dataset='FILE' holds values of the type Json; expected text",
    ),
    "lists.jsonl": (rows(None, ["a"], ["b"]), "holds values of the type List; expected text"),
    "broken.jsonl": (
        rows("a", "b") + '{"text": ',
        "dataset='FILE' cannot be read: line 3 of broken.jsonl is not JSON",
    ),
}
MISTAKES = [
    ("--task chess", "unknown task 'chess'"),
    (
        "--model gpt5",
        "model='gpt5' (did you mean 'gpt2'?); expected one of paper, gpt2, bert, llama, a folder",
    ),
    ("--attention topk", "topk_sparse"),
    ("--epochs many", "argument --epochs: invalid int value: 'many'"),
    ("--cpu_threads 100000", "cpu_threads=100000; expected at most 1024"),
    ("--batch_size 0", "batch_size=0; expected an integer of at least 1"),
    ("--optimizer adam", "invalid choice: 'adam' (choose from"),
    ("--output_dir FILE/below", "output_dir='FILE/below' is a file, or in one; expected a folder"),
    ("--output_dir /proc/below", "output_dir='/proc/below' cannot be written to: [Errno 2]"),
    ("--output_dir FILE", "output_dir='FILE' is a file, or in one; expected a folder"),
    ("--push_to_hub", "push_to_hub=True needs hub_model_id; expected owner/name"),
    ("--push_to_hub --hub_model_id a/b", "no access token; log in with `hf auth login` or set HF_TOKEN"),
    ("--mixed_precision fp16", "mixed_precision='fp16' needs a GPU; expected bf16 or no"),
    ("--report_to trackio", "report_to='trackio' is not installed"),
    (
        "--attention flash_attention_2",
        "attn_implementation='flash_attention_2' lacks a package (FlashAttention2 has been toggled on, but",
    ),
    ("--attention sdpa@5>flash_attention_3", "; without it, there are sdpa, eager, asentmax_sparse,"),
]


def refused(args, capfd, recipe="pretrain"):
    """What a user reads who starts the recipe like that; it must be one line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended, one_line_errors():
        load(recipe).main(args)
    assert ended.value.code == 2
    lines = [line for line in capfd.readouterr().err.split("\n") if line and "\r" not in line]
    [line] = [line for line in lines if not line.startswith("Generating")]
    return line


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_of_no_use(cache, tmp_path, capfd, name):
    content, message = TEXTS[name]
    (tmp_path / name).write_text(content)
    args = f"--task clm --dataset {tmp_path / name} --block_size 8 --vocab_size 270 {SIZES} {SHARED}".split()
    line = refused([*args, "--output_dir", str(tmp_path / "output")], capfd)
    assert message.replace("FILE", str(tmp_path / name)) in line
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_mistakes(tmp_path, capfd, monkeypatch, args, message):
    if args == "--mixed_precision fp16" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if args == "--report_to trackio" and importlib.util.find_spec("trackio"):
        pytest.skip("trackio is installed")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    file = tmp_path / "file"
    file.write_text("mine")
    args = args.replace("FILE", str(file)).split()
    line = refused(
        [*CASES["classification"].args.split(), *SHARED.split(), "--output_dir", str(tmp_path / "o"), *args], capfd
    )
    assert message.replace("FILE", str(file)) in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_rows_longer_than_the_model(cache, tmp_path, capfd):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES))
    tokenizer = train_tokenizer([{"text": sentence} for sentence in SENTENCES], 270)
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = Sizes(len(tokenizer), None, 0, max_length=8, hidden_size=8, num_layers=1, num_heads=2)
    build_model("causal_lm", "gpt2", "sdpa", sizes).save_pretrained(tmp_path / "model")
    args = f"--task clm --dataset {text} --sample_by line --model {tmp_path / 'model'} {SHARED}".split()
    line = refused([*args, "--block_size", "9", "--output_dir", str(tmp_path / "output")], capfd)
    assert "has 8 positions; the task needs 9" in line
    assert not (tmp_path / "output").exists()


def test_too_little_space(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=10**9, free=1000))
    args = [*CASES["classification"].args.split(), *SHARED.split(), "--output_dir", str(tmp_path / "output")]
    line = refused([*args, "--hidden_size", "256"], capfd)
    assert re.search(r"models and checkpoints take up to \d+ MB more, and 0 MB are free", line)
    assert not (tmp_path / "output").exists()


def test_damaged_records_and_options_are_named(scene, tmp_path, capfd):
    output = tmp_path / "output"
    shutil.copytree(scene.whole, output)
    args = [*scene.args, "--output_dir", str(output)]
    assert "is not empty; add --resume or --overwrite_output_dir" in refused(args, capfd, scene.case.recipe)
    shutil.rmtree(output / "runs" / "topk_sparse_k=3_3")  # so that there is something to resume
    metrics, options = output / "runs" / "sdpa_3" / "metrics.jsonl", output / "config.yaml"
    for damaged, content, message in (
        (
            metrics,
            b"\n".join([metrics.read_bytes().split(b"\n")[0], b"{nonsense", b""]),
            "line 2: '{nonsense' is not a record",
        ),
        (metrics, b"\xff\n", "metrics.jsonl is not text"),
        (
            options,
            options.read_bytes()[:90] + b"\n: [",
            "config.yaml is damaged; expected the options of the training",
        ),
        (options, b"".join(options.read_bytes().splitlines(keepends=True)[:5]), "cannot resume"),
        (options, b"\xff", "is not empty and not the output of a training"),
        (output / "runs" / "sdpa_3" / "result.json", b'{"run"', "result.json is damaged"),
    ):
        before = damaged.read_bytes()
        damaged.write_bytes(content)
        assert message in refused([*args, "--resume"], capfd, scene.case.recipe)
        damaged.write_bytes(before)
    load(scene.case.recipe).main([*args, "--resume"])
    scene.check(output)
