import math

import pytest

from stable_longform.utils.ranges import Range
from stable_longform.utils.timecodes import format_seconds, parse_region, parse_seconds, parse_sections

HOUR = Range(0, 3600)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1:30", 90), ("1:02:30.5", 3750.5), (7.25, 7.25)])
def test_a_time_is_a_number_or_a_clock(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "1:60", "1:-5", "1:2:3:4", "nan", "inf", "-1", "1:nan", "-0", "-0:30", "-0:00:01"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="seconds"):
        parse_seconds(text, HOUR)


@pytest.mark.parametrize("seconds", [0, 7, 59, 60, 90, 599, 3599, 3600, 3750])
def test_clock_and_back(seconds):
    assert parse_seconds(format_seconds(seconds), HOUR if seconds <= 3600 else Range(0, math.inf)) == seconds


def test_regions():
    assert parse_region("0:10-0:12.5", HOUR) == (10, 12.5)
    for text in ("10", "10-", "-10", "10-x", "0-2:00:00"):
        with pytest.raises(ValueError, match=r"must be|neither"):
            parse_region(text, HOUR)


def test_sections_name_the_line_that_is_wrong():
    text = "0 intro\n\n 0:30\tchorus,  full band \n1:00\n"
    assert parse_sections(text, "x") == [[0, "intro"], [30, "chorus,  full band"], [60, ""]]
    with pytest.raises(ValueError, match="songs.txt, line 2: 'then' is neither"):
        parse_sections("0 intro\nthen chorus", "songs.txt")
