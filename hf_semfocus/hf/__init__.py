"""How Transformers meets the mechanisms: registration, configuration, and the refusal of what cannot work."""

from ..mechanisms import names, on_register
from . import attention, patches
from .explaining import explain
from .support import UnsupportedModelError, verify
from .switching import configure

__all__ = ["UnsupportedModelError", "configure", "explain", "install", "verify"]


def install() -> None:
    """Register every mechanism with Transformers, now and later, and close the gaps of its interface.

    Idempotent.
    """
    for name in names():
        attention.register(name)
    on_register(attention.register)
    patches.apply()
