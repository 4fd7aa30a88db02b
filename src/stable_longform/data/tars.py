"""WebDataset tars: indexed and read in place; remote or compressed ones are copied first."""

import bz2
import contextlib
import glob
import gzip
import itertools
import lzma
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from stable_longform.data.bad_tracks import BadTrackError, BadTracks, one_line
from stable_longform.data.grouping import group_files
from stable_longform.data.metadata import parse_sidecars
from stable_longform.data.recordings import Recording
from stable_longform.data.storage import InMemory, Storage, TarMember
from stable_longform.utils.audio import AUDIO_EXTENSIONS
from stable_longform.utils.optional import require

DECOMPRESSORS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
MAX_TARS = 10**6  # of one source
READ_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, and the offset and size of its content in bytes."""

    name: str
    offset: int
    num_bytes: int


def is_tars(source: str) -> bool:
    """Whether a source consists of tars, judging by its name."""
    return source.startswith("pipe:") or re.search(r"\.tar(\.\w+)?(\?.*)?$", source) is not None


def is_remote(tar: str) -> bool:
    """Whether a tar is not a file on this machine."""
    return tar.startswith("pipe:") or "://" in tar


def expand_tars(pattern: str) -> list[str]:
    """The tars of a pattern with braces (`{000..099}`) and, for local files, `*` and `?`, in order.

    Raises:
        ValueError: no local file matches, a tar is named twice, or there are more than `MAX_TARS` names.
    """
    tars: list[str] = []
    names = list(itertools.islice(require("braceexpand", "train").braceexpand(pattern, escape=False), MAX_TARS + 1))
    if len(names) > MAX_TARS:
        raise ValueError(f"{pattern} must stand for at most {MAX_TARS} tars.")
    for name in names:
        is_pattern = not is_remote(name) and re.search(r"[*?]", name) is not None
        tars += sorted(glob.glob(name.replace("[", "[[]"))) if is_pattern else [name]
    if not any(is_remote(tar) or Path(tar).is_file() for tar in tars):
        raise ValueError(f"There is no file {pattern}.")
    twice = next((tar for tar, count in Counter(tars).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{pattern} names {twice} twice.")
    return tars


def index_tars(tars: list[str], bad_tars: BadTracks) -> Iterator[Recording | BadTrackError]:
    """The recordings inside local tars, read in place, and errors for unusable ones.

    Args:
        tars: paths.
        bad_tars: counts the missing and damaged ones.

    Raises:
        TooManyBadTracks: their share is too large.
    """
    for tar in map(Path, tars):
        try:
            with open(tar, "rb") as file:
                yield from read_tar(file, tar, partial(TarMember, tar))
        except READ_ERRORS as error:
            hint = f"; a compressed tar can be read as stream:{tar}" if tar.suffix != ".tar" else ""
            bad_tar = BadTrackError(tar, "broken", f"{one_line(error)}{hint}")
            bad_tars.note(bad_tar)
            yield bad_tar


@dataclass(frozen=True)
class TarShards:
    """WebDataset tars as shards: paths, or addresses that `webdataset` opens (`https:`, `pipe:`, ...)."""

    tars: tuple[str, ...]

    @property
    def num_shards(self) -> int:
        """Number of tars."""
        return len(self.tars)

    def of_split(self, split: str) -> "TarShards":
        """The tars that may hold tracks of a split: all of them."""
        return self

    def read_shard(self, number: int) -> Iterator[Recording | BadTrackError]:
        """The recordings in a tar, and errors for unusable ones.

        Raises:
            BadTrackError: the tar cannot be read, or not to its end.
        """
        tar = self.tars[number]
        try:
            with _local(tar) as (file, damage):
                yield from read_tar(file, Path(tar), lambda offset, size: InMemory(_read_at(file, offset, size)))
                if damage is not None:
                    raise damage
        except READ_ERRORS as error:
            raise BadTrackError(Path(tar), "broken", one_line(error)) from error


def read_tar(
    file: BinaryIO, tar: Path, make_storage: Callable[[int, int], Storage]
) -> Iterator[Recording | BadTrackError]:
    """The recordings inside an uncompressed tar with their sidecars, and errors for unusable ones.

    Args:
        file: the tar, seekable.
        tar: its name.
        make_storage: returns the storage of a recording, given its offset and size in bytes.

    Raises:
        tarfile.TarError: the tar is damaged; the intact recordings are yielded first.
        OSError: it cannot be read.
    """
    members, left_out, damage = _list_members(file, tar)
    groups = group_files([member.name for member in members], tar)
    if not members and not left_out and damage is None:
        yield BadTrackError(tar, "empty", "it holds no files")
    yield from left_out
    yield from groups.left_out
    for number, numbers in groups.recordings:
        member = members[number]
        sidecars = {
            extension: _read_at(file, members[other].offset, members[other].num_bytes)
            for extension, other in numbers.items()
        }
        storage = make_storage(member.offset, member.num_bytes)
        place = posixpath.join(tar.name.partition("?")[0], member.name)
        yield Recording(tar / member.name, place, partial(parse_sidecars, sidecars), storage)
    if damage is not None:
        raise damage


def _list_members(
    file: BinaryIO, tar: Path
) -> tuple[list[Member], list[BadTrackError], tarfile.TarError | OSError | None]:
    """The complete files in a tar, errors for others, and the damage to the tar if any; only headers are read."""
    members, links, left_out, damage = [], [], [], None
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                name = _clean_name(info.name)
                if info.islnk() or info.issym():
                    folder = posixpath.dirname(name) if info.issym() else ""
                    links.append((name, _clean_name(posixpath.join(folder, info.linkname))))
                elif info.isfile() and info.sparse is not None:
                    left_out.append(
                        BadTrackError(tar / name, "broken", "a sparse file; pack the tar without --sparse")
                    )
                elif info.isfile() and info.offset_data + info.size > size:
                    raise tarfile.ReadError(f"it ends inside {name}")
                elif info.isfile():
                    members.append(Member(name, info.offset_data, info.size))
            _check_end(archive)
    except (tarfile.TarError, OSError) as error:
        damage = error
    places = {member.name: member for member in members}
    for name, target in links:
        if target in places:
            members.append(replace(places[target], name=name))
        elif posixpath.splitext(name)[1].lower() in AUDIO_EXTENSIONS:
            left_out.append(BadTrackError(tar / name, "broken", f"a link to {target}, which is not in the tar"))
    return members, left_out, damage


def _check_end(archive: tarfile.TarFile) -> None:
    """Raises a ReadError unless the tar really ends where reading ended: tarfile mistakes a damaged header for it."""
    if any(_read_at(cast(BinaryIO, archive.fileobj), archive.offset, tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"the header at byte {archive.offset} is damaged")


def _clean_name(name: str) -> str:
    """A member's name without parts that lead out of the tar."""
    return posixpath.normpath(name).lstrip("/") if name else name


@contextlib.contextmanager
def _local(tar: str) -> Iterator[tuple[BinaryIO, Exception | None]]:
    """An uncompressed tar as a seekable file, and the error if it is incomplete.

    A remote or compressed tar is copied to a temporary file, because sidecars may be anywhere in it.
    """
    with contextlib.ExitStack() as stack:
        if not is_remote(tar):
            file: BinaryIO = stack.enter_context(open(tar, "rb"))
            damage = None
        else:
            file = stack.enter_context(tempfile.TemporaryFile())
            damage = _copy(stack.enter_context(require("webdataset", "train").gopen(tar, "rb")), file)
        decompressor = _decompressor(file)
        if decompressor is not None:
            compressed, file = file, stack.enter_context(tempfile.TemporaryFile())
            damage = _copy(stack.enter_context(decompressor(compressed, "rb")), file) or damage
        yield file, damage


def _decompressor(file: BinaryIO) -> Callable | None:
    """The function that opens a compressed file, or None if it is not compressed."""
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    return next((opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic)), None)


def _copy(source: BinaryIO, target: BinaryIO) -> Exception | None:
    """Copies a file; returns the error if it could not be read to its end."""
    try:
        shutil.copyfileobj(source, target, 2**20)
    except READ_ERRORS as error:
        return error
    return None


def _read_at(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    """Reads bytes at an offset of a file."""
    file.seek(offset)
    return file.read(num_bytes)
