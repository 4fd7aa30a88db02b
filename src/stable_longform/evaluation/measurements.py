"""Sizes, inference time and peak memory of a model: the paper's Table 1 and the last column of Tables 2 and 3."""

import sys
import time
from collections.abc import Callable, Sequence

import psutil
import torch
from accelerate import init_empty_weights

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # mypy knows the module of Unix only

COMPONENTS = ("transformer", "vae", "text_encoder", "timing_conditioner")


def count_parameters(components: dict[str, torch.nn.Module]) -> dict[str, int]:
    """Parameters of each component of `COMPONENTS`, and "total"."""
    counts = {
        name: sum(parameter.numel() for parameter in components[name].parameters())
        for name in COMPONENTS
        if name in components
    }
    return counts | {"total": sum(counts.values())}


def paper_components() -> dict[str, torch.nn.Module]:
    """The components at the paper's size, which are the classes' defaults, without memory for the weights."""
    with init_empty_weights():
        return {
            "transformer": DiTTransformer1D(),
            "vae": AutoencoderOobleck(),
            "text_encoder": ClapTextEncoder(),
            "timing_conditioner": TimingConditioner(),
        }


def measure_time(
    synthesize: Callable[[str, float, int], tuple[torch.Tensor, int]],
    durations: Sequence[float],
    device: torch.device,
    prompt: str,
    num_runs: int = 3,
) -> list[dict[str, float]]:
    """Times complete generations, from prompt to waveform.

    Args:
        synthesize: called with prompt, seconds and seed.
        durations: seconds of music.
        device: to synchronise and to measure the memory of.
        prompt: of the music.
        num_runs: timed runs for each duration, after one that is not timed.

    Returns:
        For each duration: the median and the shortest time in s, and the peak memory in GiB: of the device, or on a
        CPU of the whole process so far.

    Raises:
        ValueError: there is less than one run.
    """
    if num_runs < 1:
        raise ValueError(f"num_runs must be at least 1, got {num_runs}.")
    rows = []
    for duration in durations:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for seed in range(num_runs + 1):
            _synchronize(device)
            start = time.perf_counter()
            synthesize(prompt, duration, seed)
            _synchronize(device)
            seconds.append(time.perf_counter() - start)
        seconds = sorted(seconds[1:])
        rows.append(
            {
                "duration_in_s": duration,
                "median_in_s": seconds[len(seconds) // 2],
                "shortest_in_s": seconds[0],
                "peak_memory_in_gib": peak_memory(device) / 2**30,
            }
        )
    return rows


def peak_memory(device: torch.device) -> int:
    """Peak memory of a CUDA device, or of this process, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return psutil.Process().memory_info().peak_wset
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def _synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
