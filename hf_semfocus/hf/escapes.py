"""Warn where a library switches a sparse model to an attention that is none of ours.

Who asks decides, and the stack says who that is: the first caller beyond this package and what Transformers calls
itself on the way (``from_pretrained``, ``pipeline``). A user's own code asks knowingly, and is not warned.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from types import FrameType
from typing import Any

from transformers import PreTrainedConfig

from .parameters import NAME
from .settings import is_ours

PASSING_ON = (
    *("contextlib", "functools", "torch.utils._contextlib", "huggingface_hub.dataclasses", "peft."),
    *(f"hf_semfocus.hf.{name}" for name in ("configs", "escapes", "patches", "wrapping")),
    *("transformers.modeling_utils", "transformers.configuration_utils", "transformers.models.auto."),
    *("transformers.integrations.peft", "transformers.pipelines", "transformers.utils."),
)
"""Modules that pass on what their caller asks for, or prefixes of their names."""
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages."""


@contextmanager
def reported(what: Any, configs: Sequence[PreTrainedConfig]) -> Iterator[None]:
    """Warn at the end of the block if a library has replaced an attention of ours within it.

    Args:
        what: the model or the configuration that is changed, for the message.
        configs: its configurations.
    """
    before = [config.__dict__.get(NAME) for config in configs]
    yield
    for config, name in zip(configs, before, strict=True):
        now = config.__dict__.get(NAME)
        if is_ours(name) and not is_ours(now):
            if (frame := _library()) is not None:
                _warn(frame, type(what).__name__, name, now)
            return


def _library() -> FrameType | None:
    """The frame of the library that asked; None where a user's code or this package did."""
    frame = sys._getframe(1)
    while frame is not None and _module(frame).startswith(PASSING_ON):
        if frame.f_code.co_name == "_attn_implementation":
            return None  # a part of a configuration, whose whole reports
        frame = frame.f_back
    if frame is None or _module(frame).startswith("hf_semfocus."):
        return None
    installed = INSTALLED & set(PurePath(frame.f_code.co_filename).parts)
    return frame if installed or _module(frame).startswith("transformers.") else None


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__") or ""


def _warn(frame: FrameType, what: str, before: str, now: str | None) -> None:
    """Warn at the library's line: once for each, as Python does by default."""
    message = f"{_module(frame)} switched a {what} from attn_implementation={before!r} to {now!r}, which is none of "
    message += f"hf_semfocus; model.set_attn_implementation({before!r}) switches it back"
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    file, line, module = frame.f_code.co_filename, frame.f_lineno, _module(frame)
    warnings.warn_explicit(message, UserWarning, file, line, module=module, registry=registry)
