"""The zero-shot swap on a text: the perplexity and the time of one language model under several attentions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .. import backends, kinds
from ..backends.lists.native.build import load as load_kernels
from ..console.display import watched
from ..data import CausalRows, MaskedRows
from ..hf import configure, observe
from ..hf.settings import is_ours
from ..kinds import Kind
from ..messages import check_integer, shown
from ..metrics import OF_TOKENS
from ..models.checkpoints import first_position, positions_of
from ..training import OBJECTIVES, Rows
from .comparison import Comparison
from .language import check_causal
from .swap import evaluate_swapped, keys_of
from .swap_options import DENSE, check_names

ATTENTIONS = ("topk_sparse:k=64", "topk_sparse:k=32", "topk_sparse:k=16", "topk_sparse:k=8", "banded_sparse:window=64")
"""Compared with full attention where none are named."""
TOKENS = 3072
"""Tokens of the text that are looked at: about a minute for 135 M parameters on two CPU cores."""
BLOCK = 512
"""Tokens of a row, unless the model has fewer positions."""


def compare_attentions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str | Sequence[str],
    attentions: Sequence[str] = ATTENTIONS,
    *,
    tokens: int = TOKENS,
    block_size: int | None = None,
    accelerator: Accelerator | None = None,
) -> Comparison:
    """Evaluate a language model on a text with full attention and with others, without training.

    A causal model predicts every token of a row but the first, a masked one 15 % of them, always the same ones.
    Its own attention is in force again afterwards.

    Args:
        model: a causal or masked language model.
        tokenizer: of the model.
        text: or several; no row holds tokens of two.
        attentions: names of this package, to be compared with ``sdpa``.
        tokens: of the text at most, in whole rows.
        block_size: tokens of a row; 512 by default, or as many as the model has positions.
        accelerator: of Accelerate; one for the model's device by default. Every process must call this.

    Raises:
        ValueError: another kind of model, an unknown attention, or a text without a whole row.
    """
    names = names_of(attentions)
    kind = language_kind(model.config)
    block_size = _block_size(model, tokens, block_size)
    ids = _rows(tokenizer, [text] if isinstance(text, str) else text, block_size, tokens)
    accelerator = accelerator or Accelerator(cpu=model.device.type == "cpu")
    how = (1, OBJECTIVES[kind.name], OF_TOKENS)
    points = []
    with _restored(model):
        configure(model, DENSE)
        if kind.name == "causal_lm":
            check_causal(model.name_or_path, model)
        if accelerator.device.type == "cpu":
            load_kernels()  # compile now, not in what is timed
        prepared = accelerator.prepare_model(model, device_placement=True, evaluation_mode=True)
        evaluate_swapped(accelerator, prepared, DENSE, _as_data(kind, model, tokenizer, ids[:1]), *how)  # to warm up
        data = _as_data(kind, model, tokenizer, ids)
        for name in watched(names, "compare", accelerator.is_main_process, sys.stderr):
            used: dict[str, None] = {}

            def note(call: observe.Call, used: dict[str, None] = used) -> None:
                used[backends.explain(call.mechanism, call.problem, call.weights, call.backend).chosen] = None

            begun = time.perf_counter()
            with observe.watch(model, note):
                found = evaluate_swapped(accelerator, prepared, name, data, *how)
            seconds = (time.perf_counter() - begun) / len(ids) / block_size * 1000
            point = {"attention": name, "keys": keys_of(name, block_size), **found, "seconds": seconds}
            points.append({**point, "back_ends": list(used) if is_ours(name) else ["PyTorch"]})
    return Comparison(tuple(points), block_size, len(ids) * block_size)


def names_of(attentions: Sequence[str]) -> list[str]:
    """The attentions to evaluate with, dense first, named or not.

    Raises:
        ValueError: an unknown attention, a repeated one, or none but the dense.
    """
    names = [DENSE, *(name for name in attentions if name != DENSE)]
    if len(names) == 1:
        raise ValueError(f"attention={list(attentions)!r}; expected at least one to compare with {DENSE}")
    check_names(names, f"attention={list(attentions)!r}")
    return names


def language_kind(config: PreTrainedConfig) -> Kind:
    """Whether a configuration is that of a causal or of a masked language model.

    Raises:
        ValueError: it is for something else.
    """
    kind = kinds.of_class(config)
    if kind is None or kind.name not in ("causal_lm", "masked_lm"):
        what = f"for {kind.name}" if kind else "for nothing known here"
        raise ValueError(
            f"model={config.name_or_path!r} ({shown(config.architectures)}) is {what}; expected a causal or a masked "
            "language model (of classifiers, semfocus finetune --swap compares attentions)"
        )
    return kind


def _block_size(model: PreTrainedModel, tokens: int, block_size: int | None) -> int:
    positions = positions_of(model.config)
    block_size = min(BLOCK, positions or BLOCK) if block_size is None else check_integer("block_size", block_size, 4)
    if positions is not None and block_size > positions:
        raise ValueError(f"block_size={block_size}, but the model has {positions} positions; expected at most as many")
    if check_integer("tokens", tokens, 1) < block_size:
        raise ValueError(f"tokens={tokens}; expected at least block_size={block_size}, a row")
    return block_size


def _rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], block_size: int, tokens: int) -> list[list[int]]:
    """The first ``tokens`` tokens in whole rows."""
    if not any(map(str.strip, texts)):
        raise ValueError(f"text={shown(''.join(texts))} is empty; expected at least {block_size} tokens, a row")
    rows, longest, most = [], 0, tokens // block_size
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        longest = max(longest, len(ids))
        rows += [ids[end - block_size : end] for end in range(block_size, len(ids) + 1, block_size)]
        if len(rows) >= most:
            break
    if not rows:
        raise ValueError(
            f"text={shown(texts[0])} has {longest} tokens; expected at least {block_size}, a row (block_size)"
        )
    return rows[:most]


def _as_data(
    kind: Kind, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]
) -> Rows:
    starts = [[True] + [False] * (len(row) - 1) for row in ids]
    packed = Dataset.from_dict({"input_ids": ids, "starts": starts})
    if kind.name == "causal_lm":
        return CausalRows(packed)
    return MaskedRows(packed, tokenizer, seed=0, first_position=first_position(model.config))


@contextmanager
def _restored(model: PreTrainedModel) -> Iterator[None]:
    """Give a model its attention and its mode back at the end."""
    name, params, training = model.config._attn_implementation, getattr(model.config, "semfocus", {}), model.training
    try:
        yield
    finally:
        configure(model, name, **(params if is_ours(name) else {}))
        model.train(training)
