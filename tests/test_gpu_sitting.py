"""The sitting on a GPU, as far as it can be tested without one."""

import importlib.util
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe import ROOT, bare

GPU = ROOT / "recipes" / "gpu"
TESTS = sorted((ROOT / "tests").glob("test_triton*.py"))
HIDDEN = ("datasets", "evaluate", "accelerate", "peft", "psutil", "matplotlib", "hypothesis", "scipy")
"""Packages that a machine with PyTorch, Triton, Transformers and pytest need not have."""
HIDING = f"""
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def without(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {HIDDEN} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(without)
"""

sys.path.insert(0, str(GPU))
sitting, steps, check, kernel_times = map(importlib.import_module, ("sitting", "steps", "check", "kernel_times"))
sys.path.remove(str(GPU))
TINY = replace(check.TOPK, keys=40, queries=40, head_dim=16, dtype="float32")


def parts(folder, **programs):
    """Parts whose commands are these programs."""
    made = {}
    for name, program in programs.items():
        (folder / f"{name}.py").write_text(program)
        made[name] = sitting.Part(f"about {name}", (str(folder / f"{name}.py"),))
    return made


def test_it_needs_few_packages(tmp_path):
    names = [path.stem for path in GPU.glob("*.py")]
    assert {"sitting", "check", "kernel_times", "tiles"} <= set(names)
    code = f"{HIDING}\nimport sys; sys.path[:0] = [{str(GPU)!r}, {str(ROOT / 'tests')!r}]\n"
    code += f"import {', '.join(names)}, hf_semfocus.cli.bench, conftest, {', '.join(path.stem for path in TESTS)}\n"
    code += f"print(sorted(set(sys.modules) & set({HIDDEN})))"
    done = subprocess.run([sys.executable, "-c", code], env=bare(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line(tmp_path):
    command = [sys.executable, str(GPU / "sitting.py"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, env=bare(), capture_output=True, text=True, check=False)
    assert done.stderr == f"sitting.py: error: PyTorch {torch.__version__} finds no GPU; nothing was measured\n"
    assert (done.stdout, done.returncode) == ("", 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("part", ["check", "kernel_times", "tiles"])
def test_so_does_each_part(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{part}.py", "--output_dir", str(tmp_path / "out")])
    monkeypatch.syspath_prepend(GPU)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(GPU / f"{part}.py"), run_name="__main__")
    assert (
        f"{part}.py: error: PyTorch {torch.__version__} finds no GPU; nothing was measured\n"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_every_part_and_what_it_runs(capsys):
    sitting.main(["--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[::2]] == [*sitting.PARTS]
    assert all((ROOT / line.split()[1]).is_file() for line in lines[1::2])
    sitting.main(["--dry_run", "--part", "tiles"])
    assert capsys.readouterr().out.splitlines() == lines[-2:]


def test_the_benchmark_of_the_sitting_is_the_suite_of_a_gpu():
    from hf_semfocus.benchmark import suite

    commands = [part.command for part in sitting.PARTS.values() if "--cases" in part.command]
    found = [suite("cuda").select(command[command.index("--cases") + 1 :]) for command in commands]
    assert sum((each.cases for each in found), ()) == suite("cuda").cases
    assert sum((each.steps for each in found), ()) == suite("cuda").steps


def test_a_part_that_fails_or_hangs_does_not_keep_the_others(tmp_path, monkeypatch, capsys):
    save = "import pathlib, sys; pathlib.Path(sys.argv[2], 'kept.json').write_text('[]'); print('seen'); "
    made = parts(tmp_path, fails=save + "sys.exit(3)", fine=save)
    monkeypatch.setattr(sitting, "PARTS", made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as ended:
        sitting.main(["--output_dir", str(tmp_path / "out")])
    assert ended.value.code == 1
    results = json.loads((tmp_path / "out" / "sitting.json").read_text())
    assert {name: (each["ended"], each["ok"]) for name, each in results.items()} == {
        "fails": ("ended with status 3", False),
        "fine": ("finished", True),
    }
    assert "fails: ended with status 3" in capsys.readouterr().out
    for name in made:
        assert (tmp_path / "out" / name / "kept.json").exists()
        assert (tmp_path / "out" / name / "log.txt").read_text() == "seen\n"


def test_a_part_that_takes_too_long_is_stopped_with_its_processes(tmp_path):
    child = tmp_path / "child"
    program = f"""
import pathlib, subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
pathlib.Path({str(child)!r}).write_text(str(started.pid))
time.sleep(1000)
"""
    [part] = parts(tmp_path, hangs=program).values()
    limit = 1.0
    while not child.exists():  # a slow machine needs longer to start
        limit *= 2
        result = sitting.run(part, tmp_path / "out", limit)
        assert result["ended"] == f"stopped after {limit:g} s"
    process = Path("/proc", child.read_text())
    if process.exists():
        assert (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_steps_go_on_and_are_written_one_by_one(tmp_path):
    path, seen = tmp_path / "part.json", []

    def broken():
        raise RuntimeError("no kernel\nhere")

    def last():
        seen.append(json.loads(path.read_text()))
        return {"failed": ["a test"]}

    results = steps.run({"first": lambda: 1.5, "broken": broken, "last": last}, path)
    assert seen == [{"first": 1.5, "broken": {"failed": "RuntimeError: no kernel"}}]
    assert json.loads(path.read_text()) == results
    assert steps.failures(results) == ["broken", "last"]
    with pytest.raises(SystemExit, match="failed: broken"):
        steps.main("about", {"broken": broken}, "part", ["--output_dir", str(tmp_path / "new")])


def test_checks_on_a_cpu():
    check.one_case(TINY, "chunked", "cpu")
    found = check.ceilings("cpu", 64)
    assert found.keys() == {"copy", "float32", "bfloat16"}
    assert min(found.values()) > 0
    assert len(check.STEPS) == len(check.CASES) + 4


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print(*range(9), sep='\\n')", {"passed": ["4", "5", "6", "7", "8"]}),
        ("print('one failed'); exit(1)", {"failed": ["one failed"]}),
        ("import time; time.sleep(1000)", {"failed": "took over 2 s"}),
    ],
)
def test_the_last_lines_of_a_process_are_kept(program, expected):
    patience = 2 if "sleep" in program else 500
    assert check._process([sys.executable, "-c", program], patience) == expected


def test_a_profile_lists_what_runs():
    rows = kernel_times.kernel_times(TINY, "chunked", torch.device("cpu"))
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.1)
    times = [row["microseconds"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert any("aten::" in row["name"] for row in rows)


def test_a_sweep_times_what_selects_the_same_keys():
    code = f"""
import json, sys, torch
sys.path.insert(0, {str(GPU)!r})
import check, tiles
from dataclasses import replace
from hf_semfocus.backends.lists.triton import common, selection
common.TILE_ELEMENTS = 1 << 14
case = replace(check.TOPK, batch=1, heads=1, kv_heads=1, keys=20, queries=20, head_dim=16, dtype="float32")
device = torch.device("cpu")
selected = tiles.selection_tiles(case, device, [(32, 16, 16, 4, 2), (16, 17, 16, 4, 2), (32, 16, 64, 4, 2)])
print(json.dumps([selected, tiles.gathered_tiles(case, device, [1 << 13])]))
"""
    environment = {**bare(), "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    selected, attended = json.loads(done.stdout)
    today, other, impossible = selected
    assert other == "(32, 16, 16, 4, 2)"
    assert min(selected[today], selected[other]) > 0
    assert "failed" in selected[impossible]
    assert [*attended] == ["16384", "8192"]
    assert min(attended.values()) > 0


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_resources_are_those_of_the_code_that_was_compiled():
    """One small kernel; see ``test_kernels_fit_the_gpus_they_are_compiled_for`` for all."""
    code = f"""
import json, sys, torch
sys.path.insert(0, {str(GPU)!r})
import resources
from hf_semfocus.backends.lists.triton import attention
tensors = torch.randn(3, 1, 1, 20, 64)
index = torch.zeros(1, 1, 20, 8, dtype=torch.int32)
found = {{}}
for capability in (80, 90):
    with resources.compiled_only(capability) as made:
        attention.forward(*tensors, index, None, 1.0, 0.0, None)
    [(name, kernel)] = made
    found[capability] = [name, kernel.metadata.target.arch, resources.usage(kernel)]
rows = [[dict(kernel="a", head_dim=64, k=8, content="padded", **found[c][2])] for c in (80, 90)]
print(json.dumps([found, resources.table(dict(zip((80, 90), rows)))]))
"""
    done = subprocess.run([sys.executable, "-c", code], env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, table = json.loads(done.stdout.splitlines()[-1])
    for capability, (name, arch, taken) in found.items():
        assert (name, arch) == ("_forward", int(capability))
        assert 16 <= taken["registers"] <= 128
        assert taken["stack"] == 0
        assert taken["shared"] <= 16 << 10
    assert "a (padded)" in table
    assert f"{found['80'][2]['registers']} / 0 / " in table


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_fit_the_gpus_they_are_compiled_for(capability):
    code = f"""
import json, sys
sys.path.insert(0, {str(GPU)!r})
import resources
print(json.dumps([resources.SHARED, resources.resources({capability})]))
"""
    done = subprocess.run([sys.executable, "-c", code], env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shared, rows = json.loads(done.stdout.splitlines()[-1])
    assert max(row["shared"] for row in rows) <= shared[str(capability)]
    # what is compiled for 8.0 also runs on 8.6
    assert capability != 80 or max(row["shared"] for row in rows) <= shared["86"]
    assert {(row["head_dim"], row["k"]) for row in rows} == {(64, 8), (64, 64), (128, 8), (128, 64)}
    assert not [row for row in rows if row["stack"] and row["content"] == "normal"]
    # measured: a tile of a mask with holes takes registers that the tiles of scores would need
    assert max(row["stack"] for row in rows) <= 160
