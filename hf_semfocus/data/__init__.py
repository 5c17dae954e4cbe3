"""Training data: documents, tokenizers, rows and batches, and the paper's tasks (:mod:`.tasks`).

    documents = load_text("embedded", "train")
    tokenizer = train_tokenizer(documents, vocab_size=4096)
    rows = CausalRows(pack(documents, tokenizer, block_size=256))
    train(..., train_rows=rows, objective=causal_lm)

No token of one document ever sees or predicts a token of another. Texts with labels, for classifiers:

    data = load_labeled("reviews.csv")
    train(..., train_rows=LabeledRows(data.train, tokenizer, max_length=256))
    data = load_labeled("names.jsonl", kind="token")
    train(..., train_rows=TaggedRows(data.train, tokenizer), objective=token_classification)
"""

from ..lazy import lazy_imports

# imported on first use: most need ``datasets``, which tasks and batches do not
_LAZY = {
    "CausalRows": "packed",
    "Labeled": "sources.labeled",
    "LabeledRows": "tokenized",
    "MaskedRows": "masking",
    "SequenceRows": "rows",
    "TaggedRows": "tokenized",
    "TokenRows": "rows",
    "load_labeled": "sources.labeled",
    "load_text": "sources.corpus",
    "load_tokenizer": "tokenizer",
    "pack": "packing",
    "train_tokenizer": "tokenizer",
}
__all__ = list(_LAZY)

__getattr__, __dir__ = lazy_imports(__name__, _LAZY)
