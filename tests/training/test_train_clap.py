"""Launches the real script on synthetic audio: files, exact resume, wrong configurations."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from launch import run_script
from safetensors.torch import load_file
from tiny_training import CLAP
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel, ClapProcessor

from stable_longform.models.clap_text_encoder import ClapTextEncoder

SCRIPT = "train_clap.py"
RATE = 48000
TINY = CLAP


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Four tracks for training and three for validation, of 2 s, with metadata; and the configuration."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(7):
        tone = 0.5 * np.sin(2 * np.pi * 220 * (number + 1) * np.arange(2 * RATE) / RATE)
        soundfile.write(folder / f"{number}.wav", tone, RATE)
        split = "train" if number < 4 else "valid"
        row = {"path": f"{number}.wav", "duration_in_s": 2.0, "split": split, "genre": [f"Genre {number}"], "bpm": 90}
        rows.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


@pytest.fixture(scope="module")
def arguments(corpus) -> list[str]:
    return ["--config", str(corpus / "tiny.yaml"), "--manifest", str(corpus / "manifest.jsonl"), "--output_dir"]


@pytest.fixture(scope="module")
def finished_run(arguments, tmp_path_factory) -> Path:
    """Four steps at once."""
    folder = tmp_path_factory.mktemp("run") / "clap"
    result = run_script(SCRIPT, *arguments, folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_run_leaves_its_files_and_metrics(finished_run):
    checkpoints = sorted(path.name for path in finished_run.glob("*checkpoint*"))
    assert checkpoints == ["checkpoint-00000002", "checkpoint-00000004"]
    assert yaml.safe_load((finished_run / "config.yaml").read_text())["audio_config"]["fusion_type"] == "aff_2d"
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()][:6]
    assert [row["step"] for row in rows if "contrastive" in row] == [1, 2, 3, 4]
    assert [row["learning_rate"] for row in rows if "contrastive" in row] == [5e-4, 1e-3, 1e-3, 5e-4]
    validations = [row for row in rows if "valid/contrastive" in row]
    assert [row["step"] for row in validations] == [2, 4]
    assert all(row["valid/audio_to_text/recall@5"] == 1.0 for row in validations)  # of three


def test_export_opens_with_transformers_and_with_the_text_encoder(finished_run):
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "clap")
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (77, "right")
    tokens = tokenizer("Genre: Jazz, 90 BPM", padding="max_length", max_length=77, truncation=True)
    length = sum(tokens["attention_mask"])
    ids = tokens["input_ids"]
    assert (len(ids), ids[0], ids[length - 1], ids[length:]) == (77, 0, 2, [1] * (77 - length))
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Genre: Jazz, 90 BPM"
    long = tokenizer("genre " * 200, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert (len(long), long[-1]) == (77, 2)

    model = ClapModel.from_pretrained(finished_run / "clap")
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.config.text_config.layer_norm_eps == 1e-5
    extractor = AutoFeatureExtractor.from_pretrained(finished_run / "clap")
    assert (extractor.frequency_min, extractor.truncation, extractor.max_length_s) == (50, "fusion", 1)
    processor = ClapProcessor.from_pretrained(finished_run / "clap")
    inputs = processor(text=["a", "b"], audio=[np.ones(RATE)] * 2, sampling_rate=RATE, return_tensors="pt")
    assert model(**inputs).logits_per_audio.shape == (2, 2)

    encoder = ClapTextEncoder.from_clap(finished_run / "clap")
    batch = tokenizer(["Genre 1"], padding="max_length", max_length=77, return_tensors="pt")
    expected = model.text_model(**batch, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(encoder(**batch).last_hidden_state, expected)


def test_every_layer_was_trained_and_the_temperature_is_in_bounds(finished_run):
    first = load_file(finished_run / "checkpoint-00000002" / "model.safetensors")
    last = load_file(finished_run / "checkpoint-00000004" / "model.safetensors")
    same = {name for name in last if torch.equal(first[name], last[name])}
    # constant buffers, and the keys' biases, which softmax ignores
    unused = ("position_ids", "token_type_ids", "relative_position_index", "key.bias")
    assert {name for name in same if not name.endswith(unused)} == set()
    assert 0 <= last["logit_scale_a"] <= math.log(100)
    assert torch.equal(last["logit_scale_a"], last["logit_scale_t"])


def test_resumed_run_equals_an_undisturbed_one_bit_for_bit(finished_run, arguments, tmp_path):
    shutil.copytree(finished_run, tmp_path / "undisturbed")
    shutil.rmtree(finished_run / "checkpoint-00000004")  # as if it had been stopped after step 2
    shutil.rmtree(finished_run / "clap")
    result = run_script(SCRIPT, *arguments, finished_run)
    assert result.returncode == 0, result.stderr
    assert "Resumed from" in result.stderr
    for file in ("checkpoint-00000004/model.safetensors", "clap/model.safetensors"):
        weights, expected = load_file(finished_run / file), load_file(tmp_path / "undisturbed" / file)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    metrics = [(run / "metrics.jsonl").read_text() for run in (finished_run, tmp_path / "undisturbed")]
    assert metrics[0] == metrics[1]  # the lines of steps 3 and 4 were written again, not twice


def test_wrong_configuration_ends_in_one_line(arguments, tmp_path):
    result = run_script(SCRIPT, *arguments, tmp_path / "run", "--text_config.max_position_embeddings=78")
    assert result.returncode == 2
    accepted = "a whole number in [79, 65536], got 78."
    assert result.stderr.splitlines()[-1] == f"error: text_config.max_position_embeddings must be {accepted}"
    assert not (tmp_path / "run").exists()


def extractor_of(run: Path) -> dict:
    """The feature extractor's settings, from a run's exported model."""
    return AutoFeatureExtractor.from_pretrained(run / "clap").to_dict()


def test_training_goes_on_from_given_weights(finished_run, corpus, tmp_path):
    """Architecture, tokenizer and feature extractor come with them; settings that contradict are refused."""
    rest = {name: value for name, value in TINY.items() if not name.endswith("config") and name != "tokenizer"}
    settings = {**rest, "manifest": str(corpus / "manifest.jsonl"), "max_steps": 1, "learning_rate": 1e-9}
    settings = {name: value for name, value in settings.items() if name not in ("feature_extractor", "projection_dim")}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(settings | {"init_from": str(finished_run / "clap")}))
    result = run_script(SCRIPT, "--config", tmp_path / "more.yaml", "--output_dir", tmp_path / "more")
    assert result.returncode == 0, result.stderr
    before, after = (load_file(run / "clap" / "model.safetensors") for run in (finished_run, tmp_path / "more"))
    parameters = {name for name, _ in ClapModel.from_pretrained(finished_run / "clap").named_parameters()}
    moved = {name for name in before if not torch.allclose(before[name].float(), after[name].float(), atol=1e-5)}
    assert not moved & parameters
    assert extractor_of(tmp_path / "more") == extractor_of(finished_run)
    refused = run_script(
        SCRIPT, "--config", tmp_path / "more.yaml", "--output_dir", tmp_path / "x", "--projection_dim=8"
    )
    assert refused.returncode == 2 and "projection_dim cannot be set together with init_from" in refused.stderr
