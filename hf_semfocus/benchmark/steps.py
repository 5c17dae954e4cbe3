"""Training steps of whole models: the same model and batch, alternately with full attention and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..data import tasks
from ..hf import configure
from ..models import Sizes, build_model
from .cases import Case, judged
from .contestants import OURS, SDPA
from .timing import Timing, clock_of, measure

VOCABULARY = 8192
"""Vocabulary of the language model: with GPT-2's own 50257 the output layer would dominate."""
SHORTEST_REPETITION = 0.25
"""Shortest time of a repetition in seconds, as steps of a small model vary."""


@dataclass(frozen=True, kw_only=True)
class ModelStep:
    """A training step of one model: forward, backward, clipping of the gradient, and the optimizer.

    Args:
        name: for tables.
        batch, length: sequences and tokens of each.
        mechanism: as ``NAME:param=value,...``.
        goal: required speed-up in tokens per second over the same step with ``sdpa``.
        task: synthetic task that the paper's encoder is sized for, with SGD as in ``recipes/pretrain.py``; None for
            GPT-2 of 12 layers and width 768, with AdamW.
        dropout: probability; the encoder's is 0.01, with which PyTorch's attention on a CPU holds all scores.
        dtype: type of weights and activations.
        shortest: tokens of the shortest sequence, padded to ``length``; by default ``length``, without a mask.
    """

    name: str
    batch: int
    length: int
    mechanism: str
    goal: float
    task: str | None = None
    dropout: float = 0.0
    dtype: str = "float32"
    shortest: int | None = None

    @property
    def label(self) -> str:
        """Description of the step."""
        return f"{self.name}, {self.batch} x {self.length}"

    @property
    def case(self) -> Case:
        """The attention problem of a layer."""
        language = self.task is None
        heads = 12 if language else 1
        sizes = {"batch": self.batch, "heads": heads, "keys": self.length, "dtype": self.dtype}
        return Case(**sizes, mechanism=self.mechanism, causal=language)

    @property
    def training(self) -> str:
        """Description of dropout, optimizer and vocabulary."""
        rest = f"AdamW, {VOCABULARY} tokens of vocabulary" if self.task is None else "SGD"
        return f"dropout {self.dropout:g}, {rest}"

    def build(self) -> PreTrainedModel:
        """The model, with random weights."""
        if self.task is None:
            sizes = Sizes(VOCABULARY, None, None, self.length, 768, 3072, 12, 12, None, self.dropout)
            return build_model("causal_lm", "gpt2", SDPA, sizes)
        task = tasks.get(self.task)
        sizes = Sizes(task.vocab_size, task.num_labels, task.pad_token_id, self.length, num_layers=task.num_layers)
        sizes = replace(sizes, dropout=self.dropout)
        return build_model("classification", "paper", SDPA, sizes)

    def inputs(self) -> dict[str, Tensor]:
        """A batch of random tokens and labels, with a mask if there is padding."""
        if self.task is None:
            ids = torch.randint(VOCABULARY, (self.batch, self.length))
            return {"input_ids": ids, "labels": ids}
        task = tasks.get(self.task)
        batch = {
            "input_ids": torch.randint(task.pad_token_id, (self.batch, self.length)),
            "labels": torch.randint(task.num_labels, (self.batch,)),
        }
        if self.shortest is not None:
            lengths = torch.linspace(self.shortest, self.length, self.batch).long()
            batch["attention_mask"] = (torch.arange(self.length) < lengths[:, None]).long()
            batch["input_ids"].masked_fill_(batch["attention_mask"] == 0, task.pad_token_id)
        return batch


LISTOPS = ModelStep(
    name="listops", task="listops", batch=25, length=600, mechanism="topk_sparse:k=5", goal=1.6, dropout=0.01
)
MAIN_JOB = replace(LISTOPS, name="even_pairs", task="even_pairs", length=40, goal=1.05)
STEPS = (
    LISTOPS,
    replace(LISTOPS, name="listops, padded from 501", shortest=501),
    replace(LISTOPS, name="listops, no dropout", dropout=0.0),
    ModelStep(name="GPT-2", batch=4, length=512, mechanism="topk_sparse:k=8", goal=1.2),
    ModelStep(name="GPT-2", batch=1, length=4096, mechanism="topk_sparse:k=8", goal=1.42),
    MAIN_JOB,
)
CUDA_STEPS = tuple(
    ModelStep(name="GPT-2", batch=batch, length=length, mechanism="topk_sparse:k=8", goal=1.0, dtype="bfloat16")
    for batch, length in ((8, 4096), (2, 16384))
)


def time_step(
    wanted: ModelStep,
    backend: str,
    repeats: int,
    device: torch.device,
    *,
    clock: Callable[[], float] | None = None,
    shortest: float = SHORTEST_REPETITION,
) -> tuple[dict[str, Timing], int]:
    """Time a training step with both attentions in turn on one model.

    Args:
        wanted: the step.
        backend: the backend of ours.
        device: the device.
        repeats, clock, shortest: see :func:`measure`.

    Returns:
        The timings by contestant, and the tokens of a step, padding not counted.
    """
    torch.manual_seed(0)
    model = wanted.build().to(device, getattr(torch, wanted.dtype)).train()
    batch = {name: tensor.to(device) for name, tensor in wanted.inputs().items()}
    tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else wanted.batch * wanted.length
    # so small that the weights do not change; the time does not depend on it
    optimizer = (torch.optim.AdamW if wanted.task is None else torch.optim.SGD)(model.parameters(), lr=1e-6)
    settings = {} if backend == "auto" else {"backend": backend}
    switch: dict[str, Callable[[], Any]] = {
        OURS: partial(configure, model, wanted.mechanism, **settings),
        SDPA: partial(model.set_attn_implementation, SDPA),
    }
    if wanted.task is None:
        model.config.use_cache = False

    def train() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    clock = clock or clock_of(device)
    timings, _ = measure(dict.fromkeys(switch, train), repeats, prepare=switch, clock=clock, shortest=shortest)
    return timings, tokens


def measure_step(wanted: ModelStep, backend: str, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time a training step; the result is ready for JSON, with tokens per second and whether the goal is met."""
    timings, tokens = time_step(wanted, backend, repeats, device)
    ratio = timings[SDPA].median / timings[OURS].median
    return {
        "label": wanted.label,
        "mechanism": wanted.mechanism,
        "training": wanted.training,
        "tokens": tokens,
        "seconds": {name: timing.as_dict() for name, timing in timings.items()},
        "tokens_per_second": {name: round(tokens / timing.median, 1) for name, timing in timings.items()},
        "times_faster": round(ratio, 3),
        **judged(wanted.goal, lambda goal: ratio >= goal),
    }
