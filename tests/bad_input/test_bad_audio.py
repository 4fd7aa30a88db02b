"""Audio files that are wrong, each in its own way, to the readers, to a folder as a source, and to the commands."""

import os
import re
import shutil
import struct

import numpy as np
import pytest
import soundfile
from refusals import refused

from stable_longform.cli import main
from stable_longform.data.sources import open_source
from stable_longform.evaluation.audio_files import ReadingSettings, UnusableAudioError, load_audio
from stable_longform.utils.audio import read_audio, read_blocks, read_info

RATE = 8000


def tone(path, num_channels: int = 2, sampling_rate: int = RATE, num_samples: int = RATE, **options):
    """Writes a tone; returns the path."""
    seconds = np.arange(num_samples) / sampling_rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * seconds)[:, None].repeat(num_channels, 1)
    soundfile.write(path, wave, sampling_rate, **options)
    return path


def encoded(folder, extension: str, **options) -> bytes:
    """The bytes of a good file."""
    return tone(folder / f"good.{extension}", **options).read_bytes()


def header(**changes) -> bytes:
    """A WAV header of 16-bit stereo with a few samples, with fields changed."""
    fields = {"format": 1, "channels": 2, "rate": RATE, "bits": 16, "size": 400} | changes
    block = fields["channels"] * fields["bits"] // 8
    fmt = struct.pack(
        "<HHIIHH", fields["format"], fields["channels"], fields["rate"], fields["rate"] * block % 2**32,
        block % 2**16, fields["bits"],
    )  # fmt: skip
    data = b"data" + struct.pack("<I", fields["size"]) + bytes(400)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


BAD_FILES = {
    "empty.wav": lambda folder: b"",
    "text.wav": lambda folder: b"This is no music.\n",
    "zeros.wav": lambda folder: bytes(5000),
    "noise.wav": lambda folder: np.random.default_rng(0).bytes(5000),
    "noise.mp3": lambda folder: np.random.default_rng(1).bytes(5000),
    "html.mp3": lambda folder: b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20,
    "json.flac": lambda folder: b'{"error": "rate limit"}',
    "pointer.flac": lambda folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "four.flac": lambda folder: b"fLaC",
    "riff.wav": lambda folder: b"RIFF",
    "header.wav": lambda folder: encoded(folder, "wav")[:44],
    "half a header.wav": lambda folder: encoded(folder, "wav")[:30],
    "half.wav": lambda folder: encoded(folder, "wav")[: RATE * 2],
    "half.flac": lambda folder: encoded(folder, "flac")[:-300],
    "start.flac": lambda folder: encoded(folder, "flac")[:60],
    "start.ogg": lambda folder: encoded(folder, "ogg")[:40],
    "start.mp3": lambda folder: b"ID3" + bytes(7),
    "no channels.wav": lambda folder: header(channels=0),
    "many channels.wav": lambda folder: header(channels=5000),
    "no rate.wav": lambda folder: header(rate=0),
    "no bits.wav": lambda folder: header(bits=0),
    "no such format.wav": lambda folder: header(format=0x1234),
    "nothing in it.wav": lambda folder: tone(folder / "n.wav", num_samples=0).read_bytes(),
    "nothing in it.flac": lambda folder: tone(folder / "n.flac", num_samples=0).read_bytes(),
    "said longer.wav": lambda folder: header(size=10**9),
    "chain.ogg": lambda folder: encoded(folder, "ogg") + encoded(folder, "ogg", num_samples=500),
    "chain.opus": lambda folder: 2 * encoded(folder, "ogg", subtype="OPUS"),
    "the same twice.ogg": lambda folder: 2 * encoded(folder, "ogg"),
    "of two kinds.oga": lambda folder: encoded(folder, "ogg", subtype="OPUS") + encoded(folder, "ogg"),
    "half a page.ogg": lambda folder: encoded(folder, "ogg")[:-100],
    "a long chain.ogg": lambda folder: (
        encoded(folder, "ogg", num_samples=200) + encoded(folder, "ogg", num_samples=50 * RATE)
    ),
    "a short end.ogg": lambda folder: encoded(folder, "ogg", num_samples=50 * RATE) + encoded(folder, "ogg"),
}


# `read_audio` gives what is there, `read_info` says the rest.
CUT_OFF = {"header.wav", "half.wav", "said longer.wav", "half a page.ogg"}
EMPTY = {"nothing in it.wav"}
ONLY_READING_TELLS = {"half.flac"}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_are_refused_by_every_reader_with_their_name(tmp_path, name):
    source = tmp_path / "making"
    source.mkdir()
    data = BAD_FILES[name](source)
    shutil.rmtree(source)
    path = tmp_path / name
    path.write_bytes(data)
    if name in CUT_OFF:
        assert re.search("bytes are missing|last page is not complete", read_info(path).loss)
    elif name in EMPTY:
        assert read_audio(path)[0].shape == (2, 0)
    else:
        refused(lambda: read_audio(path), name)
    if name not in EMPTY:
        refused(lambda: list(read_blocks(path)), name)
    if name not in ONLY_READING_TELLS:
        refused(lambda: open_source(str(tmp_path), max_bad_fraction=0.5))
    with pytest.raises(UnusableAudioError) as caught:
        load_audio(path, ReadingSettings())
    assert "\n" not in str(caught.value)


def make_fifo(path):
    os.mkfifo(path)


def make_loop(path):
    path.symlink_to(path)


def make_dangling(path):
    path.symlink_to(path.with_name("gone.wav"))


def make_folder(path):
    path.mkdir()


def make_device(path):
    path.symlink_to("/dev/zero")


def make_nothing(path):
    pass


def test_a_short_mp3_that_was_cut_off_is_told(tmp_path):
    path = tone(tmp_path / "a.mp3", sampling_rate=44100, num_samples=44100, subtype="MPEG_LAYER_III")
    path.write_bytes(path.read_bytes()[:3000])
    assert "frames" in read_info(path).loss
    refused(lambda: list(read_blocks(path)), "a.mp3")


@pytest.mark.parametrize("make", [make_fifo, make_loop, make_dangling, make_folder, make_device, make_nothing])
def test_what_is_no_file(tmp_path, make, capsys):
    path = tmp_path / "track.wav"
    make(path)
    for read in (read_info, lambda path: read_audio(path), lambda path: list(read_blocks(path))):
        refused(lambda read=read: read(path), "track.wav")
    for words in (["info", str(path)], ["reconstruct", str(path), "-o", str(tmp_path / "out.wav")]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "track.wav" in line and not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_samples_that_are_not_finite(tmp_path, value, capsys):
    wave = np.zeros((RATE, 2), np.float32)
    wave[5000, 1] = value
    soundfile.write(tmp_path / "track.wav", wave, RATE, subtype="FLOAT")
    if np.isfinite(value):
        assert read_audio(tmp_path / "track.wav")[0].abs().max() == pytest.approx(value)
    else:
        with pytest.raises(UnusableAudioError):
            load_audio(tmp_path / "track.wav", ReadingSettings())
        assert main(["reconstruct", str(tmp_path / "track.wav"), "-o", str(tmp_path / "out.wav")]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "track.wav" in line and not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("rate", [1, 10, 100, 192_001, 655_350, 2**31 - 1])
def test_unusual_rates_are_read_or_refused(tmp_path, rate):
    path = tmp_path / "track.wav"
    path.write_bytes(header(rate=rate))
    try:
        wave, _ = read_audio(path, sampling_rate=RATE)
    except ValueError as error:
        assert "track.wav" in str(error) and str(rate) in str(error) and "\n" not in str(error)
    else:
        assert wave.shape[1] == pytest.approx(100 * RATE / rate, abs=2)


@pytest.mark.parametrize(
    "arguments", [(-1.0, 1.0), (np.nan, 1.0), (0.0, -1.0), (0.0, np.nan), (0.0, np.inf), (np.inf, 1.0), (99.0, 1.0)]
)
def test_parts_that_are_not_there(tmp_path, arguments):
    path = tone(tmp_path / "track.wav")
    try:
        wave, _ = read_audio(path, *arguments, RATE)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert wave.shape[1] <= RATE
