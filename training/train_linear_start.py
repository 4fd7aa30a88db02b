"""Trains the first weights of an autoencoder: its convolutions alone, as one linear network. Not in the paper.

    python training/train_linear_start.py --config training/configs/autoencoder_tiny_linear.yaml \
        --manifest corpus/manifest.jsonl --output_dir runs/linear_start
    python training/train_autoencoder.py --init_from runs/linear_start/autoencoder ...

Spectral losses hardly constrain the phase, so a short training of the whole network from random weights preserves
loudness and timbre but not the notes. A linear network that is trained only on the squared error learns within minutes
what 64 numbers per frame can represent of the waveform: melody, bass and chords. Here each residual unit starts as the
identity and each Snake almost as the identity. Both are bypassed and not trained, which also makes a step about five
times cheaper. `train_autoencoder.py` continues from there with the whole network.

To resume, run the same command again. The result is `output_dir/autoencoder`.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator

from stable_longform.data.audio_crops import CropMaker, collate_crops
from stable_longform.data.sources import Source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.checkpointing import latest_checkpoint
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused
from stable_longform.training_utils.items import VALIDATION_SEED, item_generator, make_loader, seed_generators
from stable_longform.training_utils.learning_rate import falling_rate, linear_warmup, set_learning_rate
from stable_longform.training_utils.linear_start import LinearAutoencoder, initialize, relative_error
from stable_longform.training_utils.loop import StopRequest, TrainingLoop
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.options import ArgumentsOf, build_model
from stable_longform.training_utils.reconstruction_validation import validate_reconstruction, validation_crops
from stable_longform.training_utils.run_options import MusicOptions, TrainingOptions
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import train_step
from stable_longform.utils.files import atomic_folder
from stable_longform.utils.ranges import Range

NUM_SCALING_CROPS = 8


@dataclass(frozen=True, kw_only=True)
class Config(MusicOptions, TrainingOptions):
    """`batch_size` is per process."""

    output_dir: shared.OutputDir
    model: Annotated[
        dict,
        ArgumentsOf(AutoencoderOobleck),
        "Options that differ from the paper's.",
    ] = field(default_factory=dict)
    kl_weight: Annotated[float, Range(0, 1e6), "Weight of the KL divergence."] = 1e-4
    crop_num_samples: shared.CropNumSamples = 65536  # 1.486 s
    edge_num_samples: Annotated[
        int, Range(0, 2**28), "Samples at each end of a crop that are excluded from the error."
    ] = 4096
    batch_size: shared.BatchSize = 4
    gradient_accumulation_steps: shared.Accumulation = 1
    max_steps: shared.MaxSteps = 1500
    max_minutes: shared.MaxMinutes | None = None
    learning_rate: shared.LearningRate = 1e-3
    betas: shared.Betas = (0.9, 0.98)
    warmup_steps: shared.WarmupSteps = 50
    decay_start: shared.DecayStart = 0.5
    final_rate: shared.FinalRate = 0.02
    max_grad_norm: shared.MaxGradNorm | None = 1.0
    mixed_precision: shared.MixedPrecision = "no"
    num_workers: shared.NumWorkers = 1
    seed: shared.Seed = 0
    save_every: shared.SaveEvery = 500
    log_every: shared.LogEvery = 20
    validate_every: shared.ValidateEvery = 250
    num_validation_crops: shared.NumValidationCrops = 32
    validation_duration_in_s: shared.ValidationDuration = 3.0
    num_samples: shared.NumSamples = 2
    trackers: shared.Trackers = ()


def main(config: Config) -> int:
    """Builds, resumes, loops, saves; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    accelerator = make_accelerator(config)
    seed_generators(config.seed, 0)
    network = LinearAutoencoder(build_model(AutoencoderOobleck, config.model, "model"))
    check_config(config, network.vae)
    make_item = CropMaker(config.crop_num_samples, network.vae.config.sampling_rate)
    source = config.open_source()
    source, valid_source = source.of_split("train"), source.of_split("valid")
    place = accelerator.process_index, accelerator.num_processes
    crops = source.items(make_item, config.seed, *place)
    accelerator.register_for_checkpointing(source)
    if latest_checkpoint(config.output_dir) is None:
        items = crops.take(NUM_SCALING_CROPS, VALIDATION_SEED)
        initialize(network, torch.stack([item["waveform"] for item in items]))
    output_dir = start_run(config.output_dir, config, accelerator)
    parameters = network.trained_parameters()
    compile_networks(config, network)
    optimizer = torch.optim.AdamW(
        parameters,
        config.learning_rate,
        tuple(config.betas),
        weight_decay=0.0,
        fused=is_fused(config, accelerator.device),
    )
    network, optimizer = accelerator.prepare(network, optimizer)
    vae = accelerator.unwrap_model(network).vae

    def compute_losses(batch: dict) -> dict[str, torch.Tensor]:
        waveform = batch["waveform"].to(accelerator.device)
        draws = [item_generator(config.seed, number) for number in batch["item_numbers"]]
        decoded, posterior = network(waveform, draws)
        error = relative_error(decoded.float(), waveform, config.edge_num_samples)
        return {"error": error, "kl": posterior.kl()}

    loop = TrainingLoop(accelerator, output_dir, config, stop)
    batches = make_loader(crops, loop.order, config.max_steps, config.num_workers, collate_crops)
    for step in loop.steps():
        set_learning_rate(optimizer, learning_rate(config, step))
        metrics, is_taken = train_step(
            accelerator,
            optimizer,
            [network],
            itertools.islice(batches, loop.order.accumulation),
            compute_losses,
            step,
            loop.skipped,
            {"error": 1.0, "kl": config.kl_weight},
            config.max_grad_norm,
        )
        loop.end_step(metrics)
        if loop.is_due(config.validate_every):
            samples_dir = output_dir / "samples" / f"step-{loop.done:08d}"
            metrics = validate(vae, valid_source, config, samples_dir, accelerator)
            if accelerator.is_main_process:
                export(vae, output_dir, loop.done)
                log_metrics(output_dir, loop.done, metrics, accelerator)
            accelerator.wait_for_everyone()
        loop.save_if_due()
    return stop.exit_code


def check_config(config: Config, vae: AutoencoderOobleck) -> None:
    """Checks settings that would otherwise fail after the run has started.

    Raises:
        ValueError: a value is not possible; the message names it.
    """
    if vae.config.audio_channels != 2:
        raise ValueError(f"model.audio_channels must be 2, as crops are stereo, got {vae.config.audio_channels}.")
    if config.crop_num_samples % vae.hop_length:
        raise ValueError(f"crop_num_samples must be a multiple of {vae.hop_length}, got {config.crop_num_samples}.")
    if 2 * config.edge_num_samples >= config.crop_num_samples:
        raise ValueError(
            f"edge_num_samples must be less than half of crop_num_samples, got {config.edge_num_samples} "
            f"of {config.crop_num_samples}."
        )


def learning_rate(config: Config, step: int) -> float:
    """A linear warm-up, a plateau, and a linear fall at the end."""
    law = linear_warmup(step, config.warmup_steps)
    return config.learning_rate * law * falling_rate(step, config.max_steps, config.decay_start, config.final_rate)


def validate(
    vae: AutoencoderOobleck, source: Source, config: Config, samples_dir: Path, accelerator: Accelerator
) -> dict[str, float]:
    """The metrics of `validate_reconstruction` of the whole network on fixed crops of the valid split."""
    waveform = validation_crops(source, vae, config.validation_duration_in_s, config.num_validation_crops)
    _, metrics = validate_reconstruction(vae, waveform, samples_dir, config.num_samples, accelerator)
    return {f"valid/{name}": value for name, value in metrics.items()}


def export(vae: AutoencoderOobleck, output_dir: Path, step: int) -> None:
    """Saves the autoencoder with a record of its origin."""
    with atomic_folder(output_dir / "autoencoder") as folder:
        vae.save_pretrained(folder)
        write_stage(folder, output_dir, "linear start", step)


if __name__ == "__main__":
    launch(main, Config)
