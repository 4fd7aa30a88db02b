"""The start of a run and the notes on where a model comes from.

`run.json` of a run says what it was started from (`sources`). `stage.json` beside every exported model says which
stage and step it is, and repeats the sources, with the `stage.json` of each: the whole history of a model.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator

from stable_longform.data.latents import INFO_FILE
from stable_longform.training_utils.checkpointing import latest_checkpoint
from stable_longform.training_utils.config import plain_values
from stable_longform.utils.files import file_sha256, write_json, write_text

RUN_FILE, STAGE_FILE = "run.json", "stage.json"
# What may differ when a run is resumed: how long, how fast and how talkative it is, not what it learns.
RESUMABLE_KEYS = (
    "max_steps",
    "max_minutes",
    "max_bad_fraction",
    "batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "num_workers",
    "save_every",
    "log_every",
    "validate_every",
    "num_samples",
    "demo_every",
    "trackers",
)


def start_run(
    output_dir: str | os.PathLike,
    config,
    accelerator: Accelerator | None = None,
    sources: Mapping[str, str | None] | None = None,
) -> Path:
    """Makes the run folder and writes `config.yaml` and `run.json`; a resumed run must have the same configuration.

    Args:
        output_dir: the run folder.
        config: a dataclass; the fields in `RESUMABLE_KEYS` may differ from those of a run that is resumed.
        accelerator: its trackers are started; None for a script that has none.
        sources: what the run starts from, by name: folders or Hub ids.

    Raises:
        ValueError: the folder holds a run with another configuration.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    resolved = plain_values(dataclasses.asdict(config))
    file = output_dir / "config.yaml"
    is_resumed = file.exists() and latest_checkpoint(output_dir) is not None
    if is_resumed:
        previous = yaml.safe_load(file.read_text(encoding="utf-8"))
        previous = plain_values(_defaults(config)) | previous  # fields that did not exist when the run began
        changed = [key for key in resolved if key not in RESUMABLE_KEYS and previous.get(key) != resolved[key]]
        if changed:
            raise ValueError(
                f"{output_dir} holds a run with other values of {', '.join(changed)}: "
                "use the same values to resume it or another output_dir to start anew."
            )
    if accelerator is None or accelerator.is_main_process:
        described = json.loads((output_dir / RUN_FILE).read_text()).get("sources") if is_resumed else None
        if described is None:
            given = {name: source for name, source in (sources or {}).items() if source is not None}
            described = {name: describe_source(source) for name, source in given.items()}
        write_json(output_dir / RUN_FILE, describe_environment() | {"sources": described})
        write_text(file, yaml.safe_dump(resolved, sort_keys=False))
    if accelerator is not None:
        accelerator.wait_for_everyone()
        simple = {name: value for name, value in resolved.items() if isinstance(value, (int, float, str))}
        accelerator.init_trackers("stable_longform", simple)
    return output_dir


def describe_source(source: str | os.PathLike) -> dict:
    """What a run starts from: path, SHA-256 of its weights' files, or which autoencoder made its latents; history.

    Args:
        source: a folder of models or latents; of a Hub id only the name is known.
    """
    folder = Path(source)
    described: dict = {"path": str(source)}
    if (folder / INFO_FILE).is_file():
        described["latents"] = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    elif folder.is_dir():
        files = sorted(folder.rglob("*.safetensors"))
        described["sha256"] = {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
    if (folder / STAGE_FILE).is_file():
        described["stage"] = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    return described


def write_stage(folder: Path, output_dir: Path, stage: str, step: int, **facts) -> None:
    """Writes `stage.json` into the folder of an exported model: its stage and step, and what its run started from."""
    run = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    described = {"stage": stage, "step": step, **facts}
    described |= {name: run[name] for name in ("git_commit", "versions", "sources")}
    write_json(folder / STAGE_FILE, described)


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


def _defaults(config) -> dict:
    """Defaults of a dataclass's fields, where they have one."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    factories = {field.name: field.default_factory for field in dataclasses.fields(config)}
    made = {name: make() for name, make in factories.items() if make is not dataclasses.MISSING}
    return {name: value for name, value in defaults.items() if value is not dataclasses.MISSING} | made
