"""Write an adapter for publishing: one weights file and a deterministic configuration."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import patch_environment
from huggingface_hub.utils import validate_repo_id

from .entry import FILE

if TYPE_CHECKING:
    from peft import PeftModel


def save(model: PeftModel, folder: Path, base_model: str | None, offline: bool) -> None:
    """Write an adapter with the attention of its base model.

    Args:
        model: a model with one adapter.
        folder: the output folder.
        base_model: Hub name of the base model; by default the one that the adapter names, unless it is a local folder.
        offline: keep PEFT from asking the Hub whether the base model's vocabulary was smaller.

    Raises:
        ValueError: several adapters.
    """
    names = list(model.peft_config)
    if len(names) != 1:
        raise ValueError(f"the model has the adapters {names}; expected one")
    with patch_environment(**({"HF_HUB_OFFLINE": "1"} if offline else {})):
        model.save_pretrained(folder)
    if (inner := folder / names[0]).is_dir():  # where PEFT saves an adapter that is not named "default"
        for file in inner.iterdir():
            os.replace(file, folder / file.name)
        inner.rmdir()
    config = json.loads((folder / FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model or base_on_hub(model)
    for key, value in vars(model.peft_config[names[0]]).items():
        if isinstance(value, set):  # whose order differs between processes
            config[key] = sorted(config[key])
    (folder / FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def base_on_hub(model: PeftModel) -> str | None:
    """The Hub name of an adapter's base model; None if it has none, or a local folder."""
    named = model.active_peft_config.base_model_name_or_path or model.get_base_model().name_or_path
    if not named:
        return None
    try:
        validate_repo_id(named)
    except ValueError:
        here = True
    else:
        here = os.path.exists(named)
    if here:
        warnings.warn(f"the base model is the folder {named!r}, left out; base_model=... can name it", stacklevel=2)
    return None if here else named
