"""Options that several training scripts share: type, range and meaning, see `training_utils.options`."""

from typing import Annotated, Literal

from stable_longform.training_utils.options import NumEntries
from stable_longform.utils.accepted_values import MAX_SEED, DtypeName
from stable_longform.utils.ranges import Range

MAX_TRAINING_STEPS, MAX_COUNT = 10**9, 65536

Manifest = Annotated[str, "Source of music: a manifest, a folder, tars ..., see docs/data.md."]
OutputDir = Annotated[str, "Folder for the results; to continue after a stop, run the same command again."]
MaxBadFraction = Annotated[float, Range(0, 1), "Largest share of tracks that may be unusable."]
MaxMinutes = Annotated[
    float,
    Range(0, 1e6, above=True),
    "Time limit in minutes; the script stops after the current step, as after the last one.",
]
Dtype = Annotated[DtypeName, "Precision of the weights."]
Seed = Annotated[int, Range(0, MAX_SEED), "Random seed."]

BatchSize = Annotated[int, Range(1, MAX_COUNT), "Items per process and micro-batch."]
Accumulation = Annotated[int, Range(1, MAX_COUNT), "Micro-batches per step."]
MaxSteps = Annotated[int, Range(1, MAX_TRAINING_STEPS), "Number of training steps."]
NumWorkers = Annotated[int, Range(0, 1024), "Data-loading processes per training process; 0: none."]
MixedPrecision = Annotated[
    Literal["no", "bf16", "fp16"], "Precision of the forward pass; the weights stay in float32."
]
GradientCheckpointing = Annotated[bool, "Recompute activations: less memory, about a third more time."]
SaveEvery = Annotated[int, Range(1, MAX_TRAINING_STEPS), "Steps between checkpoints."]
LogEvery = Annotated[int, Range(1, MAX_TRAINING_STEPS), "Steps between lines of metrics.jsonl."]
ValidateEvery = Annotated[
    int, Range(1, MAX_TRAINING_STEPS), "Steps between validations, each with an export of the model."
]
Trackers = Annotated[tuple[str, ...], "Additional trackers for the metrics: tensorboard, wandb, trackio."]

LearningRate = Annotated[float, Range(0, 10, above=True), "Peak learning rate."]
Betas = Annotated[tuple[float, float], Range(0, 1, below=True), "Betas of Adam."]
WeightDecay = Annotated[float, Range(0, 10), "Weight decay of AdamW."]
InvGamma = Annotated[
    float, Range(0, 1e15, above=True), "Steps after which the learning rate has fallen by a factor of √2."
]
Warmup = Annotated[float, Range(0, 1, below=True), "Base of the exponential ramp-up; 0: none."]
WarmupSteps = Annotated[int, Range(0, MAX_TRAINING_STEPS), "Steps of the linear warm-up."]
DecayStart = Annotated[
    float, Range(0, 1), "Share of max_steps after which the learning rate also falls linearly; 1: never."
]
FinalRate = Annotated[float, Range(0, 1), "Learning rate at the end, as a share of its value without the fall."]
MaxGradNorm = Annotated[float, Range(0, 1e9, above=True), "Norm to which gradients are clipped; null: no clipping."]
EmaDecay = Annotated[float, Range(0, 1, below=True), "Decay of the moving average of the weights, per step."]

CropNumSamples = Annotated[int, Range(1, 2**28), "Length of a crop at the model's rate."]
FftSizes = Annotated[tuple[int, ...], Range(16, 2**20, multiple_of=4), NumEntries(1)]
NumValidationCrops = Annotated[int, Range(1, MAX_COUNT), "Held-out crops per validation."]
ValidationDuration = Annotated[
    float, Range(0.4, 1e4), "Length of each crop in seconds, rounded to latent frames; metrics need 0.2."
]
NumSamples = Annotated[int, Range(0, MAX_COUNT), "Crops that each validation writes as audio and spectrograms."]

Alpha = Annotated[float, Range(0, 1e6, above=True), "The adapter is scaled by alpha / rank."]
TargetModules = Annotated[tuple[str, ...], NumEntries(1), "Layers with an adapter, by the ends of their names."]

ConditionDropout = Annotated[float, Range(0, 1), "Share of items trained without their prompt."]
TimestepShift = Annotated[float, Range(0, 1e3, above=True), "Above 1, more items are near t = 1; the paper: 1."]
MinTimestep = Annotated[float, Range(0, 0.99), "Times below it are not drawn; the paper: 0."]
TerminalProbability = Annotated[float, Range(0, 1), "Share of items at t = 1 (pure noise)."]
