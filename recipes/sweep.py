"""Run a grid of trainings, several side by side, and keep a line of each run and of each evaluation.

    python recipes/sweep.py recipes/configs/paper_cpu.yaml --workers 2

The code is in ``hf_semfocus/cli/sweep.py``; ``semfocus sweep`` starts it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("sweep")
