"""Converts our pipeline to diffusers' `StableAudioPipeline`, if that can express it."""

import torch
from diffusers import (
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    DPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from transformers import T5EncoderModel

from stable_longform.convert.model_config import NUM_FOURIER_FEATURES
from stable_longform.noise_schedule import V_PREDICTION
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline

VAE_FIELDS = (
    "encoder_hidden_size",
    "downsampling_ratios",
    "channel_multiples",
    "decoder_channels",
    "decoder_input_channels",
    "audio_channels",
    "sampling_rate",
)
TRANSFORMER_FIELDS = (
    "sample_size",
    "in_channels",
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "num_key_value_attention_heads",
    "out_channels",
    "cross_attention_dim",
    "time_proj_dim",
    "global_states_input_dim",
    "cross_attention_input_dim",
)


def to_stable_audio_pipeline(pipe: LongFormMusicPipeline) -> StableAudioPipeline:
    """Builds diffusers' pipeline with the weights of ours, which it shares.

    Layer norms without biases get zero biases. diffusers' pipeline interprets the timesteps of our deterministic
    sampler differently, so it becomes `CosineDPMSolverMultistepScheduler`: stochastic, with the same noise levels.

    Raises:
        ValueError: diffusers' pipeline cannot express a field; the message names it.
    """
    _check(pipe)
    with torch.device("meta"):
        vae = AutoencoderOobleck(**{name: pipe.vae.config[name] for name in VAE_FIELDS})
        transformer = StableAudioDiTModel(**{name: pipe.transformer.config[name] for name in TRANSFORMER_FIELDS})
        timing = pipe.timing_conditioner.config
        width = timing.text_encoder_dim or timing.conditioning_dim
        projection = StableAudioProjectionModel(width, timing.conditioning_dim, timing.min_value, timing.max_value)
    weights = pipe.transformer.state_dict()
    if not pipe.transformer.config.norm_bias:
        norms = [key for key in weights if ".norm" in key]
        weights |= {key.removesuffix("weight") + "bias": torch.zeros_like(weights[key]) for key in norms}
    for model, state_dict in (
        (vae, pipe.vae.state_dict()),
        (transformer, weights),
        (projection, pipe.timing_conditioner.state_dict()),
    ):
        model.load_state_dict(state_dict, assign=True)
        model.eval()
    return StableAudioPipeline(
        vae=vae,
        text_encoder=pipe.text_encoder,
        projection_model=projection,
        tokenizer=pipe.tokenizer,
        transformer=transformer,
        scheduler=_to_cosine(pipe.scheduler),
    )


def _check(pipe: LongFormMusicPipeline) -> None:
    """Raises a ValueError unless diffusers' pipeline can be the same model."""
    vae, timing = pipe.vae.config, pipe.timing_conditioner.config
    checks = {
        "text_encoder": (type(pipe.text_encoder).__name__, T5EncoderModel.__name__),
        "zero_text_padding": (pipe.config.zero_text_padding, True),
        "mask_text_padding": (pipe.config.mask_text_padding, False),
        "prediction_type": (pipe.config.prediction_type, V_PREDICTION),
        "transformer.qk_norm": (pipe.transformer.config.qk_norm, None),
        "transformer.patch_size": (pipe.transformer.config.patch_size, 1),
        "timing_conditioner.use_seconds_start": (timing.use_seconds_start, True),
        "timing_conditioner.internal_dim": (timing.internal_dim, NUM_FOURIER_FEATURES),
        "vae.encoder_hidden_size": (vae.encoder_hidden_size, 2 * vae.decoder_input_channels),
        "vae.downsampling_ratios, odd ones": ([stride for stride in vae.downsampling_ratios if stride % 2], []),
    }
    wrong = [
        f"{name} is {value!r} and can only be {accepted!r}"
        for name, (value, accepted) in checks.items()
        if value != accepted
    ]
    if wrong:
        raise ValueError(f"diffusers' StableAudioPipeline cannot express this model: {'; '.join(wrong)}.")


def _to_cosine(scheduler) -> CosineDPMSolverMultistepScheduler:
    """A scheduler that diffusers' pipeline understands, with the noise levels of ours."""
    if isinstance(scheduler, CosineDPMSolverMultistepScheduler):
        return scheduler
    if not isinstance(scheduler, DPMSolverMultistepScheduler):
        raise ValueError(f"scheduler is {type(scheduler).__name__}, which cannot be expressed.")
    signal = scheduler.alphas_cumprod.double()
    levels = ((1 - signal) / signal).sqrt()
    return CosineDPMSolverMultistepScheduler(
        sigma_min=round(levels[0].item(), 4), sigma_max=round(levels[-1].item(), 4), solver_order=2
    )
