"""WAV files that other programs read: plain up to 4 GiB, RF64 above, with tags of any length."""

import io
import wave

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_longform.utils import wav
from stable_longform.utils.audio import TAG_NAMES, read_audio, read_info, read_tags, write_audio

RATE = 44100
WAVEFORM = 0.5 * torch.randn(2, 1001, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
TAG = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=3000)


@pytest.mark.parametrize("sample_format, width", [("pcm16", 2), ("pcm24", 3)])
def test_a_small_file_is_a_plain_wav(tmp_path, sample_format, width):
    """Python's own reader takes nothing else. The samples are libsndfile's."""
    write_audio(tmp_path / "a.wav", WAVEFORM, RATE, sample_format, {"title": "x" * 5001})
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (2, width, RATE, 1001)
        frames = file.readframes(1001)
    expected = io.BytesIO()
    soundfile.write(expected, WAVEFORM.T.numpy(), RATE, f"PCM_{8 * width}", format="WAV")
    assert expected.getvalue().endswith(frames) and len(frames) == 2 * width * 1001


def test_a_float_file_is_read_back_to_the_bit(tmp_path):
    write_audio(tmp_path / "a.wav", 4 * WAVEFORM, RATE, "float")
    assert torch.equal(read_audio(tmp_path / "a.wav")[0], 4 * WAVEFORM)
    assert read_info(tmp_path / "a.wav").encoding == "WAV/FLOAT"


def test_sizes_are_those_of_the_file(tmp_path):
    write_audio(tmp_path / "a.wav", WAVEFORM, RATE, tags={"comment": "odd"})
    data = (tmp_path / "a.wav").read_bytes()
    assert data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") == len(data) - 8
    with open(tmp_path / "a.wav", "rb") as file:
        *_, (name, first, size) = wav.read_chunks(file)
    assert name == b"LIST" and first + size == len(data)


def test_a_large_file_stays_rf64(tmp_path, monkeypatch):
    """With a lower limit: the 4.3 GB of the real one would take a minute."""
    monkeypatch.setattr(wav, "MAX_PLAIN_SIZE", 3000)
    write_audio(tmp_path / "a.wav", WAVEFORM, RATE, tags={"title": "t", "comment": "c" * 4000})
    data = (tmp_path / "a.wav").read_bytes()
    assert data[:4] == b"RF64" and int.from_bytes(data[20:28], "little") == len(data) - 8
    assert soundfile.info(tmp_path / "a.wav").frames == 1001
    assert read_tags(tmp_path / "a.wav") == {"title": "t", "comment": "c" * 4000}
    assert (read_audio(tmp_path / "a.wav")[0] - WAVEFORM).abs().max() < 1e-4


@settings(max_examples=30)
@given(tags=st.dictionaries(st.sampled_from(TAG_NAMES), TAG))
def test_tags_are_read_back(tmp_path_factory, tags):
    path = tmp_path_factory.mktemp("tags") / "a.wav"
    write_audio(path, WAVEFORM, RATE, tags=tags)
    assert read_tags(path) == tags
    assert read_info(path).duration_in_s == 1001 / RATE


def test_tags_of_other_programs_are_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVEFORM.T.numpy(), RATE)
    content = b"INFOIART" + (5).to_bytes(4, "little") + b"caf\xe9\0\0" + b"IXYZ" + (2).to_bytes(4, "little") + b"x\0"
    with open(tmp_path / "a.wav", "ab") as file:
        file.write(b"LIST" + len(content).to_bytes(4, "little") + content)
    assert read_tags(tmp_path / "a.wav") == {"artist": "caf\u00e9"}
