"""Trains the diffusion transformer and the timing conditioner. Paper: §2.2, §3.

    accelerate launch training/train_dit.py --latents latents --clap runs/clap/clap --output_dir runs/dit_190s \
        --model.sample_size 4096
    accelerate launch training/train_dit.py --latents latents --clap runs/clap/clap --output_dir runs/dit_285s \
        --init_from runs/dit_190s/dit

Instead of `--latents`, `--manifest corpus/manifest.jsonl --autoencoder runs/autoencoder/autoencoder` encodes the music
during the training. The defaults are the paper's second stage (4m45s); the first one (3m10s) differs only in
`model.sample_size`. To resume, run the same command again. The result is `output_dir/dit`: the moving average of the
transformer, and the timing conditioner. `training/make_checkpoint.py` then assembles a pipeline.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator

from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import encode_texts
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.checkpointing import latest_checkpoint
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.demos import make_demos
from stable_longform.training_utils.diffusion_validation import validate
from stable_longform.training_utils.ema import EMAModel, full_tensor
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused, set_attention_backend
from stable_longform.training_utils.items import make_loader, seed_generators
from stable_longform.training_utils.latent_windows import (
    WindowSource,
    check_encoder,
    check_scale,
    open_latent_windows,
    open_music_windows,
)
from stable_longform.training_utils.learning_rate import falling_rate, inverse_lr, set_learning_rate
from stable_longform.training_utils.loop import StopRequest, TrainingLoop
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.noise_and_times import make_draw
from stable_longform.training_utils.options import ArgumentsOf, NumEntries, build_model
from stable_longform.training_utils.pretrained import load_text_encoder, load_weights
from stable_longform.training_utils.run_options import TrainingOptions
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import train_step
from stable_longform.training_utils.v_objective import VelocityLoss, balance_silence, check_widths
from stable_longform.utils.files import atomic_folder
from stable_longform.utils.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions):
    """Defaults are the paper's configuration; `batch_size` is per process and was not published."""

    clap: Annotated[str, "Folder or Hub id of a ClapModel with its tokenizer, or folder of a checkpoint."]
    output_dir: shared.OutputDir
    latents: Annotated[str | None, "Folder of latents to train on; the alternative is manifest."] = None
    manifest: Annotated[
        shared.Manifest | None,
        "Source of music to train on instead of latents; needs autoencoder.",
    ] = None
    max_bad_fraction: shared.MaxBadFraction = 0.01
    init_from: Annotated[
        str | None,
        "The `dit` folder of another run, with any window length, or folder of a checkpoint.",
    ] = None
    model: Annotated[
        dict,
        ArgumentsOf(DiTTransformer1D),
        "Options that differ from the paper's.",
    ] = field(default_factory=dict)
    timing: Annotated[
        dict,
        ArgumentsOf(TimingConditioner),
        "Options that differ from the paper's.",
    ] = field(default_factory=dict)
    batch_size: shared.BatchSize = 4
    gradient_accumulation_steps: shared.Accumulation = 1
    max_steps: shared.MaxSteps = 1_000_000
    max_minutes: shared.MaxMinutes | None = None
    learning_rate: shared.LearningRate = 5e-5
    betas: shared.Betas = (0.9, 0.999)
    weight_decay: shared.WeightDecay = 1e-3
    inv_gamma: shared.InvGamma = 1_000_000.0
    warmup: shared.Warmup = 0.99
    decay_start: shared.DecayStart = 1.0
    final_rate: shared.FinalRate = 0.02
    max_grad_norm: shared.MaxGradNorm | None = None  # the paper's code does not clip
    ema_decay: shared.EmaDecay = 0.9999
    condition_dropout: shared.ConditionDropout = 0.1
    excerpt_probability: Annotated[
        float,
        Range(0, 1),
        "Share of items for which a part of the track is treated as the whole.",
    ] = 0.0
    timestep_shift: shared.TimestepShift = 1.0  # above 1, more items are near t = 1; not in the paper
    min_timestep: shared.MinTimestep = 0.0  # the least that the sampler asks for: (2/π)·atan(sigma_min)
    mask_text_padding: Annotated[
        bool,
        "Hide padding tokens of the prompts from the transformer; the paper: false.",
    ] = False
    terminal_probability: shared.TerminalProbability = 0.01
    balance_silence: Annotated[
        bool,
        "Give music and the silence after it half of the loss each; the paper: false.",
    ] = False
    mixed_precision: shared.MixedPrecision = "no"
    gradient_checkpointing: shared.GradientCheckpointing = False
    attention_backend: Annotated[str | None, "One of diffusers' attention backends; null: the default."] = None
    num_workers: shared.NumWorkers = 2
    seed: shared.Seed = 0
    save_every: shared.SaveEvery = 1000
    log_every: shared.LogEvery = 20
    validate_every: shared.ValidateEvery = 1000
    num_validation_windows: Annotated[int, Range(1, shared.MAX_COUNT), "Held-out windows per validation."] = 8
    num_validation_buckets: Annotated[
        int,
        Range(1, shared.MAX_COUNT),
        "Ranges of t with separate losses; at most one per window.",
    ] = 4
    demo_every: Annotated[
        int, Range(0, shared.MAX_TRAINING_STEPS), "Steps between demos, which need autoencoder; 0: no demos."
    ] = 0
    autoencoder: Annotated[
        str | None,
        "Folder or Hub id of the autoencoder that made the latents, for demos, or that encodes manifest.",
    ] = None
    demo_duration_in_s: Annotated[
        float, Range(0, 1e5, above=True), "Length of a demo in seconds, at most the window."
    ] = 30.0
    demo_steps: Annotated[int, Range(1, 1000), "Sampling steps of a demo."] = 50
    demo_guidance_scales: Annotated[
        tuple[float, ...],
        Range(-100, 100),
        NumEntries(1),
        "Guidance scales; each gives a demo.",
    ] = (1.0, 7.0)
    num_demos: Annotated[int, Range(1, 1000), "Number of prompts for demos."] = 2
    trackers: shared.Trackers = ()


def main(config: Config) -> int:
    """Builds, resumes, loops, saves; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    check_config(config)
    accelerator = make_accelerator(config, can_shard=True)
    seed_generators(config.seed, 0)

    # Models and data
    velocity_loss = VelocityLoss(
        build_model(DiTTransformer1D, config.model, "model"),
        build_model(TimingConditioner, config.timing, "timing"),
    )
    vae = None if config.autoencoder is None else AutoencoderOobleck.from_pretrained(config.autoencoder)
    windows = open_windows(config, vae, velocity_loss, accelerator)
    text_encoder, tokenizer = load_text_encoder(config.clap)
    text_encoder.requires_grad_(False).eval().to(accelerator.device)
    inspected = windows.inspect()
    check_widths(velocity_loss, text_encoder.config.hidden_size, inspected.shape[1])
    check_scale(inspected, accelerator)
    prepare_models(config, velocity_loss, accelerator.device, is_new=latest_checkpoint(config.output_dir) is None)
    sources = {"init_from": config.init_from, "clap": config.clap}
    sources |= {"latents": config.latents} if config.latents else {"autoencoder": config.autoencoder}
    output_dir = start_run(config.output_dir, config, accelerator, sources)

    # Optimiser and average
    optimizer = make_optimizer(config, velocity_loss, accelerator.device)
    velocity_loss, optimizer = accelerator.prepare(velocity_loss, optimizer)
    averaged = list(accelerator.unwrap_model(velocity_loss).transformer.parameters())
    ema = EMAModel(averaged, config.ema_decay)
    accelerator.register_for_checkpointing(ema)

    def embed_prompts(prompts: list[str]) -> dict:
        embeds, mask = encode_texts(text_encoder, tokenizer, prompts)
        return {"prompt_embeds": embeds, **({"prompt_attention_mask": mask} if config.mask_text_padding else {})}

    def compute_losses(batch: dict) -> dict:
        batch = windows.complete(batch)
        if config.balance_silence:
            batch["frame_weights"] = balance_silence(batch["latent_mask"])
        with accelerator.autocast():
            return {"loss": velocity_loss(batch | embed_prompts(batch["prompt"])).mean()}

    # The loop, from the newest checkpoint on
    loop = TrainingLoop(accelerator, output_dir, config, stop)
    batches = make_loader(windows.train, loop.order, config.max_steps, config.num_workers, windows.collate)
    for step in loop.steps():
        set_learning_rate(optimizer, learning_rate(config, step))
        metrics, is_taken = train_step(
            accelerator,
            optimizer,
            [velocity_loss],
            itertools.islice(batches, loop.order.accumulation),
            compute_losses,
            step,
            loop.skipped,
            max_grad_norm=config.max_grad_norm,
        )
        if is_taken:
            ema.step(averaged)
        loop.end_step(metrics)
        if loop.is_due(config.validate_every):
            with ema.swapped(averaged):
                metrics = validate(
                    velocity_loss,
                    windows.valid,
                    embed_prompts,
                    config.num_validation_windows,
                    config.num_validation_buckets,
                    accelerator,
                )
            averages = average_models(accelerator, velocity_loss, ema)
            if accelerator.is_main_process:
                log_metrics(output_dir, loop.done, metrics, accelerator)
                export(*averages, output_dir, loop.done)
            accelerator.wait_for_everyone()
        if loop.is_due(config.demo_every):
            averages = average_models(accelerator, velocity_loss, ema)
            pipe = assemble_pipeline(*averages, vae, text_encoder, tokenizer)
            folder = output_dir / "demos" / f"step-{loop.done:08d}"
            metrics = write_demos(config, pipe, windows, folder, accelerator)
            if accelerator.is_main_process:
                log_metrics(output_dir, loop.done, metrics, accelerator)
            accelerator.wait_for_everyone()
        loop.save_if_due()
    return stop.exit_code


def check_config(config: Config) -> None:
    """Checks combinations of settings before any work is done.

    Raises:
        ValueError: settings do not fit together; the message names them.
    """
    if (config.latents is None) == (config.manifest is None):
        raise ValueError("Give either --latents, or --manifest with --autoencoder, to train on.")
    if config.autoencoder is None and config.manifest is not None:
        raise ValueError("--manifest needs --autoencoder, which encodes the music.")
    if config.autoencoder is None and config.demo_every:
        raise ValueError("demo_every needs --autoencoder, the one that made the latents.")
    for name in ("excerpt_probability", "balance_silence"):
        if config.manifest is not None and getattr(config, name):
            raise ValueError(f"{name}={getattr(config, name)} needs --latents.")


def open_windows(
    config: Config,
    vae: AutoencoderOobleck | None,
    velocity_loss: VelocityLoss,
    accelerator: Accelerator,
) -> WindowSource:
    """Opens the windows of the configuration's `latents`, or of its `manifest` encoded by the autoencoder.

    Raises:
        ValueError: the latents are from another autoencoder, or the data cannot be used.
    """
    shape = velocity_loss.transformer.config.sample_size, velocity_loss.timing_conditioner.config.max_value
    draw = make_draw(config)
    if config.latents is not None:
        if vae is not None:
            check_encoder(config.latents, vae)
        return open_latent_windows(
            config.latents, *shape, config.seed, config.max_bad_fraction, draw, config.excerpt_probability
        )
    source = open_source(config.manifest, max_bad_fraction=config.max_bad_fraction)
    num_valid = max(config.num_validation_windows, config.num_demos)
    return open_music_windows(source, vae, *shape, config.seed, draw, num_valid, accelerator)


def prepare_models(config: Config, velocity_loss: VelocityLoss, device: torch.device, is_new: bool) -> None:
    """Loads the weights of `init_from` if the run is new, and applies the options that save memory and time.

    Raises:
        ValueError: the weights of `init_from` do not fit the model, or the attention backend cannot be used.
    """
    transformer = velocity_loss.transformer
    if config.init_from is not None and is_new:
        for name, model in velocity_loss.named_children():
            load_weights(model, type(model).from_pretrained(config.init_from, subfolder=name))
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if config.attention_backend is not None:
        set_attention_backend(transformer, config.attention_backend, device, config.mixed_precision)
    compile_networks(config, transformer)


def make_optimizer(config: Config, velocity_loss: VelocityLoss, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over both models."""
    return torch.optim.AdamW(
        velocity_loss.parameters(),
        config.learning_rate,
        tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=is_fused(config, device),
    )


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of a step: the paper's schedule, with a fall at the end if configured."""
    law = inverse_lr(step, config.inv_gamma, warmup=config.warmup)
    return config.learning_rate * law * falling_rate(step, config.max_steps, config.decay_start, config.final_rate)


@torch.no_grad()
def average_models(
    accelerator: Accelerator, velocity_loss: VelocityLoss, ema: EMAModel
) -> tuple[DiTTransformer1D, TimingConditioner]:
    """The averaged transformer and the timing conditioner on the CPU; every process must call this, sharded or not."""
    raw = accelerator.unwrap_model(velocity_loss)
    transformer = DiTTransformer1D.from_config(raw.transformer.config)
    timing_conditioner = TimingConditioner.from_config(raw.timing_conditioner.config)
    ema.copy_whole_to(list(transformer.parameters()))
    for mine, trained in zip(timing_conditioner.parameters(), raw.timing_conditioner.parameters(), strict=True):
        mine.copy_(full_tensor(trained))
    return transformer.eval(), timing_conditioner.eval()


def export(transformer, timing_conditioner, output_dir: Path, step: int) -> None:
    """Saves both models for `--init_from` and `make_checkpoint.py`, with a record of their origin."""
    with atomic_folder(output_dir / "dit") as folder:
        transformer.save_pretrained(folder / "transformer")
        timing_conditioner.save_pretrained(folder / "timing_conditioner")
        write_stage(folder, output_dir, "dit", step, window_length=transformer.config.sample_size)


def assemble_pipeline(
    transformer: DiTTransformer1D,
    timing_conditioner: TimingConditioner,
    vae: AutoencoderOobleck,
    text_encoder,
    tokenizer,
) -> LongFormMusicPipeline:
    """The pipeline of the models, on the text encoder's device."""
    pipe = LongFormMusicPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        timing_conditioner=timing_conditioner,
        transformer=transformer,
        scheduler=make_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(text_encoder.device)


def write_demos(
    config: Config, pipe: LongFormMusicPipeline, windows: WindowSource, folder: Path, accelerator: Accelerator
) -> dict[str, float]:
    """Writes audio files of the pipeline for the first held-out prompts; returns measurements of them."""
    return make_demos(
        pipe,
        windows.valid,
        folder,
        config.num_demos,
        config.demo_duration_in_s,
        config.demo_steps,
        config.demo_guidance_scales,
        accelerator,
    )


if __name__ == "__main__":
    launch(main, Config)
