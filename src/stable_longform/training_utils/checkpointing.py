"""Checkpoints of a training: written atomically, verified when they are read, rotated.

A checkpoint holds what accelerate saves, and `checkpoint.json` with the step, the number of items seen, and the size
and SHA-256 of every file.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch.distributed.checkpoint.api import CheckpointException

from stable_longform.training_utils.items import ItemOrder
from stable_longform.training_utils.processes import is_any
from stable_longform.training_utils.run_options import RunOptions
from stable_longform.training_utils.train_step import SkippedSteps
from stable_longform.utils.files import (
    file_sha256,
    raise_as_os_error,
    replace_folder,
    sync_file,
    sync_folder,
    write_json,
)
from stable_longform.utils.run_folder import rewind_metrics

CHECKPOINT_PREFIX = "checkpoint-"
CONTENTS_FILE = "checkpoint.json"

logger = logging.getLogger(__name__)


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    order: ItemOrder,
    skipped: SkippedSteps,
    options: RunOptions = RunOptions(),  # noqa: B008
) -> Path:
    """Saves everything prepared by and registered with `accelerator` as `checkpoint-<step>`, atomically.

    The folder gets its name only when it is complete and on disk. Then older checkpoints are removed, except the
    newest `keep_last` and the milestones, whose step is a multiple of `keep_every` (0: no milestones).

    Raises:
        OSError: it could not be written, for example because the disk is full. The incomplete checkpoint is removed,
            the older ones are kept.
    """
    final = output_dir / f"{CHECKPOINT_PREFIX}{step:08d}"
    partial = output_dir / f"partial-{final.name}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    error = None
    try:
        with raise_as_os_error():
            accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            facts: dict[str, Any] = {
                "step": step,
                "num_items": order.num_items(step),
                "items_per_step": order.items_per_step,
            }
            facts |= {"is_sharded": _is_sharded(accelerator), "skipped": skipped.state_dict()}
    except (OSError, CheckpointException) as caught:  # FSDP raises the latter, in all processes
        error = caught
    if not is_any(accelerator, error is not None) and accelerator.is_main_process:  # all have written their parts
        try:
            _write_contents(partial, facts)
            replace_folder(partial, final)
        except OSError as caught:
            error = caught
    if is_any(accelerator, error is not None):
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"The checkpoint of step {step} could not be written to {output_dir}: "
            f"{error or 'see the message of another process'}. Free some space and run the same command again: it "
            "continues from the previous checkpoint."
        ) from error
    if accelerator.is_main_process:
        for old, old_step in _checkpoints(output_dir)[: -options.keep_last]:
            if not options.keep_every or old_step % options.keep_every:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def resume(accelerator: Accelerator, output_dir: Path, batch_size: int, skipped: SkippedSteps) -> ItemOrder:
    """Loads the newest undamaged checkpoint, if there is one; returns the order of the items from there on.

    Damaged checkpoints are renamed to `damaged-checkpoint-<step>` and reported. `skipped` gets its saved state.

    Raises:
        ValueError: all checkpoints are damaged; or the newest was saved with FSDP and this run does not use it, or the
            other way round.
    """
    found = [None, None]
    if accelerator.is_main_process:
        for leftover in output_dir.glob(f"partial-{CHECKPOINT_PREFIX}*"):
            shutil.rmtree(leftover)
        found = _newest_whole(output_dir)
    path, damage = broadcast_object_list(found)
    if damage is not None:
        raise ValueError(damage)
    shares = (
        batch_size,
        accelerator.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
    )
    step = 0 if path is None else int(path.name.removeprefix(CHECKPOINT_PREFIX))
    if accelerator.is_main_process:
        rewind_metrics(output_dir, step)
    if path is None:
        return ItemOrder(*shares)
    contents = json.loads((path / CONTENTS_FILE).read_text(encoding="utf-8"))
    is_sharded = contents.get("is_sharded", _is_sharded(accelerator))
    if is_sharded != _is_sharded(accelerator):
        raise ValueError(
            f"{path} was saved {'with' if is_sharded else 'without'} FSDP: continue the same way, with any number of "
            "processes, or start another run with --init_from."
        )
    accelerator.load_state(str(path))
    accelerator.step = 0  # counts micro-batches
    if "skipped" in contents:
        skipped.load_state_dict(contents["skipped"])
    order = ItemOrder(*shares, start_step=step, first_item=contents["num_items"])
    if contents["items_per_step"] != order.items_per_step:
        logger.warning("A step now takes %d items instead of %d.", order.items_per_step, contents["items_per_step"])
    logger.info("Resumed from %s.", path)
    return order


def latest_checkpoint(output_dir: str | os.PathLike) -> tuple[Path, int] | None:
    """Returns the newest complete checkpoint of a run and its step, or None."""
    return max(_checkpoints(output_dir), key=lambda entry: entry[1], default=None)


def _is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are sharded over the processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def _checkpoints(output_dir: str | os.PathLike) -> list[tuple[Path, int]]:
    """Complete checkpoints and their steps, in order."""
    steps = [
        (path, int(path.name.removeprefix(CHECKPOINT_PREFIX)))
        for path in Path(output_dir).glob(f"{CHECKPOINT_PREFIX}*")
        if path.name.removeprefix(CHECKPOINT_PREFIX).isdigit()
    ]
    return sorted(steps, key=lambda entry: entry[1])


def _newest_whole(output_dir: Path) -> list:
    """Returns the newest undamaged checkpoint, or None; and a description of the damage if all are damaged."""
    checkpoints = _checkpoints(output_dir)
    damages: list[tuple[Path, str]] = []
    for path, _ in reversed(checkpoints):
        damage = find_damage(path)
        if damage is None:
            for broken, reason in damages:
                os.replace(broken, broken.with_name(f"damaged-{broken.name}"))
                logger.warning("%s is damaged: %s. Continuing from %s.", broken, reason, path.name)
            return [path, None]
        damages.append((path, damage))
    if not damages:
        return [None, None]
    reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damages)
    return [None, f"All checkpoints in {output_dir} are damaged ({reasons}); move them away to start a new run."]


def find_damage(checkpoint: Path) -> str | None:
    """Describes what is wrong with the files of a checkpoint; None if nothing is.

    Args:
        checkpoint: folder.
    """
    try:
        files = json.loads((checkpoint / CONTENTS_FILE).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{CONTENTS_FILE} is missing"
    except (ValueError, KeyError):
        return f"{CONTENTS_FILE} cannot be read"
    for name, (size, digest) in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if file_sha256(file) != digest:
            return f"{name} has other contents than were written"
    return None


def _write_contents(folder: Path, facts: dict) -> None:
    """Writes the list of a checkpoint's files and flushes all of them to disk."""
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[file.relative_to(folder).as_posix()] = [file.stat().st_size, file_sha256(file)]
        sync_file(file)
    write_json(folder / CONTENTS_FILE, {**facts, "files": files})
    sync_folder(folder)
