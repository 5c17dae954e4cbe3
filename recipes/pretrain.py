"""Train models from scratch that differ only in their attention, and compare how fast they learn.

    accelerate launch recipes/pretrain.py --task parity --attention sdpa topk_sparse:k=5 --seeds 1 2 3

The code is in ``hf_semfocus/cli/pretrain.py``; ``semfocus pretrain`` runs it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("pretrain")
