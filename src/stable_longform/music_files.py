"""Files of generated music: their level, and tags that record how they were made."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

import stable_longform
from stable_longform.utils.audio import read_tags, stored, write_audio


def make_tags(title: str, values: Mapping) -> dict[str, str]:
    """The tags of a file, which record the values that it was made with."""
    return {
        "title": title or "(no prompt)",
        "software": f"stable_longform {stable_longform.__version__}",
        "comment": json.dumps(values, ensure_ascii=False),
    }


def read_values(path: Path) -> dict | None:
    """Reads back the values that were given to `make_tags`; None if the file has no such tag.

    Raises:
        ValueError: the file cannot be read as audio.
    """
    comment = read_tags(path).get("comment", "")
    try:
        values = json.loads(comment)
    except (ValueError, RecursionError):  # another program's comment
        return None
    return values if isinstance(values, dict) and "version" in values else None


def write_music(
    path: Path,
    chunks: Iterable[torch.Tensor],
    sampling_rate: int,
    title: str,
    values: Mapping,
    sample_format: str | None = None,
) -> dict:
    """Writes decoded chunks to a file; if any sample exceeds full scale, the whole is turned down.

    Files of floating-point samples hold any level and are never turned down.

    Args:
        path: file to write.
        chunks: consecutive chunks `(audio_channels, n)`.
        sampling_rate: Hz.
        title: of the music, for the tags.
        values: how it was made, for the tags.
        sample_format: see `write_audio`.

    Returns:
        The values in the tags: those given, the version, and the `gain` that was applied, at most 1.
    """
    with stored(chunks, path.absolute().parent) as (chunks, peak):
        gain = 1.0 if sample_format == "float" else 1 / max(peak, 1)
        values = dict(values) | {"version": stable_longform.__version__, "gain": gain}
        tags = make_tags(title, values)
        write_audio(path, (chunk * gain for chunk in chunks), sampling_rate, sample_format, tags)
    return values
