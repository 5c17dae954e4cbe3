"""``python -m hf_semfocus.lm_eval ...``: lm-evaluation-harness, with the attentions of this package as names."""

from __future__ import annotations

from collections.abc import Callable

from .console import one_line_errors


def main() -> None:
    """Start the command line of the harness with the arguments of the process."""
    with one_line_errors():
        _harness()()


def _harness() -> Callable[[], None]:
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise RuntimeError("lm-evaluation-harness is not installed; pip install 'hf_semfocus[lm_eval]'") from None
    return cli_evaluate


if __name__ == "__main__":
    main()
