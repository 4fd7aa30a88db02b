"""Compares the length in the header of an audio file with the actual length.

libsndfile trusts headers. They are wrong in files that were cut off, in streams saved by a program that could not fill
in the length afterwards, and in mp3 files of variable bit rate without a table of contents. `check_header` compares a
header with the file and returns a corrected one, with which libsndfile reads everything.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO

from stable_longform.utils.file_part import FilePart
from stable_longform.utils.flac import count_samples
from stable_longform.utils.mp3 import make_tag_frame, read_first_frame, scan_frames
from stable_longform.utils.ogg import check_pages
from stable_longform.utils.wav import MAX_SIZE, read_chunks

TOLERANCE = 4096  # bytes by which a container may be too short; padding and tags differ among programs
UNKNOWN_SIZES = (range(0x7FFFF000, 0x80001000), range(0xFFFFF000, 2**32))  # placeholders for the size in streams
HEAD_LENGTH = 4096  # bytes read to identify a file, and to find the first frame of an mp3


@dataclass(frozen=True)
class HeaderCheck:
    """What `check_header` found.

    Args:
        head: replacement for the first `skip` bytes; empty with `skip` 0 if the header is correct.
        skip: number of bytes.
        loss: describes what is missing compared to the header; None: nothing.
    """

    head: bytes = b""
    skip: int = 0
    loss: str | None = None


class FileWithHead(FilePart):
    """A binary file whose first `skip` bytes are replaced by `head`; closes the file with itself."""

    def __init__(self, file: BinaryIO, head: bytes, skip: int):
        super().__init__(file, skip, _size(file) - skip, head)


def check_header(file: BinaryIO) -> HeaderCheck:
    """Compares the header of an audio file with the file.

    Args:
        file: binary and seekable; its position changes.

    Raises:
        OSError: the file cannot be read, or it is a chain of Ogg streams, see `check_pages`.
    """
    file.seek(0)
    head = file.read(HEAD_LENGTH)
    start = id3_length(head)
    kind = head[start : start + 4]
    if kind in (b"RIFF", b"RF64"):
        return _check_wav(file, head)
    if kind == b"fLaC":
        return _check_flac(file, start)
    if kind == b"OggS":
        return HeaderCheck(loss=check_pages(file, start))
    if kind == b"FORM":
        return _check_size(file, int.from_bytes(head[4:8], "big") + 8)
    if kind == b"riff":  # of Sony Wave64
        return _check_size(file, int.from_bytes(head[16:24], "little"))
    if kind == b".snd" and head[8:12] != b"\xff\xff\xff\xff":
        return _check_size(file, sum(int.from_bytes(head[i : i + 4], "big") for i in (4, 8)))
    if start or head[:1] == b"\xff":
        return _check_mp3(file, start)
    return HeaderCheck()


def id3_length(head: bytes) -> int:
    """Length in bytes of the ID3v2 tags at the start of a file, 0 without tags."""
    length = 0
    while head[length : length + 3] == b"ID3" and len(head) >= length + 10:
        digits = head[length + 6 : length + 10]
        length += 10 + (digits[0] << 21 | digits[1] << 14 | digits[2] << 7 | digits[3])
    return length


def _size(file: BinaryIO) -> int:
    """Bytes of a file."""
    return file.seek(0, os.SEEK_END)


def _check_size(file: BinaryIO, promised: int) -> HeaderCheck:
    """Checks a container that contains its size in bytes, and that libsndfile reads as far as possible."""
    missing = promised - _size(file)
    return HeaderCheck(loss=f"{missing} bytes are missing" if missing > TOLERANCE else None)


def _check_wav(file: BinaryIO, head: bytes) -> HeaderCheck:
    """Checks RIFF and RF64."""
    first, size = next(((first, size) for name, first, size in read_chunks(file) if name == b"data"), (0, 0))
    there = _size(file) - first
    if first == 0 or any(size in unknown for unknown in UNKNOWN_SIZES):
        return HeaderCheck()  # libsndfile refuses it, or reads to the end
    if size == 0 and there > 0 and not _is_chunk(file, first, there):
        file.seek(0)
        return HeaderCheck(file.read(first - 4) + min(there, MAX_SIZE).to_bytes(4, "little"), first)
    if head[:4] == b"RIFF" and there - size >= 2**32 - TOLERANCE:
        return HeaderCheck(loss=f"it has {there} bytes, more than its header can express; the header says {size}")
    return _check_size(file, first + size)


def _is_chunk(file: BinaryIO, first: int, length: int) -> bool:
    """Whether the bytes at a position are a RIFF chunk that fits there, rather than sound."""
    file.seek(first)
    start = file.read(8)
    return len(start) == 8 and start[:4].isalnum() and int.from_bytes(start[4:], "little") <= length - 8


def _check_flac(file: BinaryIO, start: int) -> HeaderCheck:
    """Checks FLAC: the number of samples in STREAMINFO against the number of the last frame."""
    file.seek(0)
    head = file.read(start + 42)
    info = head[start + 8 :]  # STREAMINFO
    if len(info) < 34:
        return HeaderCheck()
    fields = int.from_bytes(info[10:18], "big")  # 20 bits of rate, 3 of channels, 5 of depth, 36 of samples
    promised, sampling_rate = fields & (2**36 - 1), fields >> 44
    found = count_samples(file, start + 42, int.from_bytes(info[:2], "big"), promised)
    if found is None or found == promised or sampling_rate == 0:
        return HeaderCheck()
    head = head[: start + 18] + (fields - promised + found).to_bytes(8, "big") + head[start + 26 :]
    loss = None
    if found < promised:
        loss = f"its header promises {promised / sampling_rate:.3f} s, it has {found / sampling_rate:.3f} s"
    return HeaderCheck(head, start + 42, loss)


def _check_mp3(file: BinaryIO, start: int) -> HeaderCheck:
    """Checks MPEG layer III: the number of frames in the tag of Xing or LAME against the frames."""
    file.seek(start)
    first = read_first_frame(file.read(HEAD_LENGTH))
    if first is None or first.num_bytes is not None and 0 <= _size(file) - start - first.num_bytes < TOLERANCE:
        return HeaderCheck()
    file.seek(start)
    frames = scan_frames(file.read(), first)
    if frames.count == first.num_frames or (first.num_frames is None and frames.is_constant):
        return HeaderCheck()  # libsndfile computes it from the bit rate
    loss = None
    if first.num_frames is not None and frames.count < first.num_frames:
        loss = f"its header promises {first.num_frames} frames, it has {frames.count}"
    return HeaderCheck(make_tag_frame(first, frames), start + frames.first, loss)
