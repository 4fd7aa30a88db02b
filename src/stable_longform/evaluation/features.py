"""Computes and caches the features of all audio files of a folder.

A file's features are stored in the cache under the hash of its content and of everything that they depend on (the
embedder's protocol, the reading settings). So an interrupted run continues where it stopped, and old features are
never used for a changed file or setting.
"""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stable_longform.evaluation.audio_files import (
    PEAK_RULE,
    Audio,
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    count_other_files,
    list_audio,
    load_audio,
    to_channels,
)
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.utils.caches import cached_arrays

logger = logging.getLogger(__name__)


@dataclass
class FolderFeatures:
    """The features of a folder's files, and remarks about them, by name.

    Args:
        features: of each usable file, by the embedders' names.
        skipped: reason for each file that is left out of all metrics.
        notes: properties of usable files that a reader of the numbers should know.
        other_files: number of the folder's files that are not audio files, by extension.
        not_asked_for: existing audio files that were not requested.
    """

    features: dict[str, dict[str, AudioFeatures]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    other_files: dict[str, int] = field(default_factory=dict)
    not_asked_for: list[str] = field(default_factory=list)


def embed_audio(audio: Audio, embedder, peak_in_db: float | None = None) -> AudioFeatures:
    """Features of one recording, normalised to a level first if one is given (`to_channels`).

    Raises:
        UnusableAudioError: the recording is too short for the embedder, or the features are not finite.
    """
    try:
        features = embedder(to_channels(audio, embedder.num_channels, embedder.sampling_rate, peak_in_db))
    except ValueError as error:
        raise UnusableAudioError(f"{embedder.name}: {error}") from error
    for values in (features.embeddings, features.logits):
        if values is not None and not np.isfinite(values).all():
            raise UnusableAudioError(f"{embedder.name}: features that are not finite")
    return features


def folder_features(
    folder: Path, embedders: Sequence, settings: ReadingSettings, cache: Path, names: Sequence[str] | None = None
) -> FolderFeatures:
    """Computes, or takes from the cache, the features of a folder's audio files.

    Args:
        folder: searched with its subfolders.
        embedders: to compute features with.
        settings: how files are read.
        cache: folder for the features.
        names: only these files; None: all. Names that are missing in the folder are reported as skipped.

    Raises:
        ValueError: see `list_audio`.
    """
    files = list_audio(folder)
    missing, not_asked_for = {}, []
    if names is not None:
        missing = {name: "missing" for name in names if name not in files}
        not_asked_for = sorted(files.keys() - set(names))
        files = {name: files[name] for name in names if name in files}
    result = file_features(files, embedders, settings, cache, str(folder))
    result.skipped = missing | result.skipped
    result.other_files, result.not_asked_for = count_other_files(folder), not_asked_for
    return result


def file_features(
    files: Mapping[str, Path], embedders: Sequence, settings: ReadingSettings, cache: Path, title: str
) -> FolderFeatures:
    """Like `folder_features`, for given files by name; `title` is that of the progress bar."""
    result = FolderFeatures()
    for name, features, notes in each_file_features(files, embedders, settings, cache, title):
        if isinstance(features, UnusableAudioError):
            result.skipped[name] = str(features)
        else:
            result.features[name] = features
            if notes:
                result.notes[name] = notes
    return result


def each_file_features(
    files: Mapping[str, Path], embedders: Sequence, settings: ReadingSettings, cache: Path, title: str
) -> Iterator[tuple[str, dict[str, AudioFeatures] | UnusableAudioError, list[str]]]:
    """Like `file_features`, but one by one, for more files than fit into memory.

    Yields:
        The name, the features by the embedders' names or the reason why the file is unusable, and notes.
    """
    stores = {embedder.name: cache / _store_name(embedder, settings) for embedder in embedders}
    for store in stores.values():
        store.mkdir(parents=True, exist_ok=True)
    for name, path in tqdm(files.items(), desc=title, unit="file"):
        try:
            features, notes = _features_of_file(path, embedders, settings, stores)
        except UnusableAudioError as error:
            logger.warning("%s is left out: %s", path, error)
            yield name, error, []
        else:
            yield name, features, notes


def _features_of_file(
    path: Path, embedders: Sequence, settings: ReadingSettings, stores: dict[str, Path]
) -> tuple[dict[str, AudioFeatures], list[str]]:
    """Features of one file and notes about it; the audio is read only if something is missing in the cache."""
    digest = audio_hash(path)
    features, notes = {}, []

    @functools.cache
    def load() -> Audio:
        return load_audio(path, settings)

    def compute(embedder) -> dict[str, np.ndarray]:
        computed = embed_audio(load(), embedder, settings.peak_in_db)
        arrays = {name: array for name, array in vars(computed).items() if array is not None}
        return arrays | {"notes": np.frombuffer(json.dumps(load().notes).encode(), dtype=np.uint8).copy()}

    for embedder in embedders:
        stored = stores[embedder.name] / f"{digest}.safetensors"
        arrays = cached_arrays(stored, functools.partial(compute, embedder))
        notes = json.loads(arrays.pop("notes").tobytes())
        features[embedder.name] = AudioFeatures(**arrays)
    return features, notes


def _store_name(embedder, settings: ReadingSettings) -> str:
    """Folder of the cache for an embedder and settings."""
    dependencies = json.dumps([embedder.protocol, dataclasses.asdict(settings), PEAK_RULE], sort_keys=True)
    return f"{embedder.name}-{hashlib.sha256(dependencies.encode()).hexdigest()[:16]}"
