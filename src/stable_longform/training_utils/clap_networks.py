"""The two encoders of CLAP in training: transformers' ClapModel with LAION's augmentation and temperature.

References: Wu et al., "Large-scale contrastive language-audio pretraining", arXiv 2211.06687. Park et al.,
"SpecAugment", arXiv 1904.08779.
"""

import math
from collections.abc import Mapping

import torch
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from stable_longform.data.clap_features import BlockwiseClapFeatureExtractor
from stable_longform.data.clap_pairs import mark_longer

MAX_LENGTH = 77  # tokens of a prompt, as in LAION's code
MAX_LOGIT_SCALE = math.log(100)


def build_feature_extractor(audio_config: Mapping, settings: Mapping) -> ClapFeatureExtractor:
    """The feature extractor that belongs to an audio encoder.

    Args:
        audio_config: arguments of ClapAudioConfig.
        settings: arguments of ClapFeatureExtractor, except `feature_size` and `truncation`.
    """
    truncation = "fusion" if audio_config["enable_fusion"] else "rand_trunc"
    return BlockwiseClapFeatureExtractor(feature_size=audio_config["num_mel_bins"], truncation=truncation, **settings)


def build_clap(audio_config: Mapping, text_config: Mapping, projection_dim: int, vocab_size: int) -> ClapModel:
    """Builds a new ClapModel with random weights.

    Args:
        audio_config: arguments of ClapAudioConfig; `hidden_size` is derived from the others.
        text_config: arguments of ClapTextConfig, except `vocab_size`.
        projection_dim: width of the embeddings.
        vocab_size: of the tokenizer.
    """
    hidden_size = audio_config["patch_embeds_hidden_size"] * 2 ** (len(audio_config["depths"]) - 1)
    return ClapModel(
        ClapConfig(
            audio_config=ClapAudioConfig(**audio_config, hidden_size=hidden_size).to_dict(),
            text_config=ClapTextConfig(**{**text_config, "vocab_size": vocab_size}).to_dict(),
            projection_dim=projection_dim,
        )
    )


def check_clap(audio_config: Mapping, text_config: Mapping, feature_extractor: Mapping, projection_dim: int) -> None:
    """Builds everything that the settings describe on the meta device, to check that transformers accepts them.

    Raises:
        ValueError: transformers rejects them for any reason.
    """
    try:
        build_feature_extractor(audio_config, feature_extractor)
        with torch.device("meta"):
            build_clap(audio_config, text_config, projection_dim, text_config["vocab_size"])
    except Exception as error:  # its configurations raise many kinds of errors for a wrong value
        settings = "audio_config, text_config, feature_extractor and projection_dim"
        raise ValueError(f"No ClapModel can be built from {settings}: {type(error).__name__}: {error}.") from error


@torch.no_grad()
def clamp_logit_scale(model: ClapModel) -> None:
    """Keeps the inverse temperature in [1, 100], and transformers' two parameters for it equal."""
    model.logit_scale_a.clamp_(0, MAX_LOGIT_SCALE)
    model.logit_scale_t.copy_(model.logit_scale_a)


def add_spec_augment(model: ClapModel, time_width: int, frequency_width: int) -> None:
    """Makes the audio encoder apply `spec_augment` to its normalised input, in training only."""

    def augment(module, inputs, output):  # (B, num_mels, num_frames, views)
        return spec_augment(output, time_width, frequency_width) if module.training else output

    model.audio_model.audio_encoder.batch_norm.register_forward_hook(augment)


def spec_augment(features: torch.Tensor, time_width: int, frequency_width: int, num_stripes: int = 2) -> torch.Tensor:
    """Zeroes random stripes of normalised features `(B, num_mels, num_frames, views)`. LAION's SpecAugmentation.

    Each item loses `num_stripes` stripes of frames and of bands, each with a width uniform in [0, width).
    """
    mask = torch.ones(features.shape[:3], device=features.device, dtype=features.dtype)
    for item in mask:
        for stripes, width in ((item, frequency_width), (item.T, time_width)):
            for _ in range(num_stripes):
                size = int(torch.randint(min(width, len(stripes)), ()))
                start = int(torch.randint(len(stripes) - size, ()))
                stripes[start : start + size] = 0
    return features * mask[..., None]


def embed_pairs(model, tokenizer, batch: Mapping, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The audio and text embeddings `(B, projection_dim)` of a collated batch, in float32 with unit length."""
    tokens = tokenizer(batch["prompt"], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    is_longer = mark_longer(batch["is_longer"]) if model.training else batch["is_longer"]
    output = model(
        input_ids=tokens["input_ids"].to(device),
        attention_mask=tokens["attention_mask"].to(device),
        input_features=batch["input_features"].to(device),
        is_longer=is_longer.to(device),
    )
    return output.audio_embeds.float(), output.text_embeds.float()
