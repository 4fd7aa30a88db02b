"""Fine-tunes a checkpoint on a few tracks of your own: a LoRA adapter of its transformer, trained on latents.

    python training/encode_latents.py --manifest mine.jsonl --autoencoder checkpoint/vae --output_dir mine_latents
    accelerate launch training/train_dit_lora.py --checkpoint checkpoint --latents mine_latents --output_dir runs/lora

To resume, run the same command again. The result is `output_dir/lora/pytorch_lora_weights.safetensors` for
`LongFormMusicPipeline.load_lora_weights`; use `examples/lora_before_after.py` to hear its effect. Not in the paper. Hu
et al., "LoRA", arXiv 2106.09685.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated

import torch

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.pipelines.windows import WindowSizes
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.adapters import add_adapter, checkpoint_adapter_only, save_adapter
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.diffusion_validation import validate
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused
from stable_longform.training_utils.items import make_loader, seed_generators
from stable_longform.training_utils.latent_windows import check_encoder, open_latent_windows
from stable_longform.training_utils.learning_rate import linear_warmup, set_learning_rate
from stable_longform.training_utils.loop import StopRequest, TrainingLoop
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.noise_and_times import make_draw
from stable_longform.training_utils.run_options import TrainingOptions
from stable_longform.training_utils.runs import start_run
from stable_longform.training_utils.train_step import train_step
from stable_longform.training_utils.v_objective import VelocityLoss
from stable_longform.utils.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions):
    """Defaults suit some ten tracks; `batch_size` is per process. The adapter is scaled by `alpha / rank`."""

    checkpoint: Annotated[str, "Folder or Hub id of a pipeline."]
    latents: Annotated[str, "Folder of latents, encoded by the checkpoint's own autoencoder."]
    output_dir: shared.OutputDir
    max_bad_fraction: shared.MaxBadFraction = 0.01
    rank: Annotated[int, Range(1, 65536), "Rank of the adapter's matrices."] = 16
    alpha: shared.Alpha = 16.0
    target_modules: shared.TargetModules = ("to_q", "to_k", "to_v", "to_out.0")
    window_in_s: Annotated[float, Range(0, 1e6, above=True), "Window in seconds; null: the longest."] | None = None
    batch_size: shared.BatchSize = 4
    gradient_accumulation_steps: shared.Accumulation = 1
    max_steps: shared.MaxSteps = 1000
    max_minutes: shared.MaxMinutes | None = None
    learning_rate: shared.LearningRate = 1e-4
    warmup_steps: shared.WarmupSteps = 50
    weight_decay: shared.WeightDecay = 1e-2
    condition_dropout: shared.ConditionDropout = 0.1
    timestep_shift: shared.TimestepShift = 1.0
    min_timestep: shared.MinTimestep = 0.0
    terminal_probability: shared.TerminalProbability = 0.01
    mixed_precision: shared.MixedPrecision = "no"
    gradient_checkpointing: shared.GradientCheckpointing = False
    num_workers: shared.NumWorkers = 2
    seed: shared.Seed = 0
    save_every: shared.SaveEvery = 200
    log_every: shared.LogEvery = 10
    validate_every: shared.ValidateEvery = 200
    num_validation_windows: Annotated[
        int,
        Range(0, shared.MAX_COUNT),
        "Windows of the valid split per validation; 0: no validation.",
    ] = 8
    trackers: shared.Trackers = ()


def main(config: Config) -> int:
    """Loads, adds the adapter, resumes, loops, saves; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    accelerator = make_accelerator(config)
    seed_generators(config.seed, 0)
    pipe = LongFormMusicPipeline.from_pretrained(config.checkpoint)
    adapter = pipe.transformer
    check_encoder(config.latents, pipe.vae)
    sizes = WindowSizes(adapter.config.sample_size, adapter.config.patch_size, pipe.vae.latent_rate)
    windows = open_latent_windows(
        config.latents,
        sizes.max_length if config.window_in_s is None else sizes.length(config.window_in_s),
        pipe.timing_conditioner.config.max_value,
        config.seed,
        config.max_bad_fraction,
        make_draw(config),
        has_valid=config.num_validation_windows > 0,
    )
    for name in ("vae", "text_encoder", "timing_conditioner", "transformer"):
        getattr(pipe, name).requires_grad_(False)
    add_adapter(adapter, config.rank, config.alpha, config.target_modules)
    pipe.to(accelerator.device)
    sources = {"checkpoint": config.checkpoint, "latents": config.latents}
    output_dir = start_run(config.output_dir, config, accelerator, sources)
    if config.gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    compile_networks(config, adapter)
    optimizer = torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=is_fused(config, accelerator.device),
    )
    velocity_loss, optimizer = accelerator.prepare(VelocityLoss(adapter.train(), pipe.timing_conditioner), optimizer)
    checkpoint_adapter_only(accelerator, adapter)

    @torch.no_grad()
    def embed_prompts(prompts: list[str]) -> dict:
        return dict(zip(("prompt_embeds", "prompt_attention_mask"), pipe.encode_prompt(prompts), strict=True))

    def compute_losses(batch: dict) -> dict:
        with accelerator.autocast():
            return {"loss": velocity_loss(batch | embed_prompts(batch["prompt"])).mean()}

    loop = TrainingLoop(accelerator, output_dir, config, stop)
    batches = make_loader(windows.train, loop.order, config.max_steps, config.num_workers, windows.collate)
    for step in loop.steps():
        set_learning_rate(optimizer, config.learning_rate * linear_warmup(step, config.warmup_steps))
        micro_batches = itertools.islice(batches, loop.order.accumulation)
        metrics, _ = train_step(
            accelerator, optimizer, [velocity_loss], micro_batches, compute_losses, step, loop.skipped
        )
        loop.end_step(metrics)
        if loop.is_due(config.validate_every):
            if accelerator.is_main_process:
                save_adapter(adapter, output_dir / "lora")
            if config.num_validation_windows:
                metrics = validate(
                    velocity_loss, windows.valid, embed_prompts, config.num_validation_windows, 1, accelerator
                )
                if accelerator.is_main_process:
                    log_metrics(output_dir, loop.done, metrics, accelerator)
            accelerator.wait_for_everyone()
        loop.save_if_due()
    return stop.exit_code


if __name__ == "__main__":
    launch(main, Config)
