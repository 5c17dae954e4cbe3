"""Measure attention: is it right, how long does it take, and how much memory, beside PyTorch's own and others'.

    python recipes/bench.py --quick

The code is in ``hf_semfocus/cli/bench.py``; ``semfocus bench`` starts it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("bench")
