"""Distills a checkpoint to a student that makes music in 1 to 8 steps without guidance. Not in the paper.

    accelerate launch training/distill_dit.py --checkpoint checkpoint --prompts prompts.jsonl --output_dir runs/steps8

The teacher, which is the checkpoint itself, samples trajectories with guidance, which are stored and reused. The
student starts from the teacher's weights. From a random point of a trajectory it learns to reach the point several
steps later, so that DDIM takes it along the same path in few steps. With `--target end` it learns to reach the end,
and is sampled with ping-pong. This needs prompts and durations, but no audio. To resume, run the same command again.

The result is `output_dir/checkpoint`, which by default samples in `num_inference_steps` steps without guidance. With
`--rank 16` it is an adapter, `output_dir/lora`, for the teacher's checkpoint:
`stable-longform generate --lora runs/steps8/lora --scheduler ddim --steps 8 --guidance-scale 1`.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from accelerate import Accelerator

from stable_longform.evaluation.prompt_lists import PromptRow, read_prompt_list
from stable_longform.noise_schedule import V_PREDICTION
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import scheduler_by_name
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.adapters import (
    add_adapter,
    check_target_modules,
    checkpoint_adapter_only,
    save_adapter,
)
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.distillation_objective import DistillationLoss, validate_distillation
from stable_longform.training_utils.ema import EMAModel
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused
from stable_longform.training_utils.items import make_loader, seed_generators
from stable_longform.training_utils.learning_rate import falling_rate, linear_warmup, set_learning_rate
from stable_longform.training_utils.loop import StopRequest, TrainingLoop
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.run_options import TrainingOptions
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import train_step
from stable_longform.training_utils.trajectories import (
    TrajectoryPoints,
    check_settings,
    check_teacher,
    collate_points,
    make_trajectories,
    read_point,
    trajectory_path,
)
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.files import atomic_folder, weights_sha256
from stable_longform.utils.ranges import Range

SAMPLERS = {"next": "ddim", "end": "ping-pong"}  # of a student, by what it predicts
VALIDATION_PLACES = (0.0, 0.25, 0.5, 0.75)  # positions of the points in a held-out trajectory


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions):
    """Defaults are ours; `batch_size` is per process."""

    checkpoint: Annotated[str, "Folder or Hub id of the teacher, a v-prediction pipeline."]
    prompts: Annotated[str, "List of prompts: .jsonl (optionally with durations), .txt or .csv."]
    output_dir: shared.OutputDir
    trajectories: (
        Annotated[str, "Folder of trajectories, which runs can share; null: output_dir/trajectories."] | None
    ) = None
    num_trajectories: Annotated[
        int, Range(1, shared.MAX_TRAINING_STEPS), "Number of the teacher's trajectories, including held-out ones."
    ] = 1024
    num_validation_trajectories: Annotated[int, Range(1, shared.MAX_COUNT), "Number of held-out trajectories."] = 16
    durations_in_s: Annotated[
        tuple[float, ...],
        Range(0, 1e6, above=True),
        "Durations to draw from for prompts without one; empty: the whole window.",
    ] = ()
    window_in_s: Annotated[float, Range(0, 1e6, above=True), "Window in seconds; null: the longest."] | None = None
    teacher_steps: Annotated[int, Range(1, 1000), "Sampling steps of the teacher."] = 25
    teacher_guidance_scale: (
        Annotated[float, Range(-100, 100), "Guidance scale of the teacher; null: the checkpoint's."] | None
    ) = None
    trajectory_dtype: Annotated[shared.Dtype, "Precision of the points on disk."] = "float32"
    num_inference_steps: Annotated[int, Range(1, 1000), "Sampling steps of the student, stored in its checkpoint."] = 8
    target: Annotated[
        Literal["next", "end"],
        "What the student predicts: the next of its `num_inference_steps` points, or the end of the trajectory.",
    ] = "next"
    rank: Annotated[int, Range(0, 65536), "Rank of a LoRA adapter; 0: train all weights."] = 0
    alpha: shared.Alpha = 16.0
    target_modules: shared.TargetModules = ("to_q", "to_k", "to_v", "to_out.0")
    adapter_dtype: Annotated[shared.Dtype, "Precision of the adapter's file."] = "float32"
    batch_size: shared.BatchSize = 4
    gradient_accumulation_steps: shared.Accumulation = 1
    max_steps: shared.MaxSteps = 10_000
    max_minutes: shared.MaxMinutes | None = None
    learning_rate: shared.LearningRate = 2e-5
    warmup_steps: shared.WarmupSteps = 100
    decay_start: shared.DecayStart = 1.0
    final_rate: shared.FinalRate = 0.02
    weight_decay: shared.WeightDecay = 1e-3
    max_grad_norm: shared.MaxGradNorm | None = None
    ema_decay: shared.EmaDecay = 0.999
    mixed_precision: shared.MixedPrecision = "no"
    gradient_checkpointing: shared.GradientCheckpointing = False
    num_workers: shared.NumWorkers = 2
    seed: shared.Seed = 0
    save_every: shared.SaveEvery = 500
    log_every: shared.LogEvery = 10
    validate_every: shared.ValidateEvery = 500
    trackers: shared.Trackers = ()


def main(config: Config) -> int:
    """Loads, samples trajectories, resumes, loops, saves; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    if config.num_validation_trajectories >= config.num_trajectories:
        raise ValueError(
            f"num_validation_trajectories must be below num_trajectories={config.num_trajectories}, "
            f"got {config.num_validation_trajectories}."
        )
    stride = student_stride(config)
    rows = read_prompt_list(config.prompts)
    accelerator = make_accelerator(config)
    seed_generators(config.seed, 0)
    pipe = LongFormMusicPipeline.from_pretrained(config.checkpoint)
    if pipe.config.prediction_type != V_PREDICTION:
        raise ValueError(f"The teacher must be a model of {V_PREDICTION}, got {pipe.config.prediction_type}.")
    pipe.set_progress_bar_config(disable=True)
    for name in ("vae", "text_encoder", "timing_conditioner", "transformer"):
        getattr(pipe, name).requires_grad_(False)
    pipe.to(accelerator.device)
    folder = Path(config.trajectories or Path(config.output_dir, "trajectories"))
    plan = plan_trajectories(config, pipe, rows, folder)
    if config.rank:
        check_target_modules(pipe.transformer, config.target_modules)
    sources = {"checkpoint": config.checkpoint, "trajectories": config.trajectories}
    output_dir = start_run(config.output_dir, config, accelerator, sources)
    sample_trajectories(config, pipe, plan, folder, accelerator)

    transformer = pipe.transformer.train()
    if config.rank:
        add_adapter(transformer, config.rank, config.alpha, config.target_modules)
    else:
        transformer.requires_grad_(True)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    compile_networks(config, transformer)
    optimizer = torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=is_fused(config, accelerator.device),
    )
    loss, optimizer = accelerator.prepare(DistillationLoss(transformer, pipe.timing_conditioner), optimizer)
    ema = EMAModel(trained, config.ema_decay)
    accelerator.register_for_checkpointing(ema)
    if config.rank:
        checkpoint_adapter_only(accelerator, transformer)

    @torch.no_grad()
    def add_conditions(batch: dict) -> dict:
        embeds, mask = pipe.encode_prompt(batch["prompt"])
        is_dropped = torch.tensor([not prompt.strip() for prompt in batch["prompt"]])
        return batch | {"prompt_embeds": embeds, "prompt_attention_mask": mask, "is_dropped": is_dropped}

    def compute_losses(batch: dict) -> dict:
        with accelerator.autocast():
            return {"loss": loss(add_conditions(batch)).mean()}

    held_out = range(config.num_validation_trajectories)
    valid = [[read_point(trajectory_path(folder, k), place, stride) for place in VALIDATION_PLACES] for k in held_out]
    points = TrajectoryPoints(folder, range(len(held_out), config.num_trajectories), config.seed, stride)
    loop = TrainingLoop(accelerator, output_dir, config, stop)
    batches = make_loader(points, loop.order, config.max_steps, config.num_workers, collate_points)
    for step in loop.steps():
        rate = config.learning_rate * linear_warmup(step, config.warmup_steps)
        rate *= falling_rate(step, config.max_steps, config.decay_start, config.final_rate)
        set_learning_rate(optimizer, rate)
        metrics, is_taken = train_step(
            accelerator,
            optimizer,
            [loss],
            itertools.islice(batches, loop.order.accumulation),
            compute_losses,
            step,
            loop.skipped,
            max_grad_norm=config.max_grad_norm,
        )
        if is_taken:
            ema.step(trained)
        loop.end_step(metrics)
        if loop.is_due(config.validate_every):
            with ema.swapped(trained):
                metrics = validate_distillation(loss, valid, add_conditions, accelerator)
                if accelerator.is_main_process:
                    log_metrics(output_dir, loop.done, metrics, accelerator)
                    export(config, pipe, output_dir, loop.done)
            accelerator.wait_for_everyone()
        loop.save_if_due()
    return stop.exit_code


@dataclass(frozen=True)
class Plan:
    """Trajectories: prompt and seconds of each, the pipeline's other arguments, and all settings they depend on."""

    requests: list[tuple[str, float]]
    call: dict
    settings: dict


def student_stride(config: Config) -> float:
    """How many of the teacher's steps the student takes in one; both space them alike, from the first to the last.

    Raises:
        ValueError: the student has more steps than the teacher.
    """
    if config.target == "end" or config.num_inference_steps == 1:
        return math.inf
    if config.num_inference_steps > config.teacher_steps:
        raise ValueError(
            f"num_inference_steps must be at most teacher_steps={config.teacher_steps} with target=next, "
            f"got {config.num_inference_steps}."
        )
    return (config.teacher_steps - 1) / (config.num_inference_steps - 1)


def plan_trajectories(config: Config, pipe: LongFormMusicPipeline, rows: Sequence[PromptRow], folder: Path) -> Plan:
    """Plans the trajectories in a folder, and checks that they can be sampled.

    Raises:
        ValueError: the teacher refuses a request, or the folder holds trajectories with other settings.
    """
    window = pipe.max_duration_in_s if config.window_in_s is None else config.window_in_s
    requests = choose_requests(rows, config.durations_in_s or (window,), config.num_trajectories, config.seed)
    call = {
        "num_inference_steps": config.teacher_steps,
        "guidance_scale": config.teacher_guidance_scale,
        "window_in_s": window,
    }
    settings = call | {
        "transformer_sha256": weights_sha256(pipe.transformer),
        "prompts_sha256": hashlib.sha256(
            json.dumps([[row.prompt, row.duration] for row in rows]).encode()
        ).hexdigest(),
        "durations_in_s": config.durations_in_s,
        "dtype": config.trajectory_dtype,
    }
    check_teacher(pipe, requests, **call)
    check_settings(folder, settings, config.seed)
    return Plan(requests, call, settings)


def sample_trajectories(
    config: Config, pipe: LongFormMusicPipeline, plan: Plan, folder: Path, accelerator: Accelerator
) -> None:
    """Samples the trajectories that are missing in the folder; all processes share the work."""
    dtype, share = DTYPES[config.trajectory_dtype], (accelerator.process_index, accelerator.num_processes)
    with accelerator.main_process_first():  # the first process writes the settings, the others compare them
        make_trajectories(pipe, [], folder, plan.settings, config.seed)
    make_trajectories(pipe, plan.requests, folder, plan.settings, config.seed, dtype, *share, **plan.call)
    accelerator.wait_for_everyone()


def choose_requests(
    rows: Sequence[PromptRow], durations_in_s: Sequence[float], number: int, seed: int
) -> list[tuple[str, float]]:
    """Prompt and seconds of each trajectory: the prompts in turn, with their own durations or drawn ones."""
    rng = np.random.default_rng([seed, 3])
    drawn = rng.choice(durations_in_s, size=number).tolist()
    return [(rows[k % len(rows)].prompt, rows[k % len(rows)].duration or drawn[k]) for k in range(number)]


def export(config: Config, pipe: LongFormMusicPipeline, output_dir: Path, step: int) -> None:
    """Writes the student: an adapter, or a checkpoint with its sampling settings."""
    if config.rank:
        save_adapter(pipe.transformer, output_dir / "lora", DTYPES[config.adapter_dtype])
        return
    student = LongFormMusicPipeline.from_pipe(
        pipe,
        scheduler=scheduler_by_name(SAMPLERS[config.target], pipe.scheduler),
        num_inference_steps=config.num_inference_steps,
        guidance_scale=1.0,
    )
    with atomic_folder(output_dir / "checkpoint") as folder:
        student.save_pretrained(folder)
        write_stage(folder, output_dir, "distilled", step, num_inference_steps=config.num_inference_steps)


if __name__ == "__main__":
    launch(main, Config)
