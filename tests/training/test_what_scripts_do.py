"""What the scripts do to the weights: which rate is applied, how the average moves, what is dropped.

A run that is resumed equals itself also when all of it is wrong; these tests say what is right.
"""

import json

import pytest
import torch
import yaml
from common import randomize_weights
from launch import check_script
from safetensors.torch import load_file
from tiny_pipeline import tiny_pipeline
from tiny_training import CLAP, DIT

from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D

EXACT = {"mixed_precision": "no", "weight_decay": 0.0, "max_steps": 1}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def rates(run) -> list[float]:
    """The learning rates that a run has logged."""
    return [row["learning_rate"] for row in map(json.loads, (run / "metrics.jsonl").open()) if "learning_rate" in row]


def typical_step(before: dict, after: dict, names=None) -> float:
    """By how much most weights have moved. The first step of Adam moves each by the rate, whatever the gradient."""
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in names or before])
    return moved[moved > 0].median().item()


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    """The folder of a transformer and a timing conditioner in which every weight counts."""
    folder = tmp_path_factory.mktemp("initial")
    torch.manual_seed(0)
    randomize_weights(DiTTransformer1D(**DIT["model"]), std=0.3).save_pretrained(folder / "transformer")
    TimingConditioner(**DIT["timing"]).save_pretrained(folder / "timing_conditioner")
    return folder


@pytest.fixture
def train_dit(tmp_path, latents, clap, initial):
    """A function that trains the transformer from `initial` into a folder of a given name."""

    def run(name: str, **settings):
        paths = {"latents": str(latents), "clap": str(clap), "init_from": str(initial)}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(DIT | EXACT | paths | settings))
        check_script("train_dit.py", "--config", tmp_path / f"{name}.yaml", "--output_dir", tmp_path / name)
        return tmp_path / name

    return run


@pytest.mark.parametrize(("warmup", "factor"), [(0.0, 1.0), (0.75, 0.25)])
def test_the_transformer_moves_by_the_rate_that_is_logged(train_dit, initial, warmup, factor):
    run = train_dit("run", learning_rate=1e-3, warmup=warmup, condition_dropout=0.0)
    before = load_file(initial / "transformer" / WEIGHTS)
    after = load_file(run / "checkpoint-00000001" / "model.safetensors")
    after = {name: after[f"transformer.{name}"] for name in before}
    assert rates(run) == pytest.approx([1e-3 * factor])
    assert typical_step(before, after) == pytest.approx(1e-3 * factor, rel=1e-2)


def test_the_average_follows_its_law_and_the_timing_is_not_averaged(train_dit):
    """The first two updates take the weights as they are, the third has a decay of 1 − 2^(−3/4)."""
    run = train_dit("run", max_steps=3, save_every=1, warmup=0.0)
    second, third = (load_file(run / f"checkpoint-{step:08d}" / "model.safetensors") for step in (2, 3))
    decay = 1 - 2**-0.75
    for name, value in load_file(run / "dit" / "transformer" / WEIGHTS).items():
        expected = decay * second[f"transformer.{name}"] + (1 - decay) * third[f"transformer.{name}"]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    for name, value in load_file(run / "dit" / "timing_conditioner" / WEIGHTS).items():
        assert torch.equal(value, third[f"timing_conditioner.{name}"]), name
    assert any(not torch.equal(second[name], third[name]) for name in second if name.startswith("timing"))


def test_dropped_conditions_train_no_cross_attention(train_dit, initial):
    """If all are dropped; and if none are, every layer of it is trained."""
    before = load_file(initial / "transformer" / WEIGHTS)
    names = [name for name in before if "attn2.to_k" in name or "attn2.to_v" in name]
    assert names
    for dropout in (0.0, 1.0):
        run = train_dit(f"dropout-{dropout}", condition_dropout=dropout, warmup=0.0)
        after = load_file(run / "checkpoint-00000001" / "model.safetensors")
        moved = [not torch.equal(after[f"transformer.{name}"], before[name]) for name in names]
        assert moved == [dropout == 0] * len(names)


def test_at_pure_noise_only_the_loss_is_that_of_guessing(train_dit):
    """Every item at t = 1: the loss no longer depends on what the model makes of noisy latents at other times."""
    losses = {}
    everywhere = {
        "end": {"terminal_probability": 1.0},
        "shifted": {"timestep_shift": 1e3},
        "least": {"min_timestep": 0.99, "terminal_probability": 0.0},
        "all": {"terminal_probability": 0.0},
    }
    for name, settings in everywhere.items():
        run = train_dit(name, condition_dropout=0.0, batch_size=8, **settings)
        losses[name] = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert losses["shifted"] == pytest.approx(losses["end"], rel=1e-3)  # the shift moves all of them there, too
    assert losses["least"] == pytest.approx(losses["end"], rel=0.02)
    assert losses["all"] != pytest.approx(losses["end"], rel=0.05)


@pytest.mark.parametrize(("warmup_steps", "factor"), [(1, 1.0), (4, 0.25)])
def test_the_adapter_moves_by_the_rate_that_is_logged(tmp_path, tiny_manifest, warmup_steps, factor):
    """Half of an adapter begins at zero."""
    tiny_pipeline(mask_text_padding=True).save_pretrained(tmp_path / "checkpoint")
    vae = tmp_path / "checkpoint" / "vae"
    check_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", vae,
                 "--output_dir", tmp_path / "latents")  # fmt: skip
    settings = EXACT | {"learning_rate": 1e-3, "warmup_steps": warmup_steps, "num_workers": 0, "batch_size": 2}
    settings |= {"log_every": 1, "num_validation_windows": 0, "condition_dropout": 0.0}
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(settings))
    check_script("train_dit_lora.py", "--config", tmp_path / "lora.yaml", "--checkpoint", tmp_path / "checkpoint",
                 "--latents", tmp_path / "latents", "--output_dir", tmp_path / "run")  # fmt: skip
    weights = load_file(tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors")
    after = {name: value for name, value in weights.items() if "lora_B" in name}
    assert rates(tmp_path / "run") == pytest.approx([1e-3 * factor])
    before = {name: torch.zeros_like(value) for name, value in after.items()}
    assert typical_step(before, after) == pytest.approx(1e-3 * factor, rel=1e-2)


@pytest.mark.parametrize(("warmup_steps", "factor"), [(1, 1.0), (4, 0.25)])
def test_clap_moves_by_the_rate_that_is_logged(tmp_path, tiny_manifest, warmup_steps, factor):
    """From the weights of a training whose rate is too small to matter."""
    settings = CLAP | EXACT | {"manifest": str(tiny_manifest), "num_validation_pairs": 2, "max_steps": 1}
    start = settings | {"learning_rate": 1e-12}
    (tmp_path / "start.yaml").write_text(yaml.safe_dump(start))
    check_script("train_clap.py", "--config", tmp_path / "start.yaml", "--output_dir", tmp_path / "start")
    own = {"audio_config", "text_config", "feature_extractor", "projection_dim", "tokenizer"}
    more = {name: value for name, value in settings.items() if name not in own}
    more |= {"learning_rate": 1e-3, "warmup_steps": warmup_steps, "schedule_steps": 100}
    more["init_from"] = str(tmp_path / "start" / "clap")
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    check_script("train_clap.py", "--config", tmp_path / "more.yaml", "--output_dir", tmp_path / "more")
    before, after = (load_file(tmp_path / name / "clap" / "model.safetensors") for name in ("start", "more"))
    names = [name for name in before if name.startswith("text_") and name.endswith("weight")]
    assert rates(tmp_path / "more") == pytest.approx([1e-3 * factor])
    assert typical_step(before, after, names) == pytest.approx(1e-3 * factor, rel=2e-2)
