"""Measure attention: correctness, time and memory, against PyTorch's attention and other libraries.

    semfocus bench --quick
    semfocus bench
    semfocus bench --device cuda
    semfocus bench --cases 4096 --mechanisms topk_sparse banded_sparse --no_models
    semfocus bench --table outputs/bench-cpu/bench_cpu_*.json
    semfocus bench --summary recipes/results/bench_cpu_*.json

If a backend is wrong, nothing is timed and the status is 1; with ``--keep_going`` the other cases are timed. Results
are printed as tables, with one line of JSON at the end, and written to ``--output_dir`` as ``.json``, ``.md`` and
``.png`` under the name of the processor or GPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ..backends import BACKENDS
from ..benchmark import (
    IncorrectError,
    Plan,
    Suite,
    draw,
    file_stem,
    markdown,
    ran_on,
    remarks,
    run,
    suite,
    summary,
    tables,
)
from ..console import check_at_least, check_unset, imports, option, parse
from ..console.display import watched
from ..console.errors import program
from ..files import UNFINISHED, write_json, write_text


@dataclass
class BenchOptions:
    """What to measure, and where."""

    quick: bool = option(False, "small sizes, under a minute")
    device: Literal["cpu", "cuda"] = option("cpu", "device; a GPU has cases and goals of its own")
    threads: int = option(2, "PyTorch threads")
    repeats: int = option(7, "repetitions of every measurement; the goals are for 7 or more")
    backend: str = option("auto", "backend of this package; unsupported cases are left out")
    cases: list[str] = option([], "measure only cases with one of these in their label, such as 4096 or decode")  # noqa: RUF009
    mechanisms: list[str] = option([], "and with one of these mechanisms; one without a case is added")  # noqa: RUF009
    imports: list[str] = imports()  # noqa: RUF009
    no_memory: bool = option(False, "skip peak memory, which takes a process per case and contestant")
    no_peers: bool = option(False, "skip contestants other than sdpa; the dense ones take most of the time")
    no_models: bool = option(False, "skip training steps of whole models")
    keep_going: bool = option(False, "go on after a wrong result or a failure; the status is 1 at the end")
    output_dir: str | None = option(
        None, "output folder, whose files are replaced; outputs/bench-cpu or -cuda by default"
    )
    table: str | None = option(None, "only print the tables of these results, a .json file")
    summary: list[str] = option([], "only print the README's table of these results, a .json file per processor")  # noqa: RUF009

    def __post_init__(self) -> None:
        check_at_least("threads", self.threads, 1)
        check_at_least("repeats", self.repeats, 1)
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend={self.backend!r}; expected one of auto, {', '.join(BACKENDS)}")
        only = next((name for name in ("table", "summary") if getattr(self, name)), None)
        if only is not None:
            check_unset(self, [name for name in vars(self) if name != only], f"with {only}={getattr(self, only)!r}")
        elif self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda'; expected cpu, as PyTorch finds no GPU")


def main(args: Sequence[str] | None = None) -> dict[str, Any] | list[dict[str, Any]]:
    """Measure, write and print; returns the results, a list of those of a summary."""
    [options] = parse(BenchOptions, args=args, about=__doc__)
    if options.table:
        print(tables(result := read(Path(options.table))))
        return result
    if options.summary:
        print(summary(results := [read(Path(path)) for path in options.summary]))
        return results
    wanted = suite(options.device, options.quick).select(options.cases, options.mechanisms)
    plan = Plan(
        suite=Suite(wanted.cases) if options.no_models else wanted,
        device=options.device,
        threads=options.threads,
        repeats=options.repeats,
        backend=options.backend,
        memory=not options.no_memory,
        peers=not options.no_peers,
        keep_going=options.keep_going,
    )
    folder = Path(options.output_dir or f"outputs/bench-{options.device}")
    stem = file_stem(options.device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        progress = partial(watched, file=sys.stderr)  # stdout is for the results
        result = run(plan, partial(write_json, folder / f"{stem}.json"), progress)
    except IncorrectError as error:
        sys.exit(f"{program()}: wrong result: {error}")
    except OSError as error:
        raise ValueError(f"output_dir={str(folder)!r} cannot be written to: {error}") from error
    write_results(result, folder, stem)
    print(json.dumps(result))
    if result["failed"]:
        sys.exit(1)
    return result


def write_results(result: dict[str, Any], folder: Path, stem: str) -> None:
    """Print the tables and the machine, and write them and the plot next to the JSON."""
    plot = folder / f"{stem}.png"
    lines = [*remarks(result), ran_on(result)]
    if result["scaling"]:
        try:
            unfinished = plot.with_suffix(f"{UNFINISHED}.png")
            draw(result["scaling"], unfinished, result["environment"]["device"])
            unfinished.replace(plot)
        except ImportError as error:
            lines.append(f"no {plot.name}: {error}")
    else:
        plot.unlink(missing_ok=True)  # from an earlier run
        lines.append(f"no {plot.name}: no problem was measured at three lengths or more")
    write_text(folder / f"{stem}.md", markdown(result, plot.name if plot.exists() else None))
    print(tables(result), *lines, f"written to {folder}", sep="\n")


def read(path: Path) -> dict[str, Any]:
    """Read the results of a run.

    Raises:
        ValueError: the file has none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a result of this benchmark: {error}") from error
    if not isinstance(result, dict) or "cases" not in result:
        raise ValueError(f"{str(path)!r} is not a result of this benchmark")
    return result
