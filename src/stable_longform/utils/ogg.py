"""Walks through the pages of an Ogg file. Reference: RFC 3533."""

import os
from typing import BinaryIO

HEADER_LENGTH = 27  # bytes before the lengths of a page's segments
IS_FIRST = 2  # bit of a page that begins a stream


def check_pages(file: BinaryIO, first: int) -> str | None:
    """What is missing at the end of an Ogg file; None: nothing. Bytes after the last page are ignored.

    Args:
        file: binary and seekable; its position changes.
        first: first byte of the first page.

    Raises:
        OSError: streams follow each other in the file (chaining). libsndfile would silently read the first only.
    """
    size = file.seek(0, os.SEEK_END)
    position, is_in_stream = first, False
    while position < size:
        file.seek(position)
        header = file.read(HEADER_LENGTH + 255)
        if header[:4] != b"OggS":
            break
        if len(header) < HEADER_LENGTH or len(header) < HEADER_LENGTH + header[26]:
            return "its last page is not complete"
        is_first = bool(header[5] & IS_FIRST)
        if is_first and is_in_stream:
            raise OSError("it is a chain of several Ogg streams; join them first, for example with ffmpeg")
        is_in_stream = not is_first
        position += HEADER_LENGTH + header[26] + sum(header[HEADER_LENGTH : HEADER_LENGTH + header[26]])
    return None if position <= size else "its last page is not complete"
