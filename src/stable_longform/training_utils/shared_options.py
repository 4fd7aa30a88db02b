"""Options that several training scripts have: type, range and meaning of each, see `training_utils.options`."""

from typing import Annotated, Literal

from stable_longform.training_utils.options import NumEntries
from stable_longform.utils.ranges import Range

MAX_STEPS, MAX_COUNT = 10**9, 65536

Manifest = Annotated[str, "Any source of music: a manifest, a folder, tars ..., see docs/data.md."]
OutputDir = Annotated[str, "Folder of the results; run the same command again to go on after a stop."]
MaxBadFraction = Annotated[float, Range(0, 1), "Share of the tracks that may turn out to be unusable."]
MaxMinutes = Annotated[
    float, Range(0, 1e6, above=True), "Then the script stops after the step it is in, as if it were the last."
]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], "Of the weights."]
Seed = Annotated[int, Range(0, 2**63 - 1), "Of everything random."]

BatchSize = Annotated[int, Range(1, MAX_COUNT), "Items of a process in a micro-batch."]
Accumulation = Annotated[int, Range(1, MAX_COUNT), "Micro-batches in a step."]
MaxSteps = Annotated[int, Range(1, MAX_STEPS), "Steps of the whole training."]
NumWorkers = Annotated[int, Range(0, 1024), "Processes that load data, for each process that trains; 0: none."]
MixedPrecision = Annotated[Literal["no", "bf16", "fp16"], "Of the forward pass; the weights stay in float32."]
GradientCheckpointing = Annotated[bool, "Less memory for activations, a third more time."]
SaveEvery = Annotated[int, Range(1, MAX_STEPS), "Steps between checkpoints."]
LogEvery = Annotated[int, Range(1, MAX_STEPS), "Steps between lines of metrics.jsonl."]
ValidateEvery = Annotated[int, Range(1, MAX_STEPS), "Steps between validations, each with an export of the model."]
Trackers = Annotated[tuple[str, ...], "Trackers of accelerate that get the metrics too: tensorboard, wandb, trackio."]

LearningRate = Annotated[float, Range(0, 10, above=True), "Peak of the learning rate."]
Betas = Annotated[tuple[float, float], Range(0, 1, below=True), "Of Adam."]
WeightDecay = Annotated[float, Range(0, 10), "Of AdamW."]
InvGamma = Annotated[float, Range(0, 1e15, above=True), "Steps after which the rate has fallen to its 1/√2."]
Warmup = Annotated[float, Range(0, 1, below=True), "Base of the exponential ramp-up; 0: none."]
WarmupSteps = Annotated[int, Range(0, MAX_STEPS), "Of a linear ramp-up."]
DecayStart = Annotated[float, Range(0, 1), "Share of max_steps after which the rate also falls linearly; 1: never."]
FinalRate = Annotated[float, Range(0, 1), "Share of the rate to which it falls by the end."]
MaxGradNorm = Annotated[float, Range(0, 1e9, above=True), "Longer gradients are clipped to this; null: none."]
EmaDecay = Annotated[float, Range(0, 1, below=True), "Of the moving average of the weights, for each step."]

CropNumSamples = Annotated[int, Range(1, 2**28), "Length of a crop at the model's rate."]
FftSizes = Annotated[tuple[int, ...], Range(16, 2**20, multiple_of=4), NumEntries(1)]
NumValidationCrops = Annotated[int, Range(1, MAX_COUNT), "Held-out crops in a validation."]
ValidationDuration = Annotated[
    float, Range(0, 1e4, above=True), "Of each of them in seconds, rounded to latent frames."
]
NumSamples = Annotated[int, Range(0, MAX_COUNT), "Of them are written with their spectrograms at each validation."]

Alpha = Annotated[float, Range(0, 1e6, above=True), "The adapter is scaled by alpha / rank."]
TargetModules = Annotated[tuple[str, ...], NumEntries(1), "Ends of the names of the layers that get an adapter."]

ConditionDropout = Annotated[float, Range(0, 1), "Share of items that are trained without their prompt."]
TimestepShift = Annotated[float, Range(0, 1e3, above=True), "Above 1 more items are near t = 1; the paper: 1."]
TerminalProbability = Annotated[float, Range(0, 1), "Share of items at t = 1, pure noise."]
