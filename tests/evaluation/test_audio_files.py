"""Reading folders: what is wrong with a file is said."""

import os
import re

import numpy as np
import pytest
import soundfile
import torch

from stable_longform.evaluation.audio_files import (
    Audio,
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    list_audio,
    list_tracks,
    load_audio,
    normalize_peak,
    to_channels,
)
from stable_longform.utils.audio import resample


def write(path, samples, rate=44100, **kwargs):
    """Writes `(num_samples,)` or `(num_samples, channels)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **kwargs)
    return path


def test_names_are_relative_paths_without_extension(tmp_path):
    for name in ("b.wav", "a/c.flac", "a/d.v2.ogg"):
        write(tmp_path / name, np.zeros((100, 2)))
    write(tmp_path / ".hidden.wav", np.zeros(100))
    (tmp_path / "notes.txt").write_text("")
    assert list(list_audio(tmp_path)) == ["a/c", "a/d.v2", "b"]
    write(tmp_path / "b.flac", np.zeros(100))
    with pytest.raises(ValueError, match="two files named b: b.flac and b.wav"):
        list_audio(tmp_path)


def test_names_that_are_not_utf_8_can_be_written_to_a_report(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write(tmp_path / "plain.wav", np.zeros((44100, 2))).rename(path)
    assert list_audio(tmp_path) == {"caf\\xe9": path}
    assert [name.rsplit("/", 1)[1] for name in list_tracks(tmp_path, "train")] == ["caf\\xe9"]
    path.write_bytes(b"no audio")
    with pytest.raises(UnusableAudioError, match=r"^unreadable: [ -~]*$"):
        load_audio(path, ReadingSettings())


def test_folders_without_audio_are_named(tmp_path):
    with pytest.raises(ValueError, match="has no audio file"):
        list_audio(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        list_audio(tmp_path / "missing")


def test_stereo_is_levelled_over_both_channels_before_the_resampling(make_audio):
    waveform = make_audio(4000)
    waveform[1] *= 0.25
    levelled = to_channels(Audio(waveform, 44100), 2, 44100, -1.0)
    assert float(levelled.abs().max()) == pytest.approx(10 ** (-1 / 20))
    torch.testing.assert_close(levelled / levelled.abs().max(), waveform / waveform.abs().max())
    torch.testing.assert_close(to_channels(Audio(waveform, 44100), 2, 22050, -1.0), resample(levelled, 44100, 22050))
    assert torch.equal(normalize_peak(torch.zeros(2, 3), -1.0), torch.zeros(2, 3))


@pytest.mark.parametrize("right", (0.0, -0.5, 1.0))
def test_mono_is_levelled_after_the_mix_and_the_resampling(make_audio, right):
    """What a mono network hears has its peak at the level asked for, however far apart the channels are."""
    left = make_audio(4000)[:1]
    for rate in (16000, 44100):
        mono = to_channels(Audio(torch.cat([left, right * left]), 44100), 1, rate, -1.0)
        assert float(mono.abs().max()) == pytest.approx(10 ** (-1 / 20))
    assert torch.equal(to_channels(Audio(torch.cat([left, -left]), 44100), 1, 44100, -1.0), torch.zeros(1, 4000))


def test_a_file_is_read_as_it_is(tmp_path, make_audio):
    waveform = make_audio(4000)
    audio = load_audio(write(tmp_path / "a.wav", waveform.T.numpy(), subtype="FLOAT"), ReadingSettings())
    torch.testing.assert_close(audio.waveform, waveform)


def test_linked_folders_are_walked_and_circles_are_not(tmp_path):
    write(tmp_path / "elsewhere" / "in.flac", np.zeros(100))
    write(tmp_path / "music" / "own.flac", np.zeros(100))
    (tmp_path / "music" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "music")
    assert list(list_audio(tmp_path / "music")) == ["more/in", "own"]


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    files = list_audio(tmp_path)
    assert sorted(files) == ["gone", "pipe"]
    for path in files.values():
        with pytest.raises(UnusableAudioError, match="not a file, or a link to nothing"):
            audio_hash(path)


def test_trim_reads_the_first_seconds(tmp_path, make_audio):
    waveform = make_audio(44100)
    path = write(tmp_path / "a.wav", waveform.T.numpy(), subtype="FLOAT")
    audio = load_audio(path, ReadingSettings(trim_in_s=0.25, peak_in_db=None))
    torch.testing.assert_close(audio.waveform, waveform[:, :11025])
    assert audio.notes == ()
    assert load_audio(path, ReadingSettings(trim_in_s=2.0)).notes == ("shorter than the trim: 1.00 s",)


@pytest.mark.parametrize(
    ("samples", "rate", "notes"),
    [
        (0.1 * np.ones(800), 8000, ("mono", "sampling rate of 8000 Hz")),
        (np.zeros((800, 2)), 44100, ("silent",)),
        (0.1 * np.ones((800, 1)) * [0.0, 1.0], 44100, ("one silent channel",)),
        (0.1 * np.ones((800, 2)), 48000, ()),
    ],
)
def test_properties_are_noted(tmp_path, samples, rate, notes):
    assert load_audio(write(tmp_path / "a.wav", samples, rate), ReadingSettings()).notes == notes


def test_unusable_files_are_named(tmp_path):
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF, but no more")
    nan = np.full((800, 2), 0.1)
    nan[5] = np.nan
    cases = {
        damaged: "unreadable",
        tmp_path / "missing.wav": "unreadable",
        write(tmp_path / "empty.wav", np.zeros((0, 2))): "empty",
        write(tmp_path / "three.wav", np.zeros((800, 3))): "3 channels",
        write(tmp_path / "nan.wav", nan, subtype="FLOAT"): "not finite",
    }
    for path, reason in cases.items():
        with pytest.raises(UnusableAudioError, match=reason):
            load_audio(path, ReadingSettings())


def test_a_file_of_ten_hours_is_told_by_its_header(tmp_path):
    # 36,000 s at 8 kHz, 8 bits: the samples are a hole in the file, which is never read.
    path = write(tmp_path / "long.wav", np.zeros(1), 8000, subtype="PCM_U8")
    num_bytes = 8000 * 36000
    header = bytearray(path.read_bytes())
    position = re.search(b"data", header).start() + 4
    header[position : position + 4] = num_bytes.to_bytes(4, "little")
    header[4:8] = (position + num_bytes - 4).to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(position + 4 + num_bytes)
    with pytest.raises(UnusableAudioError, match="too long: 36000 s, more than 1800 s"):
        load_audio(path, ReadingSettings())
    assert load_audio(path, ReadingSettings(trim_in_s=0.5)).waveform.shape == (1, 4000)


def test_channels_and_rate():
    waveform = torch.stack([torch.ones(441), torch.zeros(441)])
    torch.testing.assert_close(to_channels(Audio(waveform, 44100), 1, 44100), torch.full((1, 441), 0.5))
    assert to_channels(Audio(waveform[:1], 44100), 2, 48000).shape == (2, 480)
