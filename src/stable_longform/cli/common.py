"""What the commands of the command line share: options, and opening checkpoints with errors of one line."""

import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

import stable_longform
from stable_longform.utils.audio import check_output_path

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Checkpoints that are known by name, and that tags name without the machine's paths.
NAMED_CHECKPOINTS = {"tiny": stable_longform.TINY_CHECKPOINT}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Checkpoint = Annotated[
    str, typer.Option(help="Folder or Hugging Face Hub id of the model; 'tiny' is the one inside the package.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ... [default: the GPU if there is one]")]
SampleFormat = Annotated[
    str | None,
    typer.Option(
        help="pcm16, pcm24 or float for wav, pcm16 or pcm24 for flac, vorbis for ogg. "
        "[default: pcm16 for wav, pcm24 for flac]"
    ),
]


def check_device(name: str | None) -> torch.device:
    """The device of that name, or the best one for None; raises a ValueError if the machine hasn't got it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    counts = {"cpu": 1} | ({accelerator.type: torch.accelerator.device_count()} if accelerator else {})
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is not the name of a device; here: {', '.join(counts)}.") from error
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ValueError(f"--device {name!r} is not available; here: {', '.join(counts)}.")
    return device


def resolve_checkpoint(checkpoint: str) -> str:
    """The folder or Hub id that `checkpoint` stands for; raises a ValueError if it can be neither."""
    resolved = NAMED_CHECKPOINTS.get(checkpoint, checkpoint)
    folder = Path(resolved)
    if folder.is_dir():
        _check_index(folder / "model_index.json")
    elif folder.exists():
        raise ValueError(f"{resolved} is not a checkpoint but a file.")
    elif not HUB_ID.fullmatch(resolved):
        raise ValueError(f"{resolved!r} is not a checkpoint: there is no such folder, and it is no Hub id.")
    return resolved


def _check_index(path: Path) -> None:
    """Raises a ValueError unless the file is there and is a pipeline's index."""
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
    # Imported here because `--help` and most errors do without.
    import diffusers.utils.logging
    import transformers.utils.logging

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def _load(cls_name: str, checkpoint: str, **kwargs):
    """Calls `from_pretrained` of a public class."""
    quiet_libraries()
    try:
        return getattr(stable_longform, cls_name).from_pretrained(checkpoint, **kwargs)
    except OSError as error:
        if Path(checkpoint).is_dir():
            raise
        reason = error.__cause__ or error
        raise ValueError(f"{checkpoint!r} is no folder, and fetching it from the Hub failed: {reason}") from error


def load_pipeline(checkpoint: str, device: torch.device, dtype: torch.dtype):
    """The `LongFormMusicPipeline` of a checkpoint, transformer and text encoder in `dtype`, the rest in float32."""
    pipe = _load("LongFormMusicPipeline", checkpoint)
    for model in (pipe.transformer, pipe.text_encoder):
        model.to(dtype)
    return pipe.to(device)


def load_autoencoder(checkpoint: str, device: torch.device):
    """The `AutoencoderOobleck` of a checkpoint, in float32."""
    return _load("AutoencoderOobleck", checkpoint, subfolder="vae").to(device)


def check_output(path: Path, sample_format: str | None) -> None:
    """Raises a ValueError unless the file can be written; permissions alone do not tell, so one is opened beside."""
    check_output_path(path, sample_format)
    try:
        with tempfile.TemporaryFile(prefix=f".{path.name}", dir=path.absolute().parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from error


def show_progress(chunks: Iterator[torch.Tensor], duration_in_s: float, sampling_rate: int) -> Iterator[torch.Tensor]:
    """Passes on decoded chunks, with a progress bar in seconds; raises a ValueError for audio that is not finite."""
    with tqdm(total=round(duration_in_s), unit="s", desc="decoding") as progress:
        done = 0
        for chunk in chunks:
            if not chunk.isfinite().all():
                raise ValueError(
                    "The model returned audio that is not finite: try --dtype float32, or another checkpoint."
                )
            yield chunk
            done += chunk.shape[-1]
            progress.update(min(round(done / sampling_rate), progress.total) - progress.n)


def make_tags(title: str, settings: dict) -> dict[str, str]:
    """Tags of a file that was made with these settings."""
    return {
        "title": title,
        "software": f"stable_longform {stable_longform.__version__}",
        "comment": json.dumps(settings, ensure_ascii=False),
    }
