"""Any experiment with LoRA: adapters are trained, saved and published in place of whole models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..adapters import add_lora, set_attention, stored_entry
from ..console import option
from .base import Experiment

if TYPE_CHECKING:
    from peft import PeftModel

LEARNING_RATE = 2e-4


@dataclass
class LoraOptions:
    """Whether all weights are trained, or LoRA matrices (arXiv 2106.09685)."""

    peft: Literal["lora"] | None = option(None, "train small matrices in place of all weights")
    lora_r: int | None = option(None, "rank of the matrices; 8 by default")
    lora_alpha: float | None = option(None, "their product is scaled by lora_alpha / lora_r; 16 by default")
    lora_dropout: float | None = option(None, "probability of dropout in front of them; 0 by default")
    lora_target_modules: list[str] = option([], "names of linear layers; the family's by default")  # noqa: RUF009

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if name != "peft" and value not in (None, [])]
        if self.peft is None and given:
            raise ValueError(f"{given[0]}={getattr(self, given[0])!r} is for LoRA; expected peft='lora' with it")


def with_lora(experiment: Experiment, options: LoraOptions) -> Experiment:
    """The same experiment on adapters."""
    given = {"r": options.lora_r, "alpha": options.lora_alpha, "dropout": options.lora_dropout}
    given |= {"target_modules": options.lora_target_modules or None}
    given = {name: value for name, value in given.items() if value is not None}

    def build(attention: str) -> PeftModel:
        return add_lora(experiment.build(attention), experiment.kind, **given)

    def load(folder: str) -> PeftModel:
        from peft import PeftConfig, PeftModel

        base, config = experiment.build("sdpa"), PeftConfig.from_pretrained(folder)
        if (entry := stored_entry(config)) is not None:
            set_attention(base, entry)
        return PeftModel.from_pretrained(base, folder, config=config)

    return replace(
        experiment,
        name=f"{experiment.name}-lora",
        build=build,
        load=load,
        defaults={**experiment.defaults, "learning_rate": LEARNING_RATE},
    )
