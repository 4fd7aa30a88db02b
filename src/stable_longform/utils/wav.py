"""Features of WAV files that libsndfile lacks: RF64 only above 4 GiB, and tags of any length.

A WAV is a list of chunks, each with a name and a size of 32 bits. In RF64 a chunk `ds64` has the sizes that don't fit.

References: the Multimedia Programming Interface of 1991 (WAV, the tags of LIST INFO); EBU Tech 3306 (RF64).
"""

import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO

MAX_SIZE = 2**32 - 1  # in RF64 this value means that the size is in `ds64`
MAX_PLAIN_SIZE = 2**32 - 1  # bytes of a WAV after the first eight
MAX_CHUNKS = 10_000
INFO_NAMES = {
    "title": b"INAM",
    "artist": b"IART",
    "comment": b"ICMT",
    "software": b"ISFT",
    "album": b"IPRD",
    "license": b"ICOP",  # copyright: there is no tag for a licence
    "date": b"ICRD",
    "genre": b"IGNR",
}
PLAIN_FORMAT_SIZE = 16  # bytes of the chunk `fmt ` without an extension


def read_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, first byte and size of the chunks of a WAV or RF64 file; the position of the file changes."""
    file.seek(0)
    is_large, position, data_size = file.read(12)[:4] == b"RF64", 12, None
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return
        name, size = header[:4], int.from_bytes(header[4:], "little")
        if name == b"ds64":
            data_size = int.from_bytes(file.read(16)[8:], "little")
        if is_large and name == b"data" and size == MAX_SIZE and data_size is not None:
            size = data_size
        yield name, position + 8, size
        position += 8 + size + size % 2


def finish_wav(path: str | os.PathLike, tags: Mapping[str, str]) -> None:
    """Adds tags to an RF64 file written by libsndfile, and turns it into a plain WAV if it is small enough.

    Args:
        path: the file, changed in place.
        tags: text by the names of `INFO_NAMES`.
    """
    with open(path, "r+b") as file:
        if tags:
            file.seek(0, os.SEEK_END)
            file.write(_list_chunk(tags))
        size = file.seek(0, os.SEEK_END)
        chunks = {name: (first, length) for name, first, length in read_chunks(file)}
        if size - 8 > MAX_PLAIN_SIZE:
            _write_at(file, chunks[b"ds64"][0], (size - 8).to_bytes(8, "little"))
            return
        _write_at(file, 0, b"RIFF" + (size - 8).to_bytes(4, "little"))
        _write_at(file, chunks[b"ds64"][0] - 8, b"JUNK")
        first, length = chunks[b"data"]
        _write_at(file, first - 4, length.to_bytes(4, "little"))
        _simplify_format(file, *chunks[b"fmt "])


def read_wav_tags(path: str | os.PathLike) -> dict[str, str]:
    """Reads the tags of a WAV or RF64 file, those of `INFO_NAMES` that are set.

    Raises:
        OSError: the file cannot be read.
    """
    names, tags = {stored: name for name, stored in INFO_NAMES.items()}, {}
    with open(path, "rb") as file:
        lists = [(first, size) for name, first, size in read_chunks(file) if name == b"LIST"]
        for first, size in lists:
            file.seek(first)
            content = file.read(size)
            position = 4 if content[:4] == b"INFO" else len(content)
            while position + 8 <= len(content):
                length = int.from_bytes(content[position + 4 : position + 8], "little")
                text = content[position + 8 : position + 8 + length].split(b"\0")[0]
                if text and content[position : position + 4] in names:
                    tags[names[content[position : position + 4]]] = _decode(text)
                position += 8 + length + length % 2
    return tags


def is_wav(path: str | os.PathLike) -> bool:
    """Whether a file is WAV or RF64.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(4) in (b"RIFF", b"RF64")


def _list_chunk(tags: Mapping[str, str]) -> bytes:
    """The chunk with the tags."""
    content = b"INFO"
    for name, text in tags.items():
        data = text.encode() + b"\0"
        content += INFO_NAMES[name] + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)
    return b"LIST" + len(content).to_bytes(4, "little") + content


def _simplify_format(file: BinaryIO, first: int, length: int) -> None:
    """Turns an extensible `fmt ` chunk into a plain one, which more programs read; a JUNK chunk fills the gap."""
    file.seek(first)
    content = file.read(length)
    rest = length - PLAIN_FORMAT_SIZE - 8
    if content[:2] != b"\xfe\xff" or rest < 0:
        return
    _write_at(file, first - 4, PLAIN_FORMAT_SIZE.to_bytes(4, "little") + content[24:26])  # the tag in the extension
    _write_at(file, first + PLAIN_FORMAT_SIZE, b"JUNK" + rest.to_bytes(4, "little") + bytes(rest))


def _write_at(file: BinaryIO, position: int, data: bytes) -> None:
    """Writes bytes at a position."""
    file.seek(position)
    file.write(data)


def _decode(text: bytes) -> str:
    """Decodes text in UTF-8, as most programs write it, or in the encoding of old programs."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace")
