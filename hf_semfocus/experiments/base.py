"""An experiment: everything that is the same for all attentions of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import kinds
from ..training import OBJECTIVES, Objective, Rows

if TYPE_CHECKING:
    from evaluate import Metric

ADAMW = {
    "epochs": 3,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr_decay": 1.0,
    "max_grad_norm": 1.0,
    "epochs_after_target": 0,
}
"""Options that fine-tuning and language models share."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained on what.

    Attributes:
        name: for titles and for the output folder.
        kind: what the models are for, a name of :mod:`hf_semfocus.kinds`.
        dataset, split: what is evaluated on, for model cards; on the Hub, the dataset's name there.
        build: from the name of an attention to a model with its initial weights, of torch's global random stream.
        rows: from a seed to the rows to train on and the held-out ones.
        metrics: what is computed of the held-out rows besides loss and accuracy.
        defaults: of the options of a training, where the user sets none.
        attentions: those compared where the user names none.
        tokenizer: saved with every model, if there is one.
        base_model: the checkpoint that is trained on, if there is one.
        load: from a folder to the model that was saved there; by default a whole model of the kind.
        notes: remarks on the data for readers of the results, a paragraph each.
    """

    name: str
    kind: str
    dataset: str
    split: str = "validation"
    build: Callable[[str], PreTrainedModel]
    rows: Callable[[int], tuple[Rows, Rows]]
    load: Callable[[str], Any] = None
    metrics: tuple[type[Metric], ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    attentions: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase | None = None
    base_model: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.load is None:
            object.__setattr__(self, "load", kinds.get(self.kind).auto.from_pretrained)

    @property
    def objective(self) -> Objective:
        """What a step minimizes."""
        return OBJECTIVES[self.kind]


def title(*parts: str) -> str:
    """A name for an experiment and its folder, of a task, data and a model."""
    return "-".join(_last_part(Path(part)) if Path(part).exists() else part.replace("/", "-") for part in parts)


def _last_part(path: Path) -> str:
    return path.resolve().stem if path.is_file() else path.resolve().name
