"""WebDataset tars: indexed and read in place, or read from start to end."""

import glob
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from stable_longform.data.bad_tracks import BadTrackError, BadTracks, one_line
from stable_longform.data.recordings import AUDIO_EXTENSIONS, Recording, parse_sidecars
from stable_longform.data.storage import InMemory, TarMember
from stable_longform.utils.optional import require


def is_tars(source: str) -> bool:
    """Whether the name of a source is that of tars."""
    return source.startswith("pipe:") or re.search(r"\.tar(\.\w+)?(\?.*)?$", source) is not None


def expand_tars(pattern: str) -> list[str]:
    """The tars of a pattern with braces (`{000..099}`) and, for local files, `*` and `?`, in order.

    Raises:
        ValueError: no local file matches.
    """
    tars = []
    for name in require("braceexpand", "train").braceexpand(pattern):
        is_remote = name.startswith("pipe:") or "://" in name
        tars += sorted(glob.glob(name)) if not is_remote and glob.has_magic(name) else [name]
    if not any("://" in tar or tar.startswith("pipe:") or Path(tar).is_file() for tar in tars):
        raise ValueError(f"There is no file {pattern}.")
    return tars


def index_tars(tars: list[str], max_bad_fraction: float) -> list[Recording]:
    """The recordings inside tars; a tar that is missing or damaged is counted.

    Raises:
        TooManyBadTracks: more tars than `max_bad_fraction` are.
    """
    recordings, bad_tars = [], BadTracks(len(tars), max_bad_fraction, "tars")
    for tar in map(Path, tars):
        try:
            recordings += _index_tar(tar)
        except (tarfile.TarError, OSError) as error:
            hint = f"; a compressed tar can be read as {'stream:'}{tar}" if tar.suffix != ".tar" else ""
            bad_tars.note(BadTrackError(tar, "broken", f"{error}{hint}"))
    return recordings


def _index_tar(tar: Path) -> Iterator[Recording]:
    """The audio files inside a tar with what shares their name up to the first dot; only headers are read."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            if member.isfile():
                folder, _, name = member.name.rpartition("/")
                key = f"{folder}/{name.partition('.')[0]}"
                groups.setdefault(key, {})[PurePosixPath(name).suffix.lower()] = member
        for group in groups.values():
            texts = {suffix: member for suffix, member in group.items() if suffix in (".json", ".txt")}
            sidecars = {suffix: archive.extractfile(member).read() for suffix, member in texts.items()}
            for suffix, member in group.items():
                if suffix in AUDIO_EXTENSIONS:
                    storage = TarMember(tar, member.offset_data, member.size)
                    yield Recording(tar / member.name, partial(parse_sidecars, sidecars), storage)


@dataclass(frozen=True)
class TarShards:
    """WebDataset tars, one shard each: files of one name up to the first dot belong together.

    `tars` are paths or what `webdataset` opens (`https:`, `pipe:`, ...).
    """

    tars: tuple[str, ...]

    @property
    def num_shards(self) -> int:
        """Number of tars."""
        return len(self.tars)

    def of_split(self, split: str) -> "TarShards":
        """The tars that may hold tracks of a split: all."""
        return self

    def read_shard(self, number: int) -> Iterator[Recording]:
        """The recordings in a tar.

        Raises:
            BadTrackError: the tar cannot be read (on).
        """
        tar = self.tars[number]
        samples = require("webdataset", "train").WebDataset(
            [tar], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
        )
        try:
            for sample in samples:
                sidecars = {f".{key}": sample[key] for key in ("json", "txt") if key in sample}
                for key, data in sample.items():
                    extension = PurePosixPath(f"x.{key}").suffix.lower()
                    if not key.startswith("__") and extension in AUDIO_EXTENSIONS:
                        name = Path(tar, f"{sample['__key__']}.{key}")
                        yield Recording(name, partial(parse_sidecars, sidecars), InMemory(data))
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise BadTrackError(Path(tar), "broken", one_line(error)) from error
