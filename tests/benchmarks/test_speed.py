"""Each speed benchmark runs on something tiny and prints its table; what it says about equality holds."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from tiny_pipeline import tiny_pipeline
from torch.utils.flop_counter import FlopCounterMode


def test_decode(run):
    header, _, *rows = run("decode", "--size", "tiny", "--seconds", "0.5", "--part", "0.2", "--repeats", "1")
    assert [row[:2] for row in rows] == [
        ["0.5 s", "diffusers, whole"],
        ["0.5 s", "diffusers, tiled"],
        ["0.2 s of 0.5 s", "diffusers, whole"],
        ["0.2 s of 0.5 s", "diffusers, tiled"],
    ]
    assert header[-1] == "largest error" and all(float(row[-1]) < 1e-6 for row in rows)


def test_transformer_step(run):
    arguments = ("transformer_step", "--size", "tiny", "--num_layers", "1", "--lengths", "32", "--repeats", "1")
    rows = run(*arguments)[2:]
    assert [row[3] for row in rows] == ["diffusers", "ours"] and all(float(row[-1]) < 1e-5 for row in rows)
    rows = run(*arguments, "--dtype", "bfloat16")[2:]
    assert all(0 < float(row[-1]) < 0.02 for row in rows)


@pytest.mark.skipif(importlib.util.find_spec("stable_audio_tools") is None, reason="needs stable-audio-tools")
def test_stable_audio_tools_is_equal(run):
    checkout = str(Path(importlib.util.find_spec("stable_audio_tools").origin).parents[1])
    for name, *options in (
        ("decode", "--seconds", "0.5"),
        ("transformer_step", "--num_layers", "1", "--lengths", "32"),
    ):
        rows = run(name, "--size", "tiny", *options, "--repeats", "1", "--stable_audio_tools", checkout)[2:]
        assert any("stable-audio-tools" in row for row in rows) and all(float(row[-1]) < 1e-5 for row in rows)


def test_operations_are_those_of_the_model(run, monkeypatch):
    """The count behind the share of the peak, held to torch's own counter."""
    run("transformer_step", "--size", "tiny", "--num_layers", "1", "--lengths", "8", "--repeats", "1")
    module, models = sys.modules["transformer_step"], sys.modules["model_pairs"]
    ours, _ = models.transformers("tiny", 2, torch.float32, "cpu")
    config = ours.config
    text = torch.randn(1, module.NUM_TEXT_TOKENS, config.cross_attention_input_dim)
    timing, global_states = torch.randn(1, 2, text.shape[2]), torch.randn(1, 1, config.global_states_input_dim)
    conditions = module.make_conditions(ours, text, torch.zeros_like(text), timing, global_states, None)
    with attention_backend("_native_math"), FlopCounterMode(display=False) as counter:  # kernels that it knows
        module.predict_velocity(ours, torch.randn(1, 64, 500), torch.tensor(0.5), conditions)
    assert module.operations(config, 500) == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_stochastic_schedulers(run):
    pytest.importorskip("torchsde")
    rows = run("transformer_step", "--schedulers", "--lengths", "256", "--repeats", "1")[2:]
    assert int(rows[1][-1]) <= 100 < int(rows[0][-1])


def test_generate(run, tmp_path):
    tiny_pipeline(sample_size=300).save_pretrained(tmp_path)  # 1.2 s, longer than the second that warms up
    arguments = ("generate", "--checkpoint", str(tmp_path), "--duration", "1.1", "--num_inference_steps", "1")
    rows = run(*arguments)
    assert rows[2][:3] == ["1", "1.1 s", "float32"] and len(rows) == 3
    rows = run(*arguments, "--tile_latent_lengths", "4", "16")[5:]
    assert [row[0] for row in rows] == ["4", "16"] and all(float(row[1]) < 1e-6 for row in rows)


def test_windows(run, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    arguments = ("--checkpoint", str(tmp_path), "--windows", "0.05", "0.2", "--num_inference_steps", "1")
    rows = run("windows", *arguments, "--repeats", "1")[2:]
    assert [row[0] for row in rows] == ["0.05", "0.2"] and rows[1][2] == "1.0"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory(run, capsys):
    for case in ("ours:1", "stream:1", "encode:1", "tiled:1", "whole:1"):
        (row,) = run("memory", "--child", "--size", "tiny", "--cases", case)
        assert json.loads("|".join(row))["memory"] >= 0


@pytest.mark.slow
def test_memory_in_processes(run):
    assert [row[0] for row in run("memory", "--size", "tiny", "--cases", "ours:1", "whole:1")[2:]] == ["ours", "whole"]


def test_pairs(run):
    rows = run("data_loading", "--pairs", "--num_tracks", "1", "--duration_in_s", "2", "--steps", "1")[2:]
    extractors = ["ClapFeatureExtractor", "BlockwiseClapFeatureExtractor"]
    assert [row[:2] for row in rows] == [[part, name] for part in ("10 s", "whole track") for name in extractors]
    assert all(float(row[2]) > 0 for row in rows) and rows[0][3] == rows[2][3] == "1"


def test_steps(run, tmp_path):
    pytest.importorskip("matplotlib")
    tiny_pipeline(downsampling_ratios=(2, 4, 4, 8, 8), sampling_rate=44100).save_pretrained(tmp_path / "checkpoint")
    arguments = ("--checkpoint", str(tmp_path / "checkpoint"), "--window", "144")
    arguments += ("--steps", "1", "4", "--reference_steps", "4", "--num_prompts", "1")
    rows = run("steps", *arguments, "--plot", str(tmp_path / "steps.svg"))[2:]
    assert float(rows[0][1]) > 0.1 and float(rows[1][1]) == 0
    assert (tmp_path / "steps.svg").read_text().startswith("<?xml")


def test_caches(run, tmp_path):
    """Each cache computes fewer blocks and changes the music; text that is kept changes nothing."""
    pipe = tiny_pipeline(downsampling_ratios=(2, 4, 4, 8, 8), sampling_rate=44100)
    pipe.save_pretrained(tmp_path / "checkpoint")
    arguments = ("--checkpoint", str(tmp_path / "checkpoint"), "--duration", "1", "--num_prompts", "1")
    rows = {name: cells for name, *cells in run("caches", *arguments, "--steps", "12")[2:]}
    assert rows.pop("no cache")[0] == "1" and rows["6 steps"][0] == "0.5" and rows["9 steps"][0] == "0.75"
    again = rows.pop("text projected again in each step")
    assert again[0] == "1" and float(again[2]) < 1e-3
    assert len(rows) == 10
    for blocks, _, log_mel, *_ in rows.values():
        assert 0 < float(blocks) < 1 and float(log_mel) > 0.01


def test_few_steps(run, tmp_path):
    """The teacher as its own student; its own row is as far from itself as chance leaves it."""
    pytest.importorskip("matplotlib")
    pipe = tiny_pipeline(downsampling_ratios=(2, 4, 4, 8, 8), sampling_rate=44100, sample_size=96)
    pipe.save_pretrained(tmp_path / "checkpoint")
    arguments = ("--teacher", str(tmp_path / "checkpoint"), "--duration", "4", "--num_prompts", "2")
    arguments += ("--num_seeds", "2", "--teacher_steps", "3", "--steps", "2", "--plot", str(tmp_path / "a.svg"))
    rows = run("few_steps", *arguments, "--schedulers", "ddim", "ping-pong")
    musical, rows = rows[7:], rows[2:5]
    names = ["teacher, 3 guided steps", "student, ddim, 2 steps", "student, ping-pong, 2 steps"]
    assert [row[0] for row in rows] == [row[0] for row in musical] == names
    assert float(rows[0][3]) == 1 and float(rows[0][4]) == 0
    for row in rows[1:]:
        assert float(row[1]) > 0 and float(row[3]) > 0 and float(row[4]) > 0.01
    assert rows[1][1:] != rows[2][1:]
    assert all(0 <= float(cell) <= 1 for row in musical for cell in row[1:5])
    assert all(row[5:] == ["", ""] for row in musical)  # 4 s have no structure
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_diversity_is_the_distance_between_seeds_and_not_between_prompts():
    few_steps = importlib.import_module("few_steps")
    piece = np.zeros((3, 2))
    assert few_steps.diversity([[piece, piece], [piece + 7, piece + 7]]) == 0
    assert few_steps.diversity([[piece, piece + (3, 4)], [piece, piece]]) == pytest.approx(2.5)


def test_gpu_check(run, tmp_path):
    """What `make gpu-check` runs, but for compiling, in one process on a CPU."""
    arguments = ("--size", "tiny", "--window", "32", "--steps", "2", "3", "--few_steps", "1", "--dtype", "float32")
    report, trace = tmp_path / "report.md", tmp_path / "trace.json"
    rows = run("gpu_check", "--device", "cpu", *arguments, "--report", str(report), "--profile", str(trace))
    cases = [("2, guided", "diffusers"), ("2, guided", "ours"), ("3, guided", "diffusers"), ("3, guided", "ours")]
    cases += [("1, ping-pong", "diffusers"), ("1, ping-pong", "ours")]
    assert [tuple(row[:2]) for row in rows[2:8]] == cases
    for row in rows[2:8]:
        sampling, decoding, whole, ratio, memory = map(float, row[2:7])
        assert whole == pytest.approx(sampling + decoding, rel=0.02) and ratio > 0 and memory > 0
    decoding = rows[10:14]
    assert [row[0] for row in decoding] == ["with the engine", "without the engine", "as a stream", "bfloat16"]
    assert all(float(row[3]) < 1e-5 for row in decoding[:3]) and 1e-4 < float(decoding[3][3]) < 0.1
    assert rows[16:] == [["2, guided", "float32", "0.0e+00"], ["1, ping-pong", "float32", "0.0e+00"]]
    assert "2, guided" in report.read_text() and trace.stat().st_size > 1000
