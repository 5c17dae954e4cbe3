"""Run a grid of trainings, several in parallel, and store a line per run and per evaluation.

    python recipes/sweep.py recipes/configs/paper_cpu.yaml --workers 2

The code is in ``hf_semfocus/cli/sweep.py``; ``semfocus sweep`` runs it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("sweep")
