"""One run of the benchmark: correctness, then time, then memory, then whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from .cases import BELOW_SDPA, Case, judged
from .contestants import DENSE, EAGER, OURS, SDPA, chosen, contestants
from .correct import check
from .environment import environment, load
from .failures import recorded, without_ratio
from .inputs import Inputs, step
from .memory import peak_in_own_process
from .scaling import series
from .steps import measure_step
from .suites import Suite
from .timing import FEW, SLOW, clock_of, measure

Measurements = dict[str, Any]
Save = Callable[[Measurements], None]
Progress = Callable[[list[Any], str], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of a run.

    Args:
        suite: cases and model steps.
        device: "cpu" or "cuda".
        threads: threads of PyTorch.
        repeats: repetitions of every measurement.
        backend: the backend of ours.
        memory: whether peak memory is measured.
        peers: whether contestants other than ``sdpa`` take part.
        keep_going: record what is wrong or fails, without timing it, and measure the rest.
    """

    suite: Suite
    device: str = "cpu"
    threads: int = 2
    repeats: int = 7
    backend: str = "auto"
    memory: bool = True
    peers: bool = True
    keep_going: bool = False


def run(
    plan: Plan,
    save: Save = lambda result: None,
    progress: Progress = lambda items, what: items,
) -> Measurements:
    """Measure everything in ``plan``.

    Args:
        plan: the settings.
        save: called with the results so far after every part, with ``finished`` False until the end.
        progress: wraps an iterable and its description, such as a progress bar.

    Returns:
        All measurements, ready for JSON: seconds, and memory in 10**6 bytes.

    Raises:
        IncorrectError: a backend is wrong; nothing was timed, unless the plan keeps going.
        ValueError: the backend supports none of the cases.
    """
    torch.set_num_threads(plan.threads)
    device = torch.device(plan.device)
    result: Measurements = {
        "finished": False,
        "environment": environment(plan.device),
        "repeats": plan.repeats,
        "backend": plan.backend,
        "correct": [],
        "cases": [],
        "steps": [],
        "scaling": [],
        "refused": {},
        "failed": {},
    }
    backends = _check(plan, device, result, progress)
    cases = [case for case in plan.suite.cases if case in backends]
    shapes = list(dict.fromkeys(case.shape for case in cases))
    for shape in progress(shapes, "time"):
        with recorded(shape, plan.keep_going, result):
            timed = _time([case for case in cases if case.shape == shape], backends, plan, device)
            failed = without_ratio(timed)
            result["failed"].update(failed)
            result["cases"] += [each for each in timed if each["label"] not in failed]
        result["scaling"] = series(result["cases"])
        save(result)
    if plan.memory:
        _memory(cases, backends, plan, result, save, progress)
    for wanted in progress([each for each in plan.suite.steps if each.case in backends], "models"):
        with recorded(wanted.label, plan.keep_going, result):
            result["steps"].append(measure_step(wanted, plan.backend, plan.repeats, device))
        save(result)
    result["environment"]["load_at_end"] = load()
    result["finished"] = True
    save(result)
    return result


def _check(plan: Plan, device: torch.device, result: Measurements, progress: Progress) -> dict[Case, str]:
    """Check every backend to be timed; returns the backend of every case that it supports."""
    backends: dict[Case, str] = {}
    checked: dict[str, str] = {}  # a model's case may equal another one except for its goals
    for case in progress([*plan.suite.cases, *(wanted.case for wanted in plan.suite.steps)], "correctness"):
        if case.label in checked:
            backends[case] = checked[case.label]
            continue
        try:
            with recorded(case.label, plan.keep_going, result):
                backend = chosen(case, Inputs.of(case, device), plan.backend)
                result["correct"].append(check(case, backend, device))
                backends[case] = checked[case.label] = backend
        except ValueError as error:
            if plan.backend == "auto":
                raise
            result["refused"][case.label] = str(error)
    if not backends and not result["failed"]:
        raise ValueError(
            f"backend={plan.backend!r} supports none of the cases: {next(iter(result['refused'].values()))}"
        )
    return backends


def _time(cases: list[Case], backends: dict[Case, str], plan: Plan, device: torch.device) -> list[Measurements]:
    """Time all cases of one shape in the same rounds, full attention once for all of them."""
    inputs = Inputs.of(cases[0], device)
    calls: dict[str, Callable[[], Any]] = {}
    results = []
    for case in cases:
        found, left_out = contestants(case, plan.backend, device)
        if not plan.peers:
            found, left_out = {name: found[name] for name in (OURS, SDPA)}, {}
        names = {name: name if name in DENSE else f"{name} {case.mechanism}" for name in found}
        calls.update({names[name]: partial(step, attend, inputs) for name, attend in found.items()})
        results.append({"label": case.label, "case": asdict(case), "backend": backends[case], "left_out": left_out})
        results[-1]["names"] = names
    goals = set() if plan.keep_going else {SDPA, *(result["names"][OURS] for result in results)}
    slow = SLOW if plan.device == "cpu" else float("inf")  # compiling takes longer than any call there
    timings, failures = measure(calls, plan.repeats, context=calls.keys() - goals, clock=clock_of(device), slow=slow)
    for case, result in zip(cases, results, strict=True):
        names = result.pop("names")
        timed = {name: timings[full] for name, full in names.items() if full in timings}
        result["left_out"].update({name: failures[full] for name, full in names.items() if full in failures})
        result["seconds"] = {name: timing.as_dict() for name, timing in timed.items()}
        result["notes"] = {
            name: f"{FEW} repetitions, as a call takes {timing.median:.1f} s"
            for name, timing in timed.items()
            if len(timing.seconds) < plan.repeats
        }
        rivals = [name for name in (SDPA, EAGER) if name in timed and OURS in timed]
        ratios = {name: timed[name].median / timed[OURS].median for name in rivals}
        goals_of = {SDPA: case.over_sdpa, EAGER: case.over_eager}
        result["ratios"] = {
            name: {"times_faster": round(ratio, 3), **judged(goals_of[name], lambda goal, r=ratio: r >= goal)}
            for name, ratio in ratios.items()
        }
        result["memory"] = {}
    if plan.device == "cuda":
        torch.cuda.empty_cache()  # the next shape, and the processes that measure memory, need it
    return results


def _memory(
    cases: list[Case], backends: dict[Case, str], plan: Plan, result: Measurements, save: Save, progress: Progress
) -> None:
    """Measure the peak memory of the timed contestants, each in its own process; full attention once per shape."""
    results = {each["label"]: each for each in result["cases"]}
    known: dict[tuple[str, str], dict[str, float | str]] = {}
    probed = [case for case in cases if case.probe and case.label in results]
    wanted = [(case, name) for case in probed for name in results[case.label]["seconds"]]
    for case, name in progress(wanted, "memory"):
        key = (case.shape if name in DENSE else case.label, name)
        if key not in known:
            known[key] = peak_in_own_process(
                case, name, backend=backends[case], device=plan.device, threads=plan.threads
            )
        found = results[case.label]["memory"]
        found[name] = known[key]
        measured = {who: m["megabytes"] for who, m in found.items() if "megabytes" in m}
        if OURS in measured and SDPA in measured:
            limit = measured[SDPA] if case.memory == BELOW_SDPA else case.memory
            verdict = judged(limit, lambda most, m=measured: m[OURS] < most)
            results[case.label]["memory_goal"] = {**verdict, "goal": case.memory} if verdict else {}
        result["scaling"] = series(result["cases"])
        save(result)
