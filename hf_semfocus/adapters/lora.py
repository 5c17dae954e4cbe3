"""LoRA on the attention projections of a model (arXiv 2106.09685), by PEFT.

model = AutoModelForSequenceClassification.from_pretrained("gpt2", attn_implementation="topk_sparse:k=8")
model = add_lora(model, "classification", r=8, alpha=16, dropout=0.05)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .. import kinds
from ..hf.state import SLOT, has_state
from ..messages import check_integer

if TYPE_CHECKING:
    from peft import PeftModel

TARGETS = {
    "albert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "semfocus_encoder": ["q_proj", "v_proj"],
}
"""Attention projections of model families for which PEFT has no default."""


def lora_targets(model: PreTrainedModel) -> list[str] | str:
    """Names of the modules that LoRA adapts in the model's family, or a pattern; PEFT's default if it has one.

    Raises:
        ValueError: a family without a default.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    known = TARGETS | TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    family = model.config.model_type
    if family not in known:
        raise ValueError(
            f"no LoRA target modules are known for models of the family {family!r}; expected some of "
            f"{_last_names(_linear_layers(model))} as --lora_target_modules"
        )
    return known[family]


def add_lora(
    model: PreTrainedModel,
    kind: str,
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
) -> PeftModel:
    """Freeze all of a model but its LoRA matrices, its mechanisms' parameters, and a classifier's head; all are saved.

    The head is everything outside of the base model, and the base model's pooler if there is one: a checkpoint may
    lack it, and random weights that are not saved would differ whenever the adapter is loaded.

    Args:
        model: changed in place; the matrices' initial weights come from torch's global stream.
        kind: the kind of model, a name of :mod:`hf_semfocus.kinds`.
        r: rank of the matrices.
        alpha: the product of the matrices is scaled by ``alpha / r``.
        dropout: probability of dropout on their input.
        target_modules: names of linear layers, or their last parts; by default those of the family.

    Raises:
        ValueError: a bad argument, a target that is not a linear layer of the model, or a family without a default.
    """
    from peft import LoraConfig, get_peft_model

    tasks = {known.name: known.peft for known in kinds.KINDS if known.task and known.peft}
    if kind not in tasks:
        raise ValueError(f"kind={kind!r}; expected one of {', '.join(tasks)}")
    r = check_integer("r", r, 1)
    if not alpha > 0:
        raise ValueError(f"alpha={alpha!r}; expected a positive number")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r}; expected a probability below 1")
    targets = list(target_modules) if target_modules is not None else lora_targets(model)
    head = [] if kind == "causal_lm" else _head(model)
    if isinstance(targets, list):
        _check_targets(model, targets, head)
    config = LoraConfig(
        task_type=tasks[kind],
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=[*head, *([SLOT] if has_state(model) else [])] or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    return get_peft_model(model, config)


def _head(model: PreTrainedModel) -> list[str]:
    base = model.base_model_prefix
    head = [name for name, part in model.named_children() if name != base and any(True for _ in part.parameters())]
    pooler = f"{base}.pooler"
    return head + [name for name, _ in model.named_modules() if name == pooler]


def _check_targets(model: PreTrainedModel, targets: list[str], head: list[str]) -> None:
    if not targets:
        raise ValueError("target_modules=[]; expected at least one")
    layers = _linear_layers(model, head)
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ValueError(
                f"target_modules: {target!r} is not a linear layer of {type(model).__name__} outside its head; "
                f"expected some of {_last_names(layers)}"
            )


def _linear_layers(model: PreTrainedModel, head: Sequence[str] = ()) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not any(f"{name}.".startswith(f"{part}.") for part in head)
    ]


def _last_names(layers: list[str]) -> str:
    return ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))
