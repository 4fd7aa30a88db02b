"""Set-up of the whole suite: one thread, no network; synthetic audio, a small corpus and tiny model configurations."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NUMBA_NUM_THREADS"] = "1"  # numba sets torch's number of threads to it, as they share one OpenMP
os.environ.setdefault("NUMBA_OPT", "0")  # compiling librosa's functions takes longer than calling them
# Two processes that compile librosa's functions at once can leave a cache that crashes every later process.
os.environ["NUMBA_CACHE_DIR"] = os.path.abspath(f".pytest_cache/numba-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")

import hypothesis
import numpy as np
import pytest
import soundfile
import torch

pytest_plugins = ["model_folders"]

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels run on the CPU, where it is installed

# A test does not fail because the machine is busy.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

torch.set_num_threads(1)  # the networks are tiny and the suite runs in several processes

# name, rate in Hz, channels, seconds, split, album, genre, moods, instruments, bpm
TRACKS = (
    ("dawn.wav", 44100, 2, 4.0, "train", "Morning", "ambient", ["calm", "warm"], ["pad", "piano"], 80),
    ("noon.ogg", 44100, 2, 5.0, "train", "Morning", "rock", ["energetic"], ["guitar", "drums", "bass"], 128),
    ("rain.wav", 48000, 2, 3.0, "train", "Weather", "electronic", ["dark", "tense"], ["synthesizer"], 140),
    ("snow.ogg", 48000, 1, 6.0, "train", "Weather", "classical", ["peaceful"], ["strings", "harp"], 66),
    ("dusk.wav", 44100, 1, 3.5, "valid", "Evening", "jazz", ["relaxed", "warm"], ["piano", "double bass"], 96),
    ("moon.ogg", 44100, 2, 3.0, "test", "Night", "electronic", ["dreamy"], ["pad", "bells"], 110),
)


def synthetic_audio(num_samples: int, num_channels: int = 2, sampling_rate: int = 44100, seed: int = 0) -> np.ndarray:
    """Three decaying tones and some noise in each channel, `(num_channels, num_samples)`, peak about 0.6."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(num_samples) / sampling_rate
    channels = []
    for _ in range(num_channels):
        frequencies, rates = rng.uniform(80, 4000, (3, 1)), rng.uniform(0.2, 4, (3, 1))
        tones = np.sin(2 * np.pi * frequencies * seconds) * np.exp(-rates * (seconds % 1.0))
        channels.append(0.18 * tones.sum(axis=0) + 0.02 * rng.standard_normal(num_samples))
    return np.stack(channels).astype(np.float32)


# Files that use librosa's functions, which each process compiles.
TOGETHER = (
    "tests/analysis/test_self_similarity.py",
    "tests/benchmarks/test_speed.py",
    "tests/cli/test_evaluate.py",
    "tests/evaluation/test_control.py",
    "tests/metrics/test_key.py",
    "tests/metrics/test_tempo.py",
)


def pytest_collection_modifyitems(items):
    """The trainings come first: their files take longest, and all processes should end at the same time."""
    items.sort(key=lambda item: item.path.parent.name != "training")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile`, the tests of a file, or of `TOGETHER`, run in one process, in the order above."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "librosa" if file in TOGETHER else file

    config.option.loadscopereorder = False
    return FilesTogether(config, log)


@pytest.fixture(autouse=True)
def one_thread():
    """No test leaves more threads to the next: they would wait for each other, and round otherwise."""
    yield
    assert torch.get_num_threads() == 1


@pytest.fixture
def visqol_in_numpy(monkeypatch):
    """ViSQOL without numba, which it would wait for; its scores are the same bit for bit."""
    monkeypatch.setattr(pytest.importorskip("visqol.numba_accel"), "_HAS_NUMBA", False)


@pytest.fixture(autouse=True)
def same_noise():
    """What a test draws doesn't depend on the tests before it: no test fails once in a hundred runs."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def make_audio():
    """A function `(num_samples, num_channels=2, sampling_rate=44100, seed=0)` that gives a float32 waveform."""
    return lambda *args, **kwargs: torch.from_numpy(synthetic_audio(*args, **kwargs))


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory):
    """The manifest of a corpus of six short files: two rates, mono and stereo, wav and ogg, three splits."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for seed, (name, rate, num_channels, seconds, split, album, genre, moods, instruments, bpm) in enumerate(TRACKS):
        waveform = synthetic_audio(round(rate * seconds), num_channels, rate, seed)
        soundfile.write(folder / name, waveform.T, rate)
        row = {"path": name, "duration_in_s": seconds, "split": split, "title": name[:4].title(), "album": album}
        row |= {"genre": genre, "moods": moods, "instruments": instruments, "bpm": bpm}
        lines.append(json.dumps(row))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


@pytest.fixture
def tiny_autoencoder_config():
    """Arguments of an `AutoencoderOobleck` of some thousand parameters with the paper's strides."""
    return {
        "encoder_hidden_size": 4,
        "decoder_channels": 4,
        "channel_multiples": [1, 2, 2, 2, 2],
        "decoder_input_channels": 4,
    }


@pytest.fixture
def tiny_discriminator_config():
    """Arguments of a `MultiScaleSTFTDiscriminator` with two small scales."""
    return {"filters": 2, "fft_sizes": [256, 64]}
