"""Our pipeline as diffusers' `StableAudioPipeline`: the same results, and what it cannot express."""

import pytest
import torch
from common import relative_error
from diffusers import CosineDPMSolverMultistepScheduler, StableAudioPipeline
from stable_audio import SAMPLE_SIZE, WIDTH, stable_audio_pipeline, tiny_t5, tiny_t5_tokenizer
from tiny_pipeline import tiny_pipeline, tiny_transformer

from stable_longform import AutoencoderOobleck, LongFormMusicPipeline, TimingConditioner
from stable_longform.convert.stable_audio_pipeline import to_stable_audio_pipeline
from stable_longform.schedulers.scheduling import make_scheduler


@pytest.fixture
def ours(tmp_path) -> LongFormMusicPipeline:
    """A pipeline of ours that diffusers can express, in our own way: no norm biases, a deterministic scheduler."""
    stable_audio_pipeline().save_pretrained(tmp_path / "theirs")
    pipe = LongFormMusicPipeline.from_pretrained(tmp_path / "theirs", scheduler=make_scheduler(0.1, 300.0))
    transformer = type(pipe.transformer).from_config(pipe.transformer.config, norm_bias=False)
    weights = pipe.transformer.state_dict()
    transformer.load_state_dict({key: weights[key] for key in transformer.state_dict()})
    pipe.register_modules(transformer=transformer.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_what_is_exported_opens_in_diffusers_and_gives_the_same_audio(ours, tmp_path):
    pytest.importorskip("torchsde")
    to_stable_audio_pipeline(ours).save_pretrained(tmp_path / "out")
    theirs = StableAudioPipeline.from_pretrained(tmp_path / "out")
    theirs.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 5, SAMPLE_SIZE, generator=torch.Generator().manual_seed(0))
    arguments = {"prompt": "solo piano", "negative_prompt": "drums", "num_inference_steps": 1, "latents": latents}
    expected = theirs(**arguments, audio_end_in_s=0.125).audios
    ours.scheduler = to_stable_audio_pipeline(ours).scheduler
    result = ours(**arguments, duration=0.125).audios[0][None]
    assert relative_error(result, expected) < 1e-5


def test_noise_levels_become_those_of_diffusers_scheduler(ours):
    scheduler = to_stable_audio_pipeline(ours).scheduler
    assert isinstance(scheduler, CosineDPMSolverMultistepScheduler)
    assert (scheduler.config.sigma_min, scheduler.config.sigma_max) == (0.1, 300.0)
    ours.scheduler = CosineDPMSolverMultistepScheduler(sigma_min=0.4)
    assert to_stable_audio_pipeline(ours).scheduler is ours.scheduler


@pytest.mark.parametrize("levels", [(0.03, 500.0), (0.2468, 87.6543)])
def test_noise_levels_are_kept_to_four_digits(ours, levels):
    ours.scheduler = make_scheduler(*levels)
    config = to_stable_audio_pipeline(ours).scheduler.config
    assert (config.sigma_min, config.sigma_max) == pytest.approx(levels, abs=1e-4, rel=1e-4)


def test_every_field_that_cannot_be_expressed_is_named(ours):
    with pytest.raises(ValueError) as info:
        to_stable_audio_pipeline(tiny_pipeline(mask_text_padding=True))
    for part in (
        "text_encoder is 'ClapTextEncoder' and can only be 'T5EncoderModel'",
        "zero_text_padding is False and can only be True",
        "mask_text_padding is True and can only be False",
        "timing_conditioner.internal_dim is 8 and can only be 256",
        "vae.encoder_hidden_size is 4 and can only be 8",
    ):
        assert part in str(info.value)
    odd = AutoencoderOobleck(10, (2, 3), (1, 2), 6, decoder_input_channels=5, sampling_rate=8000)
    patched = type(ours.transformer).from_config(tiny_transformer().config, patch_size=2)
    total = TimingConditioner(WIDTH, use_seconds_start=False)
    for name, module, message in (
        ("vae", odd, r"vae.downsampling_ratios, odd ones is \[3\]"),
        ("transformer", patched, "transformer.patch_size is 2 and can only be 1"),
        ("timing_conditioner", total, "use_seconds_start is False and can only be True"),
    ):
        components = ours.components | {name: module}
        pipe = LongFormMusicPipeline(**components, zero_text_padding=True)
        with pytest.raises(ValueError, match=message):
            to_stable_audio_pipeline(pipe)


def test_a_tokenizer_without_limit_is_refused():
    components = tiny_pipeline().components | {"text_encoder": tiny_t5(), "tokenizer": tiny_t5_tokenizer()}
    components["tokenizer"].model_max_length = int(1e30)
    pipe = LongFormMusicPipeline(**components)
    with pytest.raises(ValueError, match="tokenizer.model_max_length must be at most 4096 tokens"):
        pipe.encode_prompt("solo piano")
