"""Shared code of the commands: opening checkpoints, checking outputs, progress."""

import json
import logging
import math
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import typer
from tqdm import tqdm

import stable_longform
from stable_longform.cli.settings import Settings
from stable_longform.music_files import write_music
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.audio import check_output_path
from stable_longform.utils.optional import require
from stable_longform.utils.timecodes import SECONDS

# Checkpoints and adapters with short names; tags contain these names instead of local paths.
NAMED_CHECKPOINTS = {"tiny": stable_longform.TINY_CHECKPOINT}
NAMED_ADAPTERS = {"tiny-8-steps": stable_longform.TINY_8_STEPS_LORA}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def end_on_sigterm() -> None:
    """Makes SIGTERM end the process with exit code 0, after its temporary files and sockets have been closed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def resolve_checkpoint(checkpoint: str) -> str:
    """The folder or Hub id of `checkpoint`; raises a ValueError if it can be neither."""
    resolved = NAMED_CHECKPOINTS.get(checkpoint, checkpoint)
    folder = Path(resolved)
    if folder.is_dir():
        _check_index(folder / "model_index.json")
    elif folder.exists():
        raise ValueError(f"{resolved} is a file, not a checkpoint folder.")
    elif not HUB_ID.fullmatch(resolved):
        raise ValueError(f"{resolved!r} is not a checkpoint: there is no such folder, and it is not a Hub id.")
    return resolved


def check_adapter(lora: str | None) -> None:
    """Raises a ValueError if there cannot be a LoRA adapter at this place; None: no adapter."""
    if lora is None:
        return
    require("peft", "train")
    known = lora in NAMED_ADAPTERS or HUB_ID.fullmatch(lora)
    if not lora or not (known or Path(lora).exists()):
        raise ValueError(
            f"--lora {lora!r} is not an adapter: there is no such folder or file, and it is not a Hub id."
        )


def _check_index(path: Path) -> None:
    """Raises a ValueError unless the file exists and is the index of a pipeline."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a checkpoint: it has no {path.name}.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.parent} is not a checkpoint: its {path.name} is not JSON: {error}") from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise ValueError(f"{path.parent} is not a checkpoint: its {path.name} names no pipeline.")


def quiet_libraries() -> None:
    """Keeps the libraries' warnings and progress bars for loading weights off stderr."""
    # Imported here because `--help` and most errors don't need it.
    import diffusers.utils.logging
    import transformers.utils.logging

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def set_quiet(quiet: bool) -> None:
    """Turns the package's own warnings off, or on again."""
    logging.getLogger("stable_longform").setLevel(logging.ERROR if quiet else logging.NOTSET)


def _load(cls_name: str, checkpoint: str, **kwargs):
    """Calls `from_pretrained` of a public class."""
    quiet_libraries()
    try:
        return getattr(stable_longform, cls_name).from_pretrained(checkpoint, **kwargs)
    except OSError as error:
        if Path(checkpoint).is_dir():
            raise
        reason = error.__cause__ or error
        raise ValueError(
            f"{checkpoint!r} is not a folder, and downloading it from the Hub failed: {reason}"
        ) from error


def load_pipeline(checkpoint: str, device: torch.device, dtype: torch.dtype):
    """The `LongFormMusicPipeline` of a checkpoint, transformer and text encoder in `dtype`, the rest in float32."""
    pipe = _load("LongFormMusicPipeline", checkpoint)
    missing = [name for name, part in pipe.components.items() if part is None]
    if missing:
        raise ValueError(f"{checkpoint} has no {', '.join(missing)}.")
    for model in (pipe.transformer, pipe.text_encoder):
        model.to(dtype)
    return pipe.to(device)


def open_pipeline(checkpoint: str, settings: Settings, device: torch.device, quiet: bool):
    """The text-to-music pipeline, with the scheduler and the adapter of the settings."""
    set_quiet(quiet)
    pipe = load_pipeline(checkpoint, device, DTYPES[settings.dtype])
    pipe.set_progress_bar_config(desc="sampling", disable=quiet)
    if settings.scheduler is not None:
        pipe.use_scheduler(settings.scheduler)
    if settings.lora is not None:
        pipe.load_lora_weights(NAMED_ADAPTERS.get(settings.lora, settings.lora), adapter_name="lora")
        pipe.set_adapters("lora", settings.lora_scale)
    return pipe


def fill_in(settings: Settings, pipe) -> Settings:
    """Replaces missing steps and a missing guidance scale by the checkpoint's defaults."""
    own = {name: pipe.config[name] for name in ("num_inference_steps", "guidance_scale")}
    return replace(settings, **{name: own[name] for name in own if getattr(settings, name) is None})


def write_with_progress(
    pipe,
    chunks: Iterator[torch.Tensor],
    duration_in_s: float,
    path: Path,
    title: str,
    values: dict,
    sample_format: str | None,
    quiet: bool,
) -> dict:
    """`write_music` with a progress bar, and a note if the music was turned down."""
    chunks = show_progress(chunks, duration_in_s, pipe.sampling_rate, quiet)
    values = values | {"device": pipe.transformer.device.type}
    values = write_music(path, chunks, pipe.sampling_rate, title, values, sample_format)
    gain = values["gain"]
    if gain < 1:
        note(f"turned down by {-20 * math.log10(gain):.2f} dB: the peak was {1 / gain:.3f}", quiet)
    return values


def report(path: Path, values: dict, is_json: bool) -> None:
    """Prints the path of a written file to stdout."""
    typer.echo(json.dumps({"path": str(path)} | values, ensure_ascii=False) if is_json else path)


def load_autoencoder(checkpoint: str, device: torch.device, subfolder: str | None = "vae"):
    """The `AutoencoderOobleck` of a checkpoint in float32; with `subfolder=None` it is in the folder itself."""
    return _load("AutoencoderOobleck", checkpoint, subfolder=subfolder).to(device)


def read_limits(checkpoint: str) -> tuple[float, float] | None:
    """The model's longest window and the largest time that it knows in seconds, from the files in its folder.

    None for a checkpoint on the Hub or a folder without these files: then the pipeline checks the limits itself.
    """
    try:
        transformer, vae = (_read_config(checkpoint, name) for name in ("transformer", "vae"))
        timing = _read_config(checkpoint, "timing_conditioner")
        hop_length = math.prod(vae["downsampling_ratios"])
        size, rate, max_value = transformer["sample_size"], vae["sampling_rate"], timing["max_value"]
        window_in_s = size * hop_length / rate
        is_valid = type(size) is type(rate) is int and window_in_s >= SECONDS.low and max_value > 0
        return (window_in_s, max_value) if is_valid else None  # else it will not load
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _read_config(checkpoint: str, component: str) -> dict:
    """The configuration of a component."""
    return json.loads((Path(checkpoint) / component / "config.json").read_text(encoding="utf-8"))


def check_outputs(paths: Sequence[Path], sample_format: str | None, overwrite: bool) -> None:
    """Raises a ValueError unless the files can be written and either are new or may be overwritten."""
    check_output_path(paths[0], sample_format)
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists: give --overwrite, or another name.")


def note(text: str, quiet: bool) -> None:
    """Prints a note to the terminal, unless `quiet`."""
    if not quiet:
        typer.echo(text, err=True)


def show_progress(
    chunks: Iterator[torch.Tensor], duration_in_s: float, sampling_rate: int, quiet: bool = False
) -> Iterator[torch.Tensor]:
    """Passes on decoded chunks, with a progress bar in seconds."""
    with tqdm(total=round(duration_in_s), unit="s", desc="decoding", disable=quiet) as progress:
        done = 0
        for chunk in chunks:
            yield chunk
            done += chunk.shape[-1]
            progress.update(min(round(done / sampling_rate), progress.total) - progress.n)
