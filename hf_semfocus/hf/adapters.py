"""The attention of a PEFT adapter's base model, in ``semfocus.json`` beside the adapter.

PEFT saves neither the base model's configuration nor its attention, so an adapter alone comes back dense.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import is_ours, resolve

if TYPE_CHECKING:
    from peft import PeftModel

ATTENTION = "semfocus.json"


def save_attention(model: PeftModel, folder: Path) -> None:
    """Write the attention of the base model beside an adapter; a dense one needs no word."""
    name = model.config._attn_implementation
    if is_ours(name):
        write_attention(resolve(name, getattr(model.config, "semfocus", None))[0].spec, folder)


def write_attention(spec: str, folder: Path) -> None:
    """Write the name of an attention, with all parameters, beside an adapter."""
    (folder / ATTENTION).write_text(json.dumps({"attention": spec}, indent=2) + "\n", encoding="utf-8")
