"""A part of a binary file as a separate file, optionally with other bytes before it."""

import io
import os
from typing import BinaryIO


class FilePart(io.RawIOBase):
    """The bytes `head`, then `[start, start + length)` of a binary file; closes that file with itself."""

    def __init__(self, file: BinaryIO, start: int, length: int, head: bytes = b""):
        self._file, self._start, self._head, self._position = file, start, head, 0
        self._length = len(head) + length

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to `offset` from the start, the current position or the end; returns the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer) -> int:
        """Reads the next bytes into a buffer; returns their number, 0 at the end."""
        view = memoryview(buffer).cast("B")
        if self._position < len(self._head):
            data = self._head[self._position : self._position + len(view)]
        else:
            self._file.seek(self._start + self._position - len(self._head))
            data = self._file.read(max(min(len(view), self._length - self._position), 0))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Closes the underlying file."""
        self._file.close()
        super().close()
