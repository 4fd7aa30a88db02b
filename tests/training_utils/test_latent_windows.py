"""Windows of music that is encoded while the transformer trains: what an item's number decides, what is refused."""

import pytest
import torch
from accelerate import Accelerator

from stable_longform.data.latents import LatentWindows
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.items import ItemOrder, make_loader
from stable_longform.training_utils.latent_windows import (
    check_encoder,
    check_scale,
    open_latent_windows,
    open_music_windows,
    sample_latents,
)
from stable_longform.training_utils.noise_and_times import draw_noise_and_times


def draw(shape, numbers):
    return draw_noise_and_times(shape, numbers, seed=5, condition_dropout=0.5)


def open_music(manifest, vae):
    return open_music_windows(open_source(manifest), vae, 16, 512.0, 0, draw, 3, Accelerator(cpu=True))


def test_latents_are_samples_of_the_posterior_and_functions_of_the_number(autoencoder):
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    waveforms = torch.randn(2, 2, 8 * 2048) * 0.1
    both = sample_latents(vae, waveforms, [5, 9])
    assert both.shape == (2, 4, 8) and not both.requires_grad
    assert torch.equal(both[1], sample_latents(vae, waveforms[1:], [9])[0])
    assert not torch.equal(both[1], sample_latents(vae, waveforms[1:], [5])[0])
    with torch.no_grad():
        posterior = vae.encode(waveforms[:1]).latent_dist
    samples = torch.stack([sample_latents(vae, waveforms[:1], [number])[0] for number in range(300)])
    assert torch.allclose(samples.mean(dim=0), posterior.mean[0], atol=0.3 * float(posterior.std.max()))
    assert torch.allclose(samples.std(dim=0), posterior.std[0], rtol=0.2)


def test_items_are_encoded_crops_with_their_timing(tiny_manifest, autoencoder):
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    windows = open_music(tiny_manifest, vae)
    batch = windows.collate([windows.train[number] for number in (3, 4)]) | {"item_numbers": [3, 4]}
    completed = windows.complete(batch)
    latents = completed["latents"]
    assert all(torch.equal(completed[name], drawn) for name, drawn in draw((2, 4, 16), [3, 4]).items())
    assert torch.equal(latents, sample_latents(vae, batch["waveform"], [3, 4])) and latents.shape == (2, 4, 16)
    assert all(batch["prompt"]) and (batch["seconds_total"] > batch["seconds_start"]).all()
    assert len(windows.valid) == 3 and windows.inspect().shape == (3, 4, 16)
    again = open_music(tiny_manifest, vae)
    for first, second in zip(windows.valid, again.valid, strict=True):
        assert torch.equal(first["latents"], second["latents"]) and first["prompt"] == second["prompt"]


def test_windows_of_latents_come_with_the_draws_of_their_numbers_from_workers_too(latents):
    windows = open_latent_windows(str(latents), 16, 512.0, 3, 0.01, draw)
    order = ItemOrder(batch_size=4, start_step=2, first_item=8)
    plain = LatentWindows(latents, "train", 16, seed=3)
    for num_workers in (0, 2):
        batch = windows.complete(next(make_loader(windows.train, order, 3, num_workers, windows.collate)))
        for name, drawn in draw((4, 4, 16), range(8, 12)).items():
            assert torch.equal(batch[name], drawn) and batch[name].dtype == drawn.dtype, name
        assert torch.equal(batch["latents"], torch.stack([plain[number]["latents"] for number in range(8, 12)]))


def test_latents_without_any_scale_are_refused(caplog):
    accelerator = Accelerator(cpu=True)
    with caplog.at_level("INFO"):
        check_scale(torch.tensor([[[-1.0, 1.0, 1.0, -1.0]]]), accelerator)
        check_scale(torch.tensor([[[-4.0, 4.0]]]), accelerator)
    assert [("far from" in record.getMessage()) for record in caplog.records] == [False, True]
    for latents in (torch.ones(1, 2, 3), torch.tensor([[[0.0, torch.nan]]])):
        with pytest.raises(ValueError, match="is the autoencoder trained"):
            check_scale(latents, accelerator)


def test_a_decoder_that_was_trained_on_leaves_the_latents_valid(autoencoder, latents):
    vae = AutoencoderOobleck.from_pretrained(autoencoder)
    torch.nn.init.normal_(vae.decoder.conv1.bias)
    check_encoder(latents, vae)
    torch.nn.init.normal_(vae.encoder.conv1.bias)
    with pytest.raises(ValueError, match="another autoencoder"):
        check_encoder(latents, vae)
