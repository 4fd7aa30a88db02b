"""Detects music that a model copied from its training set, and duplicates in that set. Paper: §4.5.

The steps, each of which can be continued after an interruption: embed the training set and held-out music; calibrate
thresholds on planted copies and on held-out music, which is not copied; find duplicates; find the nearest training
music of each generation; splice training music into generations, to measure how much of it is detected.
`memorization_report.py` presents the result as text, tables and pictures.

To find duplicates, whole recordings are compared, by the mean of their segments. With `chroma`, whose segments only
match if they begin at the same moment of the music, the middle of each recording is compared with all segments of the
others. A generation is compared segment by segment, by the nearest one, so that a copied passage is detected.
Generations have passed through a decoder, which lowers the cosine of a copy. So if the autoencoder is given, held-out
music and planted passages pass through it too.
"""

import contextlib
import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stable_longform.analysis.memorization import (
    QUERY_BLOCK,
    SimilarPairs,
    SimilarPassages,
    Standardizer,
    choose_threshold,
    detection_rate,
    group_pairs,
    in_blocks,
    join_blocks,
    nearest_items,
    pair_cosines,
    strongest_pairs,
)
from stable_longform.data.prompts import build_prompt, prompt_fields
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import (
    Audio,
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    load_audio,
    to_channels,
    tracks_of_files,
)
from stable_longform.evaluation.codecs import REPORT_RATE, Codec, reconstruct_stereo
from stable_longform.evaluation.features import each_file_features
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.evaluation.segments import (
    COPIES,
    MiddleEmbedder,
    SegmentEmbedder,
    check_segment,
    cut_excerpt,
    for_middles,
    for_segments,
    make_copy,
    mean_row,
    splice,
)
from stable_longform.metrics.embedders.chroma import ChromaEmbedder
from stable_longform.utils.audio import write_audio
from stable_longform.utils.caches import cached_json
from stable_longform.utils.files import atomic_path, file_sha256, write_json
from stable_longform.utils.text_files import printable

SPLICED_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
MAX_SAMPLE = 10000  # recordings whose nearest other recording is searched, for the histogram
COLLECT_BLOCK = 65536  # rows


@dataclass(frozen=True)
class MemorizationSettings:
    """Settings of the analysis.

    Args:
        segment_in_s: length of the compared passages; at least as long as the embedder's windows.
        excerpt_in_s: length of the excerpts of held-out music and of splices, similar to the generations.
        num_copies: number of recordings of which copies of each kind are planted.
        num_splices: number of pairs of a generation and a recording that are spliced.
        max_false_positives: share of held-out recordings that may exceed a threshold.
        max_duration_in_s: longer files are left out.
        seed: of all random choices.
    """

    segment_in_s: float = 10.0
    excerpt_in_s: float = 30.0
    num_copies: int = 40
    num_splices: int = 40
    max_false_positives: float = 0.01
    max_duration_in_s: float = 1800.0
    seed: int = 0


@dataclass(frozen=True)
class EmbeddedSet:
    """The segments of a set of recordings.

    Args:
        names: of the usable recordings.
        owners: `(num_segments,)`, the recording of each segment.
        places: `(num_segments,)`, the number of each segment within its recording.
        segments: `(num_segments, dim)`, unit rows; a memory-mapped file.
        recordings: `(num_recordings, dim)`, the normalised mean of each recording's segments; a memory-mapped file.
        skipped: reason for each recording that is left out.
    """

    names: tuple[str, ...]
    owners: np.ndarray
    places: np.ndarray
    segments: np.ndarray
    recordings: np.ndarray
    skipped: dict[str, str]


@dataclass(frozen=True)
class Neighbor:
    """The training segment nearest to a recording: the cosine, and the numbers of both segments."""

    cosine: float
    place: int
    item: int


class MemorizationAnalysis:
    """The steps of the analysis, in their order.

    Args:
        training: files of the training set by name.
        held_out: files of music that the model has not seen.
        embedder: of metrics.embedders.
        output: folder for all results; created if necessary.
        settings: of the analysis.
        codec: whose decoder made the generations; None: unknown, so that planted music is compared as it is.
        process_index: number of this process, in [0, num_processes).
        num_processes: number of processes that share the work.
        wait: returns when all processes have called it.

    Raises:
        ValueError: the segments are too short for the embedder.
    """

    def __init__(
        self,
        training: Mapping[str, Path],
        held_out: Mapping[str, Path],
        embedder,
        output: Path,
        settings: MemorizationSettings,
        codec: Codec | None = None,
        process_index: int = 0,
        num_processes: int = 1,
        wait: Callable[[], object] = lambda: None,
    ):
        self.training_files, self.held_out_files, self.settings = dict(training), dict(held_out), settings
        self.codec = codec
        self.process, self.num_processes, self.wait = process_index, num_processes, wait
        self.cache, self.work = output / "features", output / "work"
        self.embedder = for_segments(embedder, settings.segment_in_s)
        self.query_embedder = for_segments(embedder, settings.segment_in_s, is_query=True)
        self.middle_embedder = for_middles(embedder, settings.segment_in_s)
        check_segment(self.embedder, settings.segment_in_s)
        self.work.mkdir(parents=True, exist_ok=True)
        self.reading = ReadingSettings(None, settings.max_duration_in_s, None)
        self.excerpts = dataclasses.replace(self.reading, trim_in_s=settings.excerpt_in_s)

    # --- embed

    def embed(self) -> None:
        """Embeds this process's share of the training set and of held-out music, then joins all shares."""
        embedders = [self.embedder] + ([self.middle_embedder] if self.middle_embedder else [])
        for files in (self.training_files, self.held_out_files):
            share = dict(list(files.items())[self.process :: self.num_processes])
            for _ in each_file_features(share, embedders, self.reading, self.cache, "embedding"):
                pass
        excerpts = self._excerpt_files()
        self._cut_excerpts(excerpts)
        self.wait()
        if self.process == 0:
            excerpts = {name: file for name, file in excerpts.items() if file.is_file()}  # of all processes
            self._collect(self.training_files, self.embedder, self.reading, "training")
            self._collect(self.held_out_files, self.embedder, self.reading, "held_out", self.standardizer)
            for name, files in (("training", self.training_files), ("held_out", self.held_out_files)):
                if self.middle_embedder is not None:
                    usable = {title: files[title] for title in self.open(name).names}
                    self._collect(usable, self.middle_embedder, self.reading, f"{name}_middles", self.standardizer)
            self._collect(excerpts, self.query_embedder, self.reading, "excerpts", self.standardizer)
        self.wait()

    def _excerpt_files(self) -> dict[str, Path]:
        """The files for the excerpts of held-out music, by name; unreadable music has none."""
        depends_on = [self.settings.excerpt_in_s, self.settings.seed, self.codec and self.codec.protocol]
        folder = self.work / f"excerpts-{hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]}"
        folder.mkdir(exist_ok=True)
        files = {}
        for name, path in self.held_out_files.items():
            with contextlib.suppress(UnusableAudioError):  # reported with the held-out music
                files[name] = folder / f"{audio_hash(path)}.wav"
        return files

    def _cut_excerpts(self, files: Mapping[str, Path]) -> None:
        """Writes this process's share of the excerpts, except those of music that turns out to be unusable."""
        for name in list(self.held_out_files)[self.process :: self.num_processes]:
            if name in files and not files[name].is_file():
                place = random.Random(f"{self.settings.seed}:{files[name].stem}").random()  # the same in any folder
                with contextlib.suppress(UnusableAudioError):  # reported with the held-out music
                    excerpt = self._excerpt(self.held_out_files[name], self.settings.excerpt_in_s, place)
                    write_audio(files[name], excerpt.waveform, excerpt.sampling_rate)

    def _excerpt(self, path: Path, duration_in_s: float, place: float) -> Audio:
        """An excerpt of a file as the autoencoder reconstructs it."""
        audio = cut_excerpt(load_audio(path, self.reading), duration_in_s, place)
        return audio if self.codec is None else Audio(reconstruct_stereo(self.codec, audio)[0], REPORT_RATE)

    def embed_generations(self, name: str, files: Mapping[str, Path]) -> EmbeddedSet:
        """Embeds generated files, in short steps."""
        name = f"generated-{name}"  # never that of another set
        self._collect(files, self.query_embedder, self.reading, name, self.standardizer)
        return self.open(name)

    def _collect(
        self,
        files: Mapping[str, Path],
        embedder: SegmentEmbedder | MiddleEmbedder | ChromaEmbedder,
        reading: ReadingSettings,
        name: str,
        standardizer: Standardizer | None = None,
    ) -> None:
        """Joins the embeddings of all files, standardized like the training set's; see `open`.

        Raises:
            ValueError: no file is usable.
        """
        folder, names, skipped, counts, dim = self.work / name, [], {}, [], 0
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / "raw.bin") as temporary:
            with temporary.open("wb") as file:
                for title, features, _ in each_file_features(files, [embedder], reading, self.cache, name):
                    if isinstance(features, UnusableAudioError):
                        skipped[title] = str(features)
                        continue
                    rows = features[embedder.name].need_embeddings()
                    file.write(np.ascontiguousarray(rows, dtype=np.float32).tobytes())
                    names.append(title)
                    counts.append(len(rows))
                    dim = rows.shape[1]
        if not names:
            reasons = "; ".join(f"{file}: {reason}" for file, reason in list(skipped.items())[:5])
            raise ValueError(f"No file of the set {name!r} can be used: {reasons}.")
        raw = np.memmap(folder / "raw.bin", np.float32, "r", shape=(sum(counts), dim))
        blocks = [raw[start : start + COLLECT_BLOCK] for start in range(0, len(raw), COLLECT_BLOCK)]
        if standardizer is None:
            standardizer = Standardizer.of(blocks)
            values = {"mean": standardizer.mean.tolist(), "deviation": standardizer.deviation.tolist()}
            write_json(self.work / "standardizer.json", values)
        _write_rows(folder / "segments.npy", len(raw), dim, map(standardizer, blocks))
        segments = np.load(folder / "segments.npy", mmap_mode="r")
        ends = np.cumsum(counts)
        means = (mean_row(segments[end - count : end])[None] for count, end in zip(counts, ends, strict=True))
        _write_rows(folder / "recordings.npy", len(counts), dim, means)
        write_json(folder / "index.json", {"names": names, "counts": counts, "skipped": skipped})

    def open(self, name: str) -> EmbeddedSet:
        """Opens an embedded set: "training", "held_out", "excerpts" or "generated-NAME"."""
        folder = self.work / name
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        counts = np.array(index["counts"], dtype=np.int64)
        segments, recordings = (np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in ("segments", "recordings"))
        owners = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        return EmbeddedSet(tuple(index["names"]), owners, places, segments, recordings, index["skipped"])

    @cached_property
    def training(self) -> EmbeddedSet:
        """The training set, after it was embedded."""
        return self.open("training")

    @property
    def usable_held_out(self) -> dict[str, Path]:
        """The files of held-out music that could be embedded, by name."""
        return {name: self.held_out_files[name] for name in self.open("held_out").names}

    @property
    def standardizer(self) -> Standardizer:
        """The standardizer of the training set's segments."""
        values = json.loads((self.work / "standardizer.json").read_text(encoding="utf-8"))
        return Standardizer(np.array(values["mean"]), np.array(values["deviation"]))

    @cached_property
    def key(self) -> str:
        """A name for results that depend on the embeddings of the training set and of held-out music."""
        sets = [file_sha256(self.work / name / "segments.npy") for name in ("training", "held_out", "excerpts")]
        protocol = (self.middle_embedder or self.embedder).protocol
        depends_on = [protocol, dataclasses.asdict(self.settings), sets]
        return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]

    def keep(self, name: str, compute: Callable[[], dict]) -> dict:
        """Computes a result once and stores it."""
        return cached_json(self.work / f"{name}-{self.key}.json", compute)

    def _on_first(self, name: str, compute: Callable[[], dict]) -> dict:
        """Like `keep`, with several processes: the first one computes, the others read."""
        if self.process == 0:
            self.keep(name, compute)
        self.wait()
        return self.keep(name, compute)

    # --- thresholds

    def calibrate(self) -> dict:
        """The thresholds, and how many planted copies they detect."""
        return self._on_first("calibration", self._calibrate)

    def _calibrate(self) -> dict:
        """The thresholds for whole recordings and for generations, with the data that they are based on."""
        training, share = self.training, self.settings.max_false_positives
        held_out = self._nearest_recordings()
        excerpts = [neighbor.cosine for neighbor in self.nearest_passages(self.open("excerpts")).values()]
        threshold = choose_threshold(held_out, share)
        copies: dict[str, dict[str, Any]] = {kind: {"cosines": [], "num_nearest": 0} for kind in COPIES}
        for number in tqdm(self._draw(len(training.names), self.settings.num_copies), desc="planting copies"):
            audio = load_audio(self.training_files[training.names[number]], self.reading)
            for kind, found in copies.items():
                try:
                    cosine, is_nearest = self._compare(make_copy(audio, kind), number)
                except ValueError:  # the cut copy is too short for the embedder
                    continue
                found["cosines"].append(cosine)
                found["num_nearest"] += is_nearest
        for found in copies.values():
            found |= {"found": detection_rate(found["cosines"], threshold)}
        return {
            "duplicate_threshold": threshold,
            "duplicate_false_positives": detection_rate(held_out, threshold),
            "held_out": held_out,
            "copies": copies,
            "passage_threshold": choose_threshold(excerpts, share),
            "passage_false_positives": detection_rate(excerpts, choose_threshold(excerpts, share)),
            "excerpts": excerpts,
        }

    def _nearest_recordings(self) -> list[float]:
        """The cosine of each held-out recording with the nearest training recording."""
        if self.middle_embedder is not None:
            return [neighbor.cosine for neighbor in self.nearest_passages(self.open("held_out_middles")).values()]
        return nearest_items(self.open("held_out").recordings, self.training.recordings)[1][:, 0].tolist()

    def _compare(self, copy: Audio, number: int) -> tuple[float, bool]:
        """The cosine of a copy with a training recording, and whether no other recording is nearer.

        Raises:
            ValueError: the copy is too short for the embedder.
        """
        training, waveform = self.training, self._to_channels(copy)
        if self.middle_embedder is None:
            row = mean_row(self._embed(self.embedder, waveform))[None]
            nearest = int(nearest_items(row, training.recordings)[0][0, 0])
            return float(pair_cosines(row, training.recordings[number : number + 1])[0]), nearest == number
        rows = self._embed(self.middle_embedder, waveform)
        items, cosines = nearest_items(rows, training.segments)
        own = nearest_items(rows, training.segments[training.owners == number])[1]
        return float(own.max()), bool(training.owners[items[cosines[:, 0].argmax(), 0]] == number)

    def _draw(self, count: int, size: int) -> list[int]:
        """Numbers below `count`, at most `size` of them, in ascending order."""
        return sorted(random.Random(self.settings.seed).sample(range(count), min(size, count)))

    def _to_channels(self, audio):
        """Converts a waveform to the embedder's rate and channels."""
        return to_channels(audio, self.embedder.num_channels, self.embedder.sampling_rate)

    def _embed(self, embedder: SegmentEmbedder | MiddleEmbedder | ChromaEmbedder, waveform) -> np.ndarray:
        """Standardized segments of a waveform."""
        return self.standardizer(embedder(waveform).need_embeddings())

    # --- duplicates

    def find_duplicates(self, threshold: float) -> dict:
        """Groups of similar training recordings, and the nearest other recording of each (or of a sample)."""
        training, folder = self.training, self.work / f"pairs-{self.key}"
        if self.middle_embedder is None:
            num_rows, of_rows = len(training.recordings), SimilarPairs(training.recordings, threshold).of_rows
        else:
            middles = self.open("training_middles")
            queries, items = (middles.segments, middles.owners), (training.segments, training.owners)
            num_rows, of_rows = len(middles.segments), SimilarPassages(*queries, *items, threshold).of_rows
        in_blocks(num_rows, of_rows, folder, QUERY_BLOCK, self.process, self.num_processes)
        self.wait()
        return self._on_first("duplicates", lambda: self._group_duplicates(threshold, folder))

    def _group_duplicates(self, threshold: float, folder: Path) -> dict:
        """The result of `find_duplicates`, from the pairs that all processes have found."""
        blocks = join_blocks(folder)
        names = self.training.names
        left, right, strongest = strongest_pairs(blocks["left"], blocks["right"], blocks["cosine"])
        pair_list = list(zip(left.tolist(), right.tolist(), strict=True))
        members = group_pairs(pair_list)
        group_of = {item: number for number, group in enumerate(members) for item in group}
        cosines: list[list[float]] = [[] for _ in members]
        for (left, _), cosine in zip(pair_list, strongest.tolist(), strict=True):
            cosines[group_of[left]].append(cosine)
        groups: list[dict[str, Any]] = [
            {"names": [names[item] for item in group], "lowest": min(values), "highest": max(values)}
            for group, values in zip(members, cosines, strict=True)
        ]
        numbers = np.array(self._draw(len(names), MAX_SAMPLE))
        if self.middle_embedder is None:
            recordings = self.training.recordings
            nearest = nearest_items(recordings[numbers], recordings, 1, numbers, np.arange(len(names)))[1][:, 0]
        else:
            nearest = np.full(len(names), -np.inf)
            np.maximum.at(nearest, self.open("training_middles").owners, blocks["nearest"])
            nearest = nearest[numbers]
        return {
            "threshold": threshold,
            "num_recordings": len(names),
            "num_pairs": len(pair_list),
            "num_in_groups": sum(len(group["names"]) for group in groups),
            "groups": groups,
            "nearest": [float(cosine) for cosine in nearest if np.isfinite(cosine)],
        }

    # --- generations

    def nearest_passages(self, queries: EmbeddedSet) -> dict[str, Neighbor]:
        """The nearest training segment of each recording, by name; silent recordings are left out."""
        items, cosines = nearest_items(queries.segments, self.training.segments)
        found = {}
        for owner, name in enumerate(queries.names):
            own = np.flatnonzero(queries.owners == owner)
            best = own[cosines[own, 0].argmax()]
            if items[best, 0] >= 0:
                found[name] = Neighbor(float(cosines[best, 0]), int(queries.places[best]), int(items[best, 0]))
        return found

    def splice_curve(self, threshold: float, hosts: Mapping[str, Path]) -> dict:
        """How often training music is detected that replaces a share of a host (a generation or held-out music)."""
        contents = {name: file_sha256(path) for name, path in sorted(hosts.items())}
        hosts_key = hashlib.sha256(json.dumps([threshold, contents]).encode()).hexdigest()[:8]
        return self.keep(f"splices-{hosts_key}", lambda: self._splice(threshold, hosts))

    def _splice(self, threshold: float, hosts: Mapping[str, Path]) -> dict:
        """Scores of splices for each share, and the rate at which they are detected."""
        rng = random.Random(self.settings.seed + 1)
        names, training = sorted(hosts), self.training
        curve: dict[float, dict[str, Any]] = {share: {"cosines": [], "num_of_source": 0} for share in SPLICED_SHARES}
        sources = list(range(len(training.names)))
        rng.shuffle(sources)
        progress = tqdm(total=self.settings.num_splices, desc="splicing")
        for source in sources:
            if progress.n == self.settings.num_splices:
                break
            place, host_name = rng.random(), rng.choice(names)
            try:
                host = self._to_channels(load_audio(hosts[host_name], self.excerpts))
            except UnusableAudioError:
                continue
            duration_in_s = host.shape[1] / self.embedder.sampling_rate
            path = self.training_files[training.names[source]]
            music = self._to_channels(self._excerpt(path, duration_in_s, place))
            if music.shape[1] < host.shape[1]:
                continue
            rows = [self._embed(self.query_embedder, splice(host, music, share, place)) for share in curve]
            items, cosines = nearest_items(np.concatenate(rows), training.segments)
            for number, found in enumerate(curve.values()):
                own = slice(number * len(rows[0]), (number + 1) * len(rows[0]))
                best = int(cosines[own, 0].argmax())
                found["cosines"].append(float(cosines[own, 0][best]))
                found["num_of_source"] += int(training.owners[items[own, 0][best]]) == source
            progress.update()
        rates = {f"{share:g}": detection_rate(found["cosines"], threshold) for share, found in curve.items()}
        return {"threshold": threshold, "rates": rates, "scores": {f"{share:g}": f for share, f in curve.items()}}


def _write_rows(path: Path, count: int, dim: int, blocks: Iterator[np.ndarray]) -> None:
    """Writes blocks of rows to one `.npy` file, with only one block in memory."""
    with atomic_path(path) as temporary:
        array, start = np.lib.format.open_memmap(temporary, "w+", np.float32, (count, dim)), 0
        for block in blocks:
            array[start : start + len(block)] = block
            start += len(block)
        array.flush()


def open_tracks(source: str, splits: Sequence[str], limit: int | None = None) -> dict[str, Track]:
    """Tracks of some splits of a source that consists of audio files, by name.

    Raises:
        ValueError: see `open_source`; or the source holds its audio in tars or tables, or has no such track.
    """
    found = {printable(track.path.as_posix()): track for track in tracks_of_files(source) if track.split in splits}
    if not found:
        raise ValueError(f"{source} has no track in the splits {', '.join(splits)}.")
    return dict(list(found.items())[:limit])


def choose_prompts(
    tracks: Mapping[str, Track], groups: Sequence[Sequence[str]], count: int, prefix: str, seed: int = 0
) -> list[PromptRow]:
    """Prompts of recordings, with repeated ones first.

    Recordings in a group of duplicates come first, then those that share their metadata with another recording, then
    the rest; each kind in random order. Recordings without metadata have no prompt.

    Args:
        tracks: by name.
        groups: names of duplicates.
        count: largest number of prompts.
        prefix: of the ids.
        seed: of the order and of the prompts.
    """
    fields = {name: json.dumps(prompt_fields(track.metadata)) for name, track in tracks.items()}
    num_alike = Counter(fields.values())
    duplicates = {name for group in groups for name in group}
    names = [name for name in sorted(tracks) if prompt_fields(tracks[name].metadata)]
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: (name not in duplicates, num_alike[fields[name]] == 1))
    return [
        PromptRow(
            f"{prefix}-{number:04d}", build_prompt(tracks[name].metadata, random.Random(f"{seed}:{number}")), name
        )
        for number, name in enumerate(names[:count])
    ]
