"""The conclusion of a comparison of attentions, in words, and what to try next."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median
from typing import Any

from ..metrics import quantities

RunResult = dict[str, Any]
Groups = dict[str, list[RunResult]]
SIZE = re.compile(r"\b(k|window|block_size)=(\d+)")
SCHEDULE = re.compile(r"[>@~|]|\.\.")


def conclusion(results: Sequence[RunResult], config: RunResult) -> str:
    """Two paragraphs: which attention won and by how much, and what to try next.

    Args:
        results: what ``train`` returned, of any number of attentions and seeds.
        config: the options in force: ``target_accuracy``, ``target_loss`` and ``best_by`` are used.
    """
    groups: Groups = {}
    for result in results:
        groups.setdefault(result["attention"], []).append(result)
    seeds = len({result["seed"] for result in results})
    accuracy, loss = config.get("target_accuracy"), config.get("target_loss")
    ideas = []
    if len(groups) == 1:
        shown = "One attention alone compares with nothing."
        ideas = ["a second attention: `--attention sdpa topk_sparse:k=8`"]
    elif loss is not None:
        shown, ideas = _race(groups, f"a held-out loss of {loss:g}", "step")
    elif accuracy is not None and accuracy <= 1:
        shown, ideas = _race(groups, f"{accuracy:.0%} training accuracy", "epoch")
    else:
        shown = _ranking(groups, config.get("best_by") or "loss")
    if seeds == 1 and len(groups) > 1:
        shown += " This is one seed; another may order them otherwise."
        ideas = [*ideas, "several seeds: `--seeds 1 2 3`"]
    sized = next((name for name in groups if not SCHEDULE.search(name) and SIZE.search(name)), None)
    if sized is not None:
        less, more = (SIZE.sub(lambda m, f=f: f"{m[1]}={max(1, f(int(m[2])))}", sized) for f in (_half, _twice))
        ideas = [*ideas, f"other numbers of keys: `--attention sdpa {less} {more}`"]
    ideas = [*ideas, "another task or your own data: `--task`, `--dataset`"]
    return f"{shown}\n\nWhat to try next: {'; '.join(ideas)}."


def _race(groups: Groups, goal: str, unit: str) -> tuple[str, list[str]]:
    """Who reached the target first."""
    reached = {
        name: [run["reached"][unit] if run["reached"] else math.inf for run in runs] for name, runs in groups.items()
    }
    runs = next(iter(reached.values()))
    of = f", the median of {len(runs)} seeds" if len(runs) > 1 else ""
    middle = {name: median(values) for name, values in reached.items()}
    best = min(middle.values())
    if math.isinf(best):
        some = [f"`{name}` did in {_count(values)}" for name, values in reached.items() if min(values) < math.inf]
        shown = f"No attention reached {goal}{' in most of its seeds; ' if some else ''}{', '.join(some)}."
        return (
            f"{shown} Which of them learns faster is not shown.",
            ["a longer training (`--epochs`)", "another `--learning_rate`"],
        )
    first = [name for name, value in middle.items() if value == best]
    together = " at the same time" if len(first) > 1 else " first"
    shown = f"{' and '.join(f'`{name}`' for name in first)} reached {goal}{together}, after {_many(best, unit)}{of}."
    for name, value in sorted(middle.items(), key=lambda item: item[1]):
        if name in first:
            continue
        if math.isinf(value):
            got = f", and did in {_count(reached[name])}" if min(reached[name]) < math.inf else ""
            end = max(run.get(unit, 0) for run in groups[name])
            shown += f" `{name}` had not after {_many(end, unit)}{got}."
        else:
            later = sum(own > other for own, other in zip(reached[name], reached[first[0]], strict=False))
            seeds = f", and was later in {later} of {len(reached[name])} seeds" if len(reached[name]) > 1 else ""
            shown += f" `{name}` took {_many(value, unit)}, {value / best:.1f} times as many{seeds}."
    return shown, []


def _ranking(groups: Groups, by: str) -> str:
    """Who ended with the best held-out score."""
    field = f"eval_{by}"
    sign, word = (-1, "highest") if quantities()[field].higher_is_better else (1, "lowest")
    scores = {name: [run[field] for run in runs if run.get(field) is not None] for name, runs in groups.items()}
    middle = {name: median(values) for name, values in scores.items() if values}
    without = [f"`{name}`" for name in groups if name not in middle]
    if not middle:
        return "No run has a held-out score."
    best, *others = sorted(middle, key=lambda name: sign * middle[name])
    of = f" (medians of {len(scores[best])} seeds)" if len(scores[best]) > 1 else ""
    rest = [f"`{name}` {middle[name]:.4f} ({middle[name] - middle[best]:+.4f})" for name in others]
    shown = f"`{best}` ended with the {word} held-out {by}, {middle[best]:.4f}{of}" + ("; " if rest else "")
    shown += ", ".join(rest) + "."
    spread = max(max(values) - min(values) for values in scores.values() if values)
    close = [name for name in others if abs(middle[name] - middle[best]) <= spread]
    if close and of:
        names = " and ".join(f"`{name}`" for name in close)
        shown += f" Seeds alone make {spread:.4f}, so that {names} may be as good."
    return shown + (f" No score: {', '.join(without)}." if without else "")


def _many(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def _count(values: Sequence[float]) -> str:
    return f"{sum(map(math.isfinite, values))} of {len(values)} seeds"


def _half(number: int) -> int:
    return number // 2


def _twice(number: int) -> int:
    return 2 * number
