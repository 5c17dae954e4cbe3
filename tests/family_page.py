"""The page ``model_cards/SUPPORTED_MODELS.md``, made of the records in :mod:`family_record`."""

from __future__ import annotations

import re
from pathlib import Path

import family_record
from family_record import Record

PAGE = Path(__file__).parent.parent / "model_cards" / "SUPPORTED_MODELS.md"
MARKS = {
    "w": ("refused", "patterns that count positions from the start of the sequence are refused in its sliding window"),
    "t": ("eager does not train", "not trained: `eager` fails without labels, or its gradients are not finite"),
    "c": ("gradient checkpointing", "gradient checkpointing not compared: there is none, or `eager`'s changes, too"),
}
WORDS = {"supported": "yes", "refused": "refused", "not measured": "?", "wrong": "**wrong**"}
REASONS = {
    "attention of its own": "computes attention in code of its own, in the named modules",
    "no attention": "has no attention between tokens",
    "passes": "a layer passes what selects keys in a way of the model's own",
}


def page() -> str:
    """The whole page."""
    versions = family_record.versions()
    totals = {version: family_record.totals(version) for version in versions}
    lines = [*_head(versions), "", f"| | {' | '.join(versions)} |", f"| --- |{' ---: |' * len(versions)}"]
    rows = {"families": "families", "supported": "supported", "refused": "refused"}
    rows |= {reason: f"- {meaning}" for reason, meaning in REASONS.items()}
    rows |= {"not measured": "not measured", "wrong": "wrong, or dense in silence", "classes": "classes measured"}
    for key, words in rows.items():
        lines.append(f"| {words} | {' | '.join(str(totals[version].get(key, 0)) for version in versions)} |")
    lines += ["", "Not measured: " + "; ".join(_unmeasured(version) for version in versions), ""]
    lines += ["Marks: " + "; ".join(f"`{mark}` {meaning}" for mark, (_, meaning) in MARKS.items()) + ".", ""]
    lines += [f"| family | {' | '.join(versions)} | supported classes | refused, and why | marks |"]
    lines += [f"| --- |{' --- |' * len(versions)} --- | --- | --- |"]
    found = {version: family_record.families(version) for version in versions}
    for family in sorted({family for families in found.values() for family in families}):
        lines.append(_row(family, [found[version].get(family, []) for version in versions]))
    return "\n".join(lines) + "\n"


def _head(versions: list[str]) -> list[str]:
    return [
        "# Models of Transformers that work with hf_semfocus",
        "",
        f"Measured with Transformers {' and '.join(versions)}, the oldest and the newest that are supported, by",
        "`python tests/both_ends.py --models`, which writes this page. Of every class a tiny random model is made and",
        "compared: all keys kept against `eager`, with and without padding; every call of attention counted, none",
        f"computed elsewhere; no look into the future; {_mechanisms(versions)} mechanisms with few keys against their",
        "definitions in plain loops, on the queries and keys of the model's own layers; a training step, whose",
        "gradients are finite and, bit for bit, those with gradient checkpointing. Heads that add a projection to a",
        "class of their family (`ForSequenceClassification`, ...) are not repeated. A family is supported if a class",
        "is, and none is wrong. What is refused raises `UnsupportedModelError` when it is made, or first called.",
    ]


def _mechanisms(versions: list[str]) -> str:
    """How many mechanisms classes were measured with; new ones come with the next sweep."""
    counts = {one.get("mechanisms") for version in versions for one in family_record.read(version).values()} - {None}
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def _unmeasured(version: str) -> str:
    names = [f for f, records in family_record.families(version).items() if family_record.verdict(records)[0] == "n"]
    return f"{version}: {', '.join(names) or 'none'}"


def _row(family: str, ends: list[list[Record]]) -> str:
    """A family: its verdict at every end, and the classes of the newest end that has it."""
    words = [WORDS[family_record.verdict(records)] if records else "" for records in ends]
    newest = next(records for records in reversed(ends) if records)
    prefix = _prefix([one["class"] for one in newest])
    supported = [one["class"].removeprefix(prefix) for one in newest if one["outcome"] == "supported"]
    reasons: dict[str, list[str]] = {}
    for one in newest:
        if one["outcome"] != "supported":
            reasons.setdefault(one.get("reason") or one["outcome"], []).append(one["class"].removeprefix(prefix))
    why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    notes = [note for one in newest for note in one.get("notes", ())]
    marks = "".join(mark for mark, (part, _) in MARKS.items() if any(part in note for note in notes))
    name = f"{family} ({prefix})" if prefix else family
    return f"| {' | '.join([name, *words, ', '.join(supported), why, marks])} |"


def _prefix(classes: list[str]) -> str:
    """The words before the task that the names of all classes begin with."""
    common = re.split(r"(?=For[A-Z]|Model|LMHead)", min(classes, key=len))[0]
    while common and not all(re.match(f"{common}[A-Z]", name) for name in classes):
        common = common[:-1]
    return common


def write() -> None:
    """Write the page."""
    PAGE.write_text(page())
