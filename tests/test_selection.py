"""Exact top-k with ties, in both its forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_semfocus.attention.selection import highest, highest_index


def brute_force(row, allowed, k):
    columns = [j for j in range(len(row)) if allowed[j]]
    return set(sorted(columns, key=lambda j: (row[j], j), reverse=True)[:k])


def as_mask(index, kept, keys):
    assert ((index >= 0) & (index < keys)).all()
    return torch.zeros(*index.shape[:-1], keys).scatter_add(-1, index, kept.float())


@settings(max_examples=200)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.5]), min_size=7, max_size=7), min_size=1, max_size=4
    ),
    bits=st.integers(0, 2**28 - 1),
    k=st.integers(1, 9),
)
def test_ties_go_to_the_later_key(rows, bits, k):
    priority = torch.tensor(rows)
    allowed = torch.tensor([[bool(bits >> (7 * i + j) & 1) for j in range(7)] for i in range(len(rows))])
    mask = highest(priority, allowed, k)
    counted = as_mask(*highest_index(priority, allowed, k), 7)
    for i in range(len(rows)):
        wanted = brute_force(rows[i], allowed[i], k)
        assert set(mask[i].nonzero().flatten().tolist()) == wanted
        assert set((counted[i] == 1).nonzero().flatten().tolist()) == wanted
        assert counted[i].sum() == len(wanted)


def test_the_choice_does_not_depend_on_where_the_allowed_keys_lie():
    priority = torch.randint(0, 2, (50, 6)).float()
    plain = highest(priority, torch.ones(50, 6, dtype=torch.bool), 3)
    columns = [1, 2, 5, 6, 9, 10]
    wide = torch.randint(0, 2, (50, 12)).float().index_copy(1, torch.tensor(columns), priority)
    allowed = torch.zeros(50, 12, dtype=torch.bool)
    allowed[:, columns] = True
    assert torch.equal(highest(wide, allowed, 3)[:, columns], plain)
    assert torch.equal(as_mask(*highest_index(wide, allowed, 3), 12)[:, columns] == 1, plain)


@pytest.mark.parametrize("column", [0, 3])
def test_nan_is_kept_so_that_it_shows(column):
    priority = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    priority[0, column] = torch.nan
    allowed = torch.ones_like(priority, dtype=torch.bool)
    assert highest(priority, allowed, 2)[0, column]
    index, kept = highest_index(priority, allowed, 2)
    assert column in index[kept].tolist()
