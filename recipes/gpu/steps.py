"""The steps of a part: each is tried, and results are written after every one."""

from __future__ import annotations

import sys
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_semfocus.files import write_json
from hf_semfocus.messages import brief


def run(steps: Mapping[str, Callable[[], Any]], path: Path) -> dict[str, Any]:
    """Run steps, whichever fail.

    Args:
        steps: functions by name; what they return is ready for JSON.
        path: the file of the results, which is replaced after every step.

    Returns:
        The results by name, ``{"failed": message}`` of a step that raised.
    """
    results: dict[str, Any] = {}
    for name, step in steps.items():
        try:
            results[name] = step()
        except Exception as error:
            traceback.print_exc()
            results[name] = {"failed": brief(error)}
        write_json(path, results)
        print(f"{name}: {results[name]}", flush=True)
    return results


def need_gpu() -> None:
    """End the process with status 2 where PyTorch finds no GPU."""
    if not torch.cuda.is_available():
        program = Path(sys.argv[0]).name
        print(f"{program}: error: PyTorch {torch.__version__} finds no GPU; nothing was measured", file=sys.stderr)
        sys.exit(2)


def failures(results: Mapping[str, Any]) -> list[str]:
    """Names of the steps that failed."""
    return [name for name, result in results.items() if isinstance(result, dict) and "failed" in result]


def main(
    about: str,
    steps: Mapping[str, Callable[[], Any]],
    stem: str,
    args: Sequence[str] | None = None,
    *,
    needs_gpu: bool = False,
) -> None:
    """The command line of a part; ends the process with status 1 if a step failed.

    Args:
        about: the help text.
        steps: see :func:`run`.
        stem: name of the file of results.
        args: the options; by default those of the process.
        needs_gpu: whether to end with status 2 where there is no GPU.
    """
    parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    folder = parser.parse_args(args).output_dir
    if needs_gpu:
        need_gpu()
    folder.mkdir(parents=True, exist_ok=True)
    failed = failures(run(steps, folder / f"{stem}.json"))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
