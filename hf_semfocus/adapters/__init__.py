"""Adapters of PEFT: LoRA on a model with sparse attention, and an attention that comes back with its adapter."""

from .hooks import install, kept, set_attention
from .lora import add_lora, lora_targets

__all__ = ["add_lora", "install", "kept", "lora_targets", "set_attention"]
