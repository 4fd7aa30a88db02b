"""Generates a folder of music from a list of prompts, one file for each, to be scored or listened to.

Every file has its own seed, derived from the run's seed and the prompt's id, so a file does not depend on the others,
on their order or on the number of processes. An interrupted run continues where it stopped: files appear only when
complete, and complete ones are kept. `protocol.json` in the folder records the settings; a folder with other settings
is rejected.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.utils.audio import write_audio
from stable_longform.utils.files import write_json
from stable_longform.utils.text_files import read_json

PROTOCOL_FILE = "protocol.json"
Synthesize = Callable[[str, float, int], tuple[torch.Tensor, int]]


def item_seed(seed: int, item_id: str) -> int:
    """Seed of one item, in [0, 2³²), from the run's seed and the item's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{item_id}".encode()).digest()[:4], "big")


def generate_folder(
    synthesize: Synthesize,
    rows: Sequence[PromptRow],
    folder: Path,
    duration: float,
    settings: dict,
    seed: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> int:
    """Generates the missing files.

    Args:
        synthesize: called with prompt, seconds and seed; returns `(waveform (channels, num_samples), sampling rate)`.
        rows: the prompts; the duration of a row, if given, has priority.
        folder: for `<id>.wav` (16 bits) and the protocol; created if necessary.
        duration: seconds of music for rows without a duration.
        settings: everything else that the result depends on, as JSON; stored in the protocol.
        seed: of the run.
        process_index: number of this process, in [0, num_processes).
        num_processes: number of processes that share the work.

    Returns:
        The number of files that this process generated.

    Raises:
        ValueError: the folder was made with other settings, a duration is not positive, or generated audio is not
            finite.
    """
    if not duration > 0:
        raise ValueError(f"duration must be greater than 0 seconds, got {duration}.")
    prompts = [[row.id, row.prompt, row.duration or duration] for row in rows]
    prompts_sha256 = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    protocol = {"seed": seed, "duration_in_s": duration, **settings, "prompts_sha256": prompts_sha256}
    folder.mkdir(parents=True, exist_ok=True)
    _check_protocol(folder / PROTOCOL_FILE, protocol)
    share = list(rows)[process_index::num_processes]
    todo = [row for row in share if not (folder / f"{row.id}.wav").is_file()]
    for row in tqdm(todo, desc=str(folder), unit="file", disable=process_index > 0):
        waveform, sampling_rate = synthesize(row.prompt, row.duration or duration, item_seed(seed, row.id))
        if not waveform.isfinite().all():
            raise ValueError(f"{row.id}: the model returned audio that is not finite.")
        peak = float(waveform.abs().max())
        waveform = waveform / max(peak, 1.0)  # the whole is turned down instead of clipped
        write_audio(folder / f"{row.id}.wav", waveform.cpu().float(), sampling_rate, tags={"title": row.prompt})
    return len(todo)


def _check_protocol(path: Path, protocol: dict) -> None:
    """Writes the protocol, or raises a ValueError if another one is there."""
    if path.is_file():
        old = read_json(path)
        new = json.loads(json.dumps(protocol))
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if changed:
            raise ValueError(
                f"{path.parent} was generated with other values of {', '.join(changed)}: choose another folder."
            )
    else:
        write_json(path, protocol)
