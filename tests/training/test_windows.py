"""Windows of music that is encoded while the transformer trains: what an item's number decides, what is refused."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from accelerate import Accelerator
from common import assert_all_equal
from launch import ROOT, check_script
from safetensors.torch import load_file
from tiny_training import DIT

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

sys.path.insert(0, str(ROOT / "training"))
from train_dit import Config  # noqa: E402
from windows import check_latents, encode, open_windows  # noqa: E402


@pytest.fixture
def music(tiny_manifest, autoencoder) -> Config:
    return Config("clap", "run", manifest=str(tiny_manifest), autoencoder=str(autoencoder), num_validation_windows=3)


def test_latents_are_samples_of_the_posterior_and_functions_of_the_number(autoencoder):
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    waveforms = torch.randn(2, 2, 8 * 2048) * 0.1
    both = encode(vae, waveforms, [5, 9])
    assert both.shape == (2, 4, 8) and not both.requires_grad
    assert torch.equal(both[1], encode(vae, waveforms[1:], [9])[0])
    assert not torch.equal(both[1], encode(vae, waveforms[1:], [5])[0])
    with torch.no_grad():
        posterior = vae.encode(waveforms[:1]).latent_dist
    samples = torch.stack([encode(vae, waveforms[:1], [number])[0] for number in range(300)])
    assert torch.allclose(samples.mean(dim=0), posterior.mean[0], atol=0.3 * float(posterior.std.max()))
    assert torch.allclose(samples.std(dim=0), posterior.std[0], rtol=0.2)


def test_items_are_encoded_crops_with_their_timing(music, autoencoder):
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    windows = open_windows(music, vae, 16, 512.0, Accelerator(cpu=True))
    batch = windows.collate([windows.train[number] for number in (3, 4)])
    latents = windows.with_latents(batch, [3, 4])["latents"]
    assert torch.equal(latents, encode(vae, batch["waveform"], [3, 4])) and latents.shape == (2, 4, 16)
    assert all(batch["prompt"]) and (batch["seconds_total"] > batch["seconds_start"]).all()
    assert len(windows.valid) == 3 and windows.inspected.shape == (3, 4, 16)
    again = open_windows(music, vae, 16, 512.0, Accelerator(cpu=True))
    for first, second in zip(windows.valid, again.valid, strict=True):
        assert torch.equal(first["latents"], second["latents"]) and first["prompt"] == second["prompt"]


def test_what_is_refused(music, autoencoder, latents):
    def refuse(match: str, vae=None, **settings) -> None:
        with pytest.raises(ValueError, match=match):
            open_windows(Config("clap", "run", **settings), vae, 16, 512.0, Accelerator(cpu=True))

    refuse("Give either --latents, or --manifest")
    refuse("Give either --latents, or --manifest", latents=str(latents), manifest=music.manifest)
    refuse("--manifest needs --autoencoder", manifest=music.manifest)
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    refuse("excerpt_probability=0.5 needs --latents", vae, manifest=music.manifest, excerpt_probability=0.5)
    refuse("balance_silence=True needs --latents", vae, manifest=music.manifest, balance_silence=True)


def test_a_decoder_that_was_trained_on_leaves_the_latents_valid(autoencoder, latents):
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    torch.nn.init.normal_(vae.decoder.conv1.bias)
    check_latents(str(latents), vae)
    torch.nn.init.normal_(vae.encoder.conv1.bias)
    with pytest.raises(ValueError, match="another autoencoder"):
        check_latents(str(latents), vae)


def test_two_steps_and_two_more_equal_four(tmp_path, tiny_manifest, autoencoder, clap):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(DIT))
    data = ["--manifest", tiny_manifest, "--autoencoder", autoencoder, "--clap", clap]

    def train(name: str, max_steps: int) -> None:
        check_script("train_dit.py", "--config", tmp_path / "settings.yaml", *data, "--output_dir", tmp_path / name,
                     "--max_steps", max_steps)  # fmt: skip

    train("whole", 4)
    train("resumed", 2)
    shutil.rmtree(tmp_path / "resumed" / "dit")
    train("resumed", 4)
    whole, resumed = (load_file(tmp_path / name / "checkpoint-00000004" / "model.safetensors")
                      for name in ("whole", "resumed"))  # fmt: skip
    assert_all_equal(list(resumed.values()), list(whole.values()))
    stage = json.loads((tmp_path / "resumed" / "dit" / "stage.json").read_text())
    assert all(len(sha256) == 64 for sha256 in stage["sources"]["autoencoder"]["sha256"].values())
