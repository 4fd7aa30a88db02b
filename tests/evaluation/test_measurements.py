"""Sizes against Table 1, and timing of a function whose time is known."""

import importlib
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from in_processes import hold_memory
from launch import call_in_processes
from tiny_pipeline import tiny_components

from stable_longform.evaluation import measurements
from stable_longform.evaluation.measurements import count_parameters, measure_time, paper_components

CPU = torch.device("cpu")


def test_sizes_at_the_papers_size():
    counts = count_parameters(paper_components())
    assert counts == {
        "transformer": 1_056_828_544,
        "vae": 156_112_514,
        "text_encoder": 124_645_632,
        "timing_conditioner": 396_544,
        "total": 1_337_983_234,
    }
    for name, paper in (("transformer", 1.1e9), ("vae", 157e6), ("text_encoder", 125e6), ("total", 1.3e9)):
        assert counts[name] == pytest.approx(paper, rel=0.05)


def test_counts_of_a_tiny_model_are_those_of_its_state():
    components = tiny_components()
    counts = count_parameters(components)
    assert counts["vae"] == sum(tensor.numel() for tensor in components["vae"].state_dict().values())
    assert counts["total"] == sum(value for name, value in counts.items() if name != "total")


def test_times_and_calls():
    calls = []

    def synthesize(prompt, duration, seed):
        calls.append((prompt, duration, seed))
        time.sleep(duration if seed else 3 * duration)  # the first run is not timed
        return torch.zeros(2, 10), 44100

    rows = measure_time(synthesize, [0.02, 0.08], CPU, "piano", num_runs=3)
    assert calls == [("piano", duration, seed) for duration in (0.02, 0.08) for seed in range(4)]
    for row in rows:
        assert row["duration_in_s"] <= row["shortest_in_s"] <= row["median_in_s"] < 3 * row["duration_in_s"]
    with pytest.raises(ValueError, match="num_runs must be at least 1, got 0"):
        measure_time(synthesize, [1.0], CPU, "piano", num_runs=0)


def test_peak_memory_grows_with_what_is_held():
    """In a process of its own, because the peak of this one may be gigabytes."""
    call_in_processes(1, hold_memory)


def test_windows_has_another_way_to_tell_the_peak(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "resource", None)  # there is no such module on Windows
        importlib.reload(measurements)
        process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
        patch.setattr(measurements.psutil, "Process", lambda: process)
        assert measurements.peak_memory(CPU) == 123
    assert importlib.reload(measurements).peak_memory(CPU) > 10_000_000
