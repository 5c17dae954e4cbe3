"""What a model calls in a forward pass: the functions of the attention interface, and attention computed elsewhere."""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from hf_semfocus.hf import observe


@contextlib.contextmanager
def intercepted(after: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Tell ``after`` of every call of a function that the interface gives out: its module and its result."""
    original = AttentionInterface.get_interface

    def get_interface(self: Any, name: str, default: Any) -> Any:
        function = original(self, name, default)

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            Elsewhere.inside += 1
            try:
                result = function(module, *args, **kwargs)
            finally:
                Elsewhere.inside -= 1
            after(module, result)
            return result

        return call

    AttentionInterface.get_interface = get_interface
    try:
        yield
    finally:
        AttentionInterface.get_interface = original


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter[nn.Module]]:
    """Calls of the functions that the interface gives out, by module."""
    calls: collections.Counter[nn.Module] = collections.Counter()
    with intercepted(lambda module, _: calls.update([module])):
        yield calls


@contextlib.contextmanager
def captured(model: nn.Module) -> Iterator[list[tuple[observe.Call, Tensor]]]:
    """Calls of our attention functions by layers of ``model``, and the output ``[batch, heads, queries, width]``."""
    begun: list[observe.Call] = []
    found: list[tuple[observe.Call, Tensor]] = []

    def ended(module: nn.Module, result: Any) -> None:
        if begun and begun[-1].module is module:
            found.append((begun.pop(), result[0].detach().transpose(1, 2)))

    with observe.watch(model, begun.append), intercepted(ended):
        yield found


def paths(model: nn.Module, calls: collections.Counter[nn.Module]) -> dict[str, int]:
    return {path: calls[module] for path, module in model.named_modules() if module in calls}


class Elsewhere(TorchDispatchMode):
    """Finds attention that no function of the interface computes: a softmax whose result enters a batched product."""

    inside = 0
    FUSED = ("_scaled_dot_product", "_flash_attention", "_efficient_attention", "_native_multi_head_attention")
    SOFTMAX = ("aten::_softmax", "aten::_safe_softmax")
    SAME = ("aten::clone", "aten::_to_copy", "aten::mul.Tensor", "aten::where.self", "aten::masked_fill")
    PRODUCT = ("aten::bmm", "aten::baddbmm")

    def __init__(self):
        super().__init__()
        self.places: set[str] = set()
        self._weights: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if Elsewhere.inside:
            return out
        name = func.name()
        if any(part in name for part in self.FUSED):
            self.places.add(_place())
        elif name.startswith(self.SOFTMAX):
            if out.dim() > 2:
                self._mark(out)
        elif name.startswith(self.SAME):
            if any(self._marked(arg) and arg.shape == out.shape for arg in args):
                self._mark(out)
        elif name.startswith(self.PRODUCT) and any(map(self._marked, args)):
            self.places.add(_place())
        return out

    def _mark(self, tensor: Tensor) -> None:
        self._weights[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that its memory is not given anew

    def _marked(self, thing: Any) -> bool:
        return isinstance(thing, Tensor) and thing.untyped_storage().data_ptr() in self._weights


def _place() -> str:
    """Class and method of the model's code that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        if "/transformers/" in frame.f_code.co_filename and isinstance(frame.f_locals.get("self"), nn.Module):
            return type(frame.f_locals["self"]).__name__
        frame = frame.f_back
    return "unknown code"
