"""The networks of CLAP's training: what augments their input, what bounds the temperature, what is embedded."""

import math

import pytest
import torch
from tiny_training import CLAP

from stable_longform.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from stable_longform.training_utils.clap_networks import (
    add_spec_augment,
    build_clap,
    build_feature_extractor,
    check_clap,
    clamp_logit_scale,
    spec_augment,
)

AUDIO = CLAP["audio_config"] | {"num_mel_bins": 64}


def build_tiny():
    return build_clap(AUDIO, CLAP["text_config"], CLAP["projection_dim"], 300)


def test_spec_augment_zeroes_whole_stripes_and_nothing_else():
    torch.manual_seed(0)
    features = torch.rand(50, 64, 100, 4) + 1
    augmented = spec_augment(features, 20, 8)
    is_kept = augmented != 0
    assert torch.equal(augmented[is_kept], features[is_kept])
    assert torch.equal(is_kept, is_kept[..., :1].expand_as(is_kept))  # the same for all views
    bands, frames = is_kept[..., 0].any(dim=2), is_kept[..., 0].any(dim=1)  # (50, 64) and (50, 100)
    assert torch.equal(is_kept[..., 0], bands[:, :, None] & frames[:, None, :])
    num_bands, num_frames = (~bands).sum(dim=1), (~frames).sum(dim=1)
    assert 0 < num_bands.max() <= 14 and 0 < num_frames.max() <= 38  # two stripes of at most width - 1
    assert num_bands.min() < 4 and num_frames.min() < 10


def test_spec_augment_is_off_in_evaluation():
    model = build_tiny()
    add_spec_augment(model, 20, 8)
    norm = model.audio_model.audio_encoder.batch_norm
    features = torch.rand(2, 64, 101, 4)
    assert (norm.train()(features) == 0).any()
    assert not (norm.eval()(features) == 0).any()


@pytest.mark.parametrize(("log_scale", "expected"), [(-3.0, 1.0), (2.0, math.exp(2)), (9.0, 100.0)])
def test_the_temperature_stays_in_its_bounds_and_is_one_number(log_scale, expected):
    model = build_tiny()
    model.logit_scale_a.data.fill_(log_scale)
    clamp_logit_scale(model)
    assert model.logit_scale_a.exp().item() == pytest.approx(expected)
    assert torch.equal(model.logit_scale_t, model.logit_scale_a)


@pytest.mark.parametrize(("enable_fusion", "truncation"), [(True, "fusion"), (False, "rand_trunc")])
def test_the_feature_extractor_follows_the_audio_encoder(enable_fusion, truncation):
    extractor = build_feature_extractor(AUDIO | {"enable_fusion": enable_fusion}, {"max_length_s": 2})
    assert extractor.truncation == truncation and extractor.feature_size == 64
    assert extractor.nb_max_samples == 2 * extractor.sampling_rate


def test_tokenizer_knows_its_words_in_any_place_and_every_other_text():
    tokenizer = train_tokenizer(["Moods: Uplifting, Energetic", "CALM PIANO"], 400)
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert len(tokenizer.encode("piano calm piano").ids) == 5  # <s> and </s>
    assert tokenizer.decode(tokenizer.encode("Grüße, 音楽!").ids) == "Grüße, 音楽!"
    with pytest.raises(ValueError, match="vocab_size must be at least 261, got 260"):
        train_tokenizer(["a"], 260)


@pytest.mark.parametrize(
    "audio, text, features, width",
    [
        ({"num_attention_heads": [3, 2]}, {}, {}, 8),
        ({}, {"num_attention_heads": 3}, {}, 8),
        ({}, {}, {"frequency_min": 9000, "frequency_max": 5000}, 8),
        ({}, {}, {}, -8),
    ],
)
def test_settings_of_which_nothing_can_be_built_are_refused_at_once(audio, text, features, width):
    check_clap(AUDIO, CLAP["text_config"], CLAP["feature_extractor"], 8)
    settings = (AUDIO | audio, CLAP["text_config"] | text, CLAP["feature_extractor"] | features, width)
    with pytest.raises(ValueError, match="No ClapModel can be built from"):
        check_clap(*settings)


def test_each_stage_of_the_audio_encoder_has_its_heads():
    """transformers takes the first ones of too many."""
    settings = AUDIO | {"num_attention_heads": [2, 2, 2]}
    with pytest.raises(ValueError, match=r"must have an entry for each stage, got \[1, 1\] and \[2, 2, 2\]"):
        check_clap(settings, CLAP["text_config"], CLAP["feature_extractor"], 8)
