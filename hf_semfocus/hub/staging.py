"""The folder to publish: all files are written here first, so that a failure leaves the Hub untouched."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..adapters import saving
from ..files import no_space
from ..hub_client import HubError
from .describe import Description

README = "README.md"
PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".webp")
ABOUT = re.compile(r"(training_args|metrics)\.json|curves\.\w+")
"""Files that describe the weights they were published with."""
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


@contextmanager
def new_folder(wanted: str | os.PathLike[str] | None) -> Iterator[Path]:
    """A folder to write to: a temporary one, or one that is renamed to ``wanted`` once complete.

    Raises:
        ValueError: ``wanted`` exists and is not an empty folder.
        HubError: the disk is full.
    """
    target = None if wanted is None else Path(wanted)
    if target is not None:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"dry_run={str(target)!r} exists; expected a new or an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="hf_semfocus-", dir=target and target.parent) as temporary:
            folder = Path(temporary) / "repository"
            folder.mkdir()
            yield folder
            if target is not None:
                if target.exists():
                    target.rmdir()
                os.replace(folder, target)
    except Exception as error:
        if isinstance(error, HubError) or not no_space(error):
            raise
        raise HubError(
            f"no space left on the disk while writing to {target or tempfile.gettempdir()}; nothing was published; "
            "free some, or set TMPDIR to another disk"
        ) from error


def write(
    folder: Path,
    model: nn.Module,
    description: Description,
    tokenizer: Any,
    *,
    training_args: Any = None,
    metrics: Mapping[str, Any] | None = None,
    curves: str | os.PathLike[str] | None = None,
    base_model: str | None = None,
    offline: bool = False,
) -> None:
    """Write everything except the card.

    Raises:
        ValueError: a given value cannot be written.
    """
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if description.adapter:
        saving.save(model, folder, base_model, offline)
    else:
        model.save_pretrained(folder)
    for name, value in (("training_args", training_args), ("metrics", metrics)):
        if value is not None:
            text = json.dumps(_plain(_mapping(name, value), name), indent=1, allow_nan=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if curves is not None:
        curves = Path(curves)
        if not curves.is_file() or curves.suffix.lower() not in PICTURES:
            raise ValueError(f"curves={str(curves)!r}; expected a picture file ({', '.join(PICTURES)})")
        shutil.copyfile(curves, folder / f"curves{curves.suffix.lower()}")


def files(folder: Path) -> list[str]:
    """Paths of the folder's files, as in a repository."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_no_token(folder: Path, token: str | None) -> None:
    """Refuse to publish an access token in any file except weights and pictures.

    Raises:
        ValueError: names the file, not the token.
    """
    for name in files(folder):
        if name.endswith((".safetensors", *PICTURES)):
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        if (token and token in text) or TOKEN.search(text):
            raise ValueError(f"{name} holds an access token of the Hub; remove it before publishing")


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "to_dict"):
        value = dataclasses.asdict(value)
    elif isinstance(to_dict := getattr(value, "to_dict", None), Callable):
        value = to_dict()
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value!r}; expected a mapping, a dataclass or TrainingArguments")
    return value


def _plain(value: Any, where: str) -> Any:
    """The value in types of JSON; numbers that are not finite become null.

    Raises:
        ValueError: names a value that JSON cannot represent.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(f"{where}={value!r}; expected text, numbers, lists and mappings")
