"""Looks at some pages of an Ogg file. Reference: RFC 3533."""

import os
from dataclasses import dataclass
from typing import BinaryIO

MARK = b"OggS"
HEADER_LENGTH, MAX_SEGMENTS = 27, 255  # bytes of a page's header, and of the lengths of its segments after it
IS_FIRST = 2  # bit of a page that begins a stream
NUM_PARTS = 4  # parts of a file of which a page is looked at
WINDOWS = (2**13, 2**17)  # bytes in which a page is searched; a page has less than 2^16


@dataclass(frozen=True)
class Page:
    """Whether a page begins a stream, which stream it is of, its number in it, and the first byte after the page."""

    is_first: bool
    stream: int
    number: int
    end: int


def check_pages(file: BinaryIO, first: int) -> str | None:
    """What is missing at the end of an Ogg file; None: nothing. Only a small part of the file is read.

    Args:
        file: binary and seekable; its position changes.
        first: first byte of the first page.

    Raises:
        OSError: streams follow each other in the file (chaining). libsndfile would silently read the first only.
    """
    size = file.seek(0, os.SEEK_END)
    streams, page = set(), _page_at(file, first)
    while page is not None and page.is_first:
        streams.add(page.stream)
        page = _page_at(file, page.end)
    places = [first + part * (size - first) // NUM_PARTS for part in range(1, NUM_PARTS)]
    last = _last_page(file, first, size)
    later = [page for page in (page, *(_next_page(file, place) for place in places), last) if page is not None]
    numbers = [page.number for page in later] if len(streams) == 1 else []
    if any(page.stream not in streams for page in later) or numbers != sorted(numbers):
        raise OSError("it is a chain of several Ogg streams; join them first, for example with ffmpeg")
    return None if last is None or last.end <= size else "its last page is not complete"


def _page_at(file: BinaryIO, position: int) -> Page | None:
    """The page that begins at a byte; None: none does, or its header is not complete."""
    file.seek(position)
    header = file.read(HEADER_LENGTH + MAX_SEGMENTS)
    if header[: len(MARK)] != MARK or len(header) < HEADER_LENGTH:
        return None
    num_segments = header[26]
    lengths = header[HEADER_LENGTH : HEADER_LENGTH + num_segments]
    if len(lengths) < num_segments:
        return None
    stream, number = (int.from_bytes(header[start : start + 4], "little") for start in (14, 18))
    return Page(bool(header[5] & IS_FIRST), stream, number, position + HEADER_LENGTH + len(lengths) + sum(lengths))


def _next_page(file: BinaryIO, position: int) -> Page | None:
    """The first page that begins at a byte or after it."""
    for window in WINDOWS:
        file.seek(position)
        place = file.read(window).find(MARK)
        if place >= 0:
            return _page_at(file, position + place)
    return None


def _last_page(file: BinaryIO, first: int, size: int) -> Page | None:
    """The last page whose header is complete."""
    for window in WINDOWS:
        start = max(first, size - window)
        file.seek(start)
        data = file.read(window)
        while (place := data.rfind(MARK)) >= 0:
            page = _page_at(file, start + place)
            if page is not None:
                return page
            data = data[:place]
    return None
