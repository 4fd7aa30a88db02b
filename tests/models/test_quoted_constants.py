"""The numbers of the models that docs/architecture.md quotes."""

from pathlib import Path

import torch

from stable_longform.models import chunks
from stable_longform.models.acceleration import engine, oobleck_engine
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

TEXT = " ".join((Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8").split())


def test_architecture_quotes_what_the_code_does():
    with torch.device("meta"):
        vae = AutoencoderOobleck()
    assert f"in chunks of up to {chunks.MAX_LENGTH} frames with {vae.decoder_context} more on each side" in TEXT
    assert f"{vae.encoder_context} frames for the encoder, {vae.decoder_context} for the decoder" in TEXT
    assert f"tiles of {oobleck_engine.CACHE_IN_BYTES // 2**20} MiB" in TEXT
    assert f"`{engine.SWITCH}=0`" in TEXT
