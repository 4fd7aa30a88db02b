"""Lengths are those of the sound: files that were cut, never finished, or have no table of contents."""

import io

import numpy as np
import pytest
import soundfile
from conftest import synthetic_audio

from stable_longform.utils.audio import read_audio, read_blocks, read_info
from stable_longform.utils.audio_headers import FileWithHead, check_header

RATE = 44100
LENGTH = 3 * RATE


def encode(extension: str, num_samples: int = LENGTH, **options) -> bytes:
    """A recording with what libsndfile writes."""
    if extension == "mp3":
        options = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.9} | options
    data = io.BytesIO()
    soundfile.write(data, synthetic_audio(num_samples).T, RATE, format=extension.upper(), **options)
    return data.getvalue()


def flac_with_length(num_samples: int) -> bytes:
    data = encode("flac")
    fields = int.from_bytes(data[18:26], "big") & ~(2**36 - 1) | num_samples
    return data[:18] + fields.to_bytes(8, "big") + data[26:]


def wav_with_length(num_bytes: int) -> bytes:
    data = encode("wav")
    place = data.index(b"data") + 4
    return data[:place] + num_bytes.to_bytes(4, "little") + data[place + 4 :]


def read_length(data: bytes) -> int:
    return read_audio(io.BytesIO(data))[0].shape[1]


@pytest.mark.parametrize("num_samples", [2**36 - 1, 2**30, 0, LENGTH // 2])
def test_a_flac_has_the_samples_of_its_frames(num_samples):
    """Also where its header promises 512 GiB, or does not know, or says too little."""
    data = flac_with_length(num_samples)
    info = read_info(io.BytesIO(data))
    assert round(info.duration_in_s * RATE) == read_length(data) == LENGTH
    assert (info.loss is not None) == (num_samples > LENGTH)


@pytest.mark.parametrize("num_bytes", [0, 2**32 - 1, 0x7FFFF000])
def test_a_wav_that_was_never_finished_has_all_its_samples(num_bytes):
    data = wav_with_length(num_bytes)
    info = read_info(io.BytesIO(data))
    assert round(info.duration_in_s * RATE) == read_length(data) == LENGTH and info.loss is None


def test_an_empty_wav_with_tags_after_it_stays_empty():
    data = encode("wav", 0) + b"LIST" + (12).to_bytes(4, "little") + b"INFOINAM\0\0\0\0"
    assert read_info(io.BytesIO(data)).duration_in_s == 0


@pytest.mark.parametrize("extension", ["wav", "rf64", "w64", "aiff", "au", "flac", "mp3"])
def test_a_file_that_was_cut_off_is_told(tmp_path, extension):
    data = encode(extension)
    path = tmp_path / f"a.{extension}"
    path.write_bytes(data)
    assert read_info(path).loss is None
    path.write_bytes(data[: len(data) // 2])
    info = read_info(path)
    assert info.loss is not None and 0 < info.duration_in_s < 2
    assert read_audio(path)[0].shape[1] == round(info.duration_in_s * RATE)
    with pytest.raises(ValueError, match=f"a.{extension} is cut off: "):
        next(read_blocks(path))


def test_an_mp3_without_a_table_is_read_whole():
    """A variable bit rate, of which the first frame says nothing; libsndfile guesses a third of the length."""
    noise = np.random.default_rng(0).standard_normal((LENGTH, 2)) * 0.3
    quiet = np.tile(0.1 * np.sin(np.arange(RATE) / 9)[:, None], (9, 2))
    data = io.BytesIO()
    options = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.9}
    soundfile.write(data, np.concatenate([noise, quiet]), RATE, format="MP3", **options)
    whole = data.getvalue()
    bare = whole[whole.index(whole[:2], 4) :]  # without the first frame
    assert soundfile.info(io.BytesIO(bare)).duration < 8
    for found in (read_length(bare) / RATE, read_info(io.BytesIO(bare)).duration_in_s):
        assert found == pytest.approx(12, abs=0.05)
    start_in_s = 10.0
    part, _ = read_audio(io.BytesIO(bare), start_in_s, 1.0)
    assert part.abs().max() > 0.05
    twice = read_info(io.BytesIO(whole + whole)).duration_in_s
    assert twice == pytest.approx(24, abs=0.1)


def test_a_true_header_stays():
    for extension in ("wav", "flac", "mp3", "ogg", "aiff"):
        check = check_header(io.BytesIO(encode(extension)))
        assert (check.head, check.skip, check.loss) == (b"", 0, None)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"fLaC", b"\xff\xfb\x90", b"ID3\4\0\0\0\0\0\x7f", b"FORM", b"x" * 9])
def test_what_is_no_audio_is_refused(tmp_path, data):
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(ValueError, match="a.wav cannot be read as audio: "):
        read_info(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="^the data cannot be read as audio: (?!.*0x)"):  # no address in memory
        read_info(io.BytesIO(data))


def test_file_with_head():
    file = FileWithHead(io.BytesIO(b"0123456789"), b"abc", 5)
    assert file.read() == b"abc56789"
    assert file.seek(-6, io.SEEK_END) == 2 and file.read(3) == b"c" and file.read(2) == b"56" and file.tell() == 5
