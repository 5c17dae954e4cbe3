"""The results as text: tables of cases, model steps and exponents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..tables import markdown_table
from .cases import BELOW_SDPA
from .contestants import NOTES, OURS, PEERS, SDPA
from .timing import LEAST_REPEATS

Measurements = Mapping[str, Any]


def tables(result: Measurements) -> str:
    """The tables, in Markdown: attention, whole models, and growth with the length.

    Args:
        result: of :func:`hf_semfocus.benchmark.run`, or the JSON that it became.
    """
    parts = []
    if result["cases"]:
        parts.append(markdown_table(_case_rows(result["cases"])))
    if result["steps"]:
        parts.append(markdown_table(_step_rows(result["steps"])))
    if result["scaling"]:
        parts.append(markdown_table(_scaling_rows(result["scaling"])))
    return "\n\n".join(parts)


def markdown(result: Measurements, plot: str | None = None) -> str:
    """The tables with the machine, the method, and what was left out.

    Args:
        result: of :func:`hf_semfocus.benchmark.run`, or its JSON.
        plot: file name of the figure, if there is one.
    """
    paragraphs = [
        f"# Benchmark on {result['environment']['device']}",
        tables(result),
        f"Case: batch, heads (query/key), keys, head_dim. Time is the median of {result['repeats']} repetitions in "
        "which all take turns, forward and backward unless it says decode; a ratio above 1 means that ours is faster. "
        "Peak memory is what one step allocates over its inputs, its output and gradients included, in a process of "
        "its own, in 10**6 bytes. Before anything was timed, output and gradients were compared with the reference in "
        "float64.",
        "\n".join(f"- {name}: {note}." for name, note in NOTES.items() if _took_part(result, name)),
    ]
    if result["repeats"] < LEAST_REPEATS:
        paragraphs.append(f"Fewer than {LEAST_REPEATS} repetitions: no claim rests on these numbers.")
    if not result["finished"]:
        paragraphs.append("The run was interrupted: what is missing was not measured.")
    if remarks(result):
        paragraphs.append("\n".join(f"- {line}" for line in remarks(result)))
    if plot:
        paragraphs.append(f"![Time and memory against the length]({plot})")
    paragraphs.append(ran_on(result))
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def ran_on(result: Measurements) -> str:
    """When and where the benchmark ran, in a sentence."""
    where = result["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    instructions = " ".join(where.get("instruction_sets", ()))
    return (
        f"Ran on {where['date']} on {where['device']}, {where['threads']} threads of {where['cores']} cores "
        f"(load {where['load_at_start']} at the start, {where.get('load_at_end', 'unknown')} at the end); "
        f"{f'{instructions}; ' if instructions else ''}{where['system']}, Python {where['python']}, {versions}."
    )


def remarks(result: Measurements) -> list[str]:
    """Contestants that were left out or measured less often, and why."""
    grouped: dict[str, list[str]] = {}
    for each in result["cases"]:
        failed = {who: f"memory not measured: {m['failed']}" for who, m in each["memory"].items() if "failed" in m}
        for reasons, kind in ((each["left_out"], "left out, "), (each["notes"], ""), (failed, "")):
            for name, reason in reasons.items():
                grouped.setdefault(f"{name}: {kind}{reason}", []).append(each["label"])
    lines = [f"{what} ({_listed(labels, len(result['cases']))})" for what, labels in grouped.items()]
    left = {**result["refused"], **result.get("failed", {})}
    return lines + [f"{label}: not measured, {reason}" for label, reason in left.items()]


def _listed(labels: Sequence[str], of: int) -> str:
    return "all cases" if len(labels) == of else "; ".join(labels)


def _took_part(result: Measurements, name: str) -> bool:
    return any(name in each["seconds"] for each in (*result["cases"], *result["steps"]))


def _case_rows(cases: Sequence[Measurements]) -> list[list[str]]:
    peers = [name for name in PEERS if any(name in each["seconds"] for each in cases)]
    header = ["case", "mechanism", "backend", "ours ms", "sdpa ms", "ratio", "goal", "met"]
    header += [f"{name} ms" for name in peers] + ["peak MB", "sdpa's", "goal", "met"]
    rows = [header]
    for each in cases:
        seconds, ratios = each["seconds"], each["ratios"]
        shape = each["label"].removesuffix(each["case"]["mechanism"]).strip()
        times = [_milliseconds(seconds, name) for name in (OURS, SDPA)]
        peaks = [_megabytes(each["memory"], name) for name in (OURS, SDPA)]
        ratio, others = f"{ratios[SDPA]['times_faster']:.2f}", [_milliseconds(seconds, name) for name in peers]
        row = [shape, each["case"]["mechanism"], each["backend"], *times, ratio, *_goals(ratios), *others]
        rows.append([*row, *peaks, *_memory_goal(each)])
    return rows


def _goals(ratios: Measurements) -> list[str]:
    """The goals of a case and whether they are met; those over others than sdpa are named, with their ratio."""
    goals = {name: ratio for name, ratio in ratios.items() if "goal" in ratio}
    words = [
        f">= {ratio['goal']:g}" + ("" if name == SDPA else f" over {name} ({ratio['times_faster']:.1f})")
        for name, ratio in goals.items()
    ]
    return [", ".join(words) or "-", ", ".join(_met(ratio) for ratio in goals.values()) or "-"]


def _memory_goal(each: Measurements) -> list[str]:
    goal = each.get("memory_goal")
    if not goal:
        return ["-", "-"]
    return [BELOW_SDPA if goal["goal"] == BELOW_SDPA else f"< {goal['goal']:g}", _met(goal)]


def _step_rows(steps: Sequence[Measurements]) -> list[list[str]]:
    rows = [["training step", "mechanism", "ours tokens/s", "sdpa tokens/s", "ratio", "goal", "met", "with"]]
    for each in steps:
        speed = each["tokens_per_second"]
        speeds = [f"{speed[name]:.0f}" for name in (OURS, SDPA)]
        judged = [f"{each['times_faster']:.2f}", f">= {each['goal']:g}", _met(each)]
        rows.append([each["label"], each["mechanism"], *speeds, *judged, each["training"]])
    return rows


def _scaling_rows(scaling: Sequence[Measurements]) -> list[list[str]]:
    rows = [["growth with n", "problem", "from n", "to n", "time exponent", "memory exponent"]]
    for name, problem in dict.fromkeys((line["name"], line["problem"]) for line in scaling):
        lines = {line["quantity"]: line for line in scaling if (line["name"], line["problem"]) == (name, problem)}
        sizes = [size for line in lines.values() for size in line["sizes"]]
        cells = [f"{lines[what]['exponent']:.2f}" if what in lines else "-" for what in ("seconds", "megabytes")]
        rows.append([name, problem, str(min(sizes)), str(max(sizes)), *cells])
    return rows


def _met(judged: Measurements) -> str:
    return "yes" if judged["met"] else "missed"


def _milliseconds(seconds: Measurements, name: str) -> str:
    return f"{seconds[name]['median'] * 1e3:.4g}" if name in seconds else "-"


def _megabytes(memory: Measurements, name: str) -> str:
    return f"{memory[name]['megabytes']:.1f}" if "megabytes" in memory.get(name, {}) else "-"
