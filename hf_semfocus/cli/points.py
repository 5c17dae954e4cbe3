"""What the commands check of a point of a grid: a single run, with an attention that there is."""

from __future__ import annotations

from transformers import AttentionInterface

from ..hf.settings import is_ours, resolve
from ..mechanisms import names
from ..messages import did_you_mean
from ..training import ComparisonOptions, FocusSchedule


def check_single(comparison: ComparisonOptions) -> None:
    """Refuse several runs, or an attention that there is not.

    Raises:
        ValueError: names the option.
    """
    if len(comparison.attention) != 1 or len(comparison.seeds) != 1:
        raise ValueError(f"attention={comparison.attention}, seeds={comparison.seeds}; expected one of each")
    for name in FocusSchedule.parse(comparison.attention[0]).names:
        if is_ours(name):
            resolve(name, None)
        elif name not in (known := ["eager", *AttentionInterface().valid_keys()]):
            raise ValueError(
                f"attention={name!r}{did_you_mean(name, [*names(), *known])}; expected an attention's name"
            )
