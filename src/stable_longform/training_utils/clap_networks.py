"""The two encoders of CLAP in training: transformers' ClapModel with LAION's augmentation and temperature.

References: Wu et al., "Large-scale contrastive language-audio pretraining", arXiv 2211.06687. Park et al.,
"SpecAugment", arXiv 1904.08779.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from stable_longform.data.clap_features import BlockwiseClapFeatureExtractor
from stable_longform.data.clap_pairs import mark_longer
from stable_longform.data.tokenizer import SMALLEST_VOCAB_SIZE, SPECIAL_TOKENS
from stable_longform.training_utils.options import NumEntries
from stable_longform.utils.ranges import Range

MAX_LENGTH = 77  # tokens of a prompt, as in LAION's code
NUM_POSITIONS = MAX_LENGTH + SPECIAL_TOKENS.index("<pad>") + 1  # RoBERTa counts them from after the padding token's
MAX_LOGIT_SCALE = math.log(100)

Size = Annotated[int, Range(1, 2**16)]
NumLayers = Annotated[int, Range(1, 1000)]
PerStage = Annotated[tuple[int, ...], Range(1, 1000), NumEntries(1, 16)]
Dropout = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True)
class AudioSettings:
    """Arguments of `ClapAudioConfig`: HTSAT-base as in LAION's code. `hidden_size` follows from the others."""

    spec_size: Annotated[Size, "Side of the square that the spectrogram is folded into."] = 256
    num_mel_bins: Annotated[Size, "Bands of the spectrogram."] = 64
    window_size: Annotated[Size, "Side of an attention window in patches."] = 8
    patch_size: Annotated[Size, "Side of a patch."] = 4
    patch_stride: Annotated[tuple[int, int], Range(1, 2**16), "Distance of patches."] = (4, 4)
    patch_embeds_hidden_size: Annotated[Size, "Width of the first stage; it doubles at each further one."] = 128
    depths: Annotated[PerStage, "Layers of each stage."] = (2, 2, 12, 2)
    num_attention_heads: Annotated[PerStage, "Attention heads of each stage."] = (4, 8, 16, 32)
    mlp_ratio: Annotated[float, Range(0, 1000, above=True), "Width of the MLPs, as a multiple."] = 4.0
    enable_fusion: Annotated[bool, "Fuse a view of the whole track with views of three parts."] = True
    fusion_type: Annotated[Literal["aff_2d"], "How views are fused; transformers has this one."] = "aff_2d"
    hidden_dropout_prob: Annotated[Dropout, "Dropout of the layers."] = 0.0
    attention_probs_dropout_prob: Annotated[Dropout, "Dropout of the attention."] = 0.0
    drop_path_rate: Annotated[Dropout, "Share of items that skip the last layer; others follow linearly."] = 0.1


@dataclass(frozen=True)
class TextSettings:
    """Arguments of `ClapTextConfig`: RoBERTa base. `vocab_size` is for a tokenizer that is trained here."""

    vocab_size: Annotated[
        int, Range(SMALLEST_VOCAB_SIZE, 2**24), "Tokens at most; an existing tokenizer has its own number."
    ] = 50265
    hidden_size: Annotated[Size, "Width."] = 768
    num_hidden_layers: Annotated[NumLayers, "Layers."] = 12
    num_attention_heads: Annotated[NumLayers, "Attention heads."] = 12
    intermediate_size: Annotated[Size, "Width of the MLPs."] = 3072
    max_position_embeddings: Annotated[int, Range(NUM_POSITIONS, 2**16), "Positions, with those of padding."] = 514
    type_vocab_size: Annotated[Size, "Kinds of tokens, of which one is used."] = 1
    layer_norm_eps: Annotated[float, Range(0, 1, above=True), "Added to variances."] = 1e-5
    hidden_dropout_prob: Annotated[Dropout, "Dropout of the layers."] = 0.1
    attention_probs_dropout_prob: Annotated[Dropout, "Dropout of the attention."] = 0.1


@dataclass(frozen=True)
class FeatureSettings:
    """Arguments of `ClapFeatureExtractor`: log-mel features of LAION's code. `truncation` follows from the encoder."""

    sampling_rate: Annotated[int, Range(1, 2**20), "Rate in Hz."] = 48000
    max_length_s: Annotated[int, Range(1, 10**4), "Length of a view in seconds."] = 10
    hop_length: Annotated[Size, "Distance of frames in samples."] = 480
    fft_window_size: Annotated[int, Range(2, 2**20), "Length of a frame in samples."] = 1024
    frequency_min: Annotated[float, Range(0, 2**20), "Lowest frequency in Hz."] = 50
    frequency_max: Annotated[float, Range(0, 2**20, above=True), "Highest frequency in Hz."] = 14000
    padding: Annotated[Literal["repeatpad", "repeat", "pad"], "How short music fills a view."] = "repeatpad"


def build_feature_extractor(audio_config: Mapping, settings: Mapping) -> ClapFeatureExtractor:
    """The feature extractor that belongs to an audio encoder.

    Args:
        audio_config: the fields of `AudioSettings`.
        settings: the fields of `FeatureSettings`.
    """
    truncation = "fusion" if audio_config["enable_fusion"] else "rand_trunc"
    return BlockwiseClapFeatureExtractor(feature_size=audio_config["num_mel_bins"], truncation=truncation, **settings)


def build_clap(audio_config: Mapping, text_config: Mapping, projection_dim: int, vocab_size: int) -> ClapModel:
    """Builds a new ClapModel with random weights.

    Args:
        audio_config: the fields of `AudioSettings`.
        text_config: the fields of `TextSettings`.
        projection_dim: width of the embeddings.
        vocab_size: of the tokenizer, instead of the one in `text_config`.
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
    """Builds everything that the settings describe and embeds a short sound on the meta device, to check them.

    Raises:
        ValueError: transformers rejects them for any reason, or would ignore some of them.
    """
    depths, heads = audio_config["depths"], audio_config["num_attention_heads"]
    if len(depths) != len(heads):
        raise ValueError(
            "audio_config.depths and audio_config.num_attention_heads must have an entry for each stage, "
            f"got {list(depths)} and {list(heads)}."
        )
    try:
        extractor = build_feature_extractor(audio_config, feature_extractor)
        rate = extractor.sampling_rate
        if extractor.frequency_max > rate / 2:
            raise ValueError(f"frequency_max must be at most {rate / 2:g}, half of sampling_rate")
        sound = np.zeros(2 * extractor.nb_max_samples, dtype=np.float32)  # long enough for several views
        views = extractor(sound, sampling_rate=rate, return_tensors="pt")["input_features"]
        with torch.device("meta"), torch.no_grad():
            build_clap(audio_config, text_config, projection_dim, text_config["vocab_size"])
            # Which items are fused depends on values, and the meta device has none; a single view has the same shape.
            without_fusion = {**audio_config, "enable_fusion": False}
            model = build_clap(without_fusion, text_config, projection_dim, text_config["vocab_size"])
            model.audio_model(torch.empty(views[:, :1].shape))
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
