"""Checkpoints, adapters and latents that are damaged, each in its own way: the file or the component is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny_pipeline import WIDTH, tiny_pipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer

from stable_longform.data.latents import INDEX_FILE, INFO_FILE, LatentWindows, write_shard
from stable_longform.metrics.embedders.clap import ClapEmbedder
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.training_utils.pretrained import load_text_encoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A good checkpoint."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    tiny_pipeline().save_pretrained(folder)
    return folder


def write(name: str, data: bytes) -> Callable[[Path], None]:
    """Replaces a file of a folder."""
    return lambda folder: (folder / name).write_bytes(data) and None


def remove(name: str) -> Callable[[Path], None]:
    """Removes a file or folder."""
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def cut(name: str, num_bytes: int) -> Callable[[Path], None]:
    """Keeps the start of a file, or with a negative number all but its end."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:num_bytes]) and None


def link_to_itself(name: str) -> Callable[[Path], None]:
    """Replaces a file by a link without an end."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)

    return change


def set_field(name: str, **fields) -> Callable[[Path], None]:
    """Changes fields of a JSON file; `...` removes one."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    return change


def change_weights(component: str, change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Changes the tensors of a component."""
    return lambda folder: save_file(change(load_file(folder / component / WEIGHTS)), folder / component / WEIGHTS)


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], dict]:
    """Changes the first tensor."""
    return lambda tensors: tensors | {min(tensors): change(tensors[min(tensors)]).contiguous()}


def without_first(tensors: dict) -> dict:
    """All tensors but the first."""
    return {name: tensor for name, tensor in tensors.items() if name != min(tensors)}


def copy_file(source: str, target: str) -> Callable[[Path], None]:
    """Puts one file of a folder in the place of another."""
    return lambda folder: shutil.copy(folder / source, folder / target) and None


def change_over(one: str, other: str) -> Callable[[Path], None]:
    """Gives two folders each other's names."""

    def change(folder: Path) -> None:
        (folder / one).rename(folder / "meanwhile")
        (folder / other).rename(folder / one)
        (folder / "meanwhile").rename(folder / other)

    return change


SCHEDULER = "scheduler/scheduler_config.json"
PARTS = ("vae", "transformer", "text_encoder", "timing_conditioner")
DAMAGES = {
    "no index": remove("model_index.json"),
    "an empty index": write("model_index.json", b""),
    "an index that is no JSON": write("model_index.json", b"{"),
    "an index that is a list": write("model_index.json", b"[]"),
    "an index of another class": set_field("model_index.json", _class_name="FluxPipeline"),
    "an index without a class": set_field("model_index.json", _class_name=...),
    "a component of another class": set_field("model_index.json", vae=["diffusers", "UNet2DModel"]),
    "a component of no library": set_field("model_index.json", vae=["no_such_library", "Model"]),
    "a component that is text": set_field("model_index.json", vae="AutoencoderOobleck"),
    "text for true or false": set_field("model_index.json", mask_text_padding="no"),
    "a number for true or false": set_field("model_index.json", zero_text_padding=1),
    "windows that are text": set_field("model_index.json", window_in_s="long"),
    "windows below zero": set_field("model_index.json", window_in_s=[-1.0]),
    "a falling interval": set_field("model_index.json", guidance_interval=[1, 0]),
    "guidance without end": set_field("model_index.json", guidance_scale=float("inf")),
    "steps that are text": set_field("model_index.json", num_inference_steps="many"),
    "a name of a class twice": write("model_index.json", b'{"_class_name": "A", "_class_name": "B"}'),
    "a ratio below zero": set_field("vae/config.json", downsampling_ratios=[2, 2, -2, 2, 2]),
    "ratios without end": set_field("vae/config.json", downsampling_ratios=[10**9] * 5),
    "no scheduler": remove("scheduler"),
    "a tokenizer that is no JSON": write("tokenizer/tokenizer.json", b"{"),
    "a scheduler that is no JSON": write("scheduler/scheduler_config.json", b"nothing"),
}
for part in PARTS:
    DAMAGES |= {
        f"{part}: no folder": remove(part),
        f"{part}: no configuration": remove(f"{part}/config.json"),
        f"{part}: an empty configuration": write(f"{part}/config.json", b""),
        f"{part}: a configuration that is a list": write(f"{part}/config.json", b"[1]"),
        f"{part}: a configuration that is null": write(f"{part}/config.json", b"null"),
        f"{part}: a configuration in UTF-16": write(f"{part}/config.json", '{"a": 1}'.encode("utf-16")),
        f"{part}: another class": set_field(f"{part}/config.json", _class_name="UNet1DModel"),
        f"{part}: no weights": remove(f"{part}/{WEIGHTS}"),
        f"{part}: empty weights": write(f"{part}/{WEIGHTS}", b""),
        f"{part}: weights that are text": write(f"{part}/{WEIGHTS}", b"version https://git-lfs.github.com/spec/v1"),
        f"{part}: a header that is cut": cut(f"{part}/{WEIGHTS}", 50),
        f"{part}: weights that are cut": cut(f"{part}/{WEIGHTS}", -10),
        f"{part}: a tensor too few": change_weights(part, without_first),
        f"{part}: a tensor too many": change_weights(part, lambda tensors: tensors | {"more": torch.zeros(2)}),
        f"{part}: another shape": change_weights(part, first(lambda tensor: torch.zeros(7, 3, 2))),
        f"{part}: no tensors": change_weights(part, lambda tensors: {}),
        f"{part}: whole numbers": change_weights(part, first(lambda tensor: tensor.to(torch.int8))),
        f"{part}: an index that is a list": write(f"{part}/{WEIGHTS}.index.json", b"[]"),
        f"{part}: an index without a map": write(f"{part}/{WEIGHTS}.index.json", b"{}"),
        f"{part}: a link to itself as weights": link_to_itself(f"{part}/{WEIGHTS}"),
    }


for part, other in zip(PARTS, PARTS[1:] + PARTS[:1], strict=True):
    DAMAGES |= {
        f"{part}: weights of the {other}": copy_file(f"{other}/{WEIGHTS}", f"{part}/{WEIGHTS}"),
        f"{part}: configuration of the {other}": copy_file(f"{other}/config.json", f"{part}/config.json"),
    }
DAMAGES |= {
    "vae and transformer changed over": change_over("vae", "transformer"),
    "an index with null for a component": set_field("model_index.json", vae=None),
    "an index with three names for a component": set_field("model_index.json", scheduler=["a", "b", "c"]),
    "settings of 0 steps": set_field("model_index.json", num_inference_steps=0),
    "settings of NaN": set_field("model_index.json", guidance_scale=float("nan")),
    "settings of windows without a length": set_field("model_index.json", window_in_s=[0.0]),
    "a window longer than the model's": set_field("model_index.json", window_in_s=[1e9]),
    "a scheduler of another class": set_field(SCHEDULER, _class_name="EulerDiscreteScheduler"),
    "a scheduler of an order in words": set_field(SCHEDULER, solver_order="two"),
    "a scheduler of no algorithm": set_field(SCHEDULER, algorithm_type="guess"),
    "a tokenizer's configuration that is a list": write("tokenizer/tokenizer_config.json", b"[]"),
    "no tokenizer": remove("tokenizer"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_not_opened(saved, tmp_path, damage):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    damage(folder)
    refused(lambda: LongFormMusicPipeline.from_pretrained(folder))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_missing_weights_are_named_as_they_should_be_called(saved, tmp_path, part, variant):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    (folder / part / WEIGHTS).unlink()
    model_class = type(getattr(LongFormMusicPipeline.from_pretrained(saved), part))
    name = WEIGHTS if variant is None else "diffusion_pytorch_model.fp16.safetensors"
    message = refused(lambda: model_class.from_pretrained(folder, subfolder=part, variant=variant), part, name)
    assert ".bin" not in message


CLAP_DAMAGES = {
    "nowhere": (lambda folder: shutil.rmtree(folder), "does not exist"),
    "no weights": (remove("model.safetensors"), "model.safetensors"),
    "no configuration": (remove("config.json"), ""),
    "another model": (set_field("config.json", model_type="bert"), "is a bert, not a ClapModel"),
    "a tensor too few": (
        lambda folder: save_file(without_first(load_file(folder / "model.safetensors")), folder / "model.safetensors"),
        "lacks weights of a ClapModel: audio_model",
    ),
}


@pytest.mark.parametrize("damage, message", CLAP_DAMAGES.values(), ids=CLAP_DAMAGES)
def test_a_damaged_clap_is_not_opened(clap, tmp_path, damage, message):
    folder = tmp_path / "clap"
    shutil.copytree(clap, folder)
    damage(folder)
    for load in (ClapTextEncoder.from_clap, ClapEmbedder.from_pretrained, load_text_encoder):
        refused(lambda load=load: load(folder), message)


def test_a_tokenizer_with_more_tokens_than_the_text_encoder_is_refused(clap, tmp_path):
    folder = tmp_path / "clap"
    shutil.copytree(clap, folder)
    tokenizer = AutoTokenizer.from_pretrained(clap)
    tokenizer.add_tokens([f"word {number}" for number in range(100)])
    tokenizer.save_pretrained(folder)
    refused(lambda: load_text_encoder(folder), "tokens, the text encoder takes 300")


def test_a_tokenizer_that_knows_no_token(saved, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    Tokenizer(WordLevel({}, unk_token="<unk>")).save(str(folder / "tokenizer" / "tokenizer.json"))
    pipe = LongFormMusicPipeline.from_pretrained(folder)
    refused(lambda: pipe.encode_prompt("calm"), "The tokenizer fails: WordLevel error")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_make_no_music(saved, tmp_path, part, value):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    name = {"vae": "decoder.conv1.bias", "transformer": "proj_out.weight"}.get(part)

    def spoil(tensors: dict) -> dict:
        chosen = name if name in tensors else max(tensors, key=lambda key: tensors[key].numel())
        return tensors | {chosen: torch.full_like(tensors[chosen], value)}

    change_weights(part, spoil)(folder)

    def generate():
        pipe = LongFormMusicPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        pipe("Genre: Rock", num_inference_steps=2, guidance_scale=3.0)

    refused(generate, "finite")


UNUSABLE = {
    "a solver of order 77": set_field(SCHEDULER, solver_order=77),
    "noise levels of text": set_field(SCHEDULER, sigma_min="low"),
    "noise levels that fall": set_field(SCHEDULER, sigma_min=600.0, sigma_max=500.0),
    "an infinite noise level": set_field(SCHEDULER, sigma_max=float("inf")),
    "a negative noise level": set_field(SCHEDULER, sigma_min=-1.0),
    "a scheduler of another prediction": set_field(SCHEDULER, prediction_type="epsilon"),
    "no padding token": set_field("tokenizer/tokenizer_config.json", pad_token=None),
    "a tokenizer's length in words": set_field("tokenizer/tokenizer_config.json", model_max_length="long"),
    "a tokenizer without settings": write("tokenizer/tokenizer_config.json", b"{}"),
    "a tokenizer of another vocabulary": lambda folder: Tokenizer(
        WordLevel({f"word {number}": number for number in range(9999)}, "word 9998")
    ).save(str(folder / "tokenizer/tokenizer.json")),
}


@pytest.mark.parametrize("damage", UNUSABLE.values(), ids=UNUSABLE)
def test_what_opens_but_cannot_be_used_makes_no_music(saved, tmp_path, damage):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    damage(folder)
    refused(lambda: LongFormMusicPipeline.from_pretrained(folder)("Genre: Rock", num_inference_steps=2))


LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
QUERY = "transformer.transformer_blocks.0.attn1.to_q"


def matrices(down: torch.Tensor, up: torch.Tensor, layer: str = QUERY, **more: torch.Tensor) -> dict:
    """The tensors of an adapter of one layer."""
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, **more}


def adapter(tensors: dict, name: str = LORA_WEIGHTS) -> Callable[[Path], None]:
    """Writes tensors."""
    return lambda folder: save_file(tensors, folder / name)


def of_peft(configuration: str | None) -> Callable[[Path], None]:
    """Writes an adapter as peft does, with this configuration."""

    def make(folder: Path) -> None:
        layer = QUERY.replace("transformer.", "base_model.model.", 1)
        save_file(matrices(DOWN, UP, layer), folder / "adapter_model.safetensors")
        if configuration is not None:
            (folder / "adapter_config.json").write_text(configuration)

    return make


DOWN, UP = torch.zeros(2, WIDTH), torch.zeros(WIDTH, 2)
ADAPTERS = {
    "nothing": lambda folder: None,
    "text": write(LORA_WEIGHTS, b"no weights"),
    "an empty file": write(LORA_WEIGHTS, b""),
    "a pickle": lambda folder: torch.save(matrices(DOWN, UP), folder / "pytorch_lora_weights.bin"),
    "a pickle with the name of safetensors": lambda folder: torch.save(matrices(DOWN, UP), folder / LORA_WEIGHTS),
    "no tensors": adapter({}),
    "other names": adapter({"unet.x": torch.zeros(2)}),
    "weights of a transformer": adapter({"transformer.proj_out.weight": torch.zeros(2, 2)}),
    "an adapter of a text encoder": adapter(matrices(DOWN, UP, "text_encoder.encoder.layer.0.attention.self.query")),
    "an adapter of an image model": adapter(matrices(DOWN, UP, "unet.down_blocks.0.attentions.0.to_q")),
    "a matrix without its other half": adapter({f"{QUERY}.lora_B.weight": UP}),
    "matrices of another width": adapter(matrices(torch.zeros(2, 999), torch.zeros(999, 2))),
    "matrices of two ranks": adapter(matrices(DOWN, torch.zeros(WIDTH, 3))),
    "matrices of rank 0": adapter(matrices(DOWN[:0], UP[:, :0].contiguous())),
    "matrices of integers": adapter(matrices(DOWN.long(), UP.long())),
    "matrices of NaN": adapter(matrices(DOWN / 0, UP)),
    "vectors": adapter(matrices(DOWN[0].clone(), UP[:, 0].contiguous())),
    "a layer that is not there": adapter(matrices(DOWN, UP, "transformer.transformer_blocks.77.attn1.to_q")),
    "a weight besides": adapter(matrices(DOWN, UP, **{f"{QUERY}.weight": torch.zeros(2)})),
    "two adapters": lambda folder: [save_file(matrices(DOWN, UP), folder / f"{name}.safetensors") for name in "ab"],
    "metadata that are a list": lambda folder: save_file(
        matrices(DOWN, UP), folder / LORA_WEIGHTS, {"lora_adapter_metadata": "[]"}
    ),
    "peft's without a configuration": of_peft(None),
    "peft's with an empty configuration": of_peft(""),
    "peft's with a configuration that is a list": of_peft("[]"),
    "peft's with a rank of 0": of_peft('{"r": 0}'),
    "peft's with another rank": of_peft('{"r": 3, "lora_alpha": 2, "target_modules": ["to_q"]}'),
    "peft's with a rank of text": of_peft('{"r": "x", "lora_alpha": 1, "target_modules": ["to_q"]}'),
}


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters(saved, tmp_path, make):
    make(tmp_path)
    pipe = LongFormMusicPipeline.from_pretrained(saved)
    refused(lambda: pipe.load_lora_weights(tmp_path))


def make_latents(folder: Path) -> None:
    """Latents of one track."""
    row = {
        "key": "a",
        "latent_length": 40,
        "duration_in_s": 1.0,
        "split": "train",
        "weight": 1.0,
        "metadata": {"title": "A"},
    }
    row["metadata"] = {"genre": "Rock"}
    posterior = {"mean": torch.zeros(4, 40).half(), "std": torch.ones(4, 40).half()}
    rows = write_shard(folder, [row], [posterior])
    (folder / INDEX_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / INFO_FILE).write_text(json.dumps({"latent_rate": 40.0, "hop_length": 200, "encoder_sha256": "x"}))
    save_file({"mean": torch.zeros(4, 1).half(), "std": torch.ones(4, 1).half()}, folder / "silence.safetensors")


LATENTS = {
    "no index": remove(INDEX_FILE),
    "an empty index": write(INDEX_FILE, b""),
    "an index that is no JSON": write(INDEX_FILE, b"{"),
    "an index of numbers": write(INDEX_FILE, b"5\n"),
    "an index without lengths": write(INDEX_FILE, b'{"key": "a"}\n'),
    "no note of the autoencoder": remove(INFO_FILE),
    "a note that is no JSON": write(INFO_FILE, b"{"),
    "a note that is a list": write(INFO_FILE, b"[]"),
    "a note without a rate": write(INFO_FILE, b"{}"),
    "a rate of 0": set_field(INFO_FILE, latent_rate=0),
    "a rate of text": set_field(INFO_FILE, latent_rate="fast"),
    "no silence": remove("silence.safetensors"),
    "silence that is cut": cut("silence.safetensors", -4),
    "silence that is text": write("silence.safetensors", b"quiet"),
}


@pytest.mark.parametrize("damage", LATENTS.values(), ids=LATENTS)
def test_damaged_latents(tmp_path, damage):
    make_latents(tmp_path)
    assert LatentWindows(tmp_path, "train", 16, 512.0, 0).take(1)
    damage(tmp_path)
    refused(lambda: LatentWindows(tmp_path, "train", 16, 512.0, 0).take(1))
