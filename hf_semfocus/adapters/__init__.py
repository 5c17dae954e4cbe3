"""PEFT adapters: LoRA on a model with sparse attention, and saving the attention with the adapter."""

from .applying import set_attention
from .hooks import install, stored_entry
from .lora import add_lora, lora_targets

__all__ = ["add_lora", "install", "lora_targets", "set_attention", "stored_entry"]
