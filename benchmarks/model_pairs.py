"""Our models and diffusers' classes with the same random weights, in sizes from tiny to the paper's."""

import torch
from diffusers import AutoencoderOobleck as DiffusersAutoencoder
from diffusers import StableAudioDiTModel
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder

from stable_longform import AutoencoderOobleck, DiTTransformer1D

# Channels of the decoder at the full rate, and multiples. "embedded" is the decoder of the embedded checkpoint.
DECODERS = {"tiny": (4, (1, 2, 2, 2, 2)), "embedded": (16, (1, 2, 8, 16, 32)), "paper": (128, (1, 2, 4, 8, 16))}
# Layers and heads of 64 channels; key and value heads of the cross-attention.
TRANSFORMERS = {"tiny": (2, 2, 1), "embedded": (8, 6, 3), "paper": (24, 24, 12)}
STRIDES = (2, 4, 4, 8, 8)
LATENT_CHANNELS = 64


def autoencoders(size: str, dtype: torch.dtype, device: str) -> tuple[AutoencoderOobleck, DiffusersAutoencoder]:
    """Ours and diffusers', whose decoders are equal; the encoders do not count and are the smallest."""
    channels, multiples = DECODERS[size]
    torch.manual_seed(0)
    config = {"downsampling_ratios": list(STRIDES), "channel_multiples": list(multiples), "decoder_channels": channels}
    ours = AutoencoderOobleck(**config, encoder_hidden_size=2, decoder_input_channels=LATENT_CHANNELS)
    with torch.device("meta"):
        theirs = DiffusersAutoencoder(**config | {"channel_multiples": [1] * len(STRIDES)})
    theirs.encoder = None
    theirs.decoder = OobleckDecoder(channels, LATENT_CHANNELS, 2, list(reversed(STRIDES)), list(multiples))
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    return ours.to(device, dtype).eval(), theirs.to(device, dtype).eval()


def transformers(
    size: str, num_layers: int | None, dtype: torch.dtype, device: str
) -> tuple[DiTTransformer1D, StableAudioDiTModel]:
    """Ours and diffusers', equal; `num_layers` other than the size's if given."""
    layers, heads, key_value_heads = TRANSFORMERS[size]
    torch.manual_seed(0)
    config = {
        "sample_size": 6144,
        "num_layers": num_layers or layers,
        "num_attention_heads": heads,
        "num_key_value_attention_heads": key_value_heads,
        "attention_head_dim": 64,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "cross_attention_dim": 64 * key_value_heads,
    }
    theirs = StableAudioDiTModel(**config)
    ours = DiTTransformer1D(**config, norm_bias=True)
    ours.load_state_dict(theirs.state_dict())
    return ours.to(device, dtype).eval(), theirs.to(device, dtype).eval()
