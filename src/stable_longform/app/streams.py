"""Audio files that are sent while the music is still being decoded: WAV and FLAC with their final length."""

import io
import struct
from collections.abc import Iterable, Iterator

import soundfile
import torch

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac"}
FULL_SCALE = 2**15 - 1
STREAMINFO_SAMPLES = 21  # byte of a FLAC file that ends with the first four of the 36 bits of its number of samples


class _Sent(io.RawIOBase):
    """A file for libsndfile. Parts that were taken are removed, and later writes to them are ignored."""

    def __init__(self):
        self.data, self.taken, self.position = bytearray(), 0, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves."""
        base = (0, self.position, self.taken + len(self.data))[whence]
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        """The position."""
        return self.position

    def write(self, data) -> int:
        """Writes, except to parts that were taken."""
        data, start = bytes(data), self.position - self.taken
        if start >= 0:
            self.data[start : start + len(data)] = data
        self.position += len(data)
        return len(data)

    def take(self) -> bytes:
        """Removes and returns what has been written since the last call."""
        data = bytes(self.data)
        self.taken += len(data)
        self.data.clear()
        return data


def stream_audio(
    chunks: Iterable[torch.Tensor], sampling_rate: int, channels: int, num_samples: int, format: str
) -> Iterator[bytes]:
    """Yields the bytes of a 16-bit file. Samples beyond full scale are clipped, because the peak isn't known yet.

    Args:
        chunks: consecutive chunks `(channels, n)`.
        sampling_rate: Hz.
        channels: number of channels.
        num_samples: of all chunks together.
        format: "wav" or "flac".
    """
    samples = ((chunk.T.clamp(-1, 1) * FULL_SCALE).round().short().contiguous().numpy() for chunk in chunks)
    if format == "wav":
        yield _wav_header(sampling_rate, channels, num_samples)
        for block in samples:
            yield block.astype("<i2").tobytes()
        return
    sent, is_first = _Sent(), True
    with soundfile.SoundFile(sent, "w", sampling_rate, channels, "PCM_16", format="FLAC") as file:
        for block in samples:
            file.write(block)
            data = bytearray(sent.take())
            if is_first and len(data) > STREAMINFO_SAMPLES + 4:
                data[STREAMINFO_SAMPLES] = data[STREAMINFO_SAMPLES] & 0xF0 | num_samples >> 32
                data[STREAMINFO_SAMPLES + 1 : STREAMINFO_SAMPLES + 5] = struct.pack(">I", num_samples & 0xFFFFFFFF)
                is_first = False
            yield bytes(data)
    yield sent.take()


def _wav_header(sampling_rate: int, channels: int, num_samples: int) -> bytes:
    """RIFF, `fmt ` and the head of `data`, for 16 bits a sample."""
    frame = 2 * channels
    size = num_samples * frame
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sampling_rate, sampling_rate * frame, frame, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size)
