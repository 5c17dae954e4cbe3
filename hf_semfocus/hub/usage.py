"""The usage example of a card: code that loads the model and calls it."""

from __future__ import annotations

from typing import Any

from .describe import Description

TOKENS = 'tokenizer("The quick brown fox", return_tensors="pt")'


def usage(model: Description, repo_id: str, base_model: Any, tokenizer: bool) -> str:
    """Python that loads the model from the Hub and calls it once.

    Args:
        model: the model.
        repo_id: its repository.
        base_model: Hub name of an adapter's base model; None if unknown.
        tokenizer: whether one was published with it.
    """
    lines = ["import hf_semfocus.models" if model.ours else "import hf_semfocus"]
    by_id = isinstance(base_model, str)
    imports = {"transformers": ["AutoTokenizer"] if tokenizer else []}
    if not model.adapter or not by_id:
        imports.setdefault(model.package, []).append(model.loader)
    lines += [f"from {package} import {', '.join(sorted(names))}" for package, names in imports.items() if names]
    lines += [""]
    if not model.adapter:
        lines += [f'model = {model.loader}.from_pretrained("{repo_id}")']
    elif by_id:
        lines += [f'model = hf_semfocus.load_adapter("{repo_id}")']
    else:
        classes = "" if model.num_labels is None else f", num_labels={model.num_labels}"
        lines += [f'base = {model.loader}.from_pretrained("..."{classes})  # which one is not given']
        lines += [f'model = hf_semfocus.load_adapter("{repo_id}", base)']
    if tokenizer:
        lines += [f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")', f"inputs = {TOKENS}"]
        generates = model.kind is not None and model.kind.name in ("causal_lm", "seq2seq_lm")
        answer = "tokenizer.decode(model.generate(**inputs, max_new_tokens=5)[0])" if generates else "model(**inputs)"
        lines += [f"print({answer})"]
    return "\n".join(lines)
