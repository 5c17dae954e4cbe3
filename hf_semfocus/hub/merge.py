"""Update an existing card: its generated part is replaced, and what people wrote is kept.

Text outside of two marker comments is kept. Of the metadata, tags, datasets and metrics are united, evaluation results
of ours are replaced, and any other value on the Hub takes precedence over a given one.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..mechanisms import names

BEGIN = "<!-- hf_semfocus:begin -->"
END = "<!-- hf_semfocus:end -->"
UNITED = ("tags", "datasets", "metrics")
OURS = "attention"
"""Key in an evaluation result's ``metric_args`` that marks ours."""


@dataclass(frozen=True)
class Existing:
    """The parts of the README on the Hub; empty if there is none."""

    head: str
    data: dict[str, Any]
    text: str
    line_end: str

    @property
    def generated(self) -> str:
        """Its generated part, or an empty string."""
        return self.text.partition(BEGIN)[2].partition(END)[0]

    def metadata(self, new: ModelCardData, given: Collection[str]) -> ModelCardData:
        """Its metadata, updated with the newly generated ones; warns where it takes precedence over a given value."""
        card = ModelCardData(**self.data)
        results = [result for result in card.eval_results or [] if OURS not in (result.metric_args or {})]
        results += new.eval_results or []
        for key, value in new.to_dict().items():
            there = card.get(key)
            if key in UNITED:
                kept = [item for item in _as_list(there) if key != "tags" or item not in names()]
                united = list(dict.fromkeys([*kept, *value]))
                card[key] = there if set(united) == set(_as_list(there)) else united
            elif there is None and key != "model-index":
                card[key] = value
            elif _as_list(there) != _as_list(value) and key in given:
                warnings.warn(f"{key}: the card on the Hub says {there!r}, kept; {value!r} was given", stacklevel=2)
        card.eval_results = results or None
        card.model_name = (card.model_name or new.model_name) if results else None
        return card

    def join(self, data: ModelCardData, generated: str) -> str:
        """The README to publish, from merged metadata and a newly generated part.

        Raises:
            ValueError: the markers in the existing text are incomplete.
        """
        head = self.head  # kept with its comments and quotes if the metadata are the same
        if data.to_dict() != ModelCardData(**self.data).to_dict():
            head = self.line_end.join(("---", data.to_yaml(self.line_end, list(self.data)), "---", ""))
        part = generated.strip("\n").replace("\n", self.line_end)
        counts = self.text.count(BEGIN), self.text.count(END)
        if counts == (0, 0):
            return f"{head}{self.text.rstrip()}{self.line_end * (2 if self.text.strip() else 1)}{part}{self.line_end}"
        start, end = self.text.find(BEGIN), self.text.find(END)
        if counts != (1, 1) or end < start:
            raise ValueError(
                f"the README.md on the Hub has {counts[0]} {BEGIN} and {counts[1]} {END}; expected one of each "
                "in this order, around the generated part, or none"
            )
        return head + self.text[:start] + part + self.text[end + len(END) :]


def read(readme: str | None) -> Existing:
    """Split a README into its parts.

    Raises:
        ValueError: its metadata cannot be read.
    """
    readme = (readme or "").removeprefix("\ufeff")
    found = REGEX_YAML_BLOCK.search(readme)
    try:
        data = dict((yaml.safe_load(found.group(2)) if found else None) or {})
        if isinstance(data.get("tags"), str):
            data["tags"] = [data["tags"]]
        if data.get("language") is False:  # YAML reads Norwegian, "no", as False
            data["language"] = "no"
        ModelCardData(**data)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the metadata of the README.md on the Hub cannot be read ({reason}); fix it there"
        ) from error
    head, text = (found.group(0), readme[found.end() :]) if found else ("", readme)
    return Existing(head, data, text, "\r\n" if "\r\n" in readme else "\n")


def check_markers(generated: str) -> None:
    """Refuse a generated part that contains a marker.

    Raises:
        ValueError: a given value holds one of the markers.
    """
    if generated.count(BEGIN) != 1 or generated.count(END) != 1:
        raise ValueError(f"something given for the card holds {BEGIN} or {END}, which mark its generated part")


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
