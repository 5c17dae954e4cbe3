"""One table of what models are for: its names are those of Transformers, PEFT and the training."""

import pytest
import transformers
from peft import TaskType

from hf_semfocus import kinds
from hf_semfocus.training import OBJECTIVES


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.name)
def test_names_are_those_of_others(kind):
    assert kind.auto is getattr(transformers, kind.loader)
    assert kind.peft is None or kind.peft in TaskType.__members__
    assert kinds.get(kind.name) is kind
    assert (kind.task is not None) == (kind.name in OBJECTIVES)


def test_classes_of_a_family():
    assert kinds.get("causal_lm").classes(transformers.GPT2Config()) == (transformers.GPT2LMHeadModel,)
    assert kinds.get("masked_lm").classes(transformers.GPT2Config()) == ()


def test_unknown():
    with pytest.raises(ValueError, match="kind='chat'; expected one of classification, token_classification"):
        kinds.get("chat")
    with pytest.raises(ValueError, match="task='chat'; expected one of sequence, token, clm, mlm"):
        kinds.of_task("chat")
