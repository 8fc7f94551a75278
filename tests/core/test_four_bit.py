"""4-bit codes are found where a matrix was stored with them, and nowhere else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.model.four_bit import GROUP, LEVELS, find_codes


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 8),
    groups=st.integers(1, 5),
    exponent=st.integers(-20, 20),
    shift=st.floats(0.0, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_the_codes_of_a_stored_matrix_come_back(
    seed: int, rows: int, groups: int, exponent: int, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(LEVELS, (rows, groups, GROUP), generator=generator)
    codes[..., 0], codes[..., 1] = 0, LEVELS - 1  # a quantiser spans what it stores
    steps = (torch.rand(rows, groups, generator=generator) + 0.1) * 2.0**exponent
    lows = -steps * (LEVELS - 1) * shift  # as weights do, the levels lie about zero
    stored = (codes * steps[..., None] + lows[..., None]).flatten(1)
    found = find_codes(stored.bfloat16())
    assert found is not None
    assert torch.equal(found.codes, codes.flatten(1).int())
    # rounding to bfloat16 is off by 2^-9 of the largest level, and the fit averages over a group
    assert ((found.steps - steps).abs() <= steps * 2**-8).all()
    assert ((found.weight() - stored).abs().amax(1) <= stored.abs().amax(1) * 2**-8).all()


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 8), groups=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_matrix_that_was_not_stored_so_has_no_codes(seed: int, rows: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, groups * GROUP, generator=generator)
    assert find_codes(weight.bfloat16()) is None


def test_one_group_without_levels_is_enough_to_refuse() -> None:
    weight = torch.arange(LEVELS).repeat(4, 4).bfloat16()
    assert find_codes(weight) is not None
    weight[3, 40] += 0.4
    assert find_codes(weight) is None


def test_equal_weights_are_one_level() -> None:
    weight = torch.full((2, 2 * GROUP), -3.0)
    weight[1] = 0.0
    found = find_codes(weight)
    assert found is not None
    assert torch.equal(found.weight(), weight)


def test_rows_that_groups_do_not_divide_have_no_codes() -> None:
    assert find_codes(torch.zeros(2, GROUP + 16)) is None
