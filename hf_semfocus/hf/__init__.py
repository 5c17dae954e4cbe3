"""Integration with Transformers: registration, configuration, and errors for unsupported models."""

from ..mechanisms import names, on_register
from . import attention, patches
from .describing import describe
from .explaining import explain
from .support import UnsupportedModelError, verify
from .switching import configure

__all__ = ["UnsupportedModelError", "configure", "describe", "explain", "install", "verify"]


def install() -> None:
    """Register all present and future mechanisms with Transformers, and wrap what its interface lacks.

    Idempotent.
    """
    for name in names():
        attention.register(name)
    on_register(attention.register)
    patches.apply()
