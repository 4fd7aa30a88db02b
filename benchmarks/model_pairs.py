"""Our models, diffusers' and stable-audio-tools' with the same random weights, in sizes from tiny to the paper's."""

from pathlib import Path

import torch
from diffusers import AutoencoderOobleck as DiffusersAutoencoder
from diffusers import StableAudioDiTModel
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder
from peer_checkout import use_checkout

from stable_longform import AutoencoderOobleck, DiTTransformer1D
from stable_longform.models.stable_audio_tools_keys import autoencoder_keys, transformer_keys
from stable_longform.utils.key_maps import to_theirs

# Channels of the decoder at the full rate, and multiples. "embedded" is the decoder of the embedded checkpoint.
DECODERS = {"tiny": (4, (1, 2, 2, 2, 2)), "embedded": (16, (1, 2, 8, 16, 32)), "paper": (128, (1, 2, 4, 8, 16))}
# Layers and heads of 64 channels; key and value heads of the cross-attention.
TRANSFORMERS = {"tiny": (2, 2, 1), "embedded": (8, 6, 3), "paper": (24, 24, 12)}
STRIDES = (2, 4, 4, 8, 8)
LATENT_CHANNELS = 64


def autoencoders(size: str, dtype: torch.dtype, device: str) -> tuple[AutoencoderOobleck, DiffusersAutoencoder]:
    """Our and diffusers' autoencoder with equal decoders; the encoders are not used and as small as possible."""
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
    """Our and diffusers' transformer with equal weights; `num_layers` overrides that of the size."""
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
        "cross_attention_input_dim": 64 * key_value_heads,
        "global_states_input_dim": 2 * 64 * key_value_heads,
    }
    theirs = StableAudioDiTModel(**config)
    ours = DiTTransformer1D(**config, norm_bias=True)
    ours.load_state_dict(theirs.state_dict())
    return ours.to(device, dtype).eval(), theirs.to(device, dtype).eval()


def stable_audio_tools_decoder(size: str, ours: AutoencoderOobleck, checkout: Path) -> torch.nn.Module:
    """stable-audio-tools' decoder with the weights of ours; `checkout` is the folder of its repository."""
    use_checkout(checkout)
    from stable_audio_tools.models.autoencoders import OobleckDecoder as TheirDecoder

    channels, multiples = DECODERS[size]
    theirs = TheirDecoder(
        2, channels, LATENT_CHANNELS, list(multiples), list(STRIDES), use_snake=True, final_tanh=False
    )
    weights = to_theirs(autoencoder_keys(ours.config), ours.state_dict())
    prefix = "decoder."
    theirs.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items() if prefix in key})
    return theirs.to(ours.device, ours.dtype).eval()


def stable_audio_tools_transformer(ours: DiTTransformer1D, checkout: Path) -> torch.nn.Module:
    """stable-audio-tools' transformer with the weights of ours; `checkout` is the folder of its repository."""
    use_checkout(checkout)
    from stable_audio_tools.models.dit import DiffusionTransformer

    config = ours.config
    theirs = DiffusionTransformer(
        io_channels=config.in_channels,
        embed_dim=config.num_attention_heads * config.attention_head_dim,
        depth=config.num_layers,
        num_heads=config.num_attention_heads,
        cond_token_dim=config.cross_attention_input_dim,
        global_cond_dim=config.global_states_input_dim,
        project_cond_tokens=False,
    )
    theirs.load_state_dict(to_theirs(transformer_keys(config), ours.state_dict()))
    return theirs.to(ours.device, ours.dtype).eval()
