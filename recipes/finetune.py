"""Fine-tune a checkpoint, the same but for its attention, and see what the attention costs or gains.

    accelerate launch recipes/finetune.py --model CHECKPOINT --dataset reviews.csv --attention sdpa topk_sparse:k=8

The code is in ``hf_semfocus/cli/finetune.py``; ``semfocus finetune`` starts it without a checkout.
"""

from hf_semfocus.cli.command import start

if __name__ == "__main__":
    start("finetune")
