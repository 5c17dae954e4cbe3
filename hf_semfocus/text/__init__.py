"""Text for models of language: documents, tokenizers, rows, and the objectives that train on them.

    documents = load_text("embedded", "train")
    tokenizer = train_tokenizer(documents, vocab_size=4096)
    rows = CausalRows(pack(documents, tokenizer, block_size=256))
    train(..., train_rows=rows, objective=causal_lm)

No token of one document ever sees or predicts a token of another. Texts with labels, for classifiers:

    data = load_labelled("reviews.csv")
    train(..., train_rows=LabelledRows(data.train, tokenizer, max_length=256))
    data = load_labelled("names.jsonl", kind="token")
    train(..., train_rows=TaggedRows(data.train, tokenizer), objective=token_classification)
"""

from .corpus import load_text
from .labelled import Labelled, load_labelled
from .masking import MaskedRows
from .objectives import causal_lm, masked_lm, token_classification
from .packing import pack
from .rows import CausalRows, TokenRows
from .tokenized import LabelledRows, TaggedRows
from .tokenizer import load_tokenizer, train_tokenizer

__all__ = [
    "CausalRows",
    "Labelled",
    "LabelledRows",
    "MaskedRows",
    "TaggedRows",
    "TokenRows",
    "causal_lm",
    "load_labelled",
    "load_text",
    "load_tokenizer",
    "masked_lm",
    "pack",
    "token_classification",
    "train_tokenizer",
]
