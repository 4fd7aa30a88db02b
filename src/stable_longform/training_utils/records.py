"""What a run folder records: environment and metrics; and the check that a loss is a number."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from stable_longform.utils.run_folder import METRICS_FILE

NUM_SHOWN = 3  # metrics beside the progress bar


def describe_environment() -> dict:
    """Versions, git commit and machine, to be saved with a run."""
    packages = ("stable_longform", "torch", "diffusers", "transformers", "accelerate", "numpy")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git_commit": commit.stdout.strip() or None,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def log_metrics(
    output_dir: Path, step: int, metrics: Mapping[str, float], accelerator: Accelerator | None = None
) -> None:
    """Appends one line to `metrics.jsonl` and tells the accelerator's trackers; for the main process."""
    metrics = {name: float(value) for name, value in metrics.items()}
    if accelerator is not None:
        accelerator.log(metrics, step)
    with open(output_dir / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")


def report(
    accelerator: Accelerator, output_dir: Path, step: int, metrics: Mapping[str, float], progress: tqdm
) -> None:
    """Logs a step's metrics and shows the first of them beside the progress bar, in the main process."""
    if accelerator.is_main_process:
        log_metrics(output_dir, step, metrics, accelerator)
        progress.set_postfix({name: f"{float(value):.3g}" for name, value in list(metrics.items())[:NUM_SHOWN]})


def check_finite(values: Mapping[str, torch.Tensor], step: int, batch: Mapping | None = None) -> None:
    """Stops a run whose losses or gradients are no longer numbers; the last checkpoint stays as it is.

    Args:
        values: by name.
        step: for the message.
        batch: what the step was computed from; tensors in it that are not finite, and their items, are named too.

    Raises:
        FloatingPointError: naming the step and the values.
    """
    bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if not bad:
        return
    culprits = []
    for name, tensor in (batch or {}).items():
        if isinstance(tensor, torch.Tensor) and not torch.isfinite(tensor).all():
            items = (~torch.isfinite(tensor)).flatten(1).any(dim=1).nonzero().flatten().tolist()
            culprits.append(f"{name} of its items {', '.join(map(str, items))}")
    cause = f"; so is {' and '.join(culprits)}" if culprits else "" if batch is None else "; its data are"
    raise FloatingPointError(
        f"Step {step}: {', '.join(bad)} is not finite{cause}; the last checkpoint is unchanged, and the same command "
        "goes on from it."
    )
