"""Kinds of models: one entry each, with its names on the command line, in Transformers, PEFT and the Hub.

Training a kind also needs an objective of the same name in ``training.OBJECTIVES``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers


@dataclass(frozen=True)
class Kind:
    """A kind of model, such as a causal language model.

    Attributes:
        name: in this library.
        loader: the Auto class of Transformers that builds and loads such models.
        peft: PEFT's task type; None where PEFT has none.
        tag: the Hub's pipeline tag; None where the class does not determine it.
        task: name on the command line, for kinds that the commands train.
    """

    name: str
    loader: str
    peft: str | None = None
    tag: str | None = None
    task: str | None = None

    @property
    def auto(self) -> Any:
        """The Auto class itself."""
        return getattr(transformers, self.loader)

    def classes(self, config: transformers.PreTrainedConfig) -> tuple[type, ...]:
        """The model classes of this kind for a configuration; empty if its family has none."""
        found = self.auto._model_mapping.get(type(config), ())
        return tuple(found) if isinstance(found, list | tuple) else (found,)


KINDS = (
    Kind("classification", "AutoModelForSequenceClassification", "SEQ_CLS", "text-classification", "sequence"),
    Kind("token_classification", "AutoModelForTokenClassification", "TOKEN_CLS", "token-classification", "token"),
    Kind("causal_lm", "AutoModelForCausalLM", "CAUSAL_LM", "text-generation", "clm"),
    Kind("question_answering", "AutoModelForQuestionAnswering", "QUESTION_ANS", "question-answering"),
    Kind("masked_lm", "AutoModelForMaskedLM", None, "fill-mask", "mlm"),
    Kind("seq2seq_lm", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    Kind("image_classification", "AutoModelForImageClassification", None, "image-classification"),
    Kind("features", "AutoModel", "FEATURE_EXTRACTION", "feature-extraction"),
)
"""Every kind; for a class that serves two, the first counts."""


def get(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ValueError: there is none.
    """
    return _find("kind", name, "name")


def of_task(task: str) -> Kind:
    """The kind that a command-line task trains.

    Raises:
        ValueError: there is none.
    """
    return _find("task", task, "task")


def of_class(config: transformers.PreTrainedConfig) -> Kind | None:
    """The kind of the model class that a checkpoint's configuration names; None if it names none of them."""
    named = set(config.architectures or ())
    return next((kind for kind in KINDS if named & {cls.__name__ for cls in kind.classes(config)}), None)


def _find(what: str, value: str, field: str) -> Kind:
    known = {getattr(kind, field): kind for kind in KINDS if getattr(kind, field) is not None}
    if value not in known:
        raise ValueError(f"{what}={value!r}; expected one of {', '.join(known)}")
    return known[value]
