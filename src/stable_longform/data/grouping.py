"""Which files of a folder or a tar are recordings, and which files belong to them.

The rules are the same for both. A file's extension begins at the last dot of its name; its case does not matter. The
sidecars of a recording, `.json` and `.txt`, have the same folder and the same name up to that dot. Hidden files and
files added by macOS (`._song.flac`, `__MACOSX`) are ignored. If two files have the same name, the first one counts.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.utils.audio import AUDIO_EXTENSIONS, UNSUPPORTED_EXTENSIONS

SIDECAR_EXTENSIONS = (".json", ".txt")


@dataclass(frozen=True)
class FileGroups:
    """The recordings, and the files that were left out.

    Args:
        recordings: number of a recording in the list of names, and the numbers of its sidecars by extension.
        left_out: files that are not usable recordings.
    """

    recordings: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    left_out: list[BadTrackError] = field(default_factory=list)


def group_files(names: Sequence[str], root: Path) -> FileGroups:
    """Groups the files of a folder or a tar.

    Args:
        names: paths relative to `root`, with slashes.
        root: for messages about files that are left out.
    """
    groups, audio, owners = FileGroups(), [], set()
    seen: Counter[tuple[str, str]] = Counter()
    sidecars: dict[str, dict[str, int]] = {}
    for number, name in enumerate(names):
        path = PurePosixPath(unicodedata.normalize("NFC", name))
        extension = path.suffix.lower()
        if extension not in AUDIO_EXTENSIONS + UNSUPPORTED_EXTENSIONS + SIDECAR_EXTENSIONS:
            continue
        stem, kind, detail = str(path.with_suffix("")), None, ""
        if any(part.startswith(".") and part != ".." or part == "__MACOSX" for part in path.parts):
            kind, detail = "hidden", "a hidden file, or one of macOS"
        elif seen[stem, extension]:
            seen[stem, extension] += 1
            kind, detail = "repeated", "another file of that name came before"
            name = f"{name} ({seen[stem, extension]})"
        elif extension in UNSUPPORTED_EXTENSIONS:
            kind, detail = "unsupported", f"{extension} cannot be decoded; convert it to flac"
        if extension not in SIDECAR_EXTENSIONS:
            owners.add(stem)
        if kind is not None:
            groups.left_out.append(BadTrackError(root / name, kind, detail))
            continue
        seen[stem, extension] = 1
        if extension in AUDIO_EXTENSIONS:
            audio.append((number, stem))
        else:
            sidecars.setdefault(stem, {})[extension] = number
    groups.recordings.extend((number, sidecars.get(stem, {})) for number, stem in audio)
    strays = sorted(number for stem in sidecars.keys() - owners for number in sidecars[stem].values())
    groups.left_out.extend(BadTrackError(root / names[number], "stray", "of no recording") for number in strays)
    return groups
