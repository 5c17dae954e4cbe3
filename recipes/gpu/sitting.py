"""Check and measure the GPU kernels in one sitting of about 30 minutes.

    python recipes/gpu/sitting.py
    python recipes/gpu/sitting.py --part check tiles
    python recipes/gpu/sitting.py --dry_run

It needs a GPU, PyTorch, Triton, Transformers and this package; no network and no data. With pytest the tests are run,
on several processes with pytest-xdist. Every part is a process of its own, of ten minutes at most: one that fails or
is stopped keeps what it has measured, and the next one starts. ``--output_dir`` gets a folder per part, with results
as JSON and a log, and ``sitting.json``, which tells how every part ended. The status is 1 if one did not end well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import steps

from hf_semfocus.files import write_json

ROOT = Path(__file__).parents[2]
LIMIT = 600.0
"""Seconds of a part."""


class Part(NamedTuple):
    """What a part does, and its command, which takes ``--output_dir``."""

    about: str
    command: tuple[str, ...]


def _bench(about: str, *cases: str) -> Part:
    return Part(about, ("recipes/bench.py", "--device", "cuda", "--keep_going", "--cases", *cases))


PARTS = {
    "check": Part("versions, ceilings, cases against the formula, tests, memory checker", ("recipes/gpu/check.py",)),
    "bench_64": _bench("attention at 32k tokens, head_dim 64", ",64 causal bfloat16 topk"),
    "bench_128": _bench("attention at 32k tokens, head_dim 128", ",128 causal bfloat16 topk"),
    "bench_cases": _bench(
        "hub key, periodic keys, padding, decoding, model steps", *("hub", "periodic", "padded", "decode", "GPT-2")
    ),
    "kernel_times": Part("time of every kernel of a training step", ("recipes/gpu/kernel_times.py",)),
    "tiles": Part("selection and gathers with other tile sizes", ("recipes/gpu/tiles.py",)),
}


def run(part: Part, folder: Path, limit: float = LIMIT) -> dict[str, Any]:
    """Run one part.

    Args:
        part: the part.
        folder: gets its results, and all that it prints as ``log.txt``.
        limit: seconds after which it is stopped, with the processes that it has started.

    Returns:
        ``ended``, in words, whether that is ``ok``, and ``seconds``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *part.command, "--output_dir", str(folder.absolute())]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    start = time.monotonic()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            ended = "finished" if status == 0 else f"ended with status {status}"
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status, ended = None, f"stopped after {limit:g} s"
    return {"ended": ended, "ok": status == 0, "seconds": round(time.monotonic() - start, 1)}


def main(args: Sequence[str] | None = None) -> None:
    """Run the chosen parts; ends the process with status 1 if one did not end well."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[*PARTS], help="parts; by default all")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    parser.add_argument("--dry_run", action="store_true", help="only list what would be run")
    options = parser.parse_args(args)
    if options.dry_run:
        for name in options.part:
            print(f"{name}: {PARTS[name].about}\n  python {' '.join(PARTS[name].command)}")
        return
    steps.need_gpu()
    results: dict[str, Any] = {}
    for name in options.part:
        print(f"{name}: {PARTS[name].about} ...", flush=True)
        results[name] = run(PARTS[name], options.output_dir / name)
        write_json(options.output_dir / "sitting.json", results)
        print(f"{name}: {results[name]['ended']} ({results[name]['seconds']:.0f} s), {options.output_dir / name}")
    sys.exit(0 if all(result["ok"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
