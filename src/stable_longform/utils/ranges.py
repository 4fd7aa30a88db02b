"""Ranges of options and arguments, described and checked; checks of single values."""

import math
import numbers
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 10
_SHORT.maxlevel = 3


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `Range(0, 10, above=True)` is (0, 10], `below` likewise.

    Args:
        low: the lower bound.
        high: the upper bound, finite or not; infinity itself is never accepted.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
        multiple_of: whole numbers must be a multiple of it.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    multiple_of: int = 1

    def __str__(self) -> str:
        multiple = "" if self.multiple_of == 1 else f", a multiple of {self.multiple_of}"
        if self.high == math.inf:
            return f"{'greater than' if self.above else 'at least'} {_text(self.low)} and finite{multiple}"
        first, last = "(" if self.above else "[", ")" if self.below else "]"
        return f"in {first}{_text(self.low)}, {_text(self.high)}{last}{multiple}"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        if value != value or value in (math.inf, -math.inf):  # `math.isfinite` raises for the largest integers
            return False
        number = cast(float, value)
        is_above = number > self.low if self.above else number >= self.low
        is_below = number < self.high if self.below else number <= self.high
        return is_above and is_below and (self.multiple_of == 1 or number % self.multiple_of == 0)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Checks a finite number in [`low`, `high`]; it may be Python's, numpy's or torch's."""
    if getattr(value, "ndim", None) == 0:
        try:
            value = value.item()
        except RuntimeError as error:  # such as one on the meta device
            raise ValueError(f"{name} must be a number, got a tensor without a value.") from error
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be finite, got an integer that is too large.") from error
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}.")
    if not low <= number <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value}.")
    return number


def as_list(name: str, values: Any) -> Any:
    """The numbers of an array or tensor as a list; anything else is returned unchanged.

    Raises:
        ValueError: a tensor is sparse, nested or without values.
    """
    if not hasattr(values, "tolist"):
        return values
    try:
        return values.tolist()
    except RuntimeError as error:
        raise ValueError(f"{name} must be numbers, got a tensor that is not dense or has no values.") from error


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """Checks that a word is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    return value


def shown(value: object) -> str:
    """A value as it stands in a message: its `repr`, cut where it is long or nested deeply."""
    return _SHORT.repr(value)


def _text(number: float) -> str:
    """A bound as text: large powers of ten and two are written as powers."""
    if abs(number) < 10**5:
        return f"{number:g}"
    sign, size = "-" if number < 0 else "", abs(number)
    tens, twos = round(math.log10(size)), round(math.log2(size))
    if size == 10**tens:
        return f"{sign}10^{tens}"
    return f"{sign}2^{twos}" if size == 2**twos else f"2^{twos} - 1" if number == 2**twos - 1 else str(number)
