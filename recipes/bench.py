"""Measure attention: correctness, time and memory, against PyTorch's attention and other libraries.

    python recipes/bench.py --quick

The code is in ``hf_semfocus/cli/bench.py``; ``semfocus bench`` runs it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("bench")
