"""What every bad input must end in: one line that says what is wrong."""

from collections.abc import Callable

import pytest


def refused(function: Callable, *named: str) -> str:
    """Calls a function that must raise a ValueError or OSError of one line in which all the texts occur."""
    with pytest.raises((ValueError, OSError)) as caught:
        function()
    message = str(caught.value)
    assert message.strip() and "\n" not in message, message
    assert len(message) < 1000, message
    assert [text for text in named if text not in message] == [], message
    return message
