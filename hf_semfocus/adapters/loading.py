"""Load an adapter from a folder or the Hub, with the attention it was trained with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from transformers import PreTrainedModel

from .. import kinds
from ..hub_client import HubError, find_token, shielded
from ..messages import shown
from .applying import set_attention
from .entry import ENTRY, FILE, checked

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"
LARGEST = 1 << 20
"""Most bytes of a configuration file."""


def load_adapter(
    adapter: str | os.PathLike[str],
    base: PreTrainedModel | str | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    **kwargs: Any,
) -> PeftModel:
    """Load an adapter on its base model, with the sparse attention and the classes it was trained with.

    Once this package is imported, ``PeftModel.from_pretrained`` and the other loaders do so too, but they keep an
    attention that the base model was explicitly given, and do not set its number of classes.

    Args:
        adapter: a folder, or ``owner/name`` on the Hub.
        base: the base model, changed in place, or its name; by default the one that the adapter names.
        revision: of the adapter.
        token: of the Hub; the stored one by default, False for none.
        **kwargs: for ``PeftModel.from_pretrained``, such as ``is_trainable=True``.

    Raises:
        HubError: the Hub refused, or there is no adapter with weights in safetensors.
        ValueError: its attention is none of ours, or the base model is not known.
    """
    from peft import PeftModel

    secret = find_token(token)
    where = os.fspath(adapter)
    folder = Path(where)
    if not folder.is_dir():
        got = shielded(
            f"loading the adapter {where!r}",
            secret,
            lambda: snapshot_download(where, revision=revision, token=secret or False, allow_patterns=[FILE, WEIGHTS]),
        )
        folder = Path(got)
    for name in (FILE, WEIGHTS):
        if not (folder / name).is_file():
            raise HubError(f"{where!r} holds no {name}; expected an adapter in safetensors")
    config = _read(folder / FILE)
    entry = checked(config.get(ENTRY))
    if entry is None:
        raise HubError(
            f"{FILE} of {where!r} has no entry {ENTRY!r}; expected an adapter that was saved with an "
            "attention of hf_semfocus"
        )
    if base is None or isinstance(base, str):
        base = _load_base(where, base, config, entry, secret)
    set_attention(base, entry)
    return PeftModel.from_pretrained(base, str(folder), **kwargs)


def _load_base(
    where: str, name: str | None, config: dict[str, Any], entry: dict[str, Any], secret: str | None
) -> PreTrainedModel:
    name = name or config.get("base_model_name_or_path")
    task = config.get("task_type")
    kind = next((kind for kind in kinds.KINDS if kind.peft is not None and kind.peft == task), None)
    if not isinstance(name, str) or kind is None:
        raise ValueError(
            f"{where!r} says base_model_name_or_path={shown(name)} and task_type={shown(task)}, which is not "
            "enough to load the base model; expected it as base=..."
        )
    names = entry.get("id2label")
    classes = {} if names is None else {"id2label": names, "label2id": {name: key for key, name in names.items()}}
    return shielded(
        f"loading the base model {name!r}",
        secret,
        lambda: kind.auto.from_pretrained(name, token=secret or False, trust_remote_code=False, **classes),
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; expected at most {LARGEST}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON ({type(error).__name__}: {error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds a {type(value).__name__}; expected an object")
    return value
