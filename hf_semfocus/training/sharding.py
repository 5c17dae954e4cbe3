"""What models that are sharded over processes need beyond ``accelerator.prepare``: FSDP2, and DeepSpeed's ZeRO.

Everything here does nothing for a model that every process holds whole.
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import PreTrainedModel

from .options import TrainingOptions


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Have FSDP really shard on a CPU, where Accelerate 1.15 replicates without a word."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true" or accelerator.device.type != "cpu":
        return
    # each later AcceleratorState() copies the type from PartialState
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()  # reads what the launcher set
    if accelerator.mixed_precision != "no":
        accelerator.state.fsdp_plugin.set_mixed_precision(accelerator.mixed_precision)


def prepare_sharding(accelerator: Accelerator, model: PreTrainedModel, options: TrainingOptions) -> None:
    """Tell the plugin about the model that is prepared next.

    Raises:
        ValueError: accumulation under DeepSpeed, which would take a step for every part.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        if options.gradient_accumulation_steps > 1:
            number = options.gradient_accumulation_steps
            raise ValueError(f"gradient_accumulation_steps={number} does not work with DeepSpeed here; expected 1")
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        # it asks for a number where it is given no data loader; batches are made by the loop
        config["train_micro_batch_size_per_gpu"] = 1
        config["gradient_clipping"] = options.max_grad_norm
    elif accelerator.is_fsdp2:
        plugin, embedding = accelerator.state.fsdp_plugin, model.get_input_embeddings()
        # Accelerate keeps the blocks of the first model it saw, and would shard BERT's embedding after its parent
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted(
            {
                type(module).__name__
                for module in model.modules()
                if type(module).__name__ in (model._no_split_modules or ())
                and not any(part is embedding for part in module.modules())
            }
        )
        if accelerator.mixed_precision == "bf16":  # sums and logits stay as exact as without sharding
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else torch.as_tensor(tensor)


def layout(accelerator: Accelerator) -> str:
    """How a model's state is spread, which decides what can read a checkpoint of it."""
    kinds = {DistributedType.FSDP: "FSDP", DistributedType.DEEPSPEED: "DeepSpeed"}
    return kinds.get(accelerator.distributed_type, "replicated")
