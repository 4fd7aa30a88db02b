"""Encoding of whole tracks: what a track's last frames have seen, and what is kept when it is stopped."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_pipeline import tiny_vae

from stable_longform.data.bad_tracks import BadTracks
from stable_longform.data.latents import read_shards
from stable_longform.data.manifest import read_manifest
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.latent_encoding import (
    describe_encoder,
    encode_posterior,
    encode_silence,
    encode_tracks,
    has_encoded,
    track_key,
)
from stable_longform.utils.audio import read_audio, to_stereo


@pytest.fixture(scope="module")
def vae(autoencoder):
    return AutoencoderOobleck.from_pretrained(autoencoder)


@pytest.fixture(scope="module")
def tracks(tiny_manifest):
    return read_manifest(tiny_manifest)


def encode(tracks, vae, folder, tracks_per_shard: int = 2) -> dict[str, dict]:
    """Rows by key."""
    encode_tracks(tracks, vae, folder, BadTracks(6, 0.0), tracks_per_shard, 10.0)
    return read_shards(folder)


def test_every_frame_is_that_of_the_track_followed_by_silence(vae, tracks, tmp_path):
    """Also the last ones, which a track that just stops would change."""
    rows = encode(tracks, vae, tmp_path)
    assert len(rows) == len(tracks)
    is_changed = []
    for track in tracks:
        row = rows[track_key(track)]
        waveform = to_stereo(read_audio(track.path, sampling_rate=44100)[0])
        length = -(-waveform.shape[1] // vae.hop_length)
        assert row["latent_length"] == length and row["split"] == track.split
        stored = {name: load_file(tmp_path / row["file"])[f"{row['key']}.{name}"] for name in ("mean", "std")}
        followed = encode_posterior(vae, F.pad(waveform, (0, 3 * vae.encoder_context * vae.hop_length)))
        for name, value in stored.items():
            torch.testing.assert_close(value[:, :length], followed[name][:, :length], atol=2e-3, rtol=1e-3)
        cut = encode_posterior(vae, waveform)["mean"]
        is_changed.append(not torch.allclose(cut[:, -1].float(), stored["mean"][:, length - 1].float(), atol=2e-2))
    assert any(is_changed)  # so the silence does matter


def test_latents_belong_to_the_encoder_that_made_them():
    made_by, other = tiny_vae(), tiny_vae()
    description = json.loads(json.dumps(describe_encoder(made_by)))
    assert has_encoded(made_by, description)
    with torch.no_grad():
        made_by.decoder.conv1.bias += 1  # a decoder trained further reads the same latents
        other.encoder.conv1.bias += 1
    assert has_encoded(made_by, description) and not has_encoded(other, description)
    assert not has_encoded(made_by, {})


def test_silence_is_that_far_from_the_ends(vae):
    frame = encode_silence(vae)
    longer = encode_posterior(vae, torch.zeros(2, vae.hop_length * (4 * vae.encoder_context + 1)))
    for name in ("mean", "std"):
        middle = longer[name][:, 2 * vae.encoder_context, None]
        assert frame[name].shape == (4, 1)
        torch.testing.assert_close(frame[name], middle, atol=1e-3, rtol=1e-3)


def test_what_was_encoded_before_a_stop_is_kept(vae, tracks, tmp_path):
    def stopped():
        yield from tracks[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(stopped(), vae, tmp_path)
    rows = read_shards(tmp_path)
    assert set(rows) == {track_key(track) for track in tracks[:3]}
    assert len(list(tmp_path.glob("shard-*"))) == 2
    assert json.dumps(rows)  # the metadata, too, are plain values


def test_keys_tell_tracks_of_one_name_in_two_folders_apart(tracks):
    assert len({track_key(track) for track in tracks}) == len(tracks)
