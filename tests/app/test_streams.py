import io

import numpy as np
import pytest
import soundfile
import torch

from stable_longform.app.streams import stream_audio


def chunks(channels, lengths):
    """Noise."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(channels, length, generator=generator) * 1.6 - 0.8 for length in lengths]


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("lengths", [[1], [7, 4096, 1, 9000], [50000, 50001]])
def test_streams_are_complete_files(format, channels, lengths):
    music = chunks(channels, lengths)
    data = b"".join(stream_audio(music, 44100, channels, sum(lengths), format))
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert (file.frames, file.channels, file.samplerate) == (sum(lengths), channels, 44100)
        samples = file.read(dtype="float32", always_2d=True).T
    assert np.abs(samples - torch.cat(music, dim=1).numpy()).max() <= 1e-4
    if format == "flac":  # what a decoder that stops at the promised end would read
        promised = int.from_bytes(data[21:26], "big") & (2**36 - 1)
        assert promised == sum(lengths)


def test_bytes_come_as_the_chunks_do():
    taken = []

    def source():
        for chunk in chunks(2, [20000] * 5):
            taken.append(1)
            yield chunk

    for format in ("wav", "flac"):
        taken.clear()
        seen, sizes = 0, []
        for data in stream_audio(source(), 8000, 2, 100000, format):
            seen += len(data)
            sizes.append((len(taken), seen))
        early = max(size for count, size in sizes if count <= 2)
        assert 0.2 < early / seen < 0.5


def test_beyond_full_scale_is_clipped_not_wrapped():
    data = b"".join(stream_audio([torch.tensor([[2.0, -2.0]])], 8000, 1, 2, "wav"))
    assert soundfile.read(io.BytesIO(data))[0].tolist() == pytest.approx([1, -1], abs=1e-4)
