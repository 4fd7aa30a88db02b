"""Checkpoints, adapters and latents that are damaged, each in its own way: the file or the component is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny_pipeline import tiny_pipeline

from stable_longform.data.latents import INDEX_FILE, INFO_FILE, LatentWindows, write_shard
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline

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
    }


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_not_opened(saved, tmp_path, damage):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    damage(folder)
    refused(lambda: LongFormMusicPipeline.from_pretrained(folder))


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


ADAPTERS = {
    "nothing": lambda folder: None,
    "text": lambda folder: (folder / "pytorch_lora_weights.safetensors").write_bytes(b"no weights"),
    "no tensors": lambda folder: save_file({}, folder / "pytorch_lora_weights.safetensors"),
    "other names": lambda folder: save_file({"unet.x": torch.zeros(2)}, folder / "pytorch_lora_weights.safetensors"),
    "a matrix without its other half": lambda folder: save_file(
        {"transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.zeros(8, 2)},
        folder / "pytorch_lora_weights.safetensors",
    ),
    "matrices of another width": lambda folder: save_file(
        {
            "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 999),
            "transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.zeros(999, 2),
        },
        folder / "pytorch_lora_weights.safetensors",
    ),
    "a layer that is not there": lambda folder: save_file(
        {
            "transformer.transformer_blocks.77.attn1.to_q.lora_A.weight": torch.zeros(2, 8),
            "transformer.transformer_blocks.77.attn1.to_q.lora_B.weight": torch.zeros(8, 2),
        },
        folder / "pytorch_lora_weights.safetensors",
    ),
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
