"""The pairs repeat themselves, never repeat a track in a batch, and say truly whether a crop is longer than a view."""

import re

import numpy as np
import pytest
import soundfile
import torch
from transformers import ClapFeatureExtractor

from stable_longform.data.clap_pairs import PairMaker, mark_longer
from stable_longform.data.listed_source import ListedSource
from stable_longform.data.tracks import Track

RATE = 48000
NUM_TRACKS = 7


def make_extractor(truncation: str) -> ClapFeatureExtractor:
    return ClapFeatureExtractor(max_length_s=1, frequency_min=50, truncation=truncation)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory) -> list[Track]:
    """Swelling tones of 3 s, track n in FFT bin 10 (n + 1), and a genre that names its track."""
    folder = tmp_path_factory.mktemp("audio")
    seconds = np.arange(3 * RATE) / RATE
    for number in range(NUM_TRACKS):
        tone = (0.1 + 0.2 * seconds) * np.sin(2 * np.pi * 10 * (number + 1) * RATE / 1024 * seconds)
        soundfile.write(folder / f"{number}.wav", np.stack([tone, tone], axis=1), RATE)
    return [
        Track(folder / f"{number}.wav", 3.0, "train", metadata={"genre": [f"genre{number}"]})
        for number in range(NUM_TRACKS)
    ]


def pairs_of(tracks, extractor, batch_size, seed=0, crop_duration_in_s=10.0, max_bad_fraction=0.01):
    source = ListedSource(tracks, max_bad_fraction).with_prompts()
    return source.items(PairMaker(extractor, crop_duration_in_s), seed, batch_size=batch_size)


def batches(pairs, batch_size: int, num_batches: int) -> list[list[int]]:
    return [[pairs[k * batch_size + i]["track"] for i in range(batch_size)] for k in range(num_batches)]


def test_item_is_a_function_of_seed_and_index(tracks):
    pairs = pairs_of(tracks, make_extractor("fusion"), 2, seed=3, crop_duration_in_s=2.0)
    expected = pairs[11]
    pairs[5], np.random.seed(1)  # neither other items nor numpy's global generator matter
    again = pairs_of(tracks, make_extractor("fusion"), 2, seed=3, crop_duration_in_s=2.0)[11]
    assert torch.equal(again["input_features"], expected["input_features"])
    assert (again["prompt"], again["track"]) == (expected["prompt"], expected["track"])
    other = pairs_of(tracks, make_extractor("fusion"), 2, seed=4, crop_duration_in_s=2.0)[11]
    assert not torch.equal(other["input_features"], expected["input_features"])


def test_items_leave_the_global_generator_alone(tracks):
    pairs = pairs_of(tracks, make_extractor("fusion"), 2, crop_duration_in_s=2.0)
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    pairs[0]
    assert np.random.rand() == expected


def test_a_batch_has_distinct_tracks_and_epochs_have_other_orders(tracks):
    pairs = pairs_of(tracks, make_extractor("rand_trunc"), 3, crop_duration_in_s=0.1)
    assert pairs.epoch_length == 6  # two batches of 3; one track of 7 waits
    drawn = batches(pairs, 3, 12)
    for batch in drawn:
        assert len(set(batch)) == 3
    epochs = [tuple(sum(drawn[k : k + 2], [])) for k in range(0, 12, 2)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len(set(epochs)) == 6
    assert set(sum(epochs, ())) == set(range(NUM_TRACKS))


def test_prompt_and_audio_are_of_the_same_track(tracks):
    extractor = make_extractor("rand_trunc")
    pairs = pairs_of(tracks, extractor, NUM_TRACKS)
    for item in (pairs[index] for index in range(NUM_TRACKS)):
        assert re.findall(r"\d", item["prompt"]) == [str(item["track"])]
        loudest_band = item["input_features"][0].mean(dim=0).argmax()
        assert loudest_band == extractor.mel_filters_slaney[10 * (item["track"] + 1)].argmax()


@pytest.mark.parametrize(
    "truncation, duration_in_s, num_views, is_longer",
    [
        ("fusion", 2.0, 4, True),
        ("fusion", 1.0, 4, False),
        ("fusion", 0.5, 4, False),
        ("fusion", None, 4, True),
        ("rand_trunc", 2.0, 1, False),
        ("rand_trunc", 1.0, 1, False),
    ],
)
def test_shapes_and_is_longer(tracks, truncation, duration_in_s, num_views, is_longer):
    item = pairs_of(tracks, make_extractor(truncation), 2, crop_duration_in_s=duration_in_s)[0]
    assert item["input_features"].shape == (num_views, 101, 64)
    assert item["input_features"].dtype == torch.float32
    assert item["is_longer"].tolist() == [is_longer]
    views = item["input_features"]
    assert torch.equal(views[0], views[-1]) == (num_views == 1 or not is_longer)


def test_a_clip_longer_by_less_than_a_frame_is_not_longer(tracks):
    # the extractor then uses one view four times
    pairs = pairs_of(tracks, make_extractor("fusion"), 1, crop_duration_in_s=1 + 479 / RATE)
    assert not pairs[0]["is_longer"].any()
    pairs = pairs_of(tracks, make_extractor("fusion"), 1, crop_duration_in_s=1 + 481 / RATE)
    assert pairs[0]["is_longer"].all()


def test_a_short_track_is_repeated_not_filled_with_silence(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 4)
    soundfile.write(tmp_path / "short.wav", noise, RATE, subtype="FLOAT")
    track = Track(tmp_path / "short.wav", 0.25, "train", metadata={"bpm": 120})
    features = pairs_of([track], make_extractor("rand_trunc"), 1, crop_duration_in_s=1.0)[0]["input_features"][0]
    assert float(features[5:95].amax(dim=1).min()) > -20  # dB; silence is -100
    torch.testing.assert_close(features[5:20], features[55:70], rtol=0, atol=1e-3)


def test_tracks_without_a_prompt_are_left_out_and_too_few_are_refused(tracks, caplog):
    unknown = Track(tracks[0].path, 3.0, "train", metadata={"title": "nothing that makes a prompt"})
    pairs = pairs_of([unknown, *tracks], make_extractor("rand_trunc"), NUM_TRACKS)
    assert pairs.tracks == tracks
    assert "1 of 8 tracks" in caplog.text
    with pytest.raises(ValueError, match=r"\[1, 7\].*got 8"):
        pairs_of([unknown, *tracks], make_extractor("rand_trunc"), NUM_TRACKS + 1)
    with pytest.raises(ValueError, match="crop_duration_in_s.*got 0"):
        pairs_of(tracks, make_extractor("rand_trunc"), 2, crop_duration_in_s=0)


def test_silence_is_refused(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    track = Track(tmp_path / "silent.wav", 1.0, "train", metadata={"genre": "silence"})
    with pytest.raises(ValueError, match="1 of 1 tracks .*silent.wav: silent: 20 crops"):
        pairs_of([track], make_extractor("rand_trunc"), 1, crop_duration_in_s=0.1)[0]


def test_bad_tracks_are_replaced_by_tracks_outside_the_batch(tracks, tmp_path):
    """Three of seven are gone: every batch still has distinct tracks, and the same ones in every process."""
    gone = [Track(tmp_path / f"{i}.wav", 3.0, "train", metadata=track.metadata) for i, track in enumerate(tracks[:3])]
    extractor = make_extractor("rand_trunc")

    def make():
        return pairs_of([*gone, *tracks[3:]], extractor, 2, crop_duration_in_s=0.1, max_bad_fraction=0.5)

    pairs = make()
    drawn = batches(pairs, 2, 9)
    assert set(sum(drawn, [])) == set(range(3, NUM_TRACKS)) and len(pairs.bad_tracks.kinds) == 3
    assert all(len(set(batch)) == 2 for batch in drawn)
    assert [make()[index]["track"] for index in range(17, -1, -1)] == sum(drawn, [])[::-1]


def test_a_bad_track_without_replacement_stops(tracks, tmp_path):
    gone = Track(tmp_path / "gone.wav", 3.0, "train", metadata=tracks[0].metadata)
    pairs = pairs_of([gone, *tracks], make_extractor("rand_trunc"), NUM_TRACKS + 1, max_bad_fraction=0.5)
    with pytest.raises(ValueError, match="No usable track.*gone.wav: broken"):
        [pairs[index] for index in range(NUM_TRACKS + 1)]


@pytest.mark.parametrize(
    "before, after",
    [([0, 0, 0], [1, 1, 0]), ([0, 0, 1], [1, 1, 1]), ([1, 0, 0], [1, 1, 0]), ([0, 1, 1], [0, 1, 1])],
)
def test_mark_longer(before, after):
    is_longer = torch.tensor(before).bool()[:, None]
    assert mark_longer(is_longer).int().flatten().tolist() == after
    assert is_longer.int().flatten().tolist() == before
