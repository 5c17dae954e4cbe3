"""What depends on the mask alone is made once, not once a layer: all layers of a model pass the same mask."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ..mechanisms import Mechanism
from ..problem import Problem

Made = TypeVar("Made")
Make = Callable[[Mechanism, Problem], Made]


def once_per_mask(remembered: int) -> Callable[[Make], Make]:
    """Decorator of a function of positions and mask alone: the last few results are kept while their masks live."""

    def decorate(make: Make) -> Make:
        made: OrderedDict[tuple[Any, ...], tuple[weakref.ref | None, Any]] = OrderedDict()

        @wraps(make)
        def recall(mechanism: Mechanism, problem: Problem) -> Any:
            mask, seen = None, problem.visibility.mask
            if seen is not None:
                mask = seen if seen._base is None else seen._base
                if mask.is_inference():  # these do not tell whether they were written to
                    return make(mechanism, problem)
            view = (
                None if mask is None else (id(mask), mask._version, seen.storage_offset(), seen.shape, seen.stride())
            )
            own = problem.visibility.own
            own = None if own is None else own.cpu().numpy().tobytes()
            switches = (problem.visibility.causal, problem.layer, str(problem.query.device))
            key = (mechanism, *problem.shape, *switches, own, view)
            found = made.pop(key, None)
            if found is None or (found[0] is not None and found[0]() is not mask):
                found = None if mask is None else weakref.ref(mask), make(mechanism, problem)
            for old, (alive, _) in list(made.items()):
                if len(made) >= remembered or (alive is not None and alive() is None):
                    del made[old]
            made[key] = found
            return found[1]

        return recall

    return decorate
