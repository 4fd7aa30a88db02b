"""Small corpora that tests write: encoded audio, folders, tars."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import soundfile
from conftest import synthetic_audio

from stable_longform.data.listed_source import ListedSource
from stable_longform.data.tracks import Track

RATE = 22050


def encode(seed: int, extension: str, num_samples: int = 2 * RATE) -> bytes:
    """An encoded recording, mono for an even seed, else stereo."""
    data = io.BytesIO()
    soundfile.write(data, synthetic_audio(num_samples, 1 + seed % 2, RATE, seed).T, RATE, format=extension.upper())
    return data.getvalue()


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    """Writes files into a tar in the order given."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_folder(folder: Path, audio: dict[str, bytes]) -> Path:
    """Makes a folder of files."""
    folder.mkdir()
    for name, data in audio.items():
        (folder / name).write_bytes(data)
    return folder


def items_of(tracks: Sequence[Track], make_item, seed: int = 0, max_bad_fraction: float = 0.01, **options):
    """Items of a list of tracks."""
    return ListedSource(tracks, max_bad_fraction).items(make_item, seed, **options)
