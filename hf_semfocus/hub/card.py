"""The model card: a template, filled from the model and its author's details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from torch import nn

from .. import mechanisms
from ..machine import software
from ..mechanisms import Mechanism
from . import markdown, merge
from .describe import Description, describe
from .details import CardDetails, details_of
from .results import Result
from .usage import usage

PACKAGES = ("hf_semfocus", "torch", "transformers", "accelerate", "peft", "safetensors")
TEMPLATE = Path(__file__).with_name("template.md")


def model_card(
    model: nn.Module,
    repo_id: str,
    results: Sequence[Result | Mapping[str, Any]] = (),
    *,
    example_inputs: Mapping[str, Any] | None = None,
    existing: str | None = None,
    **details: Any,
) -> str:
    """Write the model card of a model, as :func:`push_to_hub` does.

    Args:
        model: a Transformers model with one of our attentions, or a PEFT model on one.
        repo_id: ``owner/name`` on the Hub.
        results: measurements, see :class:`CardDetails`.
        example_inputs: arguments of the model; a few token ids by default.
        existing: the current card; text and metadata written by people are kept.
        **details: the other fields of :class:`CardDetails`.

    Returns:
        Metadata and Markdown.

    Raises:
        TypeError, ValueError: a model, name or details that cannot be described.
    """
    check_repo_id(repo_id)
    return render(describe(model, example_inputs), repo_id, details_of(results, details), existing=existing)


def check_repo_id(repo_id: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: it is not of the form owner/name.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"repo_id={repo_id!r}; expected owner/name")


def render(
    model: Description,
    repo_id: str,
    details: CardDetails,
    files: Iterable[str] = (),
    existing: str | None = None,
) -> str:
    """Write the card of a described model; ``files`` are those that are published with it.

    Raises:
        ValueError: there are results but no known task, or the existing card cannot be merged.
    """
    before = merge.read(existing)
    given = ["license", "language", "base_model", *(["pipeline_tag"] if details.task else [])]
    data = before.metadata(_metadata(model, repo_id, details), given)
    files = sorted(files)
    context = {
        "model": model,
        "name": repo_id.partition("/")[2],
        "parameters": f"{model.parameters:,}",
        "usage": usage(model, repo_id, data.base_model, "tokenizer_config.json" in files),
        "mechanisms": [_explain(mechanism) for mechanism in model.mechanisms],
        "results": [_row(result) for result in details.results],
        "notes": _notes(details),
        "curves": next((name for name in files if name.startswith("curves.")), None),
        "limits": details.limits and markdown.prose(details.limits),
        "base_model": _names(data.base_model),
        "dataset_names": _names(data.datasets),
        "license": _names(data.license),
        "language": _names(data.language),
        "files": files,
        "versions": software(PACKAGES),
        "command": details.command and "\n".join(f"    {line}" for line in details.command.strip().splitlines()),
        "cell": markdown.cell,
        "code": markdown.code,
    }
    card = ModelCard.from_template(data, template_path=str(TEMPLATE), **context)
    merge.check_markers(card.text)
    return before.join(data, card.text)


def _metadata(model: Description, repo_id: str, details: CardDetails) -> ModelCardData:
    task = details.task or (model.kind and model.kind.tag)
    own = set(model.specs)
    described = [result for result in details.results if result.sparse and _stated(result) in own]
    if not described and any(result.sparse for result in details.results):
        there = ", ".join(dict.fromkeys(_stated(result) for result in details.results if result.sparse))
        raise ValueError(f"the results are of {there}, but the model uses {', '.join(own)}; expected some of that")
    if described and task is None:
        raise ValueError(f"{model.name} does not determine its task; expected task=..., such as 'text-generation'")
    found = [_eval_result(result, task, details.seed) for result in described if result.mean is not None]
    return ModelCardData(
        library_name="peft" if model.adapter else "transformers",
        license=details.license,
        language=details.language or None,
        base_model=details.base_model,
        datasets=details.datasets or None,
        pipeline_tag=task,
        tags=["sparse-attention", "semantic-focus", *(m.name for m in model.mechanisms), *details.tags],
        model_name=repo_id.partition("/")[2],
        eval_results=[result for result in found if result] or None,
    )


def _stated(result: Result) -> str:
    return mechanisms.build(result.attention).spec


def _eval_result(result: Result, task: str, seed: int | None) -> EvalResult | None:
    """The result as Hub metadata: of the published seed, or else the mean, labeled as such."""
    seeds = [seed for seed, value in result.values.items() if value is not None]
    one = seed if seed is not None else seeds[0] if len(result.values) == 1 else None
    if one is not None and result.values.get(one) is None:
        return None
    return EvalResult(
        task_type=task,
        dataset_type=result.dataset,
        dataset_name=result.dataset,
        dataset_split=result.split,
        metric_type=result.metric,
        metric_name=result.metric if one is not None else f"{result.metric} (mean of {len(seeds)} seeds)",
        metric_value=result.mean if one is None else result.values[one],
        metric_args={merge.OURS: _stated(result), "seeds": seeds if one is None else [one]},
    )


def _explain(mechanism: Mechanism) -> dict[str, Any]:
    cls = type(mechanism)
    sentence = " ".join((cls.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    fields = mechanisms.fields(cls)
    rows = [(name, getattr(mechanism, name), fields[name].metadata["meaning"]) for name in mechanism.in_force]
    return {"name": mechanism.name, "sentence": sentence, "parameters": rows}


def _row(result: Result) -> tuple[str, ...]:
    seeds = ", ".join(f"{seed}{' (no value)' if value is None else ''}" for seed, value in result.values.items())
    known = result.measured
    return (
        markdown.code(result.attention) + ("" if result.sparse else " (dense)"),
        *map(markdown.cell, (result.dataset, result.split, result.metric)),
        f"{result.mean:.4g}" if known else "none",
        "one value" if len(known) == 1 else f"{result.deviation:.2g}" if known else "none",
        f"{min(known):.4g} to {max(known):.4g}" if known else "none",
        seeds,
    )


def _notes(details: CardDetails) -> list[str]:
    compared = {(r.dataset, r.split, r.metric) for r in details.results if not r.sparse}
    rows = {(r.dataset, r.split, r.metric) for r in details.results if r.sparse}
    notes = [] if rows <= compared else ["Dense results to compare with are not given for every row."]
    if details.seed is None:
        return [*notes, "Which seed the published weights come from is not given."]
    return [*notes, f"The published weights are those of seed {details.seed}."]


def _names(value: Any) -> str:
    """Names on one line; empty for None."""
    return ", ".join(map(markdown.inline, value if isinstance(value, list | tuple) else [value] if value else []))
