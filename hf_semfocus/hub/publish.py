"""``push_to_hub``: weights, configuration, tokenizer, results and card in one commit. Idempotent."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..adapters import entry, saving
from ..hub_client import find_token
from . import card, merge, staging
from .describe import Description, describe
from .details import details_of
from .remote import Remote, State
from .results import Result


@dataclass(frozen=True)
class Published:
    """Result of :func:`push_to_hub`.

    Attributes:
        repo_id: the repository.
        commit: the revision that holds the files; None for a dry run.
        changed: whether there was anything to commit.
        files: names of the files written, or of those a dry run would publish.
    """

    repo_id: str
    commit: str | None
    changed: bool
    files: tuple[str, ...]


def push_to_hub(
    model: nn.Module,
    tokenizer: Any,
    repo_id: str,
    results: Sequence[Result | Mapping[str, Any]] = (),
    *,
    training_args: Any = None,
    metrics: Mapping[str, Any] | None = None,
    curves: str | os.PathLike[str] | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    dry_run: str | os.PathLike[str] | None = None,
    **details: Any,
) -> Published:
    """Publish a model that is loaded with its sparse attention, and a card with its results.

    Everything goes into one commit: all of it is on the Hub afterwards, or nothing. Publishing again updates the
    card's generated part and keeps what people wrote; without any change it makes no commit. Call it in one process.

    Args:
        model: a Transformers model with one of our attentions, or a PEFT model on one (then the adapter is published).
        tokenizer: anything with ``save_pretrained``, or None.
        repo_id: ``owner/name``.
        results: measurements, dense and sparse ones of the same comparison; see :class:`CardDetails`.
        training_args: kept as ``training_args.json``: a mapping, a dataclass or ``TrainingArguments``.
        metrics: kept as ``metrics.json``.
        curves: an image to show in the card.
        example_inputs: arguments of one forward pass, which finds every layer's attention; a few token ids by default.
        private: whether a new repository is private (default); an existing one is never changed.
        token: of the Hub; the stored one by default.
        commit_message: the commit's first line.
        dry_run: a new folder to write to instead, without requests to the Hub; a card there is not merged.
        **details: the other fields of :class:`CardDetails`: ``seed``, ``base_model``, ``datasets``, ``license``,
            ``language``, ``tags``, ``task``, ``command``, ``limits``.

    Raises:
        TypeError: neither a Transformers nor a PEFT model, or an unknown detail.
        ValueError: an argument cannot be published; nothing was.
        HubError: the Hub or the disk failed; the message has the action and never the token.
    """
    card.check_repo_id(repo_id)
    about = details_of(results, details)
    description = describe(model, example_inputs)
    if description.adapter and about.base_model is None:
        about = dataclasses.replace(about, base_model=saving.base_on_hub(model))
    remote, secret = None, token if isinstance(token, str) else None
    if dry_run is None:
        if (secret := find_token(token)) is None:
            raise ValueError("no access token; log in with `hf auth login`, set HF_TOKEN, or pass token=...")
        remote = Remote(repo_id, secret)
    with staging.new_folder(dry_run) as folder:
        state, existing = State(None, None, ()), None
        if remote is not None:
            state = remote.state()
            _check_state(repo_id, state, description, private)
            existing = remote.readme(state, folder.parent / "existing")
        staging.write(
            folder,
            model,
            description,
            tokenizer,
            training_args=training_args,
            metrics=metrics,
            curves=curves,
            base_model=about.base_model,
            offline=remote is None,
        )
        text = card.render(description, repo_id, about, staging.files(folder), existing)
        (folder / staging.README).write_bytes(text.encode("utf-8"))
        staging.check_no_token(folder, secret)
        files = tuple(staging.files(folder))
        if remote is None:
            return Published(repo_id, None, True, files)
        if state.private is None:
            remote.create(private is not False)
        message = commit_message or f"Publish {repo_id.partition('/')[2]} with hf_semfocus"
        commit = remote.commit(folder, state, message, _outdated(state, existing))
        return Published(repo_id, commit, commit != state.commit, files)


def _outdated(state: State, readme: str | None) -> list[str]:
    """Files about the earlier weights, which the generated part of their card links to."""
    text = merge.read(readme).generated
    return [name for name in state.files if staging.ABOUT.fullmatch(name) and f"]({name})" in text]


def _check_state(repo_id: str, state: State, description: Description, private: bool | None) -> None:
    if private and state.private is False:
        raise ValueError(f"private=True, but {repo_id!r} is public, which nothing here changes; expected private=None")
    other = "config.json" if description.adapter else entry.FILE
    if other in state.files:
        kinds = ("an adapter", "a whole model") if description.adapter else ("a whole model", "an adapter")
        raise ValueError(f"{repo_id!r} holds {kinds[1]}; expected another repo_id for {kinds[0]}")
