"""A memo per mask: all layers of a model pass the same mask, so what depends on it alone is computed once."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..attention.problem import Problem
from ..mechanisms import Mechanism

Made = TypeVar("Made")
Make = Callable[[Mechanism, Problem], Made]


class _Entry(NamedTuple):
    """A result for a mask, with a copy of the mask, as not every write to a tensor increases its version.

    On a GPU, where comparing would synchronize in every call, only the version is compared.
    """

    made: Any
    mask: weakref.ref | None = None
    held: Tensor | int | None = None


def once_per_mask(remembered: int) -> Callable[[Make], Make]:
    """Decorator of a function of positions and mask alone: keep the last results while their masks are alive."""

    def decorate(make: Make) -> Make:
        entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        lock = Lock()

        @wraps(make)
        def recall(mechanism: Mechanism, problem: Problem) -> Any:
            if isinstance(problem.draw, Tensor):  # drawn for this call alone
                return make(mechanism, problem)
            mask = seen = problem.visibility.mask
            if seen is not None:
                if seen.is_inference():  # these do not know their base
                    return make(mechanism, problem)
                mask = seen if seen._base is None else seen._base
            key = _key(mechanism, problem, mask)
            with lock:
                found = entries.get(key)
            if found is None or not _holds(found, mask, seen):
                held = () if seen is None else (weakref.ref(mask), _copy(seen) if seen.is_cpu else seen._version)
                with torch.inference_mode(False):  # a training step may use it, too
                    found = _Entry(make(mechanism, problem), *held)
            with lock:
                entries.pop(key, None)
                for old, entry in list(entries.items()):
                    if len(entries) >= remembered or (entry.mask is not None and entry.mask() is None):
                        del entries[old]
                entries[key] = found
            return found.made

        return recall

    return decorate


def _key(mechanism: Mechanism, problem: Problem, mask: Tensor | None) -> tuple[Any, ...]:
    seen, first, causal = problem.visibility.mask, problem.visibility.first, problem.visibility.causal
    view = None if mask is None else (id(mask), seen.storage_offset(), seen.shape, seen.stride())
    layer = problem.layer if mechanism.by_layer else None
    return mechanism.unbound, *problem.shape, first, causal, layer, problem.heads, problem.query.device, view


def _holds(entry: _Entry, mask: Tensor | None, seen: Tensor | None) -> bool:
    """Whether the entry is for this mask, unchanged."""
    if seen is None:
        return True
    if entry.mask() is not mask:
        return False
    if not seen.is_cpu:
        return entry.held == seen._version
    held, now = entry.held, _distinct(seen)
    return torch.equal(*((held.view(torch.int64), now.view(torch.int64)) if _in_words(now) else (held, now)))


def _distinct(mask: Tensor) -> Tensor:
    """``mask`` without its broadcast dimensions."""
    return mask[tuple(slice(None) if stride else slice(1) for stride in mask.stride())]


def _copy(mask: Tensor) -> Tensor:
    return _distinct(mask).clone(memory_format=torch.contiguous_format)


def _in_words(mask: Tensor) -> bool:
    """Whether eight entries can be compared as one 64-bit word, which is ten times as fast."""
    *strides, last = mask.stride()
    return last == 1 and not any(number % 8 for number in (mask.shape[-1], mask.storage_offset(), *strides))
