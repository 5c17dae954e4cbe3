"""Which models are set beside each other: a checkpoint with two attentions, or the runs of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...adapters.entry import FILE as ADAPTER
from ...analysis import Target, read_records
from ...hf.settings import is_ours
from ...training.output import OutputFolder
from ..swap_options import DENSE
from .models import Model

SAVED = ("best", "last")
"""Models that a run keeps."""


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
    """The output folder of a comparison: its name, its options, and the records of its training."""

    name: str
    options: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]

    @property
    def target(self) -> Target | None:
        """What its runs were to reach."""
        return Target.of(self.options)


def find(where: str, name: str, attention: str, saved: str = "best") -> tuple[list[Planned], Comparison | None]:
    """The pairs of a checkpoint, of a run, or of a comparison.

    Args:
        where: a checkpoint's folder or name on the Hub, a run's folder, or the output folder of a comparison.
        name: of it, in the names of pairs.
        attention: what a dense model is given, where there is no sparse one beside it.
        saved: which model of a run, "best" or "last".

    Raises:
        ValueError: there is nothing of the kind.
    """
    folder = Path(where)
    if (folder / "config.yaml").is_file() and (folder / "runs").is_dir():
        return _comparison(folder, name, attention, saved)
    if any((folder / each).is_dir() for each in SAVED):
        return [_alone(name, Model(_saved(folder, saved)), attention)], None
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", ADAPTER)):
        raise ValueError(
            f"{where!r} holds no model; expected a checkpoint's folder or its name on the Hub, a run's folder with "
            f"{' or '.join(SAVED)}, or the output folder of a comparison with config.yaml and runs"
        )
    return [_alone(name, Model(where), attention)], None


def _alone(
    name: str, model: Model, attention: str, options: Mapping[str, Any] | None = None, seed: int = 0
) -> Planned:
    """A model beside itself with another attention."""
    if is_ours(model.own_attention):
        dense, sparse = Model(model.path, DENSE), model
    else:
        dense, sparse = model, Model(model.path, attention)
    return Planned(f"{name}: {dense.own_attention} and {sparse.own_attention}", dense, sparse, options or {}, seed)


def _comparison(folder: Path, title: str, attention: str, saved: str) -> tuple[list[Planned], Comparison]:
    """Every sparse run beside the dense one of its seed, and runs without a partner beside themselves."""
    options = _options(folder / "config.yaml")
    comparison = Comparison(title, options, read_records(folder))
    planned = []
    for seed in options["seeds"]:
        runs = [OutputFolder.run_in(folder, each, seed).folder for each in options["attention"]]
        models = [Model(_saved(run, saved)) for run in runs if any((run / each).is_dir() for each in SAVED)]
        dense = [model for model in models if not is_ours(model.own_attention)]
        sparse = [model for model in models if is_ours(model.own_attention)]
        name = f"{title}, seed {seed}"
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


def _options(file: Path) -> Mapping[str, Any]:
    """The options of a comparison."""
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}); expected the options of a comparison") from error
    if not isinstance(options, dict) or not {"attention", "seeds"} <= options.keys():
        raise ValueError(f"{file} names no attentions and seeds; expected the options of a comparison")
    return options


def _saved(run: Path, which: str) -> str:
    if not (run / which).is_dir():
        there = ", ".join(each for each in SAVED if (run / each).is_dir())
        raise ValueError(f"checkpoint={which!r}, which {str(run)!r} does not have; expected one of {there}")
    return str(run / which)
