"""Parses times as people write them: `90` and `1:30`, regions `0:10-0:15`, and sections with their starts."""

from stable_longform.utils.ranges import Range

SECONDS = Range(0.001, 1e6)  # of music; at least one sample at any common rate
STARTS = Range(0, 1e6)  # of sections, in seconds


def parse_seconds(text: str | float, accepted: Range = SECONDS) -> float:
    """Parses seconds, `90`, or a time code, `1:30` or `1:02:30.5`.

    Raises:
        ValueError: the text is neither, or out of range.
    """
    try:
        parts = [float(part) for part in str(text).split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(not 0 <= part < 60 for part in parts[1:]):
        raise ValueError(f"{text!r} is neither a number of seconds nor minutes and seconds as 4:45.")
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + part
    if seconds not in accepted or str(text).strip().startswith("-"):  # -0:30 is not 0:30
        raise ValueError(f"must be a number of seconds {accepted}, got {text!r}.")
    return seconds


def format_seconds(seconds: float) -> str:
    """Formats seconds as a time code, rounded to whole seconds: `0:07`, `1:30`, `1:02:30`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def parse_region(text: str, accepted: Range) -> tuple[float, float]:
    """Parses a region such as `0:10-0:15` to seconds.

    Raises:
        ValueError: the text does not have two times, or one is out of range.
    """
    start, dash, stop = text.partition("-")
    if not (dash and start.strip() and stop.strip()):
        raise ValueError(f"must be START-STOP, as 0:10-0:15, got {text!r}.")
    return parse_seconds(start, accepted), parse_seconds(stop, accepted)


def parse_sections(text: str, source: str) -> list[list]:
    """Parses sections to `[start in seconds, prompt]`; each line is one section, such as `0:30 chorus, full band`.

    Args:
        text: blank lines are skipped.
        source: name of the text, for messages.

    Raises:
        ValueError: a line does not start with a time.
    """
    sections = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            start, *prompt = line.split(maxsplit=1)
            try:
                sections.append([parse_seconds(start, STARTS), "".join(prompt).strip()])
            except ValueError as error:
                raise ValueError(f"{source}, line {number}: {error}") from error
    return sections
