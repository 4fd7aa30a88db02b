"""Which files of a folder or a tar are recordings, and which belong to them.

The same rules for both: a file's extension begins at the last dot of its name, in any case. A recording's sidecars,
`.json` and `.txt`, have its folder and its name up to that dot. Hidden files and what macOS adds (`._song.flac`,
`__MACOSX`) are none. Of two files of one name the first counts.
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
    """Recordings and what was left out.

    Args:
        recordings: number of a recording in the list of names, and the numbers of its sidecars by extension.
        left_out: files that are no usable recordings.
    """

    recordings: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    left_out: list[BadTrackError] = field(default_factory=list)


def group_files(names: Sequence[str], root: Path) -> FileGroups:
    """Groups the files of a folder or a tar.

    Args:
        names: paths relative to `root`, with slashes.
        root: for the messages about what is left out.
    """
    groups, audio, owners, seen = FileGroups(), [], set(), Counter()
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
