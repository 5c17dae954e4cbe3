"""Sweep over every model family that Transformers can build: is our attention right there, or refused?

    python tests/families.py                               # all that is not recorded yet, then the page
    python tests/families.py --anew                        # all classes, 15 minutes or more on one core
    python tests/families.py GPT2LMHeadModel BartModel     # some, with what was found of each, recorded nowhere

The records are kept by version (:mod:`family_record`); ``python tests/both_ends.py --models`` makes those of both
ends.

For every class a tiny random model is made (:mod:`tiny_models`) and checked:

* everything kept: the outputs equal those of ``eager``, with and without padding;
* few keys kept: every attention layer of ``eager`` calls us, as often, no attention is computed elsewhere, and the
  output changes;
* models whose earlier outputs do not depend on later tokens under ``eager`` do not under ours; of the others, a band
  looks both ways;
* ``hf_semfocus.verify`` agrees;
* every mechanism with few keys computes what its definition says (:mod:`family_oracle`);
* a training step has finite gradients, which gradient checkpointing does not change (:mod:`family_training`);

or the class is refused with ``UnsupportedModelError``. Each class is checked in a process that is replaced when it
crashes or hangs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import family_page
import family_record
import torch
import transformers
from family_check import check
from family_outputs import Found
from transformers import PreTrainedModel

# heads that add a projection to a model that is swept itself
SAME = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
        "ForNextSentencePrediction")  # fmt: skip


def classes() -> list[str]:
    """Every public model class, without the heads that only add a projection."""
    public = (name for name in dir(transformers) if not name.startswith("_") and name[0].isupper())
    return [name for name in public if _is_model(name) and not name.endswith(SAME)]


def _is_model(name: str) -> bool:
    try:
        thing = getattr(transformers, name)
    except ImportError:  # a processor whose libraries are not installed
        return False
    return isinstance(thing, type) and issubclass(thing, PreTrainedModel) and not re.search("Pre[tT]rained", name)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("classes", nargs="*", help="names of model classes; all by default")
    parser.add_argument("--anew", action="store_true", help="forget what is recorded of the installed Transformers")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one class")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work()
    if args.anew:
        family_record.path().unlink(missing_ok=True)
    recorded = family_record.read()
    names = args.classes or [name for name in classes() if name not in recorded]
    for count, one in enumerate(sweep(names, args.limit), 1):
        print(
            f"{count}/{len(names)} {one['class']}: {one['outcome']} {one.get('reason', one['why'])}"[:400], flush=True
        )
        if not args.classes:
            family_record.add(family_record.compact(one))
    if not args.classes:
        family_record.tidy()
        family_page.write()


if __name__ == "__main__":
    main()
