"""Adapters of PEFT: LoRA on a model with sparse attention, and an attention that comes back with its adapter."""

from .hooks import install, set_attention, stored_entry
from .lora import add_lora, lora_targets

__all__ = ["add_lora", "install", "lora_targets", "set_attention", "stored_entry"]
