"""Quantization configs of diffusers: torchao on the CPU where it is installed, bitsandbytes up to its own check."""

import pytest
import torch
from common import relative_error
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig
from diffusers.utils import is_bitsandbytes_available
from tiny_pipeline import generate, tiny_pipeline

from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantization") / "checkpoint"
    tiny_pipeline().save_pretrained(folder)
    return folder


def sound(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return generate(pipe, output_type="latent")


@pytest.mark.parametrize(("name", "step"), [("Int8WeightOnlyConfig", 1 / 254), ("Float8WeightOnlyConfig", 1 / 16)])
def test_torchao_weights(checkpoint, tmp_path, name, step):
    """Weights are off by half a step of their row's largest, or of themselves in float8; saved, they stay the same."""
    torchao = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(getattr(torchao, name)())
    whole = tiny_pipeline().transformer
    quantized = DiTTransformer1D.from_pretrained(
        checkpoint / "transformer", quantization_config=config, torch_dtype=torch.bfloat16
    )
    original = whole.transformer_blocks[0].attn1.to_q.weight
    stored = quantized.transformer_blocks[0].attn1.to_q.weight
    assert type(stored) is not torch.nn.Parameter
    error = (stored.dequantize().float() - original).abs()
    assert (error <= (step + 2**-8) * original.abs().amax(dim=1, keepdim=True)).all() and error.max() > 0
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint, transformer=quantized)
    half = LongFormMusicPipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16)
    assert relative_error(sound(pipe), sound(half)) < 0.4
    quantized.save_pretrained(tmp_path)
    expected, pipe.transformer = sound(pipe), DiTTransformer1D.from_pretrained(tmp_path)
    assert torch.equal(sound(pipe), expected)


def test_torchao_for_a_component_of_the_pipeline(checkpoint):
    torchao = pytest.importorskip("torchao.quantization")
    mapping = {"transformer": TorchAoConfig(torchao.Int8WeightOnlyConfig())}
    pipe = LongFormMusicPipeline.from_pretrained(
        checkpoint, quantization_config=PipelineQuantizationConfig(quant_mapping=mapping), torch_dtype=torch.bfloat16
    )
    assert isinstance(pipe.transformer.proj_in.weight, torchao.Int8Tensor)
    assert type(pipe.text_encoder.text_model.encoder.layer[0].output.dense.weight) is torch.nn.Parameter
    assert sound(pipe).isfinite().all()


@pytest.mark.skipif(is_bitsandbytes_available(), reason="bitsandbytes is installed")
def test_bitsandbytes_reaches_diffusers_own_check(checkpoint):
    config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises((ImportError, RuntimeError), match="bitsandbytes|No GPU found"):
        DiTTransformer1D.from_pretrained(checkpoint / "transformer", quantization_config=config)
    mapping = PipelineQuantizationConfig(quant_mapping={"transformer": config})
    with pytest.raises((ImportError, RuntimeError), match="bitsandbytes|No GPU found"):
        LongFormMusicPipeline.from_pretrained(checkpoint, quantization_config=mapping)
