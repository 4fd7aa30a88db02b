"""The options of a script, with defaults."""

from dataclasses import dataclass

from stable_longform.training_utils.run_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """What all scripts have, and nothing else."""

    output_dir: str = "run"
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    mixed_precision: str = "no"
    max_steps: int = 7
    log_every: int = 2
    save_every: int = 3
    trackers: tuple[str, ...] = ()
