"""Launches the real script on synthetic audio: files, exact resume, wrong configurations; and its parts alone."""

import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from accelerate import Accelerator
from launch import ROOT, run_script
from safetensors.torch import load_file
from tiny_training import CLAP
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel, ClapProcessor

from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.training_utils.config import load_config

SCRIPT = ROOT / "training" / "train_clap.py"
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
    result = run_script(SCRIPT.name, *arguments, folder)
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
    result = run_script(SCRIPT.name, *arguments, finished_run)
    assert result.returncode == 0, result.stderr
    assert "Resumed from" in result.stderr
    for file in ("checkpoint-00000004/model.safetensors", "clap/model.safetensors"):
        weights, expected = load_file(finished_run / file), load_file(tmp_path / "undisturbed" / file)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    metrics = [(run / "metrics.jsonl").read_text() for run in (finished_run, tmp_path / "undisturbed")]
    assert metrics[0] == metrics[1]  # the lines of steps 3 and 4 were written again, not twice


def test_wrong_configuration_ends_in_one_line(arguments, tmp_path):
    result = run_script(SCRIPT.name, *arguments, tmp_path / "run", "--text_config.max_position_embeddings=78")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: text_config.max_position_embeddings must be at least 79")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import train_clap
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return train_clap


def test_defaults_are_the_papers_towers(script):
    config = load_config(script.Config, ["--manifest", "none", "--output_dir", "none"])
    with torch.device("meta"):
        model = script.build_model(config, 50265)
    assert sum(parameter.numel() for parameter in model.text_model.parameters()) == 124_645_632
    assert sum(parameter.numel() for parameter in model.parameters()) == 193_937_498
    assert model.logit_scale_a.requires_grad and not model.logit_scale_t.requires_grad
    extractor = script.build_feature_extractor(config)
    assert (extractor.nb_max_samples, extractor.frequency_min, extractor.truncation) == (480_000, 50, "fusion")


def test_tiny_configuration_has_a_small_text_tower(script):
    file = str(ROOT / "training" / "configs" / "clap_tiny.yaml")
    config = load_config(script.Config, ["--config", file, "--manifest", "none", "--output_dir", "none"])
    script.check_config(config)
    with torch.device("meta"):
        model = script.build_model(config, config.text_config["vocab_size"])
    assert sum(parameter.numel() for parameter in model.text_model.parameters()) < 6e6


def test_schedule_rises_to_one_then_falls_to_zero(script):
    factors = [script.schedule(step, 10, 110) for step in range(111)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0, abs=1e-12)
    assert all(after < before for before, after in zip(factors[10:], factors[11:], strict=False))


def test_spec_augment_zeroes_whole_stripes_and_nothing_else(script):
    torch.manual_seed(0)
    features = torch.rand(50, 64, 100, 4) + 1
    augmented = script.spec_augment(features, 20, 8)
    is_kept = augmented != 0
    assert torch.equal(augmented[is_kept], features[is_kept])
    assert torch.equal(is_kept, is_kept[..., :1].expand_as(is_kept))  # the same for all views
    bands, frames = is_kept[..., 0].any(dim=2), is_kept[..., 0].any(dim=1)  # (50, 64) and (50, 100)
    assert torch.equal(is_kept[..., 0], bands[:, :, None] & frames[:, None, :])
    num_bands, num_frames = (~bands).sum(dim=1), (~frames).sum(dim=1)
    assert 0 < num_bands.max() <= 14 and 0 < num_frames.max() <= 38  # two stripes of at most width - 1
    assert num_bands.min() < 4 and num_frames.min() < 10


def test_spec_augment_is_off_in_evaluation(script, corpus):
    config = load_config(
        script.Config, ["--config", str(corpus / "tiny.yaml"), "--manifest", "none", "--output_dir", "none"]
    )
    norm = script.build_model(config, 300).audio_model.audio_encoder.batch_norm
    features = torch.rand(2, 64, 101, 4)
    assert (norm.train()(features) == 0).any()
    assert not (norm.eval()(features) == 0).any()


def test_tokenizer_knows_its_words_in_any_place_and_every_other_text(script):
    tokenizer = script.train_tokenizer(["Moods: Uplifting, Energetic", "CALM PIANO"], 400)
    assert [tokenizer.token_to_id(token) for token in script.SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert len(tokenizer.encode("piano calm piano").ids) == 5  # <s> and </s>
    assert tokenizer.decode(tokenizer.encode("Grüße, 音楽!").ids) == "Grüße, 音楽!"
    with pytest.raises(ValueError, match="vocab_size must be at least 261, got 260"):
        script.train_tokenizer(["a"], 260)


def extractor_of(run: Path) -> dict:
    """The feature extractor's settings, from a run's exported model."""
    return AutoFeatureExtractor.from_pretrained(run / "clap").to_dict()


class TwoTowers(torch.nn.Module):
    """Two encoders and a temperature, all that `backward` needs of a CLAP, with batch norm to be left alone."""

    def __init__(self):
        super().__init__()
        self.audio, self.text = torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.logit_scale_a = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, audio, text):
        return [torch.nn.functional.normalize(part, dim=-1) for part in (self.audio(audio), self.text(text))]


@pytest.mark.parametrize("accumulation", [2, 3])
def test_micro_batches_are_each_others_negatives(script, accumulation):
    """The gradient is that of one large batch, the temperature's included."""
    torch.manual_seed(0)
    model, audio, text = TwoTowers(), torch.randn(6, 6), torch.randn(6, 5)
    loss = script.clap_loss(*model(audio, text), model.logit_scale_a.exp())
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if "norm" not in name}
    model.zero_grad()
    parts = list(zip(audio.chunk(accumulation), text.chunk(accumulation), strict=True))
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    result = script.backward(accelerator, model, lambda i: model(*parts[i]), accumulation, 0)
    assert result.item() == pytest.approx(loss.item(), rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)


def test_the_first_of_two_passes_teaches_batch_norms_nothing(script):
    model = TwoTowers()
    before = model.norm.running_mean.clone()
    with script.untouched_statistics(model):
        model.norm(torch.randn(8, 4) + 5)
    assert torch.equal(model.norm.running_mean, before) and model.norm.momentum == 0.1


def test_validation_with_fusion_is_deterministic(script, finished_run, arguments, corpus):
    """Clips longer than one view are cut at random places, but always at the same ones."""
    config = load_config(script.Config, [*arguments, "none", "--crop_duration_in_s=1.7"])
    model = ClapModel.from_pretrained(finished_run / "clap")
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "clap")
    results = []
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        make_item = script.PairMaker(script.build_feature_extractor(config), config.crop_duration_in_s)
        pairs = script.open_source(config.manifest, "valid").sample(make_item, config.num_validation_pairs, 0)
        assert all(pair["is_longer"] for pair in pairs)
        results.append(script.validate(model, tokenizer, pairs, 2))
    assert results[0] == results[1]


def test_training_goes_on_from_given_weights(script, finished_run, corpus, tmp_path):
    """Architecture, tokenizer and feature extractor come with them; settings that contradict are refused."""
    rest = {name: value for name, value in TINY.items() if not name.endswith("config") and name != "tokenizer"}
    settings = {**rest, "manifest": str(corpus / "manifest.jsonl"), "max_steps": 1, "learning_rate": 1e-9}
    settings = {name: value for name, value in settings.items() if name not in ("feature_extractor", "projection_dim")}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(settings | {"init_from": str(finished_run / "clap")}))
    result = run_script(SCRIPT.name, "--config", tmp_path / "more.yaml", "--output_dir", tmp_path / "more")
    assert result.returncode == 0, result.stderr
    before, after = (load_file(run / "clap" / "model.safetensors") for run in (finished_run, tmp_path / "more"))
    parameters = {name for name, _ in ClapModel.from_pretrained(finished_run / "clap").named_parameters()}
    moved = {name for name in before if not torch.allclose(before[name].float(), after[name].float(), atol=1e-5)}
    assert not moved & parameters
    assert extractor_of(tmp_path / "more") == extractor_of(finished_run)
    config = load_config(script.Config, ["--config", str(tmp_path / "more.yaml"), "--output_dir=x"])
    with pytest.raises(ValueError, match="projection_dim cannot be set with init_from"):
        script.check_config(dataclasses.replace(config, projection_dim=8))
