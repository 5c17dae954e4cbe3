"""The output folder of a training: what it was started with, and whether it may be written to.

<output_dir>/config.yaml  metrics.jsonl  report.md  curves.png
<output_dir>/runs/<run>/metrics.jsonl  best  last  result.json  checkpoint-*
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from ..console import check_folder
from ..files import UNFINISHED, locked, write_text
from .log import gather
from .options import TrainingOptions
from .run import Run
from .schedules import bound_to_length

LOCK = ".lock"
HEADER = "# Options of a training with hf_semfocus; --config reads them again.\n"
CONTENTS = ("config.yaml", "metrics.jsonl", "report.md", "curves.png", "runs", "trackers", "hub")
CONTENTS += ("swap.jsonl", "swap.png")
CHANGEABLE = ("output_dir", "resume", "overwrite_output_dir", "save_steps", "report_to", "cpu_threads")
CHANGEABLE += ("workers", "part", "swap", "swap_k", "log_focus")
"""Options that another start with the same output folder may change."""


def stated(*parts: Any) -> dict[str, Any]:
    """What dataclasses of options set otherwise than by default; options of :data:`CHANGEABLE` do not count.

    An option that is added later, at its default, changes nothing in it.
    """
    found = {}
    for part in parts:
        for field in dataclasses.fields(part):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if field.name not in CHANGEABLE and (value := getattr(part, field.name)) != default:
                found[field.name] = value
    return found


class OutputFolder:
    """The output folder of a recipe, ready to be written to.

    Args:
        accelerator: of Accelerate; the main process writes, and every process must make the object.
        options: ``output_dir`` must be set.
        *others: the recipe's other option dataclasses; all are kept in ``config.yaml``.

    Raises:
        ValueError: the folder is not empty and neither ``resume`` nor ``overwrite_output_dir`` is set, is not the
            output of a training, is to be resumed with other options (more epochs are fine where the course does not
            depend on their number), or another process trains in it.
    """

    def __init__(self, accelerator: Accelerator, options: TrainingOptions, *others: Any):
        self.path = Path(options.output_dir)
        config = {}
        for part in (*others, options):
            config.update(dataclasses.asdict(part))
        self.config = {name: value for name, value in config.items() if name not in CHANGEABLE}
        self._check(accelerator, options)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._held = locked(self.path / LOCK)
                if options.overwrite_output_dir:
                    self._empty()
                write_text(self.path / "config.yaml", HEADER + yaml.safe_dump(self.config, sort_keys=False))
            except OSError as error:
                raise ValueError(f"output_dir={str(self.path)!r} cannot be written to: {error}") from error
        accelerator.wait_for_everyone()

    def gather(self, runs: Iterable[Run]) -> list[dict[str, Any]]:
        """Put the records of ``runs`` together in ``metrics.jsonl``, and return them."""
        return gather((run.log for run in runs), self.path / "metrics.jsonl")

    def run(self, attention: str, seed: int, number: int = 1, of: int = 1) -> Run:
        """The run of an attention with a seed, number so many of so many."""
        return dataclasses.replace(self.run_in(self.path, attention, seed), number=number, of=of)

    @staticmethod
    def run_in(path: Path, attention: str, seed: int) -> Run:
        """The run of an attention with a seed, in a folder of that name."""
        name = f"{attention}/{seed}"
        return Run(name, attention, seed, path / "runs" / re.sub(r"[^\w.=+%-]+", "_", name))

    def _check(self, accelerator: Accelerator, options: TrainingOptions) -> None:
        check_folder("output_dir", str(self.path))
        held = [file.name for file in self.path.glob("*") if not file.name.endswith((UNFINISHED, LOCK))]
        if not held:
            if options.resume:
                accelerator.print(f"nothing to resume in {self.path}; starting anew", flush=True)
            return
        if not (options.resume or options.overwrite_output_dir):
            raise ValueError(f"output_dir={str(self.path)!r} is not empty; add --resume or --overwrite_output_dir")
        text = (
            (self.path / "config.yaml").read_text(encoding="utf-8", errors="replace") if "config.yaml" in held else ""
        )
        if not text.startswith(HEADER):  # and so nothing in it is ours to continue or to delete
            raise ValueError(f"output_dir={str(self.path)!r} is not empty and not the output of a training")
        if options.resume:
            before = _options(text)
            if before is None:
                raise ValueError(f"{self.path / 'config.yaml'} is damaged; expected the options of the training")
            self._check_epochs(options, before.get("epochs"))
            changed = [
                f"{name}: {before.get(name)!r} -> {self.config.get(name)!r}"
                for name in {**before, **self.config}
                if before.get(name) != self.config.get(name) and name != "epochs"
            ]
            if changed:
                raise ValueError(f"cannot resume {self.path} with other options ({'; '.join(changed)})")

    def _check_epochs(self, options: TrainingOptions, before: int | None) -> None:
        """Let a training go on for more epochs than it was to have, where that is what it would have done anyway."""
        now = self.config.get("epochs")
        if not isinstance(before, int) or not isinstance(now, int) or now == before:
            return
        if now < before:
            raise ValueError(
                f"cannot resume {self.path} with epochs={now}: its runs were to have {before}, and some may have had "
                f"more than {now}; expected at least {before}"
            )
        if (reason := bound_to_length(options, self.config.get("attention", ()))) is not None:
            raise ValueError(
                f"cannot resume {self.path} with epochs={now} instead of {before}: {reason}, so a run of {now} epochs "
                f"differs from its first step on; expected epochs={before}, or --overwrite_output_dir to train anew"
            )

    def _empty(self) -> None:
        for name in CONTENTS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _options(text: str) -> dict[str, Any] | None:
    """The options that ``config.yaml`` holds; None if it holds anything else."""
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return options if isinstance(options, dict) else None
