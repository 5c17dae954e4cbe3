"""The benchmark: it refuses what is wrong, its arithmetic is right, and its tables are made of what it wrote."""

import importlib
import json
import math
import re
import runpy
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from recipe import ROOT, load

import hf_semfocus
from hf_semfocus.benchmark import (
    IncorrectError,
    Plan,
    Suite,
    bitmap,
    contestants,
    file_stem,
    markdown,
    remarks,
    run,
    suite,
    summary,
    tables,
)
from hf_semfocus.benchmark.cases import BELOW_SDPA, Case
from hf_semfocus.benchmark.contestants import CUDNN, EAGER, OURS, SDPA, XTRANSFORMERS
from hf_semfocus.benchmark.correct import SMALL, check, separated
from hf_semfocus.benchmark.environment import environment
from hf_semfocus.benchmark.inputs import Inputs, step
from hf_semfocus.benchmark.memory import peak_in_own_process, peak_of, probe
from hf_semfocus.benchmark.scaling import exponent, series
from hf_semfocus.benchmark.steps import MAIN_JOB, STEPS, time_step
from hf_semfocus.benchmark.suites import CPU, CUDA
from hf_semfocus.benchmark.timing import measure
from hf_semfocus.mechanisms import registry

bench = load("bench")
STEM = file_stem("cpu")
CPU_DEVICE = torch.device("cpu")
TINY = Case(batch=1, heads=2, keys=32, head_dim=8, mechanism="topk_sparse:k=4", causal=True)
CASES = {
    "causal": TINY,
    "bidirectional": replace(TINY, causal=False),
    "banded": replace(TINY, mechanism="banded_sparse:window=5"),
    "bidirectional banded": replace(TINY, mechanism="banded_sparse:window=5", causal=False),
    "decode": replace(TINY, direction="decode", queries=None),
    "grouped decode": replace(TINY, direction="decode", queries=None, heads=4, kv_heads=2),
    "forward": replace(TINY, direction="forward"),
    "half": replace(TINY, dtype="bfloat16"),
    "padded": replace(TINY, batch=2, content="padded"),
    "padded bidirectional": replace(TINY, batch=2, content="padded", causal=False),
}


class Clock:
    """Time that passes only while contestants run, each as long as it is told."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def contestant(self, name, *seconds):
        given = iter(seconds)

        def call():
            self.order.append(name)
            self.now += next(given)

        return call


def plan(*cases, **options):
    return Plan(suite=Suite(cases), **{"threads": 1, "repeats": 2, "memory": False, **options})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run on three lengths, through the recipe, with all that it printed and wrote."""
    folder = tmp_path_factory.mktemp("bench")
    cases = (
        *(replace(TINY, keys=n, queries=n, over_sdpa=1e-9, over_eager=1e9) for n in (32, 64, 128)),
        replace(CASES["bidirectional"], memory=1e9),
    )
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as output:
        printed = []
        patch.setattr(bench, "suite", lambda device, quick: Suite(cases, (MAIN_JOB,)))
        output.setattr("builtins.print", lambda *lines, sep="\n", **_: printed.append(sep.join(map(str, lines))))
        args = ["--quick", "--threads", "1", "--repeats", "2", "--no_memory", "--output_dir", str(folder)]
        result = bench.main(args)
    return result, "\n".join(printed), folder


# arithmetic


def test_contestants_take_turns_and_the_median_counts():
    clock = Clock()
    # a first call that loads, one to see how long it takes, and three that count, each after one that does not
    seconds = {"a": (9, 1, 7, 1, 7, 5, 7, 3), "b": (9, 1, 7, 2, 7, 2, 7, 8)}
    names = {name: clock.contestant(name, *each) for name, each in seconds.items()}
    found, _ = measure(names, 3, clock=clock, slow=10)
    assert clock.order == [*"aabb"] * 4
    assert found["a"].seconds == (1, 5, 3)
    assert (found["a"].median, found["b"].median) == (3, 2)
    assert found["b"].as_dict() == {"median": 2, "quartiles": [2, 5], "repetitions": 3, "calls_per_repetition": 1}


def test_fast_contestants_are_called_several_times_in_a_repetition():
    clock = Clock()
    found, _ = measure({"a": clock.contestant("a", *[0.25] * 100)}, 2, clock=clock, shortest=1.0)
    assert found["a"].calls == 4
    assert found["a"].seconds == (0.25, 0.25)
    assert len(clock.order) == 2 + 2 * (1 + 4)


def test_slow_context_takes_part_less_often_but_what_goals_need_does_not():
    clock = Clock()
    names = {"ours": clock.contestant("ours", *[5] * 9), "peer": clock.contestant("peer", *[5] * 9)}
    found, _ = measure(names, 7, context={"peer"}, clock=clock)
    assert {name: len(timing.seconds) for name, timing in found.items()} == {"ours": 7, "peer": 3}


def test_context_that_fails_is_left_out_and_what_goals_need_is_not():
    clock = Clock()

    def broken():
        raise torch.OutOfMemoryError("no more\nmemory")

    calls = {"ours": clock.contestant("ours", *[5] * 9), "peer": broken}
    found, failures = measure(calls, 2, context={"peer"}, clock=clock)
    assert (list(found), failures) == (["ours"], {"peer": "failed: OutOfMemoryError: no more"})
    with pytest.raises(torch.OutOfMemoryError):
        measure(calls, 2, clock=clock)


def test_preparation_is_not_timed():
    clock = Clock()
    prepare = {"a": clock.contestant("prepare", *[100] * 5)}
    found, _ = measure({"a": clock.contestant("a", *[2] * 5)}, 2, clock=clock, prepare=prepare, slow=1.0)
    assert found["a"].seconds == (2, 2)
    assert clock.order == ["prepare", "a"] * 3


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponent(power):
    sizes = [1024, 2048, 4096, 16384]
    assert exponent(sizes, [3e-5 * n**power for n in sizes]) == pytest.approx(power, abs=1e-9)


def test_exponent_needs_two_positive_points():
    for sizes, values in (([1], [1]), ([1, 1], [1, 2]), ([1, 2], [0, 1]), ([1, 2], [1])):
        with pytest.raises(ValueError, match="expected two or more positive pairs"):
            exponent(sizes, values)


def test_memory_is_what_a_step_takes_at_its_highest():
    def allocates():
        torch.ones(50_000_000, dtype=torch.uint8)  # and is freed again
        return torch.ones(10_000_000, dtype=torch.uint8)

    allocates()
    assert peak_of(allocates, CPU_DEVICE) == pytest.approx(50, abs=4)


# contestants


@pytest.mark.parametrize("name", CASES)
def test_a_correct_back_end_passes(name):
    found = check(CASES[name], "chunked", CPU_DEVICE)
    shares = found["share_of_allowed_error"]
    assert len(shares) == (4 if CASES[name].direction == "train" else 1)
    assert all(0 <= share <= 1 for share in shares.values())


@pytest.mark.parametrize("name", CASES)
def test_no_rounding_reorders_the_scores_of_the_check(name):
    case = replace(CASES[name], keys=SMALL, queries=None if CASES[name].queries == 1 else SMALL)
    query, key, _, _ = separated(case, CPU_DEVICE)
    scores = query[:, :1].double() @ key[:, :1].double().transpose(-1, -2)
    gaps = scores.sort(-1).values.diff(dim=-1)
    assert gaps.min() >= 1 / 256
    assert torch.equal(scores, (query[:, :1].float() @ key[:, :1].float().transpose(-1, -2)).double())


@pytest.mark.parametrize("name", CASES)
def test_contestants_compute_the_same(name):
    """With as many keys kept as there are, all do what full attention does; with few, x-transformers does ours."""
    case = CASES[name]
    everything = replace(case, mechanism=f"topk_sparse:k={case.keys}")
    few = replace(case, mechanism="topk_sparse:k=4")
    inputs = separated(case, CPU_DEVICE)
    tolerance = 1e-5 if case.dtype == "float32" else 0.05
    for problem, reference, others in ((everything, SDPA, (OURS, EAGER)), (few, EAGER, (OURS, XTRANSFORMERS))):
        found, left_out = contestants.contestants(problem, "auto", CPU_DEVICE)
        assert found.keys() | left_out.keys() >= {OURS, SDPA, EAGER, XTRANSFORMERS}
        expected = step(found[reference], inputs)
        for other in found.keys() & set(others):
            for got, want in zip(step(found[other], inputs), expected, strict=True):
                torch.testing.assert_close(
                    got, want, rtol=tolerance, atol=tolerance, msg=lambda m, o=other: f"{o}: {m}"
                )


@pytest.mark.parametrize(("content", "period"), [("hub", 600), ("periodic", 256)])
def test_contents_decide_which_keys_have_the_highest_scores(content, period):
    case = replace(TINY, keys=600, queries=600, head_dim=64, content=content, causal=False)
    query, key, *_ = Inputs.of(case, CPU_DEVICE)
    high = set(range(0, 600, period))
    best = (query @ key.transpose(-1, -2)).topk(len(high)).indices
    assert all(set(row) == high for row in best.flatten(0, -2).tolist())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [True, False])
def test_the_bitmap_computes_what_the_formula_does(causal):
    case = replace(TINY, keys=75, queries=75, causal=causal, mechanism="topk_sparse:k=9", direction="forward")
    query, key, value, _ = Inputs.of(case, CPU_DEVICE)
    found = bitmap.attend(query, key, value, case=case, select=None)
    torch.testing.assert_close(found, contestants.sparse(query, key, value, case=case, backend="eager"))


def test_bits_of_a_bitmap():
    words = bitmap.bitmap(torch.tensor([[[[0, 31, -1], [64, -1, 33]]]], dtype=torch.int32), 65)
    assert [[bin(word & 0xFFFFFFFF) for word in row] for row in words[0, 0].tolist()] == [
        [bin(1 | 1 << 31), "0b0", "0b0"],
        ["0b0", "0b10", "0b1"],
    ]


def test_who_is_left_out_says_why(monkeypatch):
    monkeypatch.setattr(contestants, "_installed", lambda name: False)
    reasons = contestants.contestants(TINY, "auto", CPU_DEVICE)[1]
    assert "pip install" in reasons[XTRANSFORMERS]
    assert set(reasons) == {XTRANSFORMERS, CUDNN, "bitmap", "flex", "adasplash"}
    long = replace(TINY, keys=1 << 20, queries=1 << 20)
    assert "GB" in contestants.contestants(long, "auto", CPU_DEVICE)[1][EAGER]


def test_without_peers():
    [result] = run(plan(TINY, peers=False))["cases"]
    assert (set(result["seconds"]), result["left_out"]) == ({OURS, SDPA}, {})


def test_a_peer_that_fails_is_left_out(monkeypatch):
    def broken(*args, **options):
        raise torch.OutOfMemoryError("no more\nmemory")

    pytest.importorskip("x_transformers")
    monkeypatch.setattr(contestants, "_x_transformers", broken)
    [result] = run(plan(TINY))["cases"]
    assert result["left_out"][XTRANSFORMERS] == "failed: OutOfMemoryError: no more"
    assert XTRANSFORMERS not in result["seconds"]


# refusals


WRONG = {
    "output": lambda output, weight: output * 1.001,
    "query gradient": lambda output, weight: output + (weight - weight.detach()).sum(),
    "a few rows": lambda output, weight: torch.cat([output[:, :, :-1], -output[:, :, -1:]], 2),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_back_end_is_not_timed(fault, monkeypatch, tmp_path, capsys):
    right = hf_semfocus.sparse_attention

    def wrong(query, *args, backend, **options):
        output = right(query, *args, backend=backend, **options)
        return output if backend == "eager" else WRONG[fault](output, query)

    monkeypatch.setattr(hf_semfocus, "sparse_attention", wrong)
    monkeypatch.setattr("hf_semfocus.benchmark.plan.measure", lambda *args, **options: pytest.fail("timed"))
    monkeypatch.setattr(bench, "suite", lambda device, quick: Suite((TINY,)))
    with pytest.raises(SystemExit) as ended:
        bench.main(["--backend", "chunked", "--threads", "1", "--output_dir", str(tmp_path)])
    message = str(ended.value)  # which Python prints, with status 1
    tensor = fault if fault in ("output", "query gradient") else "output"
    assert f"topk_sparse:k=4: {tensor} of backend 'chunked' is off by" in message
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_a_run_that_keeps_going_measures_what_is_right(monkeypatch, tmp_path, capsys):
    right, full = hf_semfocus.sparse_attention, contestants._sdpa

    def wrong(query, key, value, mechanism, *args, backend, **options):
        output = right(query, key, value, mechanism, *args, backend=backend, **options)
        return -output if mechanism == "topk_sparse:k=5" and backend != "eager" else output

    def broken(*args, case, **options):
        if case.keys == 64:
            raise RuntimeError("no kernel\nhere")
        return full(*args, case=case, **options)

    monkeypatch.setattr(hf_semfocus, "sparse_attention", wrong)
    monkeypatch.setattr(contestants, "_sdpa", broken)
    cases = TINY, replace(TINY, mechanism="topk_sparse:k=5"), replace(TINY, keys=64, queries=64)
    monkeypatch.setattr(bench, "suite", lambda device, quick: Suite(cases))
    args = ["--threads", "1", "--repeats", "1", "--no_memory", "--output_dir", str(tmp_path), "--keep_going"]
    with pytest.raises(SystemExit) as ended:
        bench.main(args)
    assert ended.value.code == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["finished"]
    assert [each["label"] for each in result["cases"]] == [TINY.label]
    assert "IncorrectError: " in result["failed"][cases[1].label]
    assert result["failed"][cases[2].label] == "sdpa failed: RuntimeError: no kernel"
    assert f"{cases[2].label}: not measured, sdpa failed" in (next(tmp_path.glob("*.md"))).read_text()


def test_a_fault_at_the_timed_size_alone_is_found(monkeypatch):
    right = hf_semfocus.sparse_attention
    case = replace(TINY, keys=300, queries=300)

    def wrong(query, *args, backend, **options):
        output = right(query, *args, backend=backend, **options)
        return output if backend == "eager" or query.shape[2] <= SMALL else output.flip(2)

    monkeypatch.setattr(hf_semfocus, "sparse_attention", wrong)
    with pytest.raises(IncorrectError, match="1,2,300,8 causal"):
        check(case, "chunked", CPU_DEVICE)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backend", "fast"], "backend='fast'; expected one of auto, "),
        (["--repeats", "0"], "repeats=0; expected an integer of at least 1"),
        (["--threads", "0"], "threads=0; expected an integer of at least 1"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--cases", "77"], "cases=['77'], mechanisms=[] leave nothing; expected parts of: 25,1,40,64"),
        (["--slow"], "unknown option '--slow'; expected some of quick, "),
        (["--table", "missing.json"], "'missing.json' is not a result of this benchmark"),
        (["--table", "missing.json", "--quick"], "quick=True has no effect with table='missing.json'"),
    ],
)
def test_bad_options_are_named(args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bench.main(args)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bad_options_take_one_line(monkeypatch, capsys):
    script = str(ROOT / "recipes" / "bench.py")
    monkeypatch.setattr(sys, "argv", [script, "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == 2
    error = "bench.py: error: device='cuda'; expected cpu, as PyTorch finds no GPU\n"
    assert capsys.readouterr() == ("", error)


def test_attention_and_models_are_measured_without_data_sets_and_training(tmp_path):
    # a module that is None there cannot be imported
    code = """
import sys
sys.modules.update(dict.fromkeys(["datasets", "evaluate", "hf_semfocus.training"]))
from hf_semfocus.cli.bench import main
main(sys.argv[1:])
"""
    args = ["--quick", "--cases", "25,1,40", "even_pairs", "--threads", "1", "--repeats", "1", "--no_memory"]
    args += ["--no_peers", "--output_dir", str(tmp_path)]
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (len(result["cases"]), len(result["steps"])) == (1, 1)


def test_a_mechanism_that_no_case_has_is_added_to_the_shapes(tmp_path, monkeypatch):
    whole = Suite((replace(TINY, over_sdpa=3.0, memory=5), replace(TINY, mechanism="topk_sparse:k=8")), (MAIN_JOB,))
    found = whole.select(mechanisms=["bottomk_sparse:k=2"])
    assert found == Suite((replace(TINY, mechanism="bottomk_sparse:k=2"),))
    assert whole.select(mechanisms=["topk_sparse:k=8"]).cases == whole.cases[1:]
    both = whole.select(["32"], ["k=8", "bottomk_sparse"])
    assert [case.mechanism for case in both.cases] == ["topk_sparse:k=8", "bottomk_sparse"]


def test_memory_of_a_mechanism_from_outside_is_measured_where_it_is_registered(tmp_path, monkeypatch):
    source = """
        from dataclasses import dataclass
        from hf_semfocus.mechanisms import Mechanism, register

        @register("outside_sparse")
        @dataclass(frozen=True, kw_only=True)
        class Outside(Mechanism):
            def pattern(self, at):
                return at.query == at.key
    """
    (tmp_path / "outside.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    case = replace(TINY, mechanism="banded_sparse:window=2+outside_sparse")

    def in_a_process_that_knows_it_not_yet(command, **options):
        del registry._REGISTRY["outside_sparse"], sys.modules["outside"]
        found = probe(json.loads(command[-1]))
        return SimpleNamespace(returncode=0, stdout=json.dumps(found))

    monkeypatch.setattr(subprocess, "run", in_a_process_that_knows_it_not_yet)
    importlib.import_module("outside")
    try:
        found = peak_in_own_process(case, OURS, backend="eager", device="cpu", threads=1)
    finally:
        del registry._REGISTRY["outside_sparse"], sys.modules["outside"]
    assert found.keys() == {"megabytes", "results_megabytes"}, found


def test_a_back_end_that_does_not_do_a_case_leaves_it_out(monkeypatch):
    right = hf_semfocus.sparse_attention

    def partial(*args, backend, **options):
        if backend == "chunked" and "banded" in args[3]:
            raise ValueError("has no bands")
        return right(*args, backend=backend, **options)

    monkeypatch.setattr(hf_semfocus, "sparse_attention", partial)
    result = run(plan(TINY, CASES["banded"], backend="chunked"))
    assert [each["label"] for each in result["cases"]] == [TINY.label]
    assert result["cases"][0]["backend"] == "chunked"
    assert remarks(result)[-1] == f"{CASES['banded'].label}: not measured, has no bands"
    with pytest.raises(ValueError, match="backend='chunked' supports none of the cases: has no bands"):
        run(plan(CASES["banded"], backend="chunked"))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"queries": 5}, "5 queries of 32 keys"), ({"kv_heads": 3}, "expected a multiple of kv_heads=3")],
)
def test_cases_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


# what is measured


def test_every_goal_has_its_case():
    goals = {case.label: (case.over_sdpa, case.memory) for case in CPU if case.over_sdpa}
    assert goals == {
        "25,1,40,64 bidirectional topk_sparse:k=5": (1.2, None),
        "25,1,600,64 bidirectional topk_sparse:k=5": (5.0, BELOW_SDPA),
        "4,12,512,64 causal topk_sparse:k=8": (4.5, BELOW_SDPA),
        "1,4,256,64 causal topk_sparse:k=16": (1.5, None),
        "1,4,256,64 causal banded_sparse:window=64": (1.5, None),
        "1,12,2048,64 causal topk_sparse:k=8": (6.0, None),
        "1,12,2048,64 causal topk_sparse:k=32": (4.0, None),
        "1,12,4096,64 causal topk_sparse:k=8": (6.5, 100),
        "1,12,4096,64 causal topk_sparse:k=32": (4.5, 100),
        "1,12,16384,64 causal topk_sparse:k=16": (3.5, 400),
        "1,12,4096,64 causal banded_sparse:window=64": (12.0, None),
        "1,12,4096,64 causal block_local_sparse:block_size=64": (18.0, None),
        "1,12,4096,64 causal strided_sparse:window=64,stride=64": (4.0, None),
        "1,8,1024,64 decode topk_sparse:k=16": (1.5, None),
        "1,32,4096,64 decode topk_sparse:k=16": (0.9, None),
    }
    assert {(each.label, each.goal) for each in STEPS} == {
        ("listops, 25 x 600", 1.6),
        ("listops, padded from 501, 25 x 600", 1.6),
        ("listops, no dropout, 25 x 600", 1.6),
        ("GPT-2, 4 x 512", 1.2),
        ("GPT-2, 1 x 4096", 1.42),
        ("even_pairs, 25 x 40", 1.05),
    }
    assert [case.label for case in CPU if case.dtype == "bfloat16"] == ["1,12,4096,64 causal bfloat16 topk_sparse:k=8"]
    assert len({case.label for case in CPU}) == len(CPU)
    flash = {(case.keys, case.head_dim): (case.over_sdpa, case.over_eager) for case in CUDA if case.over_sdpa}
    assert len({case.label for case in CUDA}) == len(CUDA)
    assert {case.batch * case.keys for case in CUDA if case.direction == "train"} == {32768, 65536}
    assert {sizes[0]: goal for sizes, goal in flash.items()} == {4096: (1, 10), 16384: (2, 10), 65536: (2.5, 10)}


def test_selection_by_parts_of_labels():
    every = suite("cpu", quick=False)
    found = every.select(["16384", "decode"], ["topk"])
    assert [case.keys for case in found.cases] == [16384, 1024, 4096, 4096]
    assert not found.steps
    assert every.select() == every
    assert [each.label for each in every.select(["GPT-2"]).steps] == ["GPT-2, 4 x 512", "GPT-2, 1 x 4096"]


@pytest.mark.parametrize("contestant", [OURS, pytest.param(SDPA, marks=pytest.mark.slow)])
def test_memory_in_a_process_of_its_own(contestant):
    case = replace(TINY, heads=8, kv_heads=8, keys=2048, queries=2048, head_dim=64)
    found = peak_in_own_process(case, contestant, backend="auto", device="cpu", threads=1)
    results = 4 * case.heads * case.keys * case.head_dim * 4 / 1e6
    assert found["results_megabytes"] == pytest.approx(results, abs=0.1)
    assert results * 0.9 <= found["megabytes"] <= 10 * results


@pytest.mark.parametrize(
    ("status", "stderr", "how"),
    [
        (-9, "", "killed by signal 9"),
        (1, "Traceback\nKeyError: 'nobody'\n", "KeyError: 'nobody'"),
        (3, "", "status 3"),
    ],
)
def test_memory_of_a_process_that_fails_says_how(status, stderr, how, monkeypatch):
    done = subprocess.CompletedProcess([], status, "", stderr)
    monkeypatch.setattr("hf_semfocus.benchmark.memory.subprocess.run", lambda *args, **options: done)
    assert peak_in_own_process(TINY, "nobody", backend="auto", device="cpu", threads=1) == {"failed": how}


def test_model_step_takes_turns_on_one_model(monkeypatch):
    seen = []
    ours = hf_semfocus.hf.attention.backends.attend
    monkeypatch.setattr(
        hf_semfocus.hf.attention.backends, "attend", lambda *a, **k: (seen.append(a[0].spec), ours(*a, **k))[1]
    )
    timings, tokens = time_step(
        replace(STEPS[1], batch=2, length=12, shortest=10), "auto", 2, CPU_DEVICE, clock=Clock(), shortest=0.0
    )
    assert tokens == 10 + 12
    assert {name: timing.seconds for name, timing in timings.items()} == {OURS: (0, 0), SDPA: (0, 0)}
    assert seen == ["topk_sparse:k=5"] * 10 * (2 + 2 * 2)  # layers, and sdpa's steps are not ours


def test_language_model_step(monkeypatch):
    monkeypatch.setattr("hf_semfocus.benchmark.steps.VOCABULARY", 16)
    wanted = replace(STEPS[3], batch=1, length=8)
    model = wanted.build()
    assert (model.config.n_layer, model.config.n_embd, model.config.n_head) == (12, 768, 12)
    assert wanted.case.label == "1,12,8,64 causal topk_sparse:k=8"
    assert set(wanted.inputs()) == {"input_ids", "labels"}


# what comes out


def test_last_line_is_json(measured):
    result, printed, folder = measured
    assert json.loads(printed.splitlines()[-1]) == result == json.loads((folder / f"{STEM}.json").read_text())
    assert {path.name for path in folder.iterdir()} == {f"{STEM}.{suffix}" for suffix in ("json", "md", "png")}
    assert result["finished"] is True
    assert result["environment"].keys() >= {"date", "device", "threads", "load_at_start", "load_at_end", "versions"}
    assert (folder / f"{STEM}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("AMD EPYC (family 25, model 17)", "bench_cpu_amd_epyc_family_25_model_17"),
        ("AMD EPYC 9R14 96-Core Processor", "bench_cpu_amd_epyc_9r14_96_core"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "bench_cpu_intel_xeon_platinum_8481c"),
    ],
)
def test_files_are_named_after_the_processor(name, stem, monkeypatch):
    monkeypatch.setattr("hf_semfocus.machine.cpu_name", lambda: name)
    assert file_stem("cpu") == stem


def test_the_report_names_instruction_sets(measured, monkeypatch):
    monkeypatch.setattr("hf_semfocus.machine.flags", lambda: "fpu avx2 avx512_bf16 avx512f amx_tile")
    result = {**measured[0], "environment": environment("cpu")}
    assert "; amx_tile avx2 avx512_bf16 avx512f; " in markdown(result)
    assert "at the end); " in measured[1]  # the same sentence on the console


def test_processors_side_by_side(measured, monkeypatch, tmp_path, capsys):
    """Two files that differ in processor, speed and cases: a column each, and the lowest of both in words."""
    first = json.loads(json.dumps(measured[0]))
    first["environment"]["device"] = "A"
    second = json.loads(json.dumps(first))
    second["environment"]["device"] = "B"
    for result, speed in ((first, 3.0), (second, 2.0)):
        for number, each in enumerate(result["cases"]):
            each["ratios"][SDPA].update(times_faster=speed + number, goal=2.5)
        result["steps"][0].update(times_faster=speed / 2, goal=1.0)
    del second["cases"][1]
    text = summary([first, second])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["case", "attention", "goal", "A", "B", "peak MB (sdpa's)"]
    assert rows[2] == ["1,2,32,8 causal", "topk_sparse:k=4", "2.5", "3.00", "2.00", "-"]
    assert rows[3] == ["1,2,64,8 causal", "topk_sparse:k=4", "2.5", "4.00", "-", "-"]
    assert rows[-1] == ["training step: even_pairs, 25 x 40", "topk_sparse:k=5", "1", "1.50", "1.00", "-"]
    assert "Lowest of all: 2.00 for attention (1,2,32,8 causal, topk_sparse:k=4 on B); 1.00 for training" in text
    assert text.endswith("Missed goals: 1,2,32,8 causal topk_sparse:k=4 on B.")
    assert " on B" not in summary([second]).partition("Lowest")[2]
    for result, name in ((first, "a.json"), (second, "b.json")):
        (tmp_path / name).write_text(json.dumps(result))
    bench.main(["--summary", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert capsys.readouterr().out == text + "\n"


def test_ratios_goals_and_exponents(measured):
    result, _, _ = measured
    for each in result["cases"][:3]:
        seconds, ratios = each["seconds"], each["ratios"]
        for name in (SDPA, EAGER):
            expected = seconds[name]["median"] / seconds[OURS]["median"]
            assert ratios[name]["times_faster"] == pytest.approx(expected, rel=1e-2, abs=1e-3)
        assert (ratios[SDPA]["met"], ratios[EAGER]["met"]) == (True, False)
    [step] = result["steps"]
    assert step["tokens_per_second"][OURS] == pytest.approx(1000 / step["seconds"][OURS]["median"], rel=1e-3, abs=0.1)
    lines = {line["name"]: line for line in result["scaling"]}
    assert {SDPA, "ours topk_sparse:k=4", "eager topk_sparse:k=4"} <= lines.keys()
    assert lines[SDPA]["sizes"] == [32, 64, 128]
    assert lines[SDPA]["exponent"] == pytest.approx(exponent(lines[SDPA]["sizes"], lines[SDPA]["values"]), abs=1e-3)


def test_tables_are_made_of_the_file(measured, capsys):
    result, printed, folder = measured
    bench.main(["--table", str(folder / f"{STEM}.json")])
    again = capsys.readouterr().out
    assert again.rstrip("\n") == tables(result)
    assert again.rstrip("\n") in printed
    assert again.rstrip("\n") in (folder / f"{STEM}.md").read_text()
    assert "| >= 1e-09, >= 1e+09 over eager (" in again
    assert "| yes, missed |" in again
    assert "no claim rests on these numbers" in markdown(result)
    assert f"on {result['environment']['device']}, 1 threads" in markdown(result)


def test_memory_in_the_tables(measured, monkeypatch):
    peaks = {OURS: {"megabytes": 5.0}, SDPA: {"megabytes": 4.0}, EAGER: {"failed": "killed by signal 9"}}
    monkeypatch.setattr(
        "hf_semfocus.benchmark.plan.peak_in_own_process",
        lambda case, name, **rest: peaks.get(name, {"megabytes": 9.0}),
    )
    saved = []
    cases = [replace(TINY, keys=n, queries=n, memory=limit) for n, limit in ((32, BELOW_SDPA), (64, 6), (128, None))]
    result = run(plan(*cases, memory=True), save=lambda found: saved.append(json.dumps(found)))
    goals = [each["memory_goal"] for each in result["cases"]]
    assert goals == [{"goal": BELOW_SDPA, "met": False}, {"goal": 6, "met": True}, {}]
    lines = tables(result).splitlines()
    assert [line.endswith(end) for line, end in zip(lines[2:5], ["missed |", "yes    |", "-      |"], strict=True)]
    assert "eager: memory not measured: killed by signal 9 (all cases)" in remarks(result)
    memory = [line for line in result["scaling"] if line["quantity"] == "megabytes"]
    assert math.isclose(next(line["exponent"] for line in memory if line["name"].startswith(OURS)), 0, abs_tol=1e-3)
    assert [json.loads(text)["finished"] for text in saved] == [False] * (len(saved) - 1) + [True]
    assert "was interrupted" in markdown(json.loads(saved[0]))


def test_a_run_without_a_plot_says_so(monkeypatch, tmp_path, capsys):
    def no_matplotlib(*args):
        raise ImportError("plots need matplotlib")

    scaling = [{"name": SDPA, "problem": "n", "quantity": "seconds", "sizes": [1, 2], "values": [1, 2], "exponent": 1}]
    result = {**run(plan(TINY, repeats=1)), "scaling": scaling}
    monkeypatch.setattr(bench, "draw", no_matplotlib)
    bench.write_results(result, tmp_path, "bench")
    assert "no bench.png: plots need matplotlib" in capsys.readouterr().out
    assert "bench.png" not in (tmp_path / "bench.md").read_text()


def test_series_skips_decoding(measured):
    result, _, _ = measured
    [case] = run(plan(CASES["decode"], repeats=1))["cases"]
    assert series([case] * 3) == []
    assert series(result["cases"]) == result["scaling"]


def test_inputs_of_a_case():
    query, key, _, upstream = Inputs.of(TINY, CPU_DEVICE)
    assert query.requires_grad
    assert not upstream.requires_grad
    assert torch.equal(key, Inputs.of(TINY, CPU_DEVICE).key)
    query, key, _, upstream = Inputs.of(CASES["grouped decode"], CPU_DEVICE)
    assert (query.shape, key.shape, upstream) == ((1, 4, 1, 8), (1, 2, 32, 8), None)
