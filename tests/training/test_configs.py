"""The configurations that come with the scripts: they load, and the paper's are the scripts' defaults."""

import dataclasses
import re
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from launch import ROOT

from stable_longform.models import transformer_dit_1d
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils.config import build_model, load_config

sys.path.insert(0, str(ROOT / "training"))
import train_autoencoder  # noqa: E402
import train_clap  # noqa: E402
import train_dit  # noqa: E402
import train_linear_start  # noqa: E402

FOLDER = ROOT / "training" / "configs"
SCRIPTS = {
    "autoencoder_tiny_linear": (train_linear_start, ["--manifest=m"], "model"),
    "autoencoder": (train_autoencoder, ["--manifest=m"], "model"),
    "clap": (train_clap, ["--manifest=m"], None),
    "dit": (train_dit, ["--latents=l", "--clap=c"], "model"),
}
OURS = {"batch_size", "max_steps", "mixed_precision", "gradient_checkpointing"}  # in the paper's presets


def load(file):
    """A preset as its script's configuration, and the script."""
    script, paths, _ = SCRIPTS.get(file.stem) or SCRIPTS[file.stem.split("_")[0]]
    return load_config(script.Config, ["--config", str(file), "--output_dir=o", *paths]), script


def build(config, script) -> torch.nn.Module:
    """The network of a preset, without memory."""
    with torch.device("meta"):
        if script is train_clap:
            script.check_config(config)
            return script.build_model(config, config.text_config["vocab_size"]).text_model
        network = DiTTransformer1D if script is train_dit else AutoencoderOobleck
        return build_model(network, config.model, "model")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_load_and_have_the_size_they_say(file):
    model = build(*load(file))
    said = re.search(r"\((\d+) M parameters\)", file.read_text())
    if said:
        count = sum(parameter.numel() for parameter in model.parameters())
        assert round(count / 1e6) == int(said.group(1))


@pytest.mark.parametrize("name", ["autoencoder_paper", "clap_paper", "dit_paper_190s", "dit_paper_285s"])
def test_the_papers_presets_are_the_defaults(name):
    """Where the presets spell a value out, it is the default of the script or of the network that it is passed to."""
    config, script = load(FOLDER / f"{name}.yaml")
    default = script.Config("m", "o", **({"latents": "l"} if script is train_dit else {}))
    networks = {"discriminator": script.MultiScaleSTFTDiscriminator} if script is train_autoencoder else {}
    if script is not train_clap:
        networks["model"] = AutoencoderOobleck if script is train_autoencoder else DiTTransformer1D
    if script is train_dit:
        networks["timing"] = script.TimingConditioner
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in networks:
            with torch.device("meta"):
                known = dict(networks[field.name]().config)
            expected = {"sample_size": 4096} if name == "dit_paper_190s" and field.name == "model" else {}
            assert {key: _plain(entry) for key, entry in value.items()} == {
                key: expected.get(key, _plain(known[key])) for key in value
            }
        elif field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
            assert field.name in OURS or value == getattr(default, field.name), field.name


def _plain(value):
    """Tuples as lists."""
    return list(value) if isinstance(value, (list, tuple)) else value


def test_the_stages_of_the_tiny_autoencoder_train_one_network():
    models = [load(FOLDER / f"autoencoder_{name}.yaml")[0].model for name in ("tiny_linear", "tiny", "tiny_decoder")]
    assert models[0] == models[1] == models[2] != {}


@pytest.mark.parametrize("name", ["autoencoder_paper", "clap_paper", "dit_paper_190s", "dit_paper_285s"])
def test_every_value_of_the_papers_presets_has_a_source(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"\s*\w+: \S", line)]
    assert len(values) > 15
    assert [line for line in values if not re.search(r"#.*(\[(P|C|24|L|o)\b|RoBERTa base)", line)] == []


@pytest.mark.parametrize(
    "name, kind",
    [
        ("cpu", DistributedType.MULTI_CPU),
        ("one_gpu", DistributedType.NO),
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp2", DistributedType.FSDP),
        ("deepspeed", DistributedType.DEEPSPEED),
        ("multi_node", DistributedType.FSDP),
    ],
)
def test_accelerate_reads_its_files(name, kind):
    config = load_config_from_file(str(FOLDER / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind and config.mixed_precision == "no"
    if kind == DistributedType.FSDP:
        assert config.fsdp_config["fsdp_version"] == 2
        assert hasattr(transformer_dit_1d, config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"])
