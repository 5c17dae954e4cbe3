"""Which models are set beside each other: a checkpoint with two attentions, or the runs of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig, PreTrainedModel

from ... import kinds
from ...adapters.entry import FILE as ADAPTER
from ...adapters.loading import load_adapter
from ...analysis import Target, read_records
from ...hf import configure
from ...hf.parameters import stored_settings
from ...hf.settings import is_ours, resolve
from ...mechanisms import fields
from ...models.checkpoints import checkpoint_config

DENSE = "sdpa"
"""What a sparse checkpoint is compared with."""
SAVED = ("best", "last")
"""Models that a run keeps."""


@dataclass(frozen=True)
class Model:
    """A checkpoint, and the attention it is given.

    Attributes:
        path: folder, or name on the Hub.
        attention: its name; None for the checkpoint's own.
    """

    path: str
    attention: str | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter of PEFT."""
        return (Path(self.path) / ADAPTER).exists()

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The configuration of the checkpoint, or of the model that an adapter makes.

        Raises:
            ValueError: there is none.
        """
        return self.load().config if self.is_adapter else checkpoint_config(self.path)

    @cached_property
    def own_attention(self) -> str:
        """The attention that is in force, with its size and the parameters that are not at their defaults."""
        name = self.attention or self.config._attn_implementation or DENSE
        if not is_ours(name):
            return name
        mechanism, _ = resolve(name, None if self.attention else stored_settings(self.config))
        held = {field: (getattr(mechanism, field), each.default) for field, each in fields(type(mechanism)).items()}
        stated = [f"{field}={value}" for field, (value, default) in held.items() if value != default or field == "k"]
        return f"{mechanism.name}:{','.join(stated)}" if stated else mechanism.name

    def load(self) -> PreTrainedModel:
        """The model in float32, in evaluation mode, with its attention.

        Raises:
            ValueError: there is none, or it does not take the attention.
        """
        if self.is_adapter:
            model = load_adapter(self.path)
        else:
            auto = kind_of(self.config).auto
            try:
                model = auto.from_pretrained(self.path, dtype=torch.float32, trust_remote_code=False)
            except OSError as error:
                raise ValueError(f"model={self.path!r} has no weights that can be read: {error}") from error
        if self.attention is not None:
            configure(model, self.attention)
        return model.eval()


@dataclass(frozen=True)
class Planned:
    """A dense and a sparse model to be measured on the same rows.

    Attributes:
        name: of the pair.
        dense, sparse: the two.
        options: of the comparison whose runs they are; empty for checkpoints.
        seed: of the runs.
    """

    name: str
    dense: Model
    sparse: Model
    options: Mapping[str, Any]
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """The output folder of a comparison."""

    folder: Path
    options: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]

    @property
    def target(self) -> Target | None:
        """What its runs were to reach."""
        return Target.of(self.options)


def kind_of(config: PreTrainedConfig) -> kinds.Kind:
    """What a checkpoint is for, from the class it was saved by; its features, if no kind has that class."""
    names = set(config.architectures or ())
    found = (kind for kind in kinds.KINDS if names & {cls.__name__ for cls in kind.classes(config)})
    return next(found, kinds.get("features"))


def find(where: str, attention: str, saved: str = "best") -> tuple[list[Planned], Comparison | None]:
    """The pairs of a checkpoint, of a run, or of a comparison.

    Args:
        where: a checkpoint's folder or name on the Hub, a run's folder, or the output folder of a comparison.
        attention: what a dense model is given, where there is no sparse one beside it.
        saved: which model of a run, "best" or "last".

    Raises:
        ValueError: there is nothing of the kind.
    """
    folder = Path(where)
    if (folder / "config.yaml").is_file() and (folder / "runs").is_dir():
        return _comparison(folder, attention, saved)
    if any((folder / each).is_dir() for each in SAVED):
        return [_alone(folder.name, Model(_saved(folder, saved)), attention)], None
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", ADAPTER)):
        raise ValueError(
            f"{where!r} holds no model; expected a checkpoint's folder or its name on the Hub, a run's folder with "
            f"{' or '.join(SAVED)}, or the output folder of a comparison with config.yaml and runs"
        )
    return [_alone(Path(where).name, Model(where), attention)], None


def _alone(
    name: str, model: Model, attention: str, options: Mapping[str, Any] | None = None, seed: int = 0
) -> Planned:
    """A model beside itself with another attention."""
    if is_ours(model.own_attention):
        dense, sparse = Model(model.path, DENSE), model
    else:
        dense, sparse = model, Model(model.path, attention)
    return Planned(f"{name}: {dense.own_attention} and {sparse.own_attention}", dense, sparse, options or {}, seed)


def _comparison(folder: Path, attention: str, saved: str) -> tuple[list[Planned], Comparison]:
    """Every sparse run beside the dense one of its seed, and runs without a partner beside themselves."""
    options = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    comparison = Comparison(folder, options, read_records(folder))
    planned = []
    for seed in options["seeds"]:
        runs = sorted(folder.glob(f"runs/*_{seed}"), key=lambda run: _place(run, options["attention"]))
        models = [Model(_saved(run, saved)) for run in runs if any((run / each).is_dir() for each in SAVED)]
        dense = [model for model in models if not is_ours(model.own_attention)]
        sparse = [model for model in models if is_ours(model.own_attention)]
        name = f"{folder.name}, seed {seed}"
        if dense and sparse:
            planned += [
                Planned(f"{name}: {dense[0].own_attention} and {each.own_attention}", dense[0], each, options, seed)
                for each in sparse
            ]
        else:
            planned += [_alone(name, each, attention, options, seed) for each in models]
    if not planned:
        raise ValueError(f"{str(folder)!r} has no run with a saved model; expected runs/*/{saved}")
    return planned, comparison


def _place(run: Path, attentions: Sequence[str]) -> int:
    """The place of a run in the order in which its comparison names attentions."""
    names = [number for number, name in enumerate(attentions) if run.name.startswith(name.replace(":", "_"))]
    return names[0] if names else len(attentions)


def _saved(run: Path, which: str) -> str:
    if not (run / which).is_dir():
        there = ", ".join(each for each in SAVED if (run / each).is_dir())
        raise ValueError(f"checkpoint={which!r}, which {str(run)!r} does not have; expected one of {there}")
    return str(run / which)
