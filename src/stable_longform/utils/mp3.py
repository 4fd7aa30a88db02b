"""Counts the frames of an mp3 file, and handles the tag in its first frame that holds their number.

References: ISO 11172-3 and 13818-3 (frames); the tags "Xing" and "Info" of the Xing and LAME encoders.
"""

from dataclasses import dataclass

# kbit/s of layer III by the header's four bits, for MPEG 1 and for MPEG 2 and 2.5; 0: not allowed or unknown.
BIT_RATES = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
SAMPLING_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
HAS_FRAMES, HAS_BYTES = 1, 2  # flags of a tag
PADDING_PLACE = 141  # bytes from the tag's name to LAME's delay and padding, of 12 bits each


@dataclass(frozen=True)
class FirstFrame:
    """The first frame: its bytes, its position, the position of its tag, and the tag's content or None."""

    data: bytes
    position: int
    tag_place: int
    has_tag: bool
    num_frames: int | None
    num_bytes: int | None


@dataclass(frozen=True)
class Frames:
    """The frames with sound: their number, their first byte, their size, and whether all have the same bit rate."""

    count: int
    first: int
    num_bytes: int
    is_constant: bool


def read_first_frame(data: bytes) -> FirstFrame | None:
    """Finds the first frame of MPEG layer III that is followed by another one; None if there is none."""
    position = -1
    while (position := data.find(b"\xff", position + 1)) >= 0:
        length = frame_length(data[position : position + 4])
        if length and frame_length(data[position + length : position + length + 4]):
            break
    else:
        return None
    frame = data[position : position + length]
    is_mono, is_mpeg1 = frame[3] >> 6 == 3, frame[1] >> 3 & 3 == 3
    place = 4 + {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[is_mpeg1, is_mono]
    has_tag = frame[place : place + 4] in (b"Xing", b"Info")
    flags = frame[place + 7] if has_tag else 0
    fields: list[int | None] = [None, None]
    offset = place + 8
    for index, flag in enumerate((HAS_FRAMES, HAS_BYTES)):
        if flags & flag:
            fields[index] = int.from_bytes(frame[offset : offset + 4], "big")
            offset += 4
    return FirstFrame(frame, position, place, has_tag, *fields)


def frame_length(header: bytes) -> int:
    """Size in bytes of a frame of layer III with this header of four bytes; 0 if it is not a header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or header[1] >> 1 & 3 != 1:
        return 0
    version, rate_code = header[1] >> 3 & 3, header[2] >> 2 & 3
    if version == 1 or rate_code == 3:
        return 0
    bit_rate = BIT_RATES[3 if version == 3 else 2][header[2] >> 4]
    samples_per_8_bits = 144 if version == 3 else 72
    length = samples_per_8_bits * 1000 * bit_rate // SAMPLING_RATES[version][rate_code]
    return length + (header[2] >> 1 & 1) if bit_rate else 0


def scan_frames(data: bytes, first: FirstFrame) -> Frames:
    """Goes through all frames of a file; other bytes are skipped.

    Args:
        data: the file, from the start of the data in which `first` was found.
        first: its first frame.
    """
    kind = first.data[1] & 0xFE  # version and layer; not whether it has a checksum
    lengths = [frame_length(bytes((0xFF, first.data[1], byte, 0))) for byte in range(256)]
    begin = first.position + (len(first.data) if first.has_tag else 0)
    position, count, num_bytes, rates = begin, 0, 0, set()
    while position + 4 <= len(data):
        is_frame = data[position] == 0xFF and data[position + 1] & 0xFE == kind
        length = lengths[data[position + 2]] if is_frame else 0
        if not length:
            position = data.find(b"\xff", position + 1)
            if position < 0:
                break
        elif position + length > len(data):
            break
        else:
            count, num_bytes, position = count + 1, num_bytes + length, position + length
            rates.add(data[position - length + 2] >> 4)
    return Frames(count, begin, num_bytes, len(rates) < 2)


def make_tag_frame(first: FirstFrame, frames: Frames) -> bytes:
    """A frame whose tag has the correct numbers, to be put before the frames with sound."""
    if first.has_tag:
        frame = bytearray(first.data)
    else:  # of 128 or 80 kbit/s and without a checksum: long enough for a tag
        frame = bytearray((0xFF, first.data[1] | 1, first.data[2] & 0x0C | 0x90, first.data[3]))
        frame += bytes(frame_length(bytes(frame)) - 4)
    place = first.tag_place
    has_room = not first.has_tag or (first.num_frames is not None and first.num_bytes is not None)
    if has_room:
        frame[place : place + 4] = b"Xing"
        frame[place + 7] |= HAS_FRAMES | HAS_BYTES
        frame[place + 8 : place + 12] = frames.count.to_bytes(4, "big")
        frame[place + 12 : place + 16] = (frames.num_bytes + len(frame)).to_bytes(4, "big")
    if first.has_tag and first.num_frames and frames.count < first.num_frames:  # the end, with its padding, is gone
        low = place + PADDING_PLACE + 1
        frame[low] &= 0xF0
        frame[low + 1] = 0
    return bytes(frame)
