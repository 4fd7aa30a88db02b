"""Unusable recordings: they are detected, named in the log, counted, and limited in number.

| kind | what |
|---|---|
| broken | missing, cannot be decoded, cut off, not finite, more than two channels; a damaged tar or shard |
| too short | less than half a second |
| silent | below -60 dBFS wherever it was read |
| mislabelled | its metadata does not fit: a duration longer than the file, a sidecar that cannot be read |
| unsupported | of a format that libsndfile does not read, as m4a |
| repeated | another recording of the same name came before |

Other files that are left out have the kinds `IGNORED_KINDS`. They are counted and named, without a limit.

| kind | what |
|---|---|
| hidden | hidden files, and what macOS adds to folders and tars |
| stray | JSON or text that belongs to no recording |
| linked | a link to a folder that is read already |
| empty | a tar or a parquet file in which there is nothing |
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from stable_longform.utils.text_files import printable

logger = logging.getLogger(__name__)

Candidate = TypeVar("Candidate")
Item = TypeVar("Item")

KINDS = ("broken", "too short", "silent", "mislabelled", "unsupported", "repeated")
IGNORED_KINDS = ("hidden", "stray", "linked", "empty")
MAX_DRAWS = 20  # crops of a track until it counts as silent, and tracks for one item until a run is stopped
MAX_BAD_FRACTION = 0.01
MIN_TRIED = 100  # if the number of tracks is unknown, the share is relative to at least this many


class BadTrackError(ValueError):
    """A file is left out: its path, one of `KINDS` or `IGNORED_KINDS`, and the reason."""

    def __init__(self, path: Path, kind: str, detail: str):
        super().__init__(printable(f"{path}: {kind}: {detail}"))
        self.path, self.kind = path, kind


class DataError(ValueError):
    """The training cannot continue with its data. The message has one line, also from a data loader's worker."""

    def __init__(self, message: str):
        # A worker passes an exception on with its traceback; the last line of it is the message.
        super().__init__(message.strip().split("\n")[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


class TooManyBadTracks(DataError):
    """The share of unusable tracks exceeds the limit."""


class BadTracks:
    """The unusable tracks so far, each named once in the log.

    Each worker of a data loader counts the tracks that it has read.

    Args:
        total: number of tracks; None: the number of those tried, at least `MIN_TRIED`.
        max_fraction: share of bad tracks, in [0, 1], above which `note` raises. There is no other effect: the
            replacement of a bad track does not depend on earlier ones.
        name: what they are.

    Raises:
        ValueError: `max_fraction` is outside [0, 1].
    """

    def __init__(self, total: int | None, max_fraction: float = MAX_BAD_FRACTION, name: str = "tracks"):
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_fraction}.")
        self.total, self.max_fraction, self.name, self.num_tried = total, max_fraction, name, 0
        self.kinds: dict[Path, str] = {}
        self.num_bad = 0

    def note(self, error: BadTrackError) -> None:
        """Counts and logs a bad track; files that are not recordings are only logged.

        Raises:
            TooManyBadTracks: there are too many now.
        """
        if error.path in self.kinds:
            return
        self.kinds[error.path] = error.kind
        if error.kind in IGNORED_KINDS:
            logger.info("left out: %s", error)
            return
        self.num_bad += 1
        logger.warning("left out: %s", error)
        total = max(self.num_tried, MIN_TRIED) if self.total is None else self.total
        if self.num_bad > self.max_fraction * total:
            raise TooManyBadTracks(
                f"{self.num_bad} of {total} {self.name} cannot be used ({self.summary()}), more than the share of "
                f"max_bad_fraction={self.max_fraction:g}; the last one: {one_line(error)}"
            )

    def first_usable(self, candidates: Iterable[Candidate], make_item: Callable[[Candidate], dict]) -> dict:
        """The item of the first usable candidate; those before it are noted.

        Raises:
            TooManyBadTracks: too many tracks are bad, or every candidate is.
        """
        for candidate in candidates:
            try:
                return make_item(candidate)
            except BadTrackError as error:
                self.note(error)
                last_error = error
        raise TooManyBadTracks(f"No usable track was found for an item; the last one: {one_line(last_error)}")

    def usable(
        self, candidates: Iterable[Candidate], make_item: Callable[[Candidate], Item]
    ) -> Iterator[tuple[Candidate, Item]]:
        """All usable candidates and their items; the others are noted.

        Raises:
            TooManyBadTracks: too many tracks are bad.
        """
        for candidate in candidates:
            try:
                item = make_item(candidate)
            except BadTrackError as error:
                self.note(error)
            else:
                yield candidate, item

    def summary(self) -> str:
        """Counts by kind, as in "2 broken, 1 silent"."""
        counts = Counter(self.kinds.values())
        return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS + IGNORED_KINDS if counts[kind])


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks."""
    return " ".join(str(error).split())
