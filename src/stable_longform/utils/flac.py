"""Counts the samples of a FLAC file by the number of its last frame. Reference: RFC 9639."""

import os
from typing import BinaryIO

WINDOWS = (2**15, 2**20)  # bytes at the end of a file in which the last frame is searched


def count_samples(file: BinaryIO, first: int, block_size: int, promised: int) -> int | None:
    """Number of samples up to the end of the last complete frame; None if there is no frame.

    Args:
        file: binary and seekable; its position changes.
        first: first byte at which frames may begin.
        block_size: samples in a frame, according to STREAMINFO.
        promised: total number of samples, according to STREAMINFO; if the last frame agrees, nothing else is checked.
    """
    size, found = file.seek(0, os.SEEK_END), None
    for window in WINDOWS:
        start = max(first, size - window)
        file.seek(start)
        found = _count_in(file.read(size - start), block_size, promised)
        if found is not None or start == first:
            break
    return found


def _count_in(data: bytes, block_size: int, promised: int) -> int | None:
    """`count_samples` for the end of a file."""
    if data[-128:-125] == b"TAG":  # ID3v1
        data = data[:-128]
    position = len(data)
    while (position := data.rfind(b"\xff", 0, position)) >= 0:
        frame = _parse_frame(data[position : position + 16], block_size)
        if frame is None:
            continue
        start, length = frame
        if start + length == promised or _crc16(data[position:]) == 0:
            return start + length
        if start == 0 or _ends_before(data, position, start, block_size):
            return start  # this frame is cut off
    return None


def _ends_before(data: bytes, position: int, start: int, block_size: int) -> bool:
    """Whether a frame before a byte ends at sample `start`, so that the bytes there must be a frame."""
    while (position := data.rfind(b"\xff", 0, position)) >= 0:
        frame = _parse_frame(data[position : position + 16], block_size)
        if frame is not None and sum(frame) == start:
            return True
    return False


def _parse_frame(header: bytes, block_size: int) -> tuple[int, int] | None:
    """First sample and number of samples of a frame; None if no frame begins here."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    number_length = max(8 - (header[4] ^ 0xFF).bit_length(), 1)  # as in UTF-8: the ones before the first zero
    number = header[4] & (0x7F if number_length == 1 else 2 ** max(7 - number_length, 0) - 1)
    for byte in header[5 : 4 + number_length]:
        number = number << 6 | byte & 0x3F
    end, size_code, rate_code = 4 + number_length, header[2] >> 4, header[2] & 15
    if size_code in (6, 7):
        length = int.from_bytes(header[end : end + size_code - 5], "big") + 1
        end += size_code - 5
    elif size_code >= 8:
        length = 256 << (size_code - 8)
    else:
        length = (0, 192, 576, 1152, 2304, 4608)[size_code]
    end += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if length == 0 or len(header) <= end or _crc8(header[:end]) != header[end]:
        return None
    return (number if header[1] & 1 else number * block_size), length


def _table(polynomial: int, num_bits: int) -> list[int]:
    """Checksums of all single bytes."""
    table = []
    for byte in range(256):
        crc = byte << (num_bits - 8)
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> (num_bits - 1) else 0)
        table.append(crc)
    return table


_CRC8_TABLE = _table(0x107, 8)  # x^8 + x^2 + x + 1
_CRC16_TABLE = _table(0x18005, 16)  # x^16 + x^15 + x^2 + 1


def _crc8(data: bytes) -> int:
    """The checksum of a frame's header."""
    crc = 0
    for byte in data:
        crc = _CRC8_TABLE[crc ^ byte]
    return crc


def _crc16(data: bytes) -> int:
    """The checksum of a frame; 0 for a complete frame including its own checksum."""
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16_TABLE[crc >> 8 ^ byte]
    return crc
