"""The configurations that come with the scripts: they load, and the paper's are the scripts' defaults."""

import functools
import re

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from launch import ROOT, check_script

from stable_longform.models import transformer_dit_1d
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils.clap_networks import build_clap, build_feature_extractor
from stable_longform.training_utils.config import plain_values
from stable_longform.training_utils.options import build_model

FOLDER = ROOT / "training" / "configs"
SCRIPTS = {
    "autoencoder_tiny_linear": ("train_linear_start.py", ["--manifest=m"]),
    "autoencoder": ("train_autoencoder.py", ["--manifest=m"]),
    "clap": ("train_clap.py", ["--manifest=m"]),
    "dit": ("train_dit.py", ["--latents=l", "--clap=c"]),
    "distill": ("distill_dit.py", ["--checkpoint=c", "--prompts=p"]),
}
NETWORKS = {
    "train_linear_start.py": {"model": AutoencoderOobleck},
    "train_autoencoder.py": {"model": AutoencoderOobleck, "discriminator": MultiScaleSTFTDiscriminator},
    "train_clap.py": {},
    "train_dit.py": {"model": DiTTransformer1D, "timing": TimingConditioner},
}
OURS = {"batch_size", "max_steps", "mixed_precision", "gradient_checkpointing"}  # in the paper's presets
PAPERS = ["autoencoder_paper", "clap_paper", "dit_paper_190s", "dit_paper_285s"]


def script_of(name: str) -> tuple[str, list[str]]:
    """The script of a preset, and the paths that it asks for."""
    return SCRIPTS.get(name) or SCRIPTS[name.split("_")[0]]


@functools.cache
def resolved(name: str, with_preset: bool = True) -> dict:
    """The configuration that a preset's script makes of it, or its defaults."""
    script, paths = script_of(name)
    preset = ["--config", FOLDER / f"{name}.yaml"] if with_preset else []
    return yaml.safe_load(check_script(script, *preset, *paths, "--output_dir=o", "--print_config").stdout)


def build(name: str, config: dict) -> torch.nn.Module:
    """The network of a preset that its comment gives the size of, without memory."""
    with torch.device("meta"):
        if script_of(name)[0] == "train_clap.py":
            parts = config["audio_config"], config["text_config"], config["projection_dim"]
            return build_clap(*parts, config["text_config"]["vocab_size"]).text_model
        return build_model(NETWORKS[script_of(name)[0]]["model"], config["model"], "model")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_load_and_have_the_size_they_say(file):
    config = resolved(file.stem)
    if script_of(file.stem)[0] == "distill_dit.py":  # which builds no network but takes the teacher's
        return
    model = build(file.stem, config)
    said = re.search(r"\((\d+) M parameters\)", file.read_text())
    if said:
        count = sum(parameter.numel() for parameter in model.parameters())
        assert round(count / 1e6) == int(said.group(1))


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_presets_are_the_defaults(name):
    """Where the presets spell a value out, it is the default of the script or of the network that it is passed to."""
    preset, default = resolved(name), resolved(name, with_preset=False)
    networks = NETWORKS[script_of(name)[0]]
    assert preset.keys() == default.keys()
    for field, value in preset.items():
        if field in networks:
            with torch.device("meta"):
                known = plain_values(dict(networks[field]().config))
            expected = {"sample_size": 4096} if name == "dit_paper_190s" and field == "model" else {}
            assert value == {key: (known | expected)[key] for key in value}
        elif field not in OURS:
            assert value == default[field], field


def test_the_default_towers_are_the_papers():
    config = resolved("clap_paper", with_preset=False)
    with torch.device("meta"):
        model = build_clap(config["audio_config"], config["text_config"], config["projection_dim"], 50265)
    assert sum(parameter.numel() for parameter in model.text_model.parameters()) == 124_645_632
    assert sum(parameter.numel() for parameter in model.parameters()) == 193_937_498
    extractor = build_feature_extractor(config["audio_config"], config["feature_extractor"])
    assert (extractor.nb_max_samples, extractor.frequency_min, extractor.truncation) == (480_000, 50, "fusion")


def test_the_tiny_text_tower_is_small():
    assert sum(parameter.numel() for parameter in build("clap_tiny", resolved("clap_tiny")).parameters()) < 6e6


def test_the_stages_of_the_tiny_autoencoder_train_one_network():
    models = [resolved(f"autoencoder_{name}")["model"] for name in ("tiny_linear", "tiny", "tiny_decoder")]
    assert models[0] == models[1] == models[2] != {}


@pytest.mark.parametrize("name", PAPERS)
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
        ("multi_node", DistributedType.FSDP),
    ],
)
def test_accelerate_reads_its_files(name, kind):
    config = load_config_from_file(str(FOLDER / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind and config.mixed_precision == "no"
    if kind == DistributedType.FSDP:
        assert config.fsdp_config["fsdp_version"] == 2
        assert hasattr(transformer_dit_1d, config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"])
