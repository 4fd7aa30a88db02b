"""The start of a run, and the record of where a model comes from.

A run's `run.json` describes the models and data it started from (`sources`). `stage.json` beside every exported model
gives its stage and step, and repeats the sources with the `stage.json` of each: the whole history of a model.
"""

import dataclasses
import datetime
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from stable_longform.data.latents import INFO_FILE
from stable_longform.training_utils.checkpointing import latest_checkpoint
from stable_longform.training_utils.config import plain_values
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import file_sha256, write_json, write_text
from stable_longform.utils.locks import hold_lock
from stable_longform.utils.text_files import read_json
from stable_longform.utils.yaml_files import format_yaml, read_yaml

logger = logging.getLogger(__name__)

RUN_FILE, STAGE_FILE, LOCK_FILE = "run.json", "stage.json", "run.lock"
# Options that may change silently when a run is resumed: duration, speed and logging.
FREE_KEYS = (
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
    "demo_duration_in_s",
    "demo_steps",
    "demo_guidance_scales",
    "num_demos",
    "trackers",
    "keep_last",
    "keep_every",
    "timeout_in_minutes",
    "output_dir",
)
# Options that may change but are noted in run.json: locations, and how to handle values that are not finite.
NOTED_KEYS = (
    "manifest",
    "latents",
    "clap",
    "autoencoder",
    "checkpoint",
    "init_from",
    "init_discriminator_from",
    "trajectories",
    "learning_rate",
    "discriminator_learning_rate",
    "max_grad_norm",
    "mixed_precision",
    "max_skipped_steps",
    "allow_tf32",
    "fused_optimizer",
    "cudnn_benchmark",
    "compile_backend",
    "attention_backend",
)


def start_run(
    output_dir: str | os.PathLike,
    config,
    accelerator: Accelerator | None = None,
    sources: Mapping[str, str | None] | None = None,
) -> Path:
    """Creates the run folder and writes `config.yaml` and `run.json`; a resumed run must have the same configuration.

    The folder stays locked until this process ends. `run.json` has a `history` with an entry for each start: when,
    where, at which step, and the settings that were changed.

    Args:
        output_dir: the run folder.
        config: a dataclass; when a run is resumed, only the fields in `FREE_KEYS` and `NOTED_KEYS` may differ.
        accelerator: its trackers are started; None for a script without one.
        sources: the folders or Hub ids from which the run starts, by name. They may have been moved, but not changed.

    Raises:
        ValueError: another process uses the folder, or it holds a run with other settings or sources.
    """
    output_dir = Path(output_dir)
    resolved = plain_values(dataclasses.asdict(config))
    problem: list[str | None] = [None]
    if accelerator is None or accelerator.is_main_process:
        try:
            _start_in_folder(output_dir, config, resolved, sources or {})
        except (ValueError, OSError) as error:
            problem = [str(error)]
    if accelerator is not None and accelerator.num_processes > 1:
        broadcast_object_list(problem)  # otherwise the others would wait for a process that has ended
    if problem[0] is not None:
        raise ValueError(problem[0])
    if accelerator is not None:
        simple = {name: value for name, value in resolved.items() if isinstance(value, (int, float, str))}
        accelerator.init_trackers("stable_longform", simple)
    return output_dir


def _start_in_folder(output_dir: Path, config, resolved: dict, sources: Mapping[str, str | None]) -> None:
    """Locks the folder, compares the configuration with that of the run to resume, and writes the run's files."""
    output_dir.mkdir(parents=True, exist_ok=True)
    hold_lock(output_dir / LOCK_FILE)
    latest = latest_checkpoint(output_dir)
    file, run_file = output_dir / "config.yaml", output_dir / RUN_FILE
    run = read_json(run_file) if latest is not None and run_file.exists() else {}
    changes = {}
    if latest is not None and file.exists():
        previous = plain_values(_defaults(config)) | read_yaml(file)  # some fields may be new
        changes = {key: [previous.get(key), value] for key, value in resolved.items() if previous.get(key) != value}
        refused = [key for key in changes if key not in (*FREE_KEYS, *NOTED_KEYS)]
        if refused:
            raise ValueError(
                f"{output_dir} holds a run with other values of {', '.join(refused)}: "
                "use the same values to resume it or another output_dir to start a new run."
            )
        changes = {key: value for key, value in changes.items() if key in NOTED_KEYS}
        for key, (old, new) in changes.items():
            logger.info("%s was %s and is %s from now on.", key, old, new)
    described = _compare_sources(run.get("sources", {}), sources, output_dir)
    environment = describe_environment()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    start = {
        "started": now,
        "step": 0 if latest is None else latest[1],
        "host": platform.node(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "git_commit": environment["git_commit"],
        "changes": changes,
    }
    history = [*run.get("history", ()), start]
    write_json(run_file, environment | {"started": now, "sources": described, "history": history})
    write_text(file, format_yaml(resolved))


def _compare_sources(known: Mapping[str, dict], sources: Mapping[str, str | None], output_dir: Path) -> dict:
    """Describes the sources of a run. Those of a resumed run may have been moved or deleted, but not replaced."""
    described = dict(known)
    for name, source in sources.items():
        if source is None:
            continue
        found = describe_source(source)
        for kind in ("sha256", "latents"):
            before, now = known.get(name, {}).get(kind), found.get(kind)
            if before and now and not before.items() <= now.items():  # a folder of trajectories may have grown
                raise ValueError(
                    f"{output_dir} holds a run that began with another {name} than {source}: its contents differ. "
                    "Give the same, or another output_dir to start a new run."
                )
        described.setdefault(name, found)
    return described


def describe_source(source: str | os.PathLike) -> dict:
    """Describes a source: its path, the SHA-256 of its weights or the autoencoder of its latents, and its history.

    Args:
        source: a folder of models or latents, or a Hub id, of which only the name is recorded.
    """
    folder = Path(source)
    described: dict = {"path": str(source)}
    if (folder / INFO_FILE).is_file():
        described["latents"] = read_json(folder / INFO_FILE)
    elif folder.is_dir():
        files = sorted(folder.rglob("*.safetensors"))
        described["sha256"] = {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
    if (folder / STAGE_FILE).is_file():
        described["stage"] = read_json(folder / STAGE_FILE)
    return described


def write_stage(folder: Path, output_dir: Path, stage: str, step: int, **facts) -> None:
    """Writes `stage.json` into the folder of an exported model: its stage, its step, and the sources of its run."""
    inherited = ("git_commit", "versions", "sources")
    run = read_json(output_dir / RUN_FILE, *inherited)
    described = {"stage": stage, "step": step, **facts} | {name: run[name] for name in inherited}
    write_json(folder / STAGE_FILE, described)


def _defaults(config) -> dict:
    """The defaults of a dataclass's fields, for those that have one."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    factories = {field.name: field.default_factory for field in dataclasses.fields(config)}
    made = {name: make() for name, make in factories.items() if make is not dataclasses.MISSING}
    return {name: value for name, value in defaults.items() if value is not dataclasses.MISSING} | made
