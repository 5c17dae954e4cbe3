"""Checkpoints of one run: whole or absent, checked before use, the newest two kept.

Accelerate writes the state of model, optimizer and random numbers; beside it lies where the run stands, with
checksums of every file. A checkpoint gets its name only when all of it is on the disk.
"""

from __future__ import annotations

import json
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from ..files import UNFINISHED, crc, name_finished, no_space
from .progress import Progress
from .sharding import layout

PROGRESS = "progress.json"
PREFIX = "checkpoint-"


class Checkpoints:
    """The checkpoints in the folder of one run.

    Args:
        folder: the run's folder.
        keep: how many to keep; two survive damage to the newest.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = keep

    def save(self, accelerator: Accelerator, progress: Progress) -> None:
        """Write a checkpoint; every process must call it."""
        folder = self.folder / f"{PREFIX}{progress.step:08d}"
        unfinished = folder.with_name(folder.name + UNFINISHED)
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(unfinished), safe_serialization=True)
        content = {"progress": asdict(progress), **_setting(accelerator)}
        content["random"] = gather_object([_random()])
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            inside = sorted(file for file in unfinished.rglob("*") if file.is_file())
            content["files"] = {file.relative_to(unfinished).as_posix(): crc(file) for file in inside}
            (unfinished / PROGRESS).write_text(sealed(content))
            name_finished(unfinished, folder)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    @contextmanager
    def explain_full_disk(self) -> Iterator[None]:
        """Let a training that fills the disk say what it can go on from.

        Raises:
            RuntimeError: in place of an error that says that there is no space.
        """
        try:
            yield
        except Exception as error:
            if not no_space(error):
                raise
            last = f"from {self.all()[-1]}" if self.all() else "from the start of this run"
            raise RuntimeError(
                f"{self.folder}: no space left on the disk ({error}); free some, and --resume goes on {last}"
            ) from error

    def load(self, accelerator: Accelerator, seed: int) -> Progress | None:
        """Bring everything back to the newest intact checkpoint; None if there is none at all.

        Damaged checkpoints are named in a warning and deleted. With another number of processes than wrote it, the
        batches are the same, but dropout draws other numbers, from ``seed``, and a warning says so. Every process
        must call it.

        Raises:
            ValueError: all checkpoints are damaged, or the precision or the sharding has changed.
        """
        found = self.all()[::-1]
        damage = [_damage(folder) for folder in found]
        accelerator.wait_for_everyone()
        intact = [folder for folder, reason in zip(found, damage, strict=True) if reason is None]
        reasons = [f"{folder}: {reason}" for folder, reason in zip(found, damage, strict=True) if reason]
        if found and not intact:
            raise ValueError(f"no checkpoint can be read ({'; '.join(reasons)}); delete {self.folder} to start anew")
        if not found:
            return None
        if accelerator.is_main_process:
            for reason in reasons:
                warnings.warn(f"damaged checkpoint deleted, {reason}", stacklevel=2)
            for folder, reason in zip(found, damage, strict=True):
                if reason is not None:
                    shutil.rmtree(folder)
        content = json.loads((intact[0] / PROGRESS).read_text(encoding="utf-8"))
        for name, now in _setting(accelerator).items():
            if (before := content[name]) != now:
                raise ValueError(f"{intact[0]} was written with {name}={before!r}; now it is {now!r}")
        accelerator.load_state(str(intact[0]))
        progress = Progress(**content["progress"])
        states, rank = content["random"], accelerator.process_index
        if len(states) != accelerator.num_processes:
            if accelerator.is_main_process:
                warnings.warn(
                    f"{intact[0]} was written by {len(states)} processes, and there are {accelerator.num_processes} "
                    "now: the batches stay the same, dropout draws other numbers",
                    stacklevel=2,
                )
            set_seed(int(np.random.SeedSequence([seed, progress.step, rank]).generate_state(1)[0]))
        elif _random() != states[rank]:  # Accelerate says so only in its log
            raise ValueError(f"{intact[0]}: the state of the random numbers could not be restored")
        return progress

    def all(self) -> list[Path]:
        """Folders of the checkpoints, oldest first; unfinished ones do not count."""
        return sorted(path for path in self.folder.glob(f"{PREFIX}*") if path.suffix != UNFINISHED)

    def clear(self, keep: bool = False) -> None:
        """Delete all checkpoints, unfinished ones too, or all but the newest."""
        for folder in set(self.folder.glob(f"{PREFIX}*")) - set(self.all()[-1:] if keep else ()):
            shutil.rmtree(folder)


def _setting(accelerator: Accelerator) -> dict[str, str]:
    return {"mixed_precision": accelerator.mixed_precision, "layout": layout(accelerator)}


def sealed(content: dict[str, Any]) -> str:
    """JSON of ``content`` with its own checksum: a number that lost a bit would still be a number."""
    return json.dumps({**content, "checksum": zlib.crc32(json.dumps(content).encode())})


def _random() -> int:
    return zlib.crc32(torch.get_rng_state().numpy())


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is."""
    try:
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        checksum, files = content.pop("checksum"), content["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{PROGRESS} cannot be read ({type(error).__name__})"
    if zlib.crc32(json.dumps(content).encode()) != checksum:
        return f"{PROGRESS} has another checksum than when it was written"
    for name, checksum in files:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if crc(folder / name) != checksum:
            return f"{name} has another checksum than when it was written"
    return None
