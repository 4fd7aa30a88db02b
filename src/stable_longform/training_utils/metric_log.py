"""Metrics of a training: one line of `metrics.jsonl` for each logged step, and accelerate's trackers."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from stable_longform.utils.run_folder import METRICS_FILE

NUM_SHOWN = 3  # number of metrics beside the progress bar


def log_metrics(
    output_dir: Path, step: int, metrics: Mapping[str, float], accelerator: Accelerator | None = None
) -> None:
    """Appends one line to `metrics.jsonl` and passes it to the accelerator's trackers, in the main process."""
    metrics = {name: float(value) for name, value in metrics.items()}
    if accelerator is not None:
        accelerator.log(metrics, step)
    with open(output_dir / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")


def report(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    metrics: Mapping[str, torch.Tensor | float],
    progress: tqdm,
) -> None:
    """Logs a step's metrics and shows the first of them beside the progress bar.

    Tensors are averaged over the processes, all of which must call this; numbers are the same in all of them.
    """
    tensors = {name: value for name, value in metrics.items() if torch.is_tensor(value)}
    if tensors:  # one exchange and one copy from the GPU for all tensors
        values = torch.stack([value.to(accelerator.device).float() for value in tensors.values()])
        means = accelerator.reduce(values, reduction="mean").tolist()
        metrics = {**metrics, **dict(zip(tensors, means, strict=True))}
    if accelerator.is_main_process:
        numbers = {name: float(value) for name, value in metrics.items()}
        log_metrics(output_dir, step, numbers, accelerator)
        progress.set_postfix({name: f"{value:.3g}" for name, value in list(numbers.items())[:NUM_SHOWN]})
