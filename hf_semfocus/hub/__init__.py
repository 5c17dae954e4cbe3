"""Publish on the Hugging Face Hub: a model that is loaded sparse, and a card with its results."""

from ..adapters.loading import load_adapter
from ..hub_client import HubError
from .card import model_card
from .details import CardDetails
from .publish import Published, push_to_hub
from .results import Result, from_runs

__all__ = [
    "CardDetails",
    "HubError",
    "Published",
    "Result",
    "from_runs",
    "load_adapter",
    "model_card",
    "push_to_hub",
]
