"""Sweep over every model family that Transformers can build: is our attention right there, or refused?

    python tests/families.py --output families.md            # all classes, about 15 minutes on one core
    python tests/families.py GPT2LMHeadModel BartModel        # some, with what was found about each

For every class a tiny random model is made (:mod:`tiny_models`) and checked:

* everything kept: the outputs equal those of ``eager``, with and without padding;
* few keys kept: every attention layer of ``eager`` calls us, as often, no attention is computed elsewhere, and the
  output changes;
* models whose earlier outputs do not depend on later tokens under ``eager`` do not under ours; of the others, a band
  looks both ways;
* ``hf_semfocus.verify`` agrees;

or the class is refused with ``UnsupportedModelError``. Each class is checked in a process that is replaced when it
crashes or hangs. The table lists every class; ``--json`` writes the findings for further use.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import select
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from family_check import OUTCOMES, Found, check
from transformers import PreTrainedModel

BAD = ("wrong", "dense", "error", "strict", "crashed", "timed out")
# classes that are known to be bad, and why that is left; every entry is needed
RANKS = "picks queries by rank: eager itself differs by 1 from its twin with weights a millionth apart"
ALIKE = "all keys are alike in so small a model: one position, or empty codebooks"
KNOWN = {
    "DFineModel": RANKS,
    "DFineForObjectDetection": RANKS,
    "Deimv2Model": RANKS,
    "Deimv2ForObjectDetection": RANKS,
    "MimiModel": ALIKE,
    "PPOCRV5ServerRecForTextRecognition": ALIKE,
    "PPOCRV6SmallRecForTextRecognition": ALIKE,
}
# heads that add a projection to a model that is swept itself
SAME = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
        "ForNextSentencePrediction")  # fmt: skip


def classes() -> list[str]:
    """Every public model class, without the heads that only add a projection."""
    public = (name for name in dir(transformers) if not name.startswith("_") and name[0].isupper())
    return [name for name in public if _is_model(getattr(transformers, name)) and not name.endswith(SAME)]


def _is_model(thing: Any) -> bool:
    return (
        isinstance(thing, type)
        and issubclass(thing, PreTrainedModel)
        and not re.search("Pre[tT]rained", thing.__name__)
    )


def work() -> None:
    """Check the classes named on standard input, one line of JSON each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # an error here rather than the machine's memory
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # models print
    for line in sys.stdin:
        try:
            found = check(line.strip())
        except Exception as error:
            found = {"outcome": "error", "why": f"in the sweep itself: {type(error).__name__}: {error}"}
        print(json.dumps({"class": line.strip(), **found}), file=out, flush=True)


WORKER = [sys.executable, __file__, "--work"]


def sweep(names: list[str], limit: float = 180.0) -> Iterator[Found]:
    """Check classes in a process of their own, which is replaced where it crashes or takes ``limit`` seconds."""
    worker = None
    for name in names:
        started = time.monotonic()
        if worker is None:
            worker = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            started += 60  # it imports first
        worker.stdin.write(name + "\n")
        worker.stdin.flush()
        ready = select.select([worker.stdout], [], [], limit + max(0.0, started - time.monotonic()))[0]
        line = worker.stdout.readline() if ready else ""
        if line:
            yield {**json.loads(line), "seconds": round(time.monotonic() - started, 2)}
            continue
        worker.kill()
        code = worker.wait()
        worker = None
        why = f"exit status {code}" if ready else f"no answer in {limit} s"
        yield {"class": name, "outcome": "crashed" if ready else "timed out", "why": why}
    if worker is not None:
        worker.stdin.close()
        worker.wait()


def table(found: list[Found]) -> str:
    """The findings in Markdown: totals, then every class that is not supported, then those that are."""
    totals = collections.Counter(one["outcome"] for one in found)
    lines = [f"# {len(found)} model classes of Transformers {transformers.__version__}", ""]
    lines += ["| outcome | classes | meaning |", "| --- | ---: | --- |"]
    lines += [f"| {outcome} | {totals[outcome]} | {meaning} |" for outcome, meaning in OUTCOMES.items()]
    for outcome in [*list(OUTCOMES)[2:], "refused"]:
        rows = [one for one in found if one["outcome"] == outcome]
        if rows:
            lines += ["", f"## {outcome}", ""]
        for one in rows:
            why = one["why"].replace("\n", " ")[:300] if outcome != "refused" else ""
            if reason := KNOWN.get(one["class"]) if outcome in BAD else None:
                why += f" (known: {reason})"
            lines.append(f"- `{one['class']}`" + (f": {why}" if why else ""))
    lines += ["", "## supported", "", ", ".join(f"`{one['class']}`" for one in found if one["outcome"] == "supported")]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("classes", nargs="*", help="names of model classes; all by default")
    parser.add_argument("--output", type=Path, help="where to write the table; printed by default")
    parser.add_argument("--json", type=Path, help="where to write the findings, a line for each class, as they come")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one class")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work()
    found = []
    names = args.classes or classes()
    for one in sweep(names, args.limit):
        found.append(one)
        print(f"{len(found)}/{len(names)} {one['class']}: {one['outcome']} {one['why']}"[:400], flush=True)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps(one) + "\n")
    text = table(found)
    args.output.write_text(text) if args.output else print(text)


if __name__ == "__main__":
    main()
