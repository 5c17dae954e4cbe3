"""From a comparison to the Hub: one of its models, with the results of all of them."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id

from .. import hub as hub_package
from ..console import option
from ..console.errors import program
from ..hf.settings import is_ours
from ..hub_client import find_token
from ..metrics import quantities
from ..training import FocusSchedule, OutputFolder
from .base import Experiment


@dataclass
class HubOptions:
    """Whether and where the model of one run is published, with the results of all."""

    push_to_hub: bool = option(False, "publish a sparse model of this comparison on the Hub, with its card")
    hub_model_id: str | None = option(None, "where to, as owner/name")
    hub_attention: str | None = option(None, "whose model; by default the first sparse attention's")
    hub_public: bool = option(False, "make a new repository public instead of private")
    hub_license: str | None = option(None, "license of the model as the Hub spells it, such as apache-2.0")
    hub_base_model: str | None = option(None, "name on the Hub of the checkpoint, where it was trained from a folder")
    dry_run: bool = option(False, "with push_to_hub: only write what would be pushed, to hub/ in output_dir")

    def __post_init__(self) -> None:
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub=True needs hub_model_id; expected owner/name")
        for name in ("hub_model_id", "hub_base_model"):
            if (value := getattr(self, name)) is not None:
                try:
                    validate_repo_id(value)
                except ValueError as error:
                    raise ValueError(f"{name}={value!r}; expected owner/name: {error}") from error
                if "/" not in value and name == "hub_model_id":
                    raise ValueError(f"{name}={value!r}; expected owner/name")
        given = [name for name, value in vars(self).items() if value not in (None, False) and name != "push_to_hub"]
        if given and not self.push_to_hub:
            raise ValueError(f"{given[0]}={getattr(self, given[0])!r} is for publishing; expected push_to_hub with it")


def check_publishing(options: HubOptions, attentions: Sequence[str]) -> None:
    """Find out before a training whether its result can be published.

    Raises:
        ValueError: no token, or no attention of the comparison to publish.
    """
    if not options.push_to_hub:
        return
    chosen(options, attentions)
    if not options.dry_run and find_token(None) is None:
        raise ValueError("no access token; log in with `hf auth login` or set HF_TOKEN, or add --dry_run")


def chosen(options: HubOptions, attentions: Sequence[str]) -> str:
    """The attention whose model is published.

    Raises:
        ValueError: there is none, or another attention ends like it, so that their results could not be told apart.
    """
    last = {attention: FocusSchedule.parse(attention).names[-1] for attention in attentions}
    sparse = [attention for attention, name in last.items() if is_ours(name)]
    wanted = options.hub_attention or next(iter(sparse), None)
    if wanted not in sparse:
        raise ValueError(f"hub_attention={wanted!r}; expected a sparse attention of this comparison, one of {sparse}")
    same = [attention for attention, name in last.items() if name == last[wanted]]
    if len(same) > 1:
        raise ValueError(f"{' and '.join(same)} end with the same attention; a card cannot tell their results apart")
    return wanted


def publish_run(
    options: HubOptions, experiment: Experiment, output: OutputFolder, results: list[dict[str, Any]]
) -> str:
    """Publish the model of the first seed as it was after its last step, when its results were measured.

    Returns:
        What was done, to be printed.

    Raises:
        ValueError: that run diverged, or ended before the last attention of its schedule.
        HubError: the Hub refused.
    """
    attentions = list(dict.fromkeys(result["attention"] for result in results))
    wanted = chosen(options, attentions)
    result = next(result for result in results if result["attention"] == wanted)
    if result["status"] == "diverged":
        raise ValueError(f"{result['run']} diverged; there is no model to publish")
    if result["last_attention"] != FocusSchedule.parse(wanted).names[-1]:
        raise ValueError(
            f"{result['run']} ended with {result['last_attention']!r}, before the schedule's last attention"
        )
    named = [{**r, "attention": r["last_attention"]} for r in results]
    metrics = {field: quantity.hub for field, quantity in quantities().items() if quantity.hub and field in result}
    limits = None
    if wanted != FocusSchedule.parse(wanted).names[-1]:
        limits = f"- Trained with the schedule `{wanted}`; the attention above is its last."
    folder = output.run(wanted, result["seed"]).folder / "last"
    curves = output.path / "curves.png"
    target = output.path / "hub" if options.dry_run else None
    if target is not None:
        shutil.rmtree(target, ignore_errors=True)  # of the dry run before
    published = hub_package.push_to_hub(
        experiment.load(str(folder)),
        experiment.tokenizer,
        options.hub_model_id,
        hub_package.from_runs(named, _shown(experiment.dataset), experiment.split, metrics),
        seed=result["seed"],
        training_args={name: _shown(value) for name, value in output.config.items()},
        metrics={r["run"]: r for r in results},
        curves=curves if curves.exists() else None,
        base_model=options.hub_base_model or _on_hub(experiment.base_model),
        datasets=[experiment.dataset] if "/" in experiment.dataset and _on_hub(experiment.dataset) else [],
        license=options.hub_license,
        command=f"{_started()} {shlex.join(map(_shown, sys.argv[1:]))}",
        limits=limits,
        private=not options.hub_public,
        dry_run=target,
    )
    if target is not None:
        return f"what would be pushed to {published.repo_id} is in {target}"
    return f"published on the Hub: {published.repo_id}, revision {published.commit}"


def _started() -> str:
    """What started this process, in front of its options: ``semfocus COMMAND``, or a script by Accelerate."""
    parts = Path(sys.argv[0]).parts
    if program().startswith("semfocus "):
        return program()
    return f"accelerate launch {shlex.quote('/'.join(parts[-2:]) if 'recipes' in parts[-2:] else parts[-1])}"


def _shown(value: Any) -> Any:
    """What is published of an option: of a file or folder here the last part only, as the rest is private."""
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if not isinstance(value, str):
        return value
    option_name, equals, rest = value.partition("=") if value.startswith("--") else ("", "", value)
    path = Path(rest)
    local = path.is_absolute() or (path.parent != Path(".") and path.exists())
    return f"{option_name}{equals}{path.resolve().name if local else rest}"


def _on_hub(name: str | None) -> str | None:
    """The name if it looks like one on the Hub, not a folder or file here."""
    if name is None or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except ValueError:
        return None
    return name
