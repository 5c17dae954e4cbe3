"""Rows in memory for the training loop: tokenized texts with a label each, or a label per word.

Word labels follow Transformers' convention: a word's label is at its first token, and -100 everywhere else.
"""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .rows import IGNORED, PaddedRows, joined, lengths_of

_ROWS_AT_ONCE = 1024


class TokenizedRows(PaddedRows):
    """Tokenized examples; a batch is padded on the right, whatever the tokenizer would do.

    Text that spells a special token is tokenized as text.

    Args:
        dataset: a split of ``load_labeled``.
        tokenizer: adds its special tokens; its ``pad_token``, or else its ``eos_token``, is the padding.
        max_length: most tokens of an example, special ones included; longer ones are truncated. None: no limit.

    Attributes:
        truncated: number of truncated examples.
        longest: tokens of the longest example.

    Raises:
        ValueError: no examples, one without tokens, no token to pad with, or a ``max_length`` without room for text.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None):
        padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if padding is None:
            raise ValueError(f"{type(tokenizer).__name__} has no pad_token and no eos_token; expected one to pad with")
        if not len(dataset):
            raise ValueError("there are 0 examples; expected at least one")
        special = tokenizer.num_special_tokens_to_add(pair="text_pair" in dataset.column_names)
        if max_length is not None and (not isinstance(max_length, int) or max_length <= special):
            raise ValueError(
                f"max_length={max_length!r}; expected an integer above {special}, the special tokens of an example"
            )
        self.tokenizer, self.truncated = tokenizer, 0
        lengths: list[np.ndarray] = []
        parts: dict[str, list[np.ndarray]] = {}
        for examples in dataset.iter(_ROWS_AT_ONCE):
            encoded = self._encode(examples)
            self._cut(encoded, examples, max_length)
            lengths.append(lengths_of(encoded["input_ids"]))
            for name, lines in encoded.items():
                parts.setdefault(name, []).append(joined(lines))
        super().__init__(
            {name: np.concatenate(arrays) for name, arrays in parts.items()},
            np.concatenate(lengths),
            {"input_ids": padding, "token_type_ids": tokenizer.pad_token_type_id, "labels": IGNORED},
            weights=np.ones(len(dataset), np.int64),
        )
        if not self.lengths.all():
            row = int(self.lengths.argmin())
            raise ValueError(f"example {row + 1}, {short(dataset[row])}, has no tokens; expected at least one")
        self.longest = int(self.lengths.max())

    def _encode(self, examples: dict[str, list[Any]], **options: Any) -> dict[str, list[list[int]]]:
        """The columns of the examples' tokens; ``options`` are those of the tokenizer."""
        raise NotImplementedError

    def _cut(
        self, encoded: dict[str, list[list[int]]], examples: dict[str, list[Any]], max_length: int | None
    ) -> None:
        """Encode the examples that are too long again, in place."""
        long = [
            row for row, ids in enumerate(encoded["input_ids"]) if max_length is not None and len(ids) > max_length
        ]
        if long:
            chosen = {name: [column[row] for row in long] for name, column in examples.items()}
            for name, lines in self._encode(chosen, truncation=True, max_length=max_length).items():
                for row, line in zip(long, lines, strict=True):
                    encoded[name][row] = line
        self.truncated += len(long)

    def _tokenize(self, *texts: list[Any], **options: Any) -> Any:
        return self.tokenizer(
            *texts, split_special_tokens=True, return_attention_mask=False, padding=False, verbose=False, **options
        )


class LabeledRows(TokenizedRows):
    """Texts or pairs of texts with a class each; units are examples.

    Args:
        dataset: columns "text", for pairs "text_pair", and "label".
        tokenizer, max_length: see ``TokenizedRows``; in pairs, the longer text is truncated.

    Raises:
        ValueError: as ``TokenizedRows``.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None):
        super().__init__(dataset, tokenizer, max_length)
        self.labels = np.array(dataset["label"][:], np.int64)

    def _encode(self, examples: dict[str, list[Any]], **options: Any) -> dict[str, list[list[int]]]:
        texts = [examples[name] for name in ("text", "text_pair") if name in examples]
        return dict(self._tokenize(*texts, **options))


class TaggedRows(TokenizedRows):
    """Texts as words with a class each; units are the words with tokens that were not truncated.

    Words are tokenized as in a text with spaces between them if the tokenizer needs it.

    Args:
        dataset: columns "words" and "labels".
        tokenizer, max_length: see ``TokenizedRows``.

    Raises:
        ValueError: as ``TokenizedRows``; a tokenizer that cannot tell words apart, or an example without any label.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None):
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} cannot say which word a token is of; expected a fast tokenizer"
            )
        self.spaced = _needs_spaces(tokenizer)
        super().__init__(dataset, tokenizer, max_length)
        self.weights = np.add.reduceat(self.columns["labels"] != IGNORED, self.starts, dtype=np.int64)
        if not self.weights.all():
            row = int(self.weights.argmin())
            words = short(dataset[row]["words"])
            raise ValueError(f"example {row + 1}, words {words}, has no labeled token; expected at least one")

    def _encode(self, examples: dict[str, list[Any]], **options: Any) -> dict[str, list[list[int]]]:
        words = [_with_spaces(line) for line in examples["words"]] if self.spaced else examples["words"]
        encoded = self._tokenize(words, is_split_into_words=True, **options)
        labels = [_at_first_tokens(encoded.word_ids(i), line) for i, line in enumerate(examples["labels"])]
        return {**encoded, "labels": labels}


def _at_first_tokens(words: list[int | None], labels: list[int]) -> list[int]:
    """Token labels from the word of every token: the word's label at its first token."""
    before = [None, *words[:-1]]
    return [
        IGNORED if word is None or word == last else labels[word] for word, last in zip(words, before, strict=True)
    ]


def _needs_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words need a preceding space to be tokenized as in a text, as in byte-level BPE."""
    text, bare, spaced = (
        tokenizer(words, is_split_into_words=not isinstance(words, str), add_special_tokens=False)["input_ids"]
        for words in ("a a", ["a", "a"], ["a", " a"])
    )
    return text != bare and text == spaced


def _with_spaces(words: list[str]) -> list[str]:
    return words[:1] + [f" {word}" if word else word for word in words[1:]]
