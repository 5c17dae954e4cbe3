"""Fine-tune a checkpoint with different attentions, and compare the results.

    accelerate launch recipes/finetune.py --model CHECKPOINT --dataset reviews.csv --attention sdpa topk_sparse:k=8

The code is in ``hf_semfocus/cli/finetune.py``; ``semfocus finetune`` runs it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("finetune")
