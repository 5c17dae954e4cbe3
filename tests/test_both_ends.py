"""The script that runs the tests at both ends of what pyproject.toml allows asks pip for those ends."""

import pytest
from packaging.requirements import Requirement

pytest.importorskip("tomllib", reason="the script needs Python 3.11")
import both_ends


def test_the_oldest_is_any_patch_release_of_the_lower_bound():
    assert both_ends.oldest(Requirement("a>=1.2,<3")) == "a==1.2.*"
    assert both_ends.oldest(Requirement("b>=0.4.6,<0.5")) == "b==0.4.6"


def test_both_ends_name_every_dependency():
    for end in ("oldest", "newest"):
        names = {Requirement(line).name for line in both_ends.wanted(end)}
        assert names == {"torch", "transformers", "accelerate", "datasets", "evaluate", "peft"}
