"""Measure whether the paper's explanation holds of models, dense beside sparse, and write one page about it.

    python recipes/analyze.py outputs/even_pairs-paper

The code is in ``hf_semfocus/cli/analyze.py``; ``semfocus analyze`` starts it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("analyze")
