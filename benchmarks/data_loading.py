"""Speed of loading training data, and how long a training waits for it.

    python benchmarks/data_loading.py --num_workers 8 --step_time_in_s 0.5

Makes a corpus of long tracks, unless `--source` is given, and reads the autoencoder's crops from it in every format.
For comparison, another loader reads each file completely before it crops, like stable-audio-tools (`SampleDataset` in
stable_audio_tools/data/dataset.py). Then windows of encoded latents are loaded. For each loader:

- items per second if nothing else happens;
- the shortest training step that would not wait: the time to load one batch;
- the share of time that a training waits for its batches, with simulated steps of `--step_time_in_s`;
- for crops, the bytes read for an item, if the system counts them (Linux).

With --pairs instead: the processor time of a pair for CLAP, with transformers' feature extractor and with ours.
"""

import argparse
import json
import os
import platform
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import timing
import torch
from tqdm import tqdm
from transformers import ClapFeatureExtractor

from stable_longform.data.audio_crops import CropMaker, collate_crops
from stable_longform.data.clap_features import BlockwiseClapFeatureExtractor
from stable_longform.data.clap_pairs import PairMaker
from stable_longform.data.latents import LatentWindows, collate_windows, write_shard
from stable_longform.data.numbered_items import WeightedItems, draw_index
from stable_longform.data.sources import open_source
from stable_longform.data.tracks import Track
from stable_longform.utils.audio import read_audio, to_stereo
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, ScriptParser, run_main

SAMPLING_RATE = 44100
WINDOW_LENGTH, LATENT_CHANNELS = 6144, 64  # the paper's 4m45s
LATENT_RATE = 44100 / 2048


class WholeFileCrops(torch.utils.data.Dataset):
    """The peer: reads and resamples a whole file, then takes a random crop; tracks are drawn as in `WeightedItems`."""

    def __init__(self, crops: WeightedItems):
        self.crops, self.num_samples = crops, crops.make_item.num_samples

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng([self.crops.seed, index])
        track = self.crops.tracks[draw_index(self.crops.cumulative_weights, rng)]
        with track.open() as file:
            waveform = to_stereo(read_audio(file, sampling_rate=SAMPLING_RATE)[0])
        start = int(rng.integers(0, max(waveform.shape[1] - self.num_samples, 0) + 1))
        crop = torch.nn.functional.pad(waveform, (0, self.num_samples))[:, start : start + self.num_samples]
        return {"waveform": crop, "start_in_s": start / SAMPLING_RATE, "seconds_start": float(start // SAMPLING_RATE),
                "seconds_total": track.duration_in_s, "metadata": track.metadata, "prompt": ""}  # fmt: skip


def write_corpus(folder: Path, num_tracks: int, duration_in_s: float, extension: str) -> Path:
    """Writes tracks of noise that fades in and out, with metadata beside them."""
    folder.mkdir()
    for number in tqdm(range(num_tracks), desc="writing the corpus", leave=False):
        rng = np.random.default_rng(number)
        with soundfile.SoundFile(folder / f"{number:03d}.{extension}", "w", SAMPLING_RATE, 2) as file:
            for second in range(round(duration_in_s)):
                level = 0.02 + 0.2 * np.sin(np.pi * second / duration_in_s)
                file.write(level * rng.standard_normal((SAMPLING_RATE, 2)).clip(-3, 3))
        (folder / f"{number:03d}.json").write_text(
            json.dumps({"genre": "Noise", "bpm": 60 + number, "split": "train"})
        )
    return folder


def write_tars(folder: Path, target: Path, num_tars: int = 8) -> str:
    """Packs a folder into tars; returns their pattern."""
    files = sorted(folder.iterdir())
    for shard in range(num_tars):
        with tarfile.open(target / f"{shard}.tar", "w") as archive:
            for file in files:
                if int(file.stem) % num_tars == shard:
                    archive.add(file, file.name)
    return f"{target}/{{0..{num_tars - 1}}}.tar"


def write_dataset(folder: Path, target: Path) -> str:
    """Saves a folder as a Hugging Face dataset that holds the encoded audio."""
    import datasets

    files = [file for file in sorted(folder.iterdir()) if file.suffix != ".json"]
    rows = [
        {"audio": {"bytes": file.read_bytes(), "path": None}, **json.loads(file.with_suffix(".json").read_text())}
        for file in files
    ]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(target)
    return str(target)


def write_latents(folder: Path, num_tracks: int) -> Path:
    """Writes encoded tracks of random numbers, a quarter longer than a window, in one shard."""
    folder.mkdir()
    length = WINDOW_LENGTH * 5 // 4
    generator = torch.Generator().manual_seed(0)
    posteriors = [
        {name: torch.rand(LATENT_CHANNELS, length, generator=generator).half() for name in ("mean", "std")}
        for _ in range(num_tracks)
    ]
    rows = [
        {"key": str(number), "latent_length": length, "duration_in_s": length / LATENT_RATE, "split": "train",
         "weight": 1.0, "metadata": {"bpm": number}}
        for number in range(num_tracks)
    ]  # fmt: skip
    rows = write_shard(folder, rows, posteriors)
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "latents.json").write_text(json.dumps({"latent_rate": LATENT_RATE}))
    (folder / "silence.safetensors").write_bytes(_silence())
    return folder


def _silence() -> bytes:
    """A file of one frame of silence."""
    from safetensors.torch import save

    return save({name: torch.zeros(LATENT_CHANNELS, 1).half() for name in ("mean", "std")})


def bytes_read() -> int | None:
    """Bytes that this process has read so far; None if the system does not count them."""
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        return None


def bytes_per_item(dataset: torch.utils.data.Dataset, count: int = 8) -> float | None:
    """Mean number of bytes read for an item, without the first one."""
    items = (
        iter(dataset) if isinstance(dataset, torch.utils.data.IterableDataset) else map(dataset.__getitem__, range(99))
    )
    next(items)
    before = bytes_read()
    for _ in range(count):
        next(items)
    return None if before is None else (bytes_read() - before) / count


def measure(dataset, options: argparse.Namespace, collate_fn) -> tuple[float, float]:
    """Items per second without steps, and the share of time that simulated steps wait for their batches."""

    def batches():
        if isinstance(dataset, torch.utils.data.IterableDataset):
            return iter(dataset.make_loader(options.batch_size, options.num_workers, collate_fn))
        order = [list(range(s * options.batch_size, (s + 1) * options.batch_size)) for s in range(10**5)]
        return iter(
            torch.utils.data.DataLoader(
                dataset, batch_sampler=order, num_workers=options.num_workers, collate_fn=collate_fn
            )
        )

    num_ahead = 2 * options.num_workers + 1  # batches that the workers have ready or in progress
    loader = batches()
    for _ in range(num_ahead):
        next(loader)
    start = time.perf_counter()
    for _ in range(options.steps):
        next(loader)
    items_per_s = options.steps * options.batch_size / (time.perf_counter() - start)
    waited, loader = 0.0, batches()
    for step in range(num_ahead + options.steps):
        start = time.perf_counter()
        next(loader)
        waited += (time.perf_counter() - start) * (step >= num_ahead)
        time.sleep(options.step_time_in_s)
    return items_per_s, waited / (waited + options.steps * options.step_time_in_s)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--source", help="any source of music; by default a corpus is made")
    parser.add_number("--num_tracks", Range(1, 10**4), default=8, help="tracks of the generated corpus")
    parser.add_number("--duration_in_s", SECONDS, kind=float, default=240.0, help="seconds of each of its tracks")
    parser.add_argument("--extension", choices=("wav", "flac", "ogg"), default="flac", help="format of its files")
    parser.add_number("--crop_num_samples", Range(1, 2**28), default=65536, help="samples in a crop")
    parser.add_number("--batch_size", Range(1, 65536), default=8, help="items in a batch")
    parser.add_number("--num_workers", Range(0, 1024), default=8, help="processes that load data")
    parser.add_number(
        "--step_time_in_s", Range(0, 1e4), kind=float, default=0.5, help="duration of a simulated training step"
    )
    parser.add_number("--steps", Range(1, 10**6), default=30, help="number of steps to measure")
    parser.add_argument("--pairs", action="store_true", help="measure the computation of CLAP's pairs instead")
    return parser.parse_args()


def main() -> None:
    """Measures every loader and prints a table."""
    options = parse_arguments()
    torch.set_num_threads(1)
    make_item = CropMaker(options.crop_num_samples, SAMPLING_RATE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.source is None:
            corpus = write_corpus(folder / "corpus", options.num_tracks, options.duration_in_s, options.extension)
        if options.pairs:
            print_pairs(
                open_source(options.source or str(corpus), "train").tracks[: options.num_tracks], options.steps
            )
            return
        if options.source is None:
            tars = write_tars(corpus, folder)
            sources = {"folder": str(corpus), "tars": tars, "dataset": write_dataset(corpus, folder / "dataset"),
                       "stream of tars": f"stream:{tars}"}  # fmt: skip
        else:
            sources = {"source": options.source}
        loaders = {
            f"crops, {kind}": (open_source(source, "train").items(make_item), collate_crops)
            for kind, source in sources.items()
        }
        first = next(iter(loaders.values()))[0]
        if isinstance(first, WeightedItems):
            loaders["peer: whole file, then crop"] = WholeFileCrops(first), collate_crops
        windows = LatentWindows(write_latents(folder / "latents", options.num_tracks), "train", WINDOW_LENGTH)
        loaders["windows of latents, 4m45s"] = windows, collate_windows
        rows = []
        for kind, (dataset, collate_fn) in tqdm(loaders.items(), leave=False):
            count = None if dataset is windows else bytes_per_item(dataset)
            rows.append((kind, *measure(dataset, options, collate_fn), count))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {vars(options)}\n")
    print_loaders(rows, options)


def print_pairs(tracks: list[Track], repeats: int) -> None:
    """Prints the processor time of a pair of 10 s, and of a whole track with four views as in the paper."""
    rows = []
    for name, duration_in_s in (("10 s", 10.0), ("whole track", None)):
        functions = {}
        for extractor_class in (ClapFeatureExtractor, BlockwiseClapFeatureExtractor):
            maker = PairMaker(extractor_class(frequency_min=50, truncation="fusion"), duration_in_s)
            functions[extractor_class.__name__] = lambda maker=maker: [
                maker(track, np.random.default_rng(0)) for track in tracks
            ]
        timings = timing.interleave(functions, repeats)
        first = timings[ClapFeatureExtractor.__name__].cpu_seconds
        for extractor, measured in timings.items():
            rows.append((name, extractor, 1000 * measured.cpu_seconds / len(tracks), first / measured.cpu_seconds))
    print(f"{timing.machine('cpu')}; {len(tracks)} tracks, {repeats} rounds\n")
    timing.print_table(("pair of", "features by", "processor time, ms", "ratio"), rows)


def print_loaders(rows: list[tuple], options: argparse.Namespace) -> None:
    """Prints name, items per second, share of waiting and bytes per item of each loader."""
    header = ("loader", "items/s", "times the peer", "shortest step (s)",
              f"waiting at {options.step_time_in_s} s a step", "MB read per item")  # fmt: skip
    peer = next((speed for kind, speed, *_ in rows if kind.startswith("peer")), None)
    cells = []
    for kind, items_per_s, share, count in rows:
        times = f"{items_per_s / peer:.1f}" if peer and "crop" in kind else "–"
        read = f"{count / 1e6:.2f}" if count and count > 1e4 else "–"  # memory maps and memory are not counted
        shortest = options.batch_size / items_per_s
        cells.append((kind, f"{items_per_s:.1f}", times, f"{shortest:.3f}", f"{share:.1%}", read))
    timing.print_table(header, cells)


if __name__ == "__main__":
    run_main(main)
