"""Ranges in words, and what is in them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_longform.utils.ranges import Range


@pytest.mark.parametrize(
    "accepted, text",
    [
        (Range(0, 1), "in [0, 1]"),
        (Range(0, 1, below=True), "in [0, 1)"),
        (Range(0, 10, above=True), "in (0, 10]"),
        (Range(1), "at least 1 and finite"),
        (Range(0, above=True), "greater than 0 and finite"),
        (Range(1, 10**9), "in [1, 10^9]"),
        (Range(-(2.0**40), 2**20), "in [-2^40, 2^20]"),
        (Range(0, 2**63 - 1), "in [0, 2^63 - 1]"),
        (Range(16, 123456, multiple_of=4), "in [16, 123456], a multiple of 4"),
    ],
)
def test_ranges_in_words(accepted, text):
    assert str(accepted) == text


@given(st.floats(), st.booleans(), st.booleans())
def test_what_is_in_a_range(value, above, below):
    expected = (value > -2 if above else value >= -2) and (value < 3 if below else value <= 3)
    assert (value in Range(-2, 3, above, below)) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None, [1]])
def test_what_is_in_no_range(value):
    assert value not in Range(-math.inf)


def test_whole_numbers_beyond_floats_and_of_numpy():
    assert 2**63 - 1 in Range(0, 2**63 - 1) and 2**63 not in Range(0, 2**63 - 1)
    assert np.int64(3) in Range(0, 4) and np.float32(0.5) in Range(0, 1)
    assert 12 in Range(0, 100, multiple_of=4) and 14 not in Range(0, 100, multiple_of=4)
