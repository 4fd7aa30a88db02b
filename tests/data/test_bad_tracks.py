"""What is wrong with a recording is told, counted and limited; only what is asked for is read."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import synthetic_audio
from corpora import items_of

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.bad_tracks import MIN_TRIED, BadTrackError, BadTracks, TooManyBadTracks
from stable_longform.data.storage import FilePart
from stable_longform.data.tracks import DURATION_TOLERANCE_IN_S, Track, read_track

RATE = 44100


def write(path: Path, num_samples: int = RATE, channels: int = 2, says_in_s: float | None = None, **options) -> Track:
    soundfile.write(path, synthetic_audio(num_samples, channels).T, RATE, **options)
    return Track(path, num_samples / RATE if says_in_s is None else says_in_s, "train")


def kind_of(track: Track, *arguments) -> str:
    with pytest.raises(BadTrackError) as caught:
        read_track(track, *(arguments or (0.0, None)), RATE)
    assert str(track.path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.kind


def test_broken_files(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    assert kind_of(Track(tmp_path / "text.wav", 1.0, "train")) == "broken"
    assert kind_of(Track(tmp_path / "missing.wav", 1.0, "train")) == "broken"
    assert kind_of(write(tmp_path / "four.wav", channels=4)) == "broken"
    nan = np.full((RATE, 2), np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", nan, RATE, subtype="FLOAT")
    assert kind_of(Track(tmp_path / "nan.wav", 1.0, "train")) == "broken"


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
def test_a_truncated_file_is_found_where_it_ends(tmp_path, extension):
    track = write(tmp_path / f"a.{extension}", 10 * RATE)
    data = track.path.read_bytes()
    track.path.write_bytes(data[: len(data) // 2])
    assert read_track(track, 1.0, 1.0, RATE).shape == (2, RATE)
    assert kind_of(track, 8.0, 1.0) in ("broken", "mislabelled")
    assert kind_of(track) in ("broken", "mislabelled")


def test_a_duration_longer_than_the_file_is_a_wrong_label(tmp_path):
    track = write(tmp_path / "a.wav", says_in_s=2.0)
    assert kind_of(track) == kind_of(track, 1.5, 0.1) == kind_of(track, 0.5, 1.0) == "mislabelled"
    assert read_track(track, 0.2, 0.5, RATE).shape == (2, RATE // 2)
    nearly = write(tmp_path / "b.wav", says_in_s=1.05)  # rounded durations are no wrong labels
    assert read_track(nearly, 0.0, None, RATE).shape == (2, RATE)


def test_a_track_ends_where_its_label_says_though_the_file_goes_on(tmp_path):
    part = write(tmp_path / "a.wav", 10 * RATE, says_in_s=2.0)
    rounded = write(tmp_path / "b.wav", RATE, says_in_s=0.95)
    assert read_track(part, 0.0, None, RATE).shape[1] == round((2 + DURATION_TOLERANCE_IN_S) * RATE)
    assert read_track(part, 1.5, None, RATE).shape[1] == round((0.5 + DURATION_TOLERANCE_IN_S) * RATE)
    assert torch.equal(read_track(part, 1.5, 5.0, RATE), read_track(part, 1.5, None, RATE))
    assert read_track(rounded, 0.0, None, RATE).shape[1] == RATE


class CountedFile:
    """A storage that counts the bytes read from a file."""

    def __init__(self, path: Path):
        self.path, self.count = path, 0

    def open(self) -> FilePart:
        storage = self

        class Counted(FilePart):
            def readinto(self, buffer) -> int:
                read = super().readinto(buffer)
                storage.count += read
                return read

        return Counted(open(self.path, "rb", buffering=0), 0, self.path.stat().st_size)


@pytest.mark.parametrize("extension, share", [("wav", 0.03), ("flac", 0.05), ("ogg", 0.5)])
def test_only_the_crop_is_read_from_disk(tmp_path, extension, share):
    path, second = tmp_path / f"a.{extension}", synthetic_audio(RATE).T
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        for _ in range(30):  # libsndfile's vorbis encoder cannot take much at once
            file.write(second)
    storage = CountedFile(path)
    items_of([Track(path, 30.0, "train", storage=storage)], CropMaker(RATE // 4))[0]
    assert 0 < storage.count < share * path.stat().st_size


def test_bad_tracks_are_named_once_and_limited(caplog):
    bad = BadTracks(100, 0.02)
    errors = [BadTrackError(Path(f"{i}.wav"), kind, "why") for i, kind in enumerate(["silent", "broken", "broken"])]
    with caplog.at_level(logging.WARNING):
        for error in errors[:2] * 3:
            bad.note(error)
    assert [record.getMessage() for record in caplog.records] == [f"left out: {error}" for error in errors[:2]]
    assert bad.summary() == "1 broken, 1 silent"
    with pytest.raises(TooManyBadTracks, match=r"3 of 100 tracks .*2 broken, 1 silent.*=0.02; the last one: 2.wav"):
        bad.note(errors[2])


def test_without_a_total_the_share_is_of_those_tried():
    for num_tried, limit in ((0, MIN_TRIED // 10), (1000, 100)):
        bad = BadTracks(None, 0.1)
        bad.num_tried = num_tried
        for i in range(limit):
            bad.note(BadTrackError(Path(str(i)), "broken", ""))
        with pytest.raises(TooManyBadTracks):
            bad.note(BadTrackError(Path("one more"), "broken", ""))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fraction_is_checked(fraction):
    with pytest.raises(ValueError, match=r"max_bad_fraction must be in \[0, 1\], got"):
        BadTracks(1, fraction)


def test_a_worker_stops_the_run_with_one_line(tmp_path):
    tracks = [Track(tmp_path / "missing.wav", 1.0, "train")]
    loader = torch.utils.data.DataLoader(items_of(tracks, CropMaker(100)), batch_sampler=[[0]], num_workers=1)
    with pytest.raises(TooManyBadTracks) as caught:
        next(iter(loader))
    assert str(caught.value).startswith("1 of 1 tracks cannot be used (1 broken)")
    assert "\n" not in str(caught.value)
