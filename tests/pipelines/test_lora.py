"""LoRA adapters: from a training through files and processes into the pipeline, and out of it again."""

import json
from pathlib import Path

import peft
import pytest
import torch
from common import assert_all_equal, relative_error
from launch import check_script
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipeline import generate, tiny_pipeline, tiny_transformer

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline

WEIGHTS = "pytorch_lora_weights.safetensors"
CONFIG = {"r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_v", "to_out.0"]}


@pytest.fixture
def pipe():
    return tiny_pipeline()


def randomize_adapter(transformer: torch.nn.Module, seed: int = 0, std: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.data = std * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def adapter(tmp_path):
    """A folder with an adapter whose weights are random, as `save_lora_weights` writes it."""
    return save_adapter(tmp_path / "adapter")


def save_adapter(folder: Path, seed: int = 0) -> Path:
    transformer = tiny_transformer()
    transformer.add_adapter(peft.LoraConfig(**CONFIG))
    randomize_adapter(transformer, seed)
    metadata = transformer.peft_config["default"].to_dict()
    LongFormMusicPipeline.save_lora_weights(
        folder, get_peft_model_state_dict(transformer), transformer_lora_adapter_metadata=metadata
    )
    return folder


def merged(adapter: Path, scale: float = 1.0) -> LongFormMusicPipeline:
    """The pipeline whose weights are W + scale · alpha / r · B A, computed here."""
    pipe = tiny_pipeline()
    tensors = load_file(adapter / WEIGHTS)
    for name, parameter in pipe.transformer.named_parameters():
        key = f"transformer.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in tensors:
            product = tensors[f"{key}B.weight"] @ tensors[f"{key}A.weight"]
            parameter.data += scale * CONFIG["lora_alpha"] / CONFIG["r"] * product
    return pipe


def sound(pipe) -> torch.Tensor:
    return generate(pipe, output_type="latent")


def test_loss_falls_while_the_base_stays():
    transformer = tiny_transformer()
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    transformer.add_adapter(peft.LoraConfig(**CONFIG))
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 4, 16, generator=generator),
        "timestep": torch.tensor([0.2, 0.7]),
        "encoder_hidden_states": torch.randn(2, 5, 16, generator=generator),
        "global_hidden_states": torch.randn(2, 1, 32, generator=generator),
    }
    target = torch.randn(2, 4, 16, generator=generator)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.mse_loss(transformer(**inputs).sample, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    after = {name.replace(".base_layer", ""): tensor for name, tensor in transformer.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_files_are_in_diffusers_format(adapter):
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        keys, metadata = set(file.keys()), json.loads(file.metadata()["lora_adapter_metadata"])
    assert len(keys) == 2 * 2 * 3 * 2  # blocks, attentions, targets, A and B
    assert "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight" in keys
    assert (metadata["transformer.r"], metadata["transformer.lora_alpha"]) == (2, 6)


def test_loaded_it_adds_the_scaled_product(pipe, adapter):
    base = sound(pipe)
    pipe.load_lora_weights(adapter, adapter_name="mine")
    assert pipe.get_active_adapters() == ["mine"] and pipe.get_list_adapters() == {"transformer": ["mine"]}
    assert relative_error(sound(pipe), sound(merged(adapter))) < 1e-4
    assert relative_error(sound(pipe), base) > 0.01


def test_unloaded_the_base_is_bit_identical(pipe, adapter):
    base, keys = sound(pipe), list(pipe.transformer.state_dict())
    pipe.load_lora_weights(adapter)
    assert not torch.equal(sound(pipe), base)
    pipe.disable_lora()
    assert torch.equal(sound(pipe), base)
    pipe.enable_lora()
    pipe.unload_lora_weights()
    assert torch.equal(sound(pipe), base) and list(pipe.transformer.state_dict()) == keys


def test_fused_and_unfused(pipe, adapter):
    base = sound(pipe)
    pipe.load_lora_weights(adapter)
    loaded = sound(pipe)
    pipe.fuse_lora()
    assert pipe.num_fused_loras == 1
    assert relative_error(sound(pipe), loaded) < 1e-4
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    assert relative_error(sound(pipe), loaded) < 1e-4
    pipe.unload_lora_weights()
    assert relative_error(sound(pipe), base) < 1e-4  # adding and subtracting rounds


def test_fused_and_unloaded_it_stays_and_can_be_saved(pipe, adapter, tmp_path):
    pipe.load_lora_weights(adapter)
    pipe.fuse_lora(lora_scale=0.5)
    pipe.unload_lora_weights()
    assert relative_error(sound(pipe), sound(merged(adapter, 0.5))) < 1e-4
    pipe.save_pretrained(tmp_path / "fused")
    loaded = LongFormMusicPipeline.from_pretrained(tmp_path / "fused")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(sound(loaded), sound(pipe))


def test_adapters_are_scaled_and_mixed(pipe, adapter, tmp_path):
    base = sound(pipe)
    pipe.load_lora_weights(adapter, adapter_name="first")
    pipe.load_lora_weights(save_adapter(tmp_path / "second", seed=1), adapter_name="second")
    pipe.set_adapters("first", 0.25)
    assert relative_error(sound(pipe), sound(merged(adapter, 0.25))) < 1e-4
    pipe.set_adapters(["first", "second"], [0.0, 0.0])
    assert relative_error(sound(pipe), base) < 1e-5
    pipe.set_adapters(["first", "second"], [1.0, 0.5])
    mixed = sound(pipe)
    pipe.delete_adapters("second")
    pipe.set_adapters("first")
    assert relative_error(sound(pipe), sound(merged(adapter))) < 1e-4
    assert relative_error(mixed, sound(pipe)) > 0.01


def test_a_fresh_process_hears_the_same(pipe, adapter, tmp_path):
    pipe.save_pretrained(tmp_path / "base")
    script = tmp_path / "hear.py"
    script.write_text(f"""
import torch
from stable_longform import LongFormMusicPipeline
pipe = LongFormMusicPipeline.from_pretrained({str(tmp_path / "base")!r})
pipe.load_lora_weights({str(adapter)!r})
latents = pipe("solo piano", num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="latent")
torch.save(latents.audios, {str(tmp_path / "latents.pt")!r})
""")
    check_script(script)
    pipe.load_lora_weights(adapter)
    torch.testing.assert_close(torch.load(tmp_path / "latents.pt"), sound(pipe), rtol=0, atol=0)


def test_reads_what_peft_and_a_single_model_write(pipe, adapter, tmp_path):
    """All three formats keep the scale alpha / r = 3, which the weights alone do not say."""
    expected = sound(merged(adapter))
    model = peft.get_peft_model(tiny_transformer(), peft.LoraConfig(**CONFIG))
    randomize_adapter(model)
    model.save_pretrained(tmp_path / "peft")
    single = tiny_transformer()
    single.add_adapter(peft.LoraConfig(**CONFIG))
    randomize_adapter(single)
    single.save_lora_adapter(tmp_path / "single")
    for source in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors", tmp_path / "single"):
        pipe.load_lora_weights(source)
        assert relative_error(sound(pipe), expected) < 1e-4
        pipe.unload_lora_weights()
    (tmp_path / "peft" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="no adapter_config.json beside it"):
        pipe.load_lora_weights(tmp_path / "peft" / "adapter_model.safetensors")


def test_refuses_what_would_be_ignored(pipe, adapter, tmp_path):
    tensors = load_file(adapter / WEIGHTS)
    deeper = {name.replace("blocks.1", "blocks.7"): tensor for name, tensor in tensors.items()}
    save_file(deeper, tmp_path / "deeper.safetensors")
    with pytest.raises(ValueError, match=r"which has no transformer_blocks\.7\.attn1"):
        pipe.load_lora_weights(tmp_path / "deeper.safetensors")
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        pipe.load_lora_weights(adapter)
    assert not hasattr(pipe.transformer, "peft_config")


def test_an_incomplete_adapter_is_refused(pipe, adapter, tmp_path):
    """peft would fill the gap with a random matrix."""
    tensors = load_file(adapter / WEIGHTS)
    base, name = sound(pipe), "transformer.transformer_blocks.1.attn2.to_v.lora_"
    for letter in "AB":
        part = {key: tensor for key, tensor in tensors.items() if not key.startswith(name + letter)}
        with pytest.raises(ValueError, match=rf"incomplete: it has no transformer_blocks\.1.*lora_{letter}\.weight"):
            pipe.load_lora_weights(part)
    changes = {"must have shape": lambda tensor: tensor[:, 1:], "not finite": lambda tensor: tensor / 0}
    for message, change in changes.items():
        with pytest.raises(ValueError, match=rf"{message}"):
            pipe.load_lora_weights(tensors | {name + "A.weight": change(tensors[name + "A.weight"])})
    assert torch.equal(sound(pipe), base) and not hasattr(pipe.transformer, "peft_config")


@pytest.mark.parametrize("separator", [".lora_", ".lora."])
def test_other_names_of_the_matrices_and_a_scale_for_each_module(pipe, adapter, separator):
    """Alpha over rank scales a module, here 6 / 2 everywhere, as in the metadata of the same adapter."""
    names = {".lora_A.": f"{separator}down.", ".lora_B.": f"{separator}up."}
    renamed = {}
    for key, tensor in load_file(adapter / WEIGHTS).items():
        module, _, matrix = key.removesuffix(".weight").partition(".lora_")
        renamed[f"{module}{names[f'.lora_{matrix}.']}weight"] = tensor
        renamed[f"{module}.alpha"] = torch.tensor(6.0)
    pipe.load_lora_weights(renamed)
    assert relative_error(sound(pipe), sound(merged(adapter))) < 1e-4
    pipe.unload_lora_weights()
    del renamed["transformer.transformer_blocks.0.attn1.to_q" + names[".lora_B."] + "weight"]
    with pytest.raises(ValueError, match=r"incomplete: transformer\.transformer_blocks\.0\.attn1\.to_q\.alpha has no"):
        pipe.load_lora_weights(renamed)


def test_two_scales_are_refused(pipe, adapter, tmp_path):
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(adapter / WEIGHTS) | {"transformer.transformer_blocks.0.attn1.to_q.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "both.safetensors", metadata)
    with pytest.raises(ValueError, match="two scales: `.alpha` of its modules, and that of its metadata"):
        pipe.load_lora_weights(tmp_path / "both.safetensors")


def test_what_was_unloaded_while_fused_cannot_be_taken_out_and_says_so(pipe, adapter, tmp_path):
    pipe.load_lora_weights(adapter, adapter_name="first")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = sound(pipe)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be removed from the weights: first. Load the model again"):
            pipe.unfuse_lora()
    pipe.load_lora_weights(save_adapter(tmp_path / "second", seed=1), adapter_name="second")
    pipe.fuse_lora()
    with pytest.raises(ValueError, match="cannot be removed from the weights: first"):
        pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert relative_error(sound(pipe), fused) < 1e-4  # the second is out


def test_fused_adapters_are_not_scaled_or_deleted_in_vain(pipe, adapter):
    pipe.load_lora_weights(adapter, adapter_name="mine")
    loaded = sound(pipe)
    pipe.fuse_lora(lora_scale=0.5)
    for change in (lambda: pipe.set_adapters("mine", 0.1), lambda: pipe.delete_adapters("mine")):
        with pytest.raises(ValueError, match=r"weights of mine, which are fused: call unfuse_lora\(\)"):
            change()
    pipe.unfuse_lora()
    assert relative_error(sound(pipe), loaded) < 1e-4  # with the scale that it had before
    pipe.set_adapters("mine", 0.1)
    pipe.delete_adapters("mine")
    assert relative_error(sound(pipe), sound(tiny_pipeline())) < 1e-4


def test_pickled_adapters_are_read_only_on_request(pipe, adapter, tmp_path):
    torch.save(load_file(adapter / WEIGHTS), tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(OSError):
        pipe.load_lora_weights(tmp_path)
    pipe.load_lora_weights(tmp_path, use_safetensors=False, weight_name="pytorch_lora_weights.bin")
    assert pipe.get_active_adapters() == ["default_0"]


def test_gradients_of_an_adapter_pass_checkpointing(adapter):
    transformer = tiny_transformer()
    transformer.load_lora_adapter(load_file(adapter / WEIGHTS), prefix="transformer")
    transformer.enable_gradient_checkpointing()
    transformer.train()
    inputs = (torch.randn(1, 4, 8), torch.rand(1), torch.randn(1, 3, 16), torch.randn(1, 1, 32))
    transformer(*inputs).sample.square().sum().backward()
    gradients = [parameter.grad for name, parameter in transformer.named_parameters() if "lora_A" in name]
    assert len(gradients) == 12 and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_pipeline_is_still_made_from_its_components(pipe, adapter):
    pipe.load_lora_weights(adapter)
    again = LongFormMusicPipeline.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    assert_all_equal([sound(again)], [sound(pipe)])
