"""Shared code of the benchmarks: interleaved timing, the machine's peak, memory of a process, Markdown tables."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Timing:
    """Seconds of a function for each run: wall time, and processor time of all threads together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    output: object = None

    @property
    def seconds(self) -> float:
        """Median of the wall time."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """Median of the processor time, which other processes affect less."""
        return statistics.median(self.cpu)


def interleave(functions: dict[str, Callable], repeats: int, warmup: bool = True) -> dict[str, Timing]:
    """Runs every function `repeats` times in turn, A B A B, after one round that does not count."""
    timings = {name: Timing() for name in functions}
    for round_number in range(-1 if warmup else 0, repeats):
        for name, function in functions.items():
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            output = function()
            synchronize()
            if round_number >= 0:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(time.process_time() - cpu)
            timings[name].output = output
    return timings


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """Operations per second in the fastest of a few square matrix products; on a CPU also with oneDNN."""
    size = 2048 if device == "cpu" else 8192  # a GPU is not busy with less
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    functions = {"matmul": lambda: a @ b}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        functions["onednn"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    with torch.inference_mode():
        timings = interleave(functions, 5)
    return 2 * size**3 / min(min(timing.wall) for timing in timings.values())


def peak_resident_bytes(reset: bool = False) -> int:
    """Peak memory of this process since the last reset; with `reset`, its memory now. Linux only."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def machine(device: str) -> str:
    """One line about the machine."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        processor = names[0] if names else processor
    gpu = f", {torch.cuda.get_device_name()}" if device.startswith("cuda") else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}{load}"


def run_child(script: str, *arguments: object) -> dict:
    """Runs a benchmark with `--child` in a new process; returns the JSON in the last line that it prints."""
    command = [sys.executable, script, "--child", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def print_table(header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """A Markdown table; floats with three significant digits."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row) + " |")
    print(flush=True)


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of the expected result."""
    return float((output.double() - expected.double()).norm() / expected.double().norm())
