"""Where the bytes of a recording are, if it is not a separate file.

A `Track` has one of these as its `storage`: `TarMember` (a part of a local tar), `TableRow` (a row of a Hugging Face
dataset) or `InMemory` (bytes from a stream). Each opens as a seekable binary file, so that libsndfile only reads the
part that it needs.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from stable_longform.utils.file_part import FilePart

if TYPE_CHECKING:
    from datasets import Dataset


NO_AUDIO = "the row has no audio"


@dataclass(frozen=True)
class TarMember:
    """A file inside an uncompressed tar: the tar, and the offset and size of the file's content in bytes."""

    tar: Path
    offset: int
    num_bytes: int

    def open(self) -> BinaryIO:
        """The member as a file."""
        return cast(BinaryIO, FilePart(open(self.tar, "rb", buffering=0), self.offset, self.num_bytes))


@dataclass(frozen=True)
class TableRow:
    """A row of a local Hugging Face dataset; its column `column` holds encoded audio, like an `Audio` feature."""

    dataset: "Dataset"
    column: str
    row: int

    def open(self) -> BinaryIO:
        """The audio as a file over the memory-mapped table; nothing is copied before it is read."""
        import pyarrow

        value = self.dataset.with_format("arrow")[self.row][self.column][0]
        if not value.is_valid or not (value["bytes"].is_valid or value["path"].is_valid):
            raise OSError(NO_AUDIO)
        if not value["bytes"].is_valid:
            return open(value["path"].as_py(), "rb")
        buffer = value["bytes"].as_buffer()
        return cast(BinaryIO, FilePart(pyarrow.BufferReader(buffer), 0, buffer.size))


@dataclass(frozen=True)
class InMemory:
    """An encoded recording in memory."""

    data: bytes

    def open(self) -> BinaryIO:
        """The bytes as a file."""
        return cast(BinaryIO, FilePart(io.BytesIO(self.data), 0, len(self.data)))


Storage = TarMember | TableRow | InMemory


def open_audio(path: Path, storage: Storage | None) -> contextlib.AbstractContextManager[Path | BinaryIO]:
    """The input of `read_audio`: the path, or a binary file that is closed at the end of a `with` block."""
    return contextlib.nullcontext(path) if storage is None else storage.open()
