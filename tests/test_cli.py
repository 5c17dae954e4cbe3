"""The command line: help, what is meant by a wrong name, modules from outside, lines without a terminal, the wheel."""

import dataclasses
import io
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import transformers
from faults import Life
from huggingface_hub.utils import are_progress_bars_disabled
from recipe import ROOT, bare, load, pretrain
from tiny_families import build
from transformers import AutoModelForCausalLM

from hf_semfocus import machine
from hf_semfocus.backends import BACKENDS
from hf_semfocus.cli import command, compare, env
from hf_semfocus.console import one_line_errors, option, parse, watched
from hf_semfocus.console.signals import LAUNCHED
from hf_semfocus.console.translated import REMARKS, TRANSLATED
from hf_semfocus.mechanisms import names
from hf_semfocus.messages import nearest
from hf_semfocus.training import TrainingOptions, display

OPTIONS = {
    "pretrain": load("pretrain").OPTIONS,
    "finetune": load("finetune").OPTIONS,
    "compare": (compare.CompareOptions,),
    "sweep": (load("sweep").SweepOptions,),
    "results": (load("results").ResultsOptions,),
    "analyze": (load("analyze").AnalyzeOptions,),
    "bench": (load("bench").BenchOptions,),
    "env": (),
}
TINY = "--train_size 20 --eval_size 10 --batch_size 5 --hidden_size 8 --intermediate_size 8 --num_layers 1 "
TINY += "--cpu_threads 1 --target_accuracy 2 --seeds 3 --epochs 2"
PARTS = '''
from dataclasses import dataclass

from hf_semfocus.mechanisms import Mechanism, count, register
from hf_semfocus.data.tasks import Task
from hf_semfocus.data.tasks import register as register_task


@register("even_sparse")
@dataclass(frozen=True, kw_only=True)
class Even(Mechanism):
    """Every query keeps the keys at even distances below twice ``window``."""

    window: int = count(64, "keys a query keeps")

    def pattern(self, at):
        distance = at.query - at.key
        return (distance % 2 == 0) & (distance.abs() < 2 * self.window)


@register_task
class First(Task):
    name, vocabulary, num_labels, epochs = "first_bit", ("0", "1"), 2, 2

    def generate(self, rng, size):
        rows = rng.integers(2, size=(size, 4)).tolist()
        return rows, [row[0] for row in rows]
'''


def words(text):
    return " ".join(text.split())


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A folder with a module that registers a mechanism and a task, to work in."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    (tmp_path / "broken_parts.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


# ---- help


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_of_every_command_shows_every_text(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as ended:
        import_module(f"hf_semfocus.cli.{name}").main(["--help"])
    assert ended.value.code == 0
    printed = words(capsys.readouterr().out)
    assert words(sys.modules[f"hf_semfocus.cli.{name}"].__doc__) in printed
    for field in (field for options in OPTIONS[name] for field in dataclasses.fields(options)):
        assert f"--{field.name}" in printed
        assert words(field.metadata["help"].replace("%%", "%")) in printed


def test_percent_signs_are_printed_as_they_are(capsys):
    @dataclasses.dataclass
    class Options:
        share: str = option("50%", "a share, such as 50%>NAME or 5%%")

    with pytest.raises(SystemExit):
        parse(Options, args=["--help"])
    assert "a share, such as 50%>NAME or 5%% (default: 50%)" in words(capsys.readouterr().out)


def test_command_without_a_command_lists_them(capsys):
    command.main([])
    lines = capsys.readouterr().out.splitlines()
    for name, what in command.COMMANDS.items():
        assert any(re.fullmatch(rf" +{name} +{re.escape(what)}", line) for line in lines)


def test_weights_are_loaded_without_a_bar_and_downloads_keep_theirs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    build("gpt2", "sdpa").save_pretrained(tmp_path)
    load_model = partial(AutoModelForCausalLM.from_pretrained, tmp_path)
    load_model()
    assert "Loading weights" in capsys.readouterr().err
    monkeypatch.setattr(env, "main", load_model)
    command.start("env")
    assert capsys.readouterr().err == ""
    assert not are_progress_bars_disabled()


def test_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["train"])
    assert ended.value.code == 2
    expected = (
        "semfocus: error: 'train' is not a command; expected one of pretrain, finetune, compare, sweep, results, "
        "analyze, bench, env\n"
    )
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", ["pretrain", "finetune", "sweep", "analyze", "bench"])
def test_recipes_start_the_same_code(name, monkeypatch):
    started = []
    monkeypatch.setattr(command, "start", started.append)
    runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="__main__")
    assert started == [name]
    monkeypatch.setattr(sys, "argv", [])
    command.main([name, "--option"])
    assert started == [name, name]
    assert sys.argv == [f"semfocus {name}", "--option"]


def test_the_console_script_is_that_function():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"semfocus": "hf_semfocus.cli.command:main"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["hf_semfocus"]


# ---- wrong names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--learning_rat", "unknown option '--learning_rat'; did you mean --learning_rate?"),
        ("--learning-rat=1", "unknown option '--learning-rat=1'; did you mean --learning_rate?"),
        ("--atention", "unknown option '--atention'; did you mean --attention?"),
        ("--num_train_epochs", "unknown option '--num_train_epochs'; here it is --epochs"),
        ("--per_device_train_batch_size", "here it is --batch_size (examples per step over all processes together)"),
        ("--model_name_or_path", "here it is --model"),
        ("--attn_implementation=sdpa", "here it is --attention"),
        ("--warmup-ratio", "here it is --warmup_steps (below 1 it is a share of the steps)"),
        ("--max_seq_length", "here it is --block_size"),
        ("--xyzzy", "unknown option '--xyzzy'; expected some of task, model, "),
    ],
)
def test_unknown_options_are_answered_with_what_was_meant(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pretrain.main([given, "3"])


def test_translations_lead_to_options_that_there_are():
    there = {field.name for types in OPTIONS.values() for each in types for field in dataclasses.fields(each)}
    assert {here for names_here in TRANSLATED.values() for here in names_here.split()} <= there
    assert not TRANSLATED.keys() & there
    assert REMARKS.keys() <= TRANSLATED.keys()


@pytest.mark.parametrize(
    ("word", "choices", "found"),
    [
        ("topk_spars", names(), "topk_sparse"),
        ("topk", names(), "topk_sparse"),
        ("sparse", ["a_sparse", "b_sparse"], "a_sparse"),
        ("sdpaa", [*names(), "sdpa"], "sdpa"),
        ("chess", names(), None),
    ],
)
def test_nearest(word, choices, found):
    assert nearest(word, choices) == found


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "--attention topk_spars",
            r"'topk_spars' is not supported \(did you mean 'topk_sparse'\?\); hf_sem",
        ),
        ("--attention bandedsparse:window=3", r"\(did you mean 'banded_sparse'\?\)"),
        ("--attention sdpa@1>sdp", r"'sdp' is not supported \(did you mean 'sdpa'\?\)"),
        ("--attention banded_sparse:windw=3", r"no parameter 'windw' \(did you mean 'window'\?\)"),
        ("--task evenpairs", r"unknown task 'evenpairs' \(did you mean 'even_pairs'\?\)"),
    ],
)
def test_misspelled_values_are_answered_with_the_nearest(tmp_path, args, message):
    with pytest.raises(ValueError, match=message) as caught:
        pretrain.main([*TINY.split(), "--output_dir", str(tmp_path / "o"), *args.split()])
    assert "\n" not in str(caught.value)


# ---- modules from outside


def test_mechanism_and_task_from_a_module_in_the_working_directory(parts):
    args = f"--import my_parts {TINY} --task first_bit --attention even_sparse:window=2 --workers 2 --output_dir out"
    life = Life("pretrain", args.split(), partial(os.chdir, parts), log=parts / "life")
    assert life.end() == [0], life.errors
    assert "even_sparse:window=2" in (parts / "out" / "report.md").read_text()
    assert "imports:\n- my_parts\n" in (parts / "out" / "config.yaml").read_text()


@pytest.mark.parametrize("given", [["--import", "my_parts"], ["--config", "options.yaml"]])
def test_modules_are_imported_before_values_are_looked_at(parts, monkeypatch, given):
    Path("options.yaml").write_text("import: my_parts\n")
    monkeypatch.setitem(sys.modules, "my_parts", None)
    del sys.modules["my_parts"]
    seen = []

    @dataclasses.dataclass
    class Options:
        imports: list[str] = dataclasses.field(default_factory=list, metadata={"aliases": ["--import"]})

        def __post_init__(self):
            seen.append(("my_parts" in sys.modules, self.imports))

    (parts / "my_parts.py").write_text("LOADED = True\n")
    parse(Options, args=given)
    assert seen == [(True, ["my_parts"])]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.at_all", "my_parts.py", ".relative", "os.nowhere"])
def test_modules_that_are_not_there_are_refused(parts, name):
    (parts / "my_parts.py").write_text("")
    with pytest.raises(ValueError, match=re.escape(f"import={name!r}: no such module; expected the name of a file")):
        pretrain.main(["--import", name])


def test_what_is_missing_inside_of_a_module_is_not_the_module(parts):
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        pretrain.main(["--import", "broken_parts"])


# ---- what is seen while it runs


def test_a_line_per_epoch_where_there_is_no_terminal(tmp_path, capsys):
    attention = ["--attention", "sdpa", "topk_sparse:k=3", "--eval_steps", "3", "--logging_steps", "2"]
    pretrain.main([*TINY.split(), *attention, "--output_dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    number, time = r"\d\.\d{4}", r"\d\d:\d\d"
    scores = rf"loss {number}, held-out loss {number}, held-out accuracy {number}, [\d.]+ steps/s"
    for run, name, rest in (("1 of 2", "sdpa/3", rf" \({time} for all runs\)"), ("2 of 2", "topk_sparse:k=3/3", "")):
        begun, *seen = [line for line in lines if line.startswith(f"run {run}, {name}, ")]
        assert begun == f"run {run}, {name}, 8 steps in epochs of 4"
        left = rf"at most {time} left{rest}"
        expected = [
            *(rf"step 2/8, loss {number}, {left}", rf"epoch 0\.75/2, {scores}, {left}", r"step 4/8, .*"),
            *(rf"epoch 1/2, {scores}, {left}", "step 6/8, .*", r"epoch 1\.5/2, .*", "step 8/8, .*"),
            rf"epoch 2/2, {scores}, at most 00:00 left{rest}",
        ]
        for line, wanted in zip(seen, expected, strict=True):
            assert re.fullmatch(f"run {run}, {re.escape(name)}, {wanted}", line), line


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self):
        return True


def test_a_bar_and_no_lines_on_a_terminal(monkeypatch):
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    shown = display.RunDisplay("run 2 of 3, sdpa/3", 8, 4, 0, after=1, show=True)
    shown.step()
    shown.loss(0.5)
    shown.evaluated({"train_loss": 1, "eval_loss": None, "eval_accuracy": 1, "epoch": 1, "steps_per_second": 2})
    shown.close()
    assert list(watched(["a"], "swap")) == ["a"]
    assert "run 2 of 3, sdpa/3:  12%" in err.getvalue()
    assert "held-out loss=nan" in err.getvalue()
    assert "swap: 100%" in err.getvalue()
    assert out.getvalue() == ""


def test_only_one_process_shows_anything(capsys):
    display.RunDisplay("run 1 of 1, sdpa/3", 8, 4, 0, after=0, show=False).loss(1.0)
    assert list(watched(["a"], "swap", show=False)) == ["a"]
    assert list(watched(["a", "b"], "swap of x")) == ["a", "b"]
    assert capsys.readouterr().out == "swap of x, 1 of 2, a\nswap of x, 2 of 2, b\n"


def test_time_that_is_left(monkeypatch):
    clock = iter([100.0, 104.0, 104.0])
    monkeypatch.setattr(display.time, "perf_counter", lambda: next(clock))
    shown = display.RunDisplay("", steps=10, length=5, done=6, after=2, show=False)
    shown.step()
    shown.step()
    assert shown.left() == "at most 00:04 left (00:44 for all runs)"


@pytest.mark.parametrize(
    ("launched", "world", "hint"),
    [
        (False, 1, []),
        (True, 1, ["(a traceback after this line is the launcher's; accelerate launch --quiet leaves it out)"]),
        (True, 2, ["(a traceback after this line is the launcher's)"]),
    ],
)
def test_an_error_under_the_launcher_says_how_to_read_it(monkeypatch, capsys, launched, world, hint):
    monkeypatch.setattr(sys, "argv", ["recipes/pretrain.py"])
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.delenv(LAUNCHED, raising=False)
    if launched:
        monkeypatch.setenv(LAUNCHED, "no")
    with pytest.raises(SystemExit) as ended, one_line_errors():
        parse(TrainingOptions, args=["--epochs", "0"])
    assert ended.value.code == 2
    error, *more = capsys.readouterr().err.splitlines()
    assert error == "pretrain.py: error: epochs=0; expected an integer of at least 1"
    assert more == hint


def test_a_package_that_is_missing_is_one_line_and_a_broken_import_is_not(capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise ImportError("plots need matplotlib; pip install 'hf_semfocus[plots]'")
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(": error: plots need matplotlib; pip install 'hf_semfocus[plots]'\n")
    with pytest.raises(ImportError), one_line_errors():
        from hf_semfocus.console import nothing_of_that_name  # noqa: F401


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interruption_is_one_line(monkeypatch, capsys, resumes):
    monkeypatch.setattr(sys, "argv", ["semfocus bench"])
    monkeypatch.delenv(LAUNCHED, raising=False)
    with pytest.raises(SystemExit) as ended, one_line_errors(resumes=resumes):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    hint = "; --resume goes on from the last checkpoint, if there is one" if resumes else ""
    assert capsys.readouterr().err == f"semfocus bench: interrupted by Ctrl-C{hint}\n"


def test_an_interruption_while_importing_is_silent(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "import_module", interrupted)
    with pytest.raises(SystemExit) as ended:
        command.start("bench")
    assert ended.value.code == 130


# ---- env


def test_env_tells_versions_machine_and_back_ends_without_names(capsys):
    text = env.main([])
    assert capsys.readouterr().out == f"{text}\n"
    for name, version in machine.versions(env.PACKAGES).items():
        assert f"{name} {version}" in text
    assert machine.cpu_name() in text
    assert all(sum(line.startswith(f"  {name} ") for line in text.splitlines()) >= 2 for name in BACKENDS)
    assert text.count("chosen: ") >= 2
    for private in (str(Path.home()), os.uname().nodename):
        assert private not in text


def test_processor_is_read_from_the_system(tmp_path, monkeypatch):
    text = "processor: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: {}\nflags\t: fpu avx2 avx512f sse\n\n"
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", cpuinfo)
    for name, shown in (
        ("Some CPU: fast", "Some CPU: fast (family 26, model 2)"),
        ("Some CPU @ 2.60GHz", "Some CPU @ 2.60GHz (family 26, model 2)"),
        ("Some CPU 9R14", "Some CPU 9R14"),
    ):
        cpuinfo.write_text(text.format(name))
        assert (machine.cpu_name(), machine.instruction_sets()) == (shown, ["avx2", "avx512f"])
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nothing")
    assert machine.cpu_name()
    assert machine.instruction_sets() == []
    assert machine.versions(["torch", "no-such-package"]).keys() == {"torch"}


# ---- the wheel


@pytest.mark.slow
def test_wheel_alone_has_the_command(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    [wheel] = tmp_path.glob("hf_semfocus-*.whl")
    site, place = tmp_path / "site", tmp_path / "place"
    place.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**bare(), "PYTHONPATH": str(site)}

    def said(*command):
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    files = said(sys.executable, "-c", "import hf_semfocus as a, semfocus as b; print(a.__file__, b.__file__)").split()
    assert all(Path(file).is_relative_to(site) for file in files)
    command = partial(said, str(site / "bin" / "semfocus"))
    for name in command.COMMANDS:
        assert f"usage: semfocus {name}" in command(name, "--help")
    command("pretrain", *TINY.split(), "--attention", "topk_sparse:k=3", "--output_dir", "out")
    assert "topk_sparse:k=3" in (place / "out" / "report.md").read_text()
    assert "hf_semfocus 0.1.0" in command("env")
