import numpy as np
import pytest
import soundfile
import torch
from corpora import items_of

from stable_longform.data.audio_crops import CropMaker, collate_crops, random_crop
from stable_longform.data.bad_tracks import MAX_DRAWS, TooManyBadTracks
from stable_longform.data.manifest import read_manifest
from stable_longform.data.tracks import Track


@pytest.fixture
def tracks(tiny_manifest):
    return read_manifest(tiny_manifest, "train")


def write_track(path, waveform, sampling_rate=44100, weight=1.0):
    """Writes `(channels, num_samples)` as 32-bit float wav and describes it as a `Track`."""
    soundfile.write(path, np.asarray(waveform).T, sampling_rate, subtype="FLOAT")
    return Track(path, np.asarray(waveform).shape[-1] / sampling_rate, "train", weight)


def ramp(num_samples, num_channels=2):
    """A signal whose value tells the position: sample n is (n + 1) / num_samples, right has the opposite sign."""
    line = (np.arange(num_samples, dtype=np.float32) + 1) / num_samples
    return np.stack([line, -line][:num_channels])


def test_items_are_pure_functions_of_seed_and_index(tracks):
    crops, others = items_of(tracks, CropMaker(4096), seed=3), items_of(tracks, CropMaker(4096), seed=3)
    items = {index: crops[index] for index in (0, 5, 1, 10**9)}
    for index in (10**9, 1, 5, 0):
        again = others[index]
        assert torch.equal(again["waveform"], items[index]["waveform"])
        assert (again["track"], again["start_in_s"]) == (items[index]["track"], items[index]["start_in_s"])
    assert len({item["start_in_s"] for item in items.values()}) == 4
    assert items_of(tracks, CropMaker(4096), seed=4)[0]["start_in_s"] != items[0]["start_in_s"]


def test_items_are_stereo_and_in_range(tracks):
    crops = items_of(tracks, CropMaker(5000))
    items = [crops[index] for index in range(40)]
    assert {item["track"] for item in items} == {0, 1, 2, 3}  # both rates, mono and stereo
    for item in items:
        assert item["waveform"].shape == (2, 5000) and item["waveform"].dtype == torch.float32
        assert 1e-3 <= item["waveform"].abs().max() <= 1
        duration_in_s = tracks[item["track"]].duration_in_s
        assert 0 <= item["start_in_s"] <= duration_in_s - 5000 / 44100
        is_mono = tracks[item["track"]].path.name == "snow.ogg"
        assert torch.equal(item["waveform"][0], item["waveform"][1]) == is_mono


def test_crop_is_the_place_it_says(tmp_path):
    track = write_track(tmp_path / "ramp.wav", ramp(44100))
    item = items_of([track], CropMaker(1000, phase_flip_probability=0.0))[7]
    start = round(item["start_in_s"] * 44100)
    torch.testing.assert_close(item["waveform"], torch.from_numpy(ramp(44100)[:, start : start + 1000]))


def test_starts_cover_the_track(tmp_path):
    track = write_track(tmp_path / "noise.wav", 0.5 * np.ones((2, 44100), np.float32))
    crops = items_of([track], CropMaker(22050))
    starts = [crops[index]["start_in_s"] for index in range(100)]
    assert 0 <= min(starts) < 0.03 and 0.47 < max(starts) <= 0.5


def test_other_rates_are_resampled(tmp_path):
    """A tone keeps its frequency, and a crop its length, up to the very end of the file."""
    seconds = np.arange(48000) / 48000
    track = write_track(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * seconds)[None], 48000)

    class LastMoment:
        """Draws the largest start there is."""

        def random(self):
            return 1.0

    for generator in (np.random.default_rng(0), LastMoment()):
        waveform, start_in_s = random_crop(track, 22050, 44100, generator)
        assert waveform.shape == (2, 22050)
        expected = 0.5 * np.sin(2 * np.pi * 1000 * (round(start_in_s * 44100) + np.arange(22050)) / 44100)
        assert np.abs(waveform[0].numpy() - expected)[100:-100].max() < 1e-3  # the resampler sees silence beyond ends


def test_short_track_is_completed_with_silence(tmp_path):
    track = write_track(tmp_path / "short.wav", ramp(3000, 1))
    item = items_of([track], CropMaker(4096, phase_flip_probability=0.0))[0]
    expected = torch.cat([torch.from_numpy(ramp(3000, 1)[0]), torch.zeros(1096)])
    torch.testing.assert_close(item["waveform"], expected.expand(2, -1))
    assert item["start_in_s"] == 0


def test_silent_crops_are_drawn_again(tmp_path):
    """Half the track is silent, below -60 dBFS; no crop is wholly from there."""
    waveform = np.concatenate([np.full((2, 22050), 0.0009), np.full((2, 22050), 0.5)], axis=1).astype(np.float32)
    crops = items_of([write_track(tmp_path / "half.wav", waveform)], CropMaker(400))
    assert all(crops[index]["waveform"].abs().max() > 0.4 for index in range(50))


def test_quiet_crops_are_kept(tmp_path):
    track = write_track(tmp_path / "quiet.wav", np.full((2, 4410), 0.0011, np.float32))
    assert items_of([track], CropMaker(400))[0]["waveform"].abs().max() == pytest.approx(0.0011)


def test_only_silence(tmp_path):
    track = write_track(tmp_path / "silent.wav", np.zeros((2, 4410), np.float32))
    with pytest.raises(ValueError, match=f"1 of 1 tracks .*silent.wav: silent: {MAX_DRAWS} crops in a row"):
        items_of([track], CropMaker(400))[0]


@pytest.mark.parametrize("probability, expected", [(0.0, {1.0}), (1.0, {-1.0}), (0.5, {1.0, -1.0})])
def test_phase_flip(tmp_path, probability, expected):
    track = write_track(tmp_path / "plus.wav", np.full((2, 4410), 0.5, np.float32))
    crops = items_of([track], CropMaker(400, phase_flip_probability=probability))
    assert {float(crops[index]["waveform"].sign().unique()) for index in range(30)} == expected


def test_values_beyond_full_scale_are_clipped(tmp_path):
    track = write_track(tmp_path / "loud.wav", np.tile([[2.0], [-2.0]], 4410).astype(np.float32))
    waveform = items_of([track], CropMaker(400, phase_flip_probability=0.0))[0]["waveform"]
    assert torch.equal(waveform, torch.tensor([[1.0], [-1.0]]).expand(2, 400))


def test_tracks_are_drawn_by_weight_times_duration(tmp_path):
    audio = [np.full((2, n), 0.5, np.float32) for n in (1000, 3000, 1000)]
    tracks = [write_track(tmp_path / f"{i}.wav", audio[i], weight=w) for i, w in enumerate([1.0, 1.0, 4.0])]
    crops = items_of(tracks, CropMaker(10))
    counts = np.bincount([crops[index]["track"] for index in range(800)])
    assert np.abs(counts / 800 - np.array([1, 3, 4]) / 8).max() < 0.05  # three standard deviations


def test_no_tracks():
    with pytest.raises(ValueError, match="no usable track"):
        items_of([], CropMaker(400))


def test_timing_follows_the_crop(tracks):
    """`seconds_start` is the whole second in which the crop starts, `seconds_total` the track's length rounded up."""
    crops = items_of(tracks, CropMaker(4096))
    starts = set()
    for index in range(40):
        item = crops[index]
        assert item["seconds_start"] == float(np.floor(item["start_in_s"]))
        assert item["seconds_total"] == float(np.ceil(tracks[item["track"]].duration_in_s))
        starts.add(item["seconds_start"])
    assert starts >= {0.0, 1.0, 2.0}


def test_timing_has_a_largest_value(tracks):
    item = CropMaker(4096, max_seconds=1.0)(tracks[0], np.random.default_rng(0))
    assert item["start_in_s"] > 1 and item["seconds_start"] == item["seconds_total"] == 1.0


def test_items_carry_metadata_and_its_prompt(tracks, tmp_path):
    item = items_of(tracks, CropMaker(4096))[0]
    assert item["metadata"] == tracks[item["track"]].metadata
    assert item["prompt"] and item["prompt"] == items_of(tracks, CropMaker(4096))[0]["prompt"]
    assert items_of([write_track(tmp_path / "unknown.wav", ramp(4410))], CropMaker(400))[0]["prompt"] == ""


def test_collate(tracks):
    items = [items_of(tracks, CropMaker(4096))[index] for index in range(3)]
    batch = collate_crops(items)
    assert batch["waveform"].shape == (3, 2, 4096) and batch["seconds_total"].dtype == torch.float32
    assert batch["seconds_start"].tolist() == [item["seconds_start"] for item in items]
    assert batch["prompt"] == [item["prompt"] for item in items]


def test_bad_tracks_are_replaced_and_nothing_else_changes(tmp_path):
    """Items of the good tracks stay as they are; the others' are drawn anew, the same in every process."""
    tracks = [write_track(tmp_path / f"{i}.wav", 0.5 * ramp(44100)) for i in range(10)]
    expected = [items_of(tracks, CropMaker(400))[index] for index in range(40)]
    assert 3 in {item["track"] for item in expected}
    tracks[3].path.unlink()
    crops = items_of(tracks, CropMaker(400), max_bad_fraction=0.1)
    items = [crops[index] for index in range(40)]
    assert list(crops.bad_tracks.kinds) == [tracks[3].path]
    for index, item in reversed(list(enumerate(items))):
        again = items_of(tracks, CropMaker(400), max_bad_fraction=0.1)[index]  # has not met the bad track before
        assert torch.equal(again["waveform"], item["waveform"]) and item["track"] != 3
        if expected[index]["track"] != 3:
            assert torch.equal(item["waveform"], expected[index]["waveform"])
    with pytest.raises(TooManyBadTracks, match="1 of 10"):
        strict = items_of(tracks, CropMaker(400), max_bad_fraction=0.05)
        [strict[index] for index in range(40)]


def test_draws_without_durations(tmp_path):
    tracks = [write_track(tmp_path / f"{n}.wav", np.full((2, n), 0.5, np.float32)) for n in (1000, 9000)]
    crops = items_of(tracks, CropMaker(10), is_weighted_by_duration=False)
    assert 0.4 < np.mean([crops[index]["track"] for index in range(300)]) < 0.6
