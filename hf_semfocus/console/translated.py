"""Names of this package's options for those of Transformers' scripts and ``TrainingArguments``."""

from __future__ import annotations

from collections.abc import Collection

TRANSLATED = {
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "train_batch_size": "batch_size",
    "model_name_or_path": "model",
    "model_name": "model",
    "model_type": "model",
    "tokenizer_name": "tokenizer",
    "dataset_name": "dataset",
    "dataset_config_name": "dataset_config",
    "train_file": "dataset",
    "validation_file": "dataset",
    "validation_split_percentage": "validation_fraction",
    "task_name": "task",
    "text_column_name": "text_columns text_column",
    "label_column_name": "label_column",
    "max_seq_length": "max_length block_size",
    "max_train_samples": "train_size",
    "max_eval_samples": "eval_size",
    "attn_implementation": "attention",
    "learning_rate_scheduler": "lr_scheduler",
    "lr_scheduler_type": "lr_scheduler",
    "lr": "learning_rate",
    "optim": "optimizer",
    "warmup_ratio": "warmup_steps",
    "bf16": "mixed_precision",
    "fp16": "mixed_precision",
    "seed": "seeds",
    "data_seed": "seeds",
    "resume_from_checkpoint": "resume",
    "eval_strategy": "eval_steps",
    "evaluation_strategy": "eval_steps",
    "save_strategy": "save_steps",
    "logging_strategy": "logging_steps",
    "metric_for_best_model": "best_by",
    "use_peft": "peft",
    "lora_target": "lora_target_modules",
    "hub_private_repo": "hub_public",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
}
"""By Transformers' name; of several names here, those of the command at hand count."""

REMARKS = {
    "per_device_train_batch_size": "examples per step over all processes together",
    "per_device_eval_batch_size": "examples per step over all processes together",
    "train_file": "a file, or a folder with train and validation files",
    "validation_file": "a folder with train and validation files",
    "validation_split_percentage": "a share below 1",
    "warmup_ratio": "below 1 it is a share of the steps",
    "bf16": "with the value bf16",
    "fp16": "with the value fp16",
    "resume_from_checkpoint": "without a value, it finds the last one",
    "hub_private_repo": "repositories are private without it",
    "use_peft": "with the value lora",
}
"""Remarks where the value differs, too."""


def translated(name: str, names: Collection[str]) -> str | None:
    """The name here of an option of Transformers, for an error message; None if there is none."""
    here = [f"--{ours}" for ours in TRANSLATED.get(name, "").split() if ours in names]
    if not here:
        return None
    remark = f" ({REMARKS[name]})" if name in REMARKS else ""
    return f"here it is {' or '.join(here)}{remark}"
