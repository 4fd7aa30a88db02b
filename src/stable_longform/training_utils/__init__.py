"""What the training scripts share: configuration, order of the data, learning-rate law, checkpoints, records.

Plain functions of tensors, modules and numbers; the loops themselves are in `training/`. A run is a folder:
`config.yaml` (the resolved configuration), `run.json` (versions, git commit, machine, what it started from),
`metrics.jsonl`, the newest `checkpoint-<step>/` and the exported models. To resume, run the same command again.
"""

from stable_longform.training_utils.averages import WeightAverage, gather
from stable_longform.training_utils.batch_norm import share_batch_norms
from stable_longform.training_utils.checkpoints import (
    CHECKPOINT_PREFIX,
    export_model,
    float_dtype,
    latest_checkpoint,
    load_text_encoder,
    load_weights,
    resume,
    save_checkpoint,
)
from stable_longform.training_utils.config import build_model, launch, load_config
from stable_longform.training_utils.records import (
    check_finite,
    describe_environment,
    log_metrics,
    report,
)
from stable_longform.training_utils.runs import STAGE_FILE, start_run, write_stage
from stable_longform.training_utils.steps import (
    ItemOrder,
    gradient_norm,
    inverse_lr,
    is_due,
    item_generator,
    make_accelerator,
    make_loader,
    mean_losses,
    progress_bar,
    seed_generators,
)
from stable_longform.training_utils.stopping import TimeLimit

__all__ = [
    "CHECKPOINT_PREFIX",
    "STAGE_FILE",
    "ItemOrder",
    "TimeLimit",
    "WeightAverage",
    "build_model",
    "check_finite",
    "describe_environment",
    "export_model",
    "float_dtype",
    "gather",
    "gradient_norm",
    "inverse_lr",
    "is_due",
    "item_generator",
    "latest_checkpoint",
    "launch",
    "load_config",
    "load_text_encoder",
    "load_weights",
    "log_metrics",
    "make_accelerator",
    "make_loader",
    "mean_losses",
    "progress_bar",
    "report",
    "resume",
    "save_checkpoint",
    "seed_generators",
    "share_batch_norms",
    "start_run",
    "write_stage",
]
