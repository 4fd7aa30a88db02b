"""The script makes noisy silence quieter, keeps the music near what it was, and leaves the encoder alone."""

import pytest
import torch
from launch import check_script, run_script

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck


def test_noisy_silence_becomes_quiet_and_music_stays(tiny_manifest, tiny_autoencoder_config, tmp_path):
    torch.manual_seed(0)
    AutoencoderOobleck(**tiny_autoencoder_config).save_pretrained(tmp_path / "trained")
    common = ["--manifest", tiny_manifest]
    check_script("normalize_latents.py", *common, "--autoencoder", tmp_path / "trained", "--num_crops", 4,
                 "--crop_duration_in_s", 1, "--silence_distance", 6, "--output_dir", tmp_path / "before")  # fmt: skip
    check_script("silence_decoder.py", *common, "--autoencoder", tmp_path / "before", "--max_steps", 60,
                 "--learning_rate", 3e-3, "--crop_latent_length", 12, "--output_dir", tmp_path / "after")  # fmt: skip
    before, after = (AutoencoderOobleck.from_pretrained(tmp_path / name) for name in ("before", "after"))
    assert all(map(torch.equal, before.encoder.state_dict().values(), after.encoder.state_dict().values()))
    waveform = open_source(tiny_manifest, "train").items(CropMaker(20 * 2048, 44100))[100]["waveform"]
    with torch.no_grad():
        silence = before.encode(torch.zeros(1, 2, 20 * 2048)).latent_dist.mode()
        silence = silence + 0.3 * torch.randn(silence.shape)
        old, new = (vae.decode(silence).sample.square().mean() for vae in (before, after))
        assert new < 0.7 * old
        music = before.encode(waveform[None]).latent_dist.mode()
        old, new = (vae.decode(music).sample for vae in (before, after))
        assert (new - old).square().mean() < 0.5 * old.square().mean()


@pytest.mark.parametrize("noise", [0, -1])
def test_noise_must_be_positive(tiny_manifest, tiny_autoencoder_config, tmp_path, noise):
    AutoencoderOobleck(**tiny_autoencoder_config).save_pretrained(tmp_path / "vae")
    refused = run_script("silence_decoder.py", "--manifest", tiny_manifest, "--autoencoder", tmp_path / "vae",
                         "--output_dir", tmp_path / "out", f"--noise={noise}")  # fmt: skip
    assert refused.returncode == 2 and f"noise must be above 0, got {float(noise)}" in refused.stderr
    assert not (tmp_path / "out").exists()
