"""The command ``semfocus``: a subcommand and its options.

The scripts in ``recipes/`` start the same code, and so does ``python -m hf_semfocus.cli``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from ..console import one_line_errors

COMMANDS = {
    "pretrain": "train models from scratch that differ only in their attention",
    "finetune": "fine-tune a checkpoint with different attentions",
    "compare": "swap the attention of a model on a text: perplexity, time and a verdict",
    "sweep": "run a grid of trainings in parallel, each once",
    "results": "write a page about all grids and their results",
    "analyze": "measure whether the paper's explanation holds of models, and write a page",
    "bench": "measure the attention of this package against others",
    "env": "show versions, hardware and backends, for an issue",
}
"""Modules of ``hf_semfocus.cli`` and what they do."""
RESUMED = ("pretrain", "finetune")
"""Commands with --resume."""
INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main(args: Sequence[str] | None = None) -> None:
    """Start the command that the first argument names.

    Args:
        args: a command and its options; by default those of the process.
    """
    name, *rest = [*(sys.argv[1:] if args is None else args)] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name in COMMANDS:
        sys.argv = [f"semfocus {name}", *rest]
        start(name)
    else:
        print(f"semfocus: error: {name!r} is not a command; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def start(name: str) -> None:
    """Run a command with the options of the process; user errors and interruptions end it with one line."""
    try:
        command = import_module(f"{__package__}.{name}")
    except KeyboardInterrupt:  # while importing
        sys.exit(INTERRUPTED)
    _hide_bars_of_weights()
    with one_line_errors(resumes=name in RESUMED):
        command.main()


def _hide_bars_of_weights() -> None:
    """Hide Transformers' progress of loading and saving weights; that of downloads stays."""
    downloads = not are_progress_bars_disabled()
    disable_progress_bar()
    if downloads:
        enable_progress_bars()


def usage() -> str:
    """The help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: semfocus COMMAND [OPTIONS]",
            "",
            "Sparse attention for Transformers models, and experiments with it (hf_semfocus).",
            "",
            *lines,
            "",
            "semfocus COMMAND --help lists its options. On several processes, GPUs or machines:",
            "accelerate launch -m hf_semfocus.cli COMMAND [OPTIONS]",
        ]
    )
