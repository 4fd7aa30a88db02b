"""Folders of audio files with metadata beside them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stable_longform.data.recordings import AUDIO_EXTENSIONS, Recording, folder_split, read_sidecars, rename_fields


def search_folder(folder: Path) -> Iterator[Recording]:
    """The audio files below a folder, in the order of their names."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_EXTENSIONS):
        split = folder_split(PurePosixPath(path.relative_to(folder).as_posix()))
        if path.is_file() and not path.name.startswith("."):
            yield Recording(path, lambda path=path, split=split: split | rename_fields(read_sidecars(path)))
