"""Options that training scripts inherit: the music that they read, and how a run is executed."""

from dataclasses import dataclass
from typing import Annotated

import torch

from stable_longform.data.bad_tracks import MAX_BAD_FRACTION
from stable_longform.data.sources import Source, open_source
from stable_longform.training_utils.shared_options import (
    MAX_COUNT,
    MAX_TRAINING_STEPS,
    Accumulation,
    BatchSize,
    LogEvery,
    Manifest,
    MaxBadFraction,
    MaxSteps,
    MixedPrecision,
    OutputDir,
    SaveEvery,
    Trackers,
)
from stable_longform.utils.ranges import Range


@dataclass(frozen=True, kw_only=True)
class MusicOptions:
    """The music that a script reads."""

    manifest: Manifest
    max_bad_fraction: MaxBadFraction = MAX_BAD_FRACTION

    def open_source(self) -> Source:
        """Opens the music, all splits. For the errors, see `data.sources.open_source`."""
        return open_source(self.manifest, max_bad_fraction=self.max_bad_fraction)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is executed. docs/training.md explains these options.

    Raises:
        ValueError: torch does not have the backend.
    """

    keep_last: Annotated[int, Range(1, MAX_COUNT), "Number of newest checkpoints to keep."] = 2
    keep_every: Annotated[
        int,
        Range(0, MAX_TRAINING_STEPS),
        "Interval in steps of checkpoints that are kept forever; a multiple of save_every; 0: none.",
    ] = 0
    max_skipped_steps: Annotated[
        int,
        Range(0, 100),
        "Steps of 100 that may be skipped because a loss or gradient is not finite; one more ends the run.",
    ] = 10
    timeout_in_minutes: Annotated[
        float, Range(0, 1e6, above=True), "How long processes wait for each other, for example during a validation."
    ] = 180.0
    allow_tf32: Annotated[bool, "On GPUs: compute float32 products with 10 bits of mantissa."] = True
    fused_optimizer: Annotated[bool, "On GPUs: use one kernel for the optimiser's step."] = True
    cudnn_benchmark: Annotated[bool, "On GPUs: search for the fastest convolution for each shape."] = True
    compile_backend: Annotated[
        str | None, 'Backend of torch.compile for the networks, such as "inductor"; null: no compilation.'
    ] = None

    def __post_init__(self):
        if self.compile_backend is not None:
            known = torch.compiler.list_backends(exclude_tags=())
            if self.compile_backend not in known:
                names = ", ".join(known)
                raise ValueError(f"compile_backend must be null or one of {names}, got {self.compile_backend!r}.")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions):
    """The base of each training script's `Config`, which adds its own options and the defaults of these.

    Raises:
        ValueError: milestones do not coincide with checkpoints.
    """

    output_dir: OutputDir
    batch_size: BatchSize
    gradient_accumulation_steps: Accumulation
    mixed_precision: MixedPrecision
    max_steps: MaxSteps
    save_every: SaveEvery
    log_every: LogEvery
    trackers: Trackers

    def __post_init__(self):
        super().__post_init__()
        if self.keep_every % self.save_every:
            raise ValueError(f"keep_every must be a multiple of save_every, {self.save_every}, got {self.keep_every}.")
