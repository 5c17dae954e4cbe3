"""Whether runs confirm that focus speeds learning up, in a sentence that says how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from ..analysis.paired import LEVEL, Speedup
from ..analysis.times import scipy_stats
from .comparisons import BASELINE, FOCUS, Compared
from .seeds import between


def answer(found: Mapping[tuple[str, str], Compared]) -> str:
    """Judge top-k against full attention, and tell the speed-ups of its other sizes.

    Args:
        found: by attention and its baseline; top-k with k = 5 is judged, or else the first.
    """
    if (name := judged(found)) is None:
        return f"**Undecided**: no seed has a run of both `{BASELINE}` and top-k."
    others = [each.speedup for (own, base), each in found.items() if base == BASELINE and each.focused and own != name]
    told = [f"`{each.attention}` {speedup(each)}" for each in others]
    return " ".join([_judged(found[name, BASELINE]), *([f"Other speed-ups: {', '.join(told)}."] if told else [])])


def speedup(found: Speedup) -> str:
    """A speed-up and its number of pairs."""
    return f"{between(found.low, found.high)} ({_pairs(found.pairs)})"


def judged(found: Mapping[tuple[str, str], Compared]) -> str | None:
    """The attention that an answer is about; None if there is none that is compared with full attention."""
    focused = [name for name, base in found if name.startswith(FOCUS) and base == BASELINE]
    return f"{FOCUS}:k=5" if f"{FOCUS}:k=5" in focused else next(iter(focused), None)


def verdict(found: Mapping[tuple[str, str], Compared]) -> str:
    """The answer, the controls that are faster than full attention, too, and top-k against random keys."""
    if (name := judged(found)) is None:
        return answer(found)
    parts = [answer(found)]
    controls = {own: each for (own, base), each in found.items() if base == BASELINE and not own.startswith(FOCUS)}
    if faster := [_counted(each) for each, *_ in controls.values() if 2 * each.faster > each.pairs]:
        parts.append(f"Controls that are faster than full attention in most pairs, too: {'; '.join(faster)}.")
    elif controls:
        parts.append("No control is faster than full attention in most pairs.")
    for (own, base), (each, p, *_) in found.items():
        if own == name and base != BASELINE:
            told = "undecided" if p is None or p >= LEVEL else "faster" if each.faster > each.slower else "slower"
            parts.append(f"Against the control `{base}`: {told}; {_counted(each)}{_p(p)}.")
    return " ".join(parts)


def _judged(compared: Compared) -> str:
    found, p, _, least = compared
    told = f"{_counted(found)}{_p(p)}"
    if p is not None and p < LEVEL:
        return f"**Confirms**: {told}." if found.faster > found.slower else f"**Contradicts**: {told}."
    if least >= LEVEL:
        return f"**Undecided**: {told}; so few deciding pairs give an adjusted p of {least:.2g} at best."
    return f"**Does not confirm**: {told}."


def _counted(found: Speedup) -> str:
    counts = f"is faster in {found.faster} and slower in {found.slower} of {_pairs(found.pairs)}"
    return f"`{found.attention}` {counts} (speed-up: {between(found.low, found.high)})"


def _pairs(count: int) -> str:
    """A number of pairs in words."""
    return f"{count} pair{'' if count == 1 else 's'}"


def _p(p: float | None) -> str:
    return "" if p is None else f", adjusted p = {p:.2g}"


def score_verdict(results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Compare last held-out scores with full attention's by pairs of seeds, where runs have no target.

    Args:
        results: lines of runs by attention and seed.
    """
    language = any("eval_perplexity" in run for run in results.values())
    field, better = ("eval_loss", "lower") if language else ("eval_accuracy", "higher")
    told, decided = [], False
    for attention in dict.fromkeys(name for name, _ in results if name != BASELINE):
        both = [
            (run[field], results[BASELINE, seed][field])
            for (name, seed), run in results.items()
            if name == attention and (BASELINE, seed) in results
        ]
        changes = [own - base for own, base in both if None not in (own, base)]
        if not changes:
            continue
        wins = sum(change < 0 if language else change > 0 for change in changes)
        ties = changes.count(0)
        p = scipy_stats().binomtest(wins, len(changes) - ties).pvalue if len(changes) > ties else 1.0
        decided = decided or p < LEVEL
        told.append(
            f"`{attention}` ends with a {better} held-out {field.removeprefix('eval_')} than full attention in "
            f"{wins} of {_pairs(len(changes))} (median difference {median(changes):+.4f}, sign test p = {p:.2g})"
        )
    if not told:
        return "**Undecided**: no seed has a run of full attention and of another."
    return f"{'' if decided else '**Undecided**: '}{'; '.join(told)}."
