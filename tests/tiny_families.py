"""Tiny models of four families, which attend sharply, so that every difference shows."""

import torch
from conftest import VOCABULARY, tiny_config
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel, T5Config

import hf_semfocus

AUTO = {
    "gpt2": AutoModelForCausalLM,
    "llama": AutoModelForCausalLM,
    "bert": AutoModelForMaskedLM,
    "t5": AutoModelForSeq2SeqLM,
}
FAMILIES = list(AUTO)
DECODERS = ["gpt2", "llama", "t5"]
EVERYTHING, SPARSE = "topk_sparse:k=99", "topk_sparse:k=3"
LENGTH, PADDING = 12, 4


def config(family: str, **changes):
    """A new configuration; LLaMA's has two heads of queries per head of keys."""
    if family != "t5":
        return tiny_config(family, **changes)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
    return T5Config(vocab_size=VOCABULARY, **sizes, **special, **changes)


def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    """The model with random weights that are large enough for uneven attention."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def build(family: str, attention: str | None, seed: int = 0, **changes) -> PreTrainedModel:
    """A model in evaluation mode; models of one family and seed have the same weights."""
    torch.manual_seed(seed)
    return sharpen(AUTO[family].from_config(config(family, **changes), attn_implementation=attention)).eval()


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    """Token ids without special ones."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def left_padded(ids: Tensor) -> Tensor:
    """A mask under which the first row starts later."""
    mask = torch.ones_like(ids)
    mask[0, :PADDING] = 0
    return mask


def inputs(family: str, labels: bool = False) -> dict[str, Tensor]:
    """Padded inputs of a forward pass; with ``labels`` it returns a loss."""
    ids = tokens()
    given = {"input_ids": ids, "attention_mask": left_padded(ids)}
    if labels:
        given["labels"] = ids
    elif family == "t5":
        given["decoder_input_ids"] = ids[:, :7]
    return given


def logits(model: PreTrainedModel, family: str) -> Tensor:
    """Of padded inputs, without gradients."""
    with torch.no_grad():
        return model(**inputs(family)).logits


def used(model: PreTrainedModel, family: str) -> set[str]:
    """The attentions that its layers use."""
    return set(hf_semfocus.verify(model, **inputs(family)).values())
