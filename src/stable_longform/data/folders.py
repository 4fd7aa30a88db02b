"""Folders of audio files with metadata beside them. Links to folders are followed."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.grouping import group_files
from stable_longform.data.metadata import parse_sidecars, rename_fields
from stable_longform.data.recordings import Recording
from stable_longform.data.splits import folder_split
from stable_longform.utils.audio import AUDIO_EXTENSIONS


def search_folder(folder: Path) -> Iterator[Recording | BadTrackError]:
    """The recordings in a folder and its subfolders, in the order of their names, and errors for unusable ones."""
    names = []
    for found in _walk(folder):
        if isinstance(found, BadTrackError):
            yield found
        else:
            names.append(found.relative_to(folder).as_posix())
    names.sort(key=lambda name: PurePosixPath(name).parts)
    groups = group_files(names, folder)
    yield from groups.left_out
    for number, sidecars in groups.recordings:
        path = folder / names[number]
        files = {extension: folder / names[other] for extension, other in sidecars.items()}
        split = folder_split(PurePosixPath(names[number]))
        yield Recording(path, names[number], partial(_read_row, files, split))


def _read_row(files: Mapping[str, Path], given: Mapping) -> dict:
    """Metadata of the sidecars of a file, by extension."""
    sidecars = {extension: file.read_bytes() for extension, file in files.items()}
    return dict(given) | rename_fields(parse_sidecars(sidecars))


def _walk(folder: Path) -> Iterator[Path | BadTrackError]:
    """The files in a folder and its subfolders. A folder with several links to it is read once."""
    waiting, seen = [folder], set()
    links: list[Path] = []
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)  # links come last: a folder's own name has priority
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            yield BadTrackError(place, "linked", "a link to a folder that is read already")
            continue
        seen.add((status.st_dev, status.st_ino))
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            yield BadTrackError(place, "broken", f"a folder that cannot be opened: {error.strerror}")
            continue
        for entry in entries:
            path = place / entry.name
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(path)
            elif entry.is_file():
                yield path
            elif path.suffix.lower() in AUDIO_EXTENSIONS:
                yield BadTrackError(path, "broken", "not a file, or a link to nothing")
