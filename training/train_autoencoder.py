"""Trains the autoencoder: spectral, KL, adversarial and feature-matching losses. Paper: §2.1, §3.

    accelerate launch training/train_autoencoder.py --manifest corpus/manifest.jsonl --output_dir runs/autoencoder
    python training/train_autoencoder.py --config training/configs/autoencoder_tiny.yaml ...

The defaults are the paper's. Some options are not in the paper and off by default: the losses `l1` and `complex_stft`,
spectra without A-weighting, clipping, and a learning rate that falls at the end. Together with
`training/train_linear_start.py`, they allow a short training to preserve the notes. To resume, run the same command
again. The result is `output_dir/autoencoder`, the exponential moving average of the weights, for
`AutoencoderOobleck.from_pretrained`. `output_dir/discriminator` is for a further stage with
`--init_discriminator_from`.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from stable_longform.data.audio_crops import CropMaker, collate_crops
from stable_longform.data.sources import Source
from stable_longform.losses.stft import FFT_SIZES, stereo_stft_loss
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.adversarial_steps import (
    Turn,
    choose_turn,
    discriminator_step_losses,
    generator_step_losses,
)
from stable_longform.training_utils.checkpointing import latest_checkpoint
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.ema import EMAModel
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused
from stable_longform.training_utils.items import VALIDATION_SEED, item_generator, make_loader, seed_generators
from stable_longform.training_utils.learning_rate import falling_rate, inverse_lr, set_learning_rate
from stable_longform.training_utils.loop import StopRequest, TrainingLoop
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.options import ArgumentsOf, build_model
from stable_longform.training_utils.pretrained import load_weights
from stable_longform.training_utils.reconstruction_validation import validate_reconstruction, validation_crops
from stable_longform.training_utils.run_options import MusicOptions, TrainingOptions
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import train_step
from stable_longform.utils.files import atomic_folder
from stable_longform.utils.ranges import Range


def _paper_weights() -> dict:
    """Loss weights of the paper's configuration, which has neither `l1` nor `complex_stft`."""
    return {
        "mid": 1.0,
        "side": 1.0,
        "left": 0.5,
        "right": 0.5,
        "kl": 1e-4,
        "adversarial": 0.1,
        "feature_matching": 5.0,
        "l1": 0.0,
        "complex_stft": 0.0,
    }


@dataclass(frozen=True, kw_only=True)
class Config(MusicOptions, TrainingOptions):
    """Defaults are the paper's configuration; `batch_size` is per process and was not published."""

    output_dir: shared.OutputDir
    init_from: Annotated[str | None, "Folder or Hub id of an autoencoder with initial weights, of the same shape."] = (
        None
    )
    init_discriminator_from: Annotated[
        str | None, "Folder of a discriminator with initial weights, of the same shape."
    ] = None
    model: Annotated[
        dict,
        ArgumentsOf(AutoencoderOobleck),
        "Options that differ from the paper's.",
    ] = field(default_factory=dict)
    discriminator: Annotated[
        dict,
        ArgumentsOf(MultiScaleSTFTDiscriminator),
        "Options that differ from the paper's.",
    ] = field(default_factory=dict)
    loss_weights: Annotated[dict, Range(0, 1e6), "Weight of each loss; 0: not computed."] = field(
        default_factory=_paper_weights
    )
    fft_sizes: Annotated[shared.FftSizes, "FFT sizes of the spectral losses, in samples."] = FFT_SIZES
    complex_fft_sizes: Annotated[
        shared.FftSizes,
        "FFT sizes of the loss complex_stft, which is off if its weight is 0.",
    ] = (4096, 2048, 1024)
    is_a_weighted: Annotated[bool, "Apply A-weighting to the signals before the spectral losses."] = True
    crop_num_samples: shared.CropNumSamples = 65536  # 1.486 s
    batch_size: shared.BatchSize = 8
    gradient_accumulation_steps: shared.Accumulation = 1
    max_steps: Annotated[shared.MaxSteps, "Steps of both networks together."] = 1_000_000
    max_minutes: shared.MaxMinutes | None = None
    discriminator_start_step: Annotated[
        int,
        Range(0, shared.MAX_TRAINING_STEPS),
        "Before this step only the generator is trained.",
    ] = 0
    encoder_freeze_step: Annotated[
        int | None,
        Range(0, shared.MAX_TRAINING_STEPS),
        "From this step on only the decoder is trained; 0 for a decoder-only stage.",
    ] = None
    learning_rate: shared.LearningRate = 1.5e-4
    discriminator_learning_rate: shared.LearningRate = 3e-4
    betas: shared.Betas = (0.8, 0.99)
    weight_decay: shared.WeightDecay = 1e-3
    inv_gamma: shared.InvGamma = 200_000.0
    warmup: shared.Warmup = 0.999
    decay_start: shared.DecayStart = 1.0
    final_rate: shared.FinalRate = 0.02
    max_grad_norm: shared.MaxGradNorm | None = None  # the paper's code does not clip
    ema_decay: shared.EmaDecay = 0.9999
    mixed_precision: shared.MixedPrecision = "no"
    gradient_checkpointing: shared.GradientCheckpointing = False
    num_workers: shared.NumWorkers = 2
    seed: shared.Seed = 0
    save_every: shared.SaveEvery = 1000
    log_every: shared.LogEvery = 20
    validate_every: shared.ValidateEvery = 1000
    num_validation_crops: shared.NumValidationCrops = 16
    validation_duration_in_s: shared.ValidationDuration = 3.0
    num_samples: shared.NumSamples = 2
    trackers: shared.Trackers = ()


def main(config: Config) -> int:
    """Builds, resumes, loops, saves; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=config.encoder_freeze_step is not None)]
    accelerator = make_accelerator(config, kwargs_handlers=handlers)
    seed_generators(config.seed, 0)
    model = build_model(AutoencoderOobleck, config.model, "model")
    discriminator = build_model(MultiScaleSTFTDiscriminator, config.discriminator, "discriminator")
    check_config(config, model)
    make_item = CropMaker(config.crop_num_samples, model.config.sampling_rate)
    source = config.open_source()
    source, valid_source = source.of_split("train"), source.of_split("valid")
    place = accelerator.process_index, accelerator.num_processes
    crops = source.items(make_item, config.seed, *place)
    accelerator.register_for_checkpointing(source)
    crops.take(1, VALIDATION_SEED)  # unusable music is refused before the run begins
    is_new = latest_checkpoint(config.output_dir) is None
    if is_new and config.init_from is not None:
        load_weights(model, AutoencoderOobleck.from_pretrained(config.init_from))
    if is_new and config.init_discriminator_from is not None:
        load_weights(
            discriminator,
            MultiScaleSTFTDiscriminator.from_pretrained(config.init_discriminator_from),
            "init_discriminator_from",
        )
    sources = {"init_from": config.init_from, "init_discriminator_from": config.init_discriminator_from}
    output_dir = start_run(config.output_dir, config, accelerator, sources)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    compile_networks(config, model.encoder, model.decoder, discriminator)
    optimizers = (
        _optimizer(model, config.learning_rate, config, accelerator.device),
        _optimizer(discriminator, config.discriminator_learning_rate, config, accelerator.device),
    )
    model, discriminator, *optimizers = accelerator.prepare(model, discriminator, *optimizers)
    raw_model = accelerator.unwrap_model(model)
    ema = EMAModel(model.parameters(), config.ema_decay)
    accelerator.register_for_checkpointing(ema)
    spectral_losses = make_spectral_losses(config, raw_model.config.sampling_rate)

    def compute_losses(turn: Turn, batch: dict) -> dict[str, torch.Tensor]:
        waveform = batch["waveform"].to(accelerator.device)
        draws = [item_generator(config.seed, number) for number in batch["item_numbers"]]
        if turn.is_discriminators:
            return discriminator_step_losses(model, discriminator, waveform, draws)
        judge = accelerator.unwrap_model(discriminator) if turn.is_adversarial else None
        return generator_step_losses(model, judge, waveform, spectral_losses, draws)

    loop = TrainingLoop(accelerator, output_dir, config, stop)
    batches = make_loader(crops, loop.order, config.max_steps, config.num_workers, collate_crops)
    for step in loop.steps():
        turn = choose_turn(step, config.discriminator_start_step)
        active = optimizers[turn.is_discriminators]
        set_learning_rate(active, learning_rate(config, turn, step))
        if config.encoder_freeze_step is not None:
            raw_model.encoder.requires_grad_(step < config.encoder_freeze_step)
        metrics, is_taken = train_step(
            accelerator,
            active,
            [model, discriminator],
            itertools.islice(batches, loop.order.accumulation),
            functools.partial(compute_losses, turn),
            step,
            loop.skipped,
            {"discriminator": 1.0} | config.loss_weights,
            config.max_grad_norm,
        )
        if is_taken and not turn.is_discriminators:
            ema.step(model.parameters())
        loop.end_step(metrics, is_logged=step % config.log_every < 2)  # a step of each network
        if loop.is_due(config.validate_every):
            samples_dir = output_dir / "samples" / f"step-{loop.done:08d}"
            with ema.swapped(model.parameters()):
                metrics = validate(raw_model, valid_source, config, samples_dir, accelerator)
                if accelerator.is_main_process:
                    export("autoencoder", raw_model, output_dir, loop.done)
            if accelerator.is_main_process:
                export("discriminator", accelerator.unwrap_model(discriminator), output_dir, loop.done)
                log_metrics(output_dir, loop.done, metrics, accelerator)
            accelerator.wait_for_everyone()
        loop.save_if_due()
    return stop.exit_code


def check_config(config: Config, model: AutoencoderOobleck) -> None:
    """Checks settings that would otherwise fail after the run has started.

    Raises:
        ValueError: a value is not possible; the message names it.
    """
    if model.config.audio_channels != 2:
        raise ValueError(f"model.audio_channels must be 2, as crops are stereo, got {model.config.audio_channels}.")
    least = max((*config.fft_sizes, *(config.complex_fft_sizes if config.loss_weights["complex_stft"] else ())))
    if config.crop_num_samples % model.hop_length or config.crop_num_samples < least:
        raise ValueError(
            f"crop_num_samples must be a multiple of {model.hop_length} and at least {least}, "
            f"got {config.crop_num_samples}."
        )


def learning_rate(config: Config, turn: Turn, step: int) -> float:
    """The learning rate of the trained network: the paper's schedule over its own steps, falling at the end if set."""
    rate = config.discriminator_learning_rate if turn.is_discriminators else config.learning_rate
    law = inverse_lr(turn.own_step, config.inv_gamma, warmup=config.warmup)
    return rate * law * falling_rate(step, config.max_steps, config.decay_start, config.final_rate)


def make_spectral_losses(config: Config, sampling_rate: int) -> Callable:
    """Returns a function that computes the configured spectral losses of a waveform and its reconstruction."""
    return functools.partial(
        stereo_stft_loss,
        sampling_rate=sampling_rate,
        fft_sizes=config.fft_sizes,
        complex_fft_sizes=config.complex_fft_sizes if config.loss_weights["complex_stft"] else (),
        is_a_weighted=config.is_a_weighted,
    )


def validate(
    model: AutoencoderOobleck, source: Source, config: Config, samples_dir: Path, accelerator: Accelerator
) -> dict[str, float]:
    """The losses, and the metrics of `validate_reconstruction`, on fixed crops of the valid split."""
    waveform = validation_crops(source, model, config.validation_duration_in_s, config.num_validation_crops)
    decoded, metrics = validate_reconstruction(model, waveform, samples_dir, config.num_samples, accelerator)
    losses = make_spectral_losses(config, model.config.sampling_rate)(waveform, decoded)
    losses["l1"] = (waveform - decoded).abs().mean()
    return {f"valid/{name}": float(value) for name, value in (losses | metrics).items()}


def export(name: str, model: AutoencoderOobleck | MultiScaleSTFTDiscriminator, output_dir: Path, step: int) -> None:
    """Saves a model with a record of its origin."""
    with atomic_folder(output_dir / name) as folder:
        model.save_pretrained(folder)
        write_stage(folder, output_dir, name, step)


def _optimizer(
    model: torch.nn.Module, learning_rate: float, config: Config, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW with the paper's betas and weight decay."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=learning_rate,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=is_fused(config, device),
    )


if __name__ == "__main__":
    launch(main, Config)
