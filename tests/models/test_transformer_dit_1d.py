import copy
import math

import in_processes
import pytest
import torch
from common import (
    assert_all_equal,
    check_determinism,
    check_gradient_checkpointing,
    check_half_precision,
    check_save_load,
    randomize_weights,
    relative_error,
    run,
)
from diffusers import FirstBlockCacheConfig, StableAudioDiTModel
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.utils import is_flash_attn_available, is_sageattention_available
from launch import call_in_processes

from stable_longform.models.dit_attention import DiTAttention, apply_rotary, rotary_table
from stable_longform.models.transformer_dit_1d import DiTTransformer1D, FourierFeatures

TINY = {
    "sample_size": 20,
    "in_channels": 6,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_attention_heads": 2,
    "out_channels": 6,
    "cross_attention_dim": 10,
    "time_proj_dim": 14,
    "global_states_input_dim": 18,
    "cross_attention_input_dim": 9,
}


def build(std: float = 0.2, **changes) -> DiTTransformer1D:
    """A tiny model whose weights are all random."""
    torch.manual_seed(0)
    return randomize_weights(DiTTransformer1D(**(TINY | changes)), std=std).eval()


def make_inputs(batch_size: int = 2, length: int = 12, num_tokens: int = 5) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(batch_size, 6, length, generator=generator),
        "timestep": torch.rand(batch_size, generator=generator),
        "encoder_hidden_states": torch.randn(batch_size, num_tokens, 9, generator=generator),
        "global_hidden_states": torch.randn(batch_size, 1, 18, generator=generator),
    }


@pytest.fixture
def model():
    return build()


@pytest.fixture
def inputs():
    return make_inputs()


def test_default_size():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DiTTransformer1D().parameters()) == 1_056_828_544


def test_fresh_model_only_projects(inputs):
    torch.manual_seed(0)
    model = DiTTransformer1D(**TINY)
    expected = model.proj_out(model.proj_in(inputs["hidden_states"].transpose(1, 2))).transpose(1, 2)
    torch.testing.assert_close(model(**inputs).sample, expected)


def test_time_frequencies_start_as_standard_normal():
    torch.manual_seed(0)
    weight = FourierFeatures(20_000).weight.detach()
    assert abs(weight.mean()) < 0.05 and abs(weight.std() - 1) < 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_attention_heads": 1},
        {"num_key_value_attention_heads": 4},
        {"attention_head_dim": 12, "num_attention_heads": 3, "num_key_value_attention_heads": 3, "out_channels": 5},
    ],
)
def test_equals_diffusers_with_the_same_weights(inputs, changes):
    torch.manual_seed(0)
    config = TINY | changes
    reference = randomize_weights(StableAudioDiTModel(**config), std=0.2).eval()
    ours = DiTTransformer1D(**config, norm_bias=True).eval()
    assert set(ours.state_dict()) == set(reference.state_dict())
    ours.load_state_dict(reference.state_dict(), strict=True)
    rotary = get_1d_rotary_pos_embed(
        config["attention_head_dim"] // 2, 1 + 12, use_real=True, repeat_interleave_real=False
    )
    expected = reference(**inputs, rotary_embedding=rotary).sample
    assert relative_error(ours(**inputs).sample, expected) < 1e-5


def test_without_norm_bias_equals_norm_bias_of_zero(model, inputs):
    with_bias = DiTTransformer1D(**TINY, norm_bias=True)
    missing, unexpected = with_bias.load_state_dict(model.state_dict(), strict=False)
    assert unexpected == []
    assert len(missing) == 9 and all(".norm" in name and name.endswith(".bias") for name in missing)
    torch.testing.assert_close(with_bias(**inputs).sample, model(**inputs).sample)


def test_opens_a_folder_saved_by_diffusers(inputs, tmp_path):
    torch.manual_seed(0)
    reference = randomize_weights(StableAudioDiTModel(**TINY), std=0.2).eval()
    reference.save_pretrained(tmp_path)
    ours = DiTTransformer1D.from_pretrained(tmp_path, norm_bias=True)
    rotary = get_1d_rotary_pos_embed(4, 1 + 12, use_real=True, repeat_interleave_real=False)
    assert relative_error(ours(**inputs).sample, reference(**inputs, rotary_embedding=rotary).sample) < 1e-5


def test_batch_items_do_not_meet(model, inputs):
    together = model(**inputs).sample
    for index in range(2):
        alone = model(**{name: value[index : index + 1] for name, value in inputs.items()}).sample
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-5)


def test_every_input_matters(model, inputs):
    expected = model(**inputs).sample
    for name, value in inputs.items():
        assert relative_error(model(**(inputs | {name: value * 0.5})).sample, expected) > 1e-3


def test_zero_text_switches_cross_attention_off(inputs):
    """P11. No layer between the text and the cross-attention's output has a bias."""
    model = build()
    inputs["encoder_hidden_states"] = torch.zeros(2, 5, 9)
    expected = model(**inputs).sample
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    assert torch.equal(model(**inputs).sample, expected)


@torch.no_grad()
def test_items_without_text_are_those_with_zeros(model, inputs):
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    whole = inputs | {
        "encoder_hidden_states": inputs["encoder_hidden_states"] * torch.tensor([0.0, 1.0])[:, None, None]
    }
    rows = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"][1:]}
    expected = model(**whole, encoder_attention_mask=mask).sample
    torch.testing.assert_close(model(**rows, encoder_attention_mask=mask[1:]).sample, expected)
    zeros = inputs | {"encoder_hidden_states": torch.zeros_like(inputs["encoder_hidden_states"])}
    assert torch.equal(model(**inputs | {"encoder_hidden_states": None}).sample, model(**zeros).sample)
    with torch.enable_grad():
        torch.testing.assert_close(model(**rows, encoder_attention_mask=mask[1:]).sample, expected)


@torch.no_grad()
@pytest.mark.parametrize("is_fused", [False, True])
def test_what_does_not_change_may_be_computed_once(model, inputs, is_fused):
    if is_fused:
        model.fuse_qkv_projections()
    expected = model(**inputs).sample
    projected = model.project_context(inputs["encoder_hidden_states"])
    assert [tuple(part.shape) for part in projected[0]] == [(2, 5, 4, 8)] * 2
    timing = model.project_global(inputs["global_hidden_states"])
    assert timing.shape == (2, 1, 32)
    calls = []
    for part in (model.cross_attention_proj, model.global_proj):
        part.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(model(**inputs, projected_context=projected, projected_global=timing).sample, expected)
    assert not calls


# Masks


def test_encoder_mask_is_cutting_the_tokens_off(model, inputs):
    mask = torch.tensor([[True, True, True, False, False], [False, True, True, True, True]])
    masked = model(**inputs, encoder_attention_mask=mask).sample
    for index in range(2):
        item = {name: value[index : index + 1] for name, value in inputs.items()}
        item["encoder_hidden_states"] = item["encoder_hidden_states"][:, mask[index]]
        torch.testing.assert_close(masked[index], model(**item).sample[0], rtol=1e-4, atol=1e-5)
    assert relative_error(masked, model(**inputs).sample) > 1e-3


@pytest.mark.parametrize("backend", ["native", "_native_math", "flex"])
@pytest.mark.parametrize(("patch_size", "lengths"), [(1, (13, 6, 1)), (4, (20, 11, 5))])
def test_masks_are_cutting_off_in_every_backend(patch_size, lengths, backend):
    """T3. Items of different, odd lengths; where a patch is cut through, its other frames are zeros."""
    model = build(patch_size=patch_size)
    inputs = make_inputs(batch_size=3, length=max(lengths))
    num_tokens = (5, 3, 1)
    masks = {
        "attention_mask": torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
        "encoder_attention_mask": torch.arange(5) < torch.tensor(num_tokens)[:, None],
    }
    expected = []
    for index, length in enumerate(lengths):
        item = {name: value[index : index + 1] for name, value in inputs.items()}
        item["hidden_states"] = torch.nn.functional.pad(item["hidden_states"][..., :length], (0, -length % patch_size))
        item["encoder_hidden_states"] = item["encoder_hidden_states"][:, : num_tokens[index]]
        expected.append(model(**item).sample[0, :, :length])
    with attention_backend(backend), torch.no_grad():
        masked = model(**inputs, **masks).sample
    for index, length in enumerate(lengths):
        torch.testing.assert_close(masked[index, :, :length], expected[index], rtol=1e-4, atol=1e-5)
    assert relative_error(model(**inputs).sample, masked) > 1e-3


@pytest.mark.parametrize("patch_size", [1, 2])
def test_masked_content_does_not_matter(inputs, patch_size):
    model = build(patch_size=patch_size)
    mask = torch.arange(12).expand(2, -1) < 8
    mask = mask & (torch.arange(12) != 3)  # cuts through a patch
    expected = model(**inputs, attention_mask=mask).sample.where(mask[:, None], 0)
    inputs["hidden_states"] = inputs["hidden_states"].where(mask[:, None], 1e3)
    assert torch.equal(model(**inputs, attention_mask=mask).sample.where(mask[:, None], 0), expected)


def test_masks_of_ones_change_nothing(model, inputs):
    masks = {"attention_mask": torch.ones(2, 12).bool(), "encoder_attention_mask": torch.ones(2, 5).bool()}
    torch.testing.assert_close(model(**inputs, **masks).sample, model(**inputs).sample, rtol=1e-4, atol=1e-5)


# Patches


@torch.no_grad()
def test_normalised_queries_and_keys_have_no_scale(inputs):
    """Both attentions give the same however large their queries and keys are; without the norm they do not."""
    for qk_norm in ("layer_norm", None):
        model = build(qk_norm=qk_norm)
        (before,) = run(model, inputs)
        for block in model.transformer_blocks:
            for attention in (block.attn1, block.attn2):
                attention.to_q.weight *= 30
                attention.to_k.weight *= 10
        error = relative_error(run(model, inputs)[0], before)
        assert error < 1e-3 if qk_norm else error > 1e-3


def test_patches_keep_the_order_of_frames_and_channels(inputs):
    """With identity projections a fresh model is the identity, scaled as the patch's (channel, frame) order says."""
    model = DiTTransformer1D(**TINY, patch_size=2)
    scales = torch.arange(1.0, 13.0)  # channel 0 frame 0, channel 0 frame 1, channel 1 frame 0 ...
    with torch.no_grad():
        model.proj_in.weight.copy_(torch.eye(32, 12))
        model.proj_out.weight.copy_(torch.diag(scales) @ torch.eye(12, 32))
    expected = inputs["hidden_states"].unflatten(-1, (6, 2)) * scales.view(6, 1, 2)
    torch.testing.assert_close(model(**inputs).sample, expected.flatten(2))


# Positions


def test_rotary_depends_on_distance_only():
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float32)
    cos, sin = rotary_table(50, 16)

    def product(query_position, key_position):
        rotated_query = apply_rotary(query, (cos[query_position, None], sin[query_position, None]))
        rotated_key = apply_rotary(key, (cos[key_position, None], sin[key_position, None]))
        return (rotated_query * rotated_key).sum()

    torch.testing.assert_close(product(7, 3), product(49, 45), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product(11, 11), (query * key).sum(), rtol=1e-4, atol=1e-4)
    assert (product(7, 3) - product(8, 3)).abs() > 1e-3


def test_rotary_turns_the_first_half_of_every_head():
    hidden_states = torch.randn(2, 9, 3, 16)
    rotated = apply_rotary(hidden_states, rotary_table(9, 8))
    assert torch.equal(rotated[..., 8:], hidden_states[..., 8:])
    assert torch.equal(rotated[:, 0], hidden_states[:, 0])
    pairs, rotated_pairs = (torch.complex(x[..., :4], x[..., 4:8]) for x in (hidden_states, rotated))
    angles = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])  # 10000^(-2i/8)
    torch.testing.assert_close(rotated_pairs, pairs * torch.polar(torch.ones(9, 4), angles)[:, None])


@torch.no_grad()
def test_rotary_of_6144_positions_is_as_good_in_bfloat16_as_in_float32():
    """The table stays in float32, so that the last position is as exact as the first: only the result is rounded."""
    sizes = {"num_layers": 1, "num_attention_heads": 1, "num_key_value_attention_heads": 1, "attention_head_dim": 32}
    model = build(sample_size=6144, **sizes).to(torch.bfloat16)
    tables, block = [], model.transformer_blocks[0]
    block.attn1.register_forward_pre_hook(lambda *args: tables.append(args[2]["rotary_embedding"]), with_kwargs=True)
    model(**{name: x if name == "timestep" else x.bfloat16() for name, x in make_inputs(1, 6144).items()})
    frequencies = 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    angles = torch.arange(6145, dtype=torch.float64)[:, None] * frequencies
    for part, exact in zip(tables[0], (angles.cos(), angles.sin()), strict=True):
        assert part.dtype == torch.float32 and (part - exact).abs().max() < 4e-4  # 6144 rounds to 2.4e-4 in float32
    query = torch.randn(1, 6145, 2, 32).bfloat16()
    assert torch.equal(apply_rotary(query, tables[0]), apply_rotary(query.float(), tables[0]).bfloat16())


def test_rotary_table_is_made_once_and_not_saved(model, inputs):
    """P13. And on the device where it is used."""
    model(**inputs)
    table = model._rotary_embedding(13, torch.device("cpu"))
    model(**inputs)
    assert model._rotary_embedding(13, torch.device("cpu")) is table
    assert model._rotary_embedding(9, torch.device("cpu"))[0].shape == (9, 2)
    assert not any("rotary" in name for name in model.state_dict())
    assert table[0].dtype == torch.float32


def test_training_after_generation(model, inputs):
    with torch.inference_mode():
        model(**inputs)
    model(**inputs).sample.sum().backward()
    assert model.transformer_blocks[0].attn1.to_q.weight.grad.abs().sum() > 0


# Time


def test_fourier_features_closed_form():
    features = FourierFeatures(6)
    timestep = torch.tensor([0.0, 0.3, 1.0])
    angles = 2 * math.pi * timestep.double()[:, None] * features.weight.double()
    expected = torch.cat([angles.cos(), angles.sin()], dim=-1)
    torch.testing.assert_close(features(timestep).double(), expected, rtol=1e-5, atol=1e-5)
    assert features.weight.requires_grad


@pytest.mark.parametrize("how", ["to", "from_pretrained", "autocast"])
def test_time_is_not_rounded(inputs, tmp_path, how):
    """T1. In bfloat16, 0.9985 and 0.9995 would both be 1."""
    model = build()
    if how == "to":
        model = model.to(torch.bfloat16)
    elif how == "from_pretrained":
        model.save_pretrained(tmp_path)
        model = DiTTransformer1D.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    received = []
    model.timestep_proj.register_forward_pre_hook(lambda module, args: received.append(args[0]))
    inputs = {name: value.to(model.dtype) for name, value in inputs.items()}
    inputs["timestep"] = torch.tensor([0.9985, 0.9995])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        model(**inputs)
    angles = 2 * math.pi * inputs["timestep"].double()[:, None] * model.time_proj.weight.double()
    expected = torch.cat([angles.cos(), angles.sin()], dim=-1)
    assert received[0].dtype == model.dtype
    tolerance = 1e-5 if how == "autocast" else 2**-8
    torch.testing.assert_close(received[0].double(), expected, rtol=0, atol=tolerance)
    assert not torch.equal(received[0][0], received[0][1])


# Input errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": torch.zeros(2, 5, 12)}, r"in_channels=6, L\), got shape \(2, 5, 12\)"),
        ({"hidden_states": torch.zeros(6, 12)}, r"got shape \(6, 12\)"),
        ({"hidden_states": torch.zeros(2, 6, 22)}, r"\[2, 20\] frames and a multiple of patch_size=2, got 22"),
        ({"hidden_states": torch.zeros(2, 6, 11)}, "got 11"),
        ({"hidden_states": torch.zeros(2, 6, 0)}, "got 0"),
        ({"timestep": torch.tensor(0.5)}, r"timestep must be .* shape \(2,\) .* got shape \(\)"),
        ({"timestep": torch.rand(3)}, r"got shape \(3,\)"),
        ({"timestep": torch.tensor([999, 1])}, "torch.int64"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 10)}, r"cross_attention_input_dim=9\), got shape \(2, 5, 10\)"),
        ({"encoder_hidden_states": torch.zeros(3, 5, 9)}, r"at most 2, .* got shape \(3, 5, 9\)"),
        ({"encoder_hidden_states": torch.zeros(0, 5, 9)}, r"got shape \(0, 5, 9\)"),
        ({"encoder_hidden_states": torch.zeros(2, 9)}, r"got shape \(2, 9\)"),
        ({"global_hidden_states": torch.zeros(2, 18)}, r"global_states_input_dim=18\), got shape \(2, 18\)"),
        ({"global_hidden_states": torch.zeros(2, 2, 18)}, r"got shape \(2, 2, 18\)"),
        ({"attention_mask": torch.ones(2, 12)}, "attention_mask must be a boolean .* got dtype torch.float32"),
        ({"attention_mask": torch.ones(2, 13).bool()}, r"shape \(2, 12\), got dtype torch.bool and shape \(2, 13\)"),
        ({"encoder_attention_mask": torch.ones(2, 5).long()}, "encoder_attention_mask .* got dtype torch.int64"),
        ({"encoder_attention_mask": torch.ones(5).bool()}, r"shape \(5,\)"),
    ],
)
def test_rejects(inputs, change, message):
    """T3, among others."""
    model = build(patch_size=2)
    with pytest.raises(ValueError, match=message):
        model(**(inputs | change))


@pytest.mark.parametrize(
    "change",
    [
        {"attention_head_dim": 6},
        {"num_key_value_attention_heads": 3},
        {"time_proj_dim": 7},
        {"patch_size": 0},
        {"qk_norm": "rms_norm"},
        {"sample_size": 21, "patch_size": 2},
    ],
)
def test_rejects_config(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        DiTTransformer1D(**(TINY | change))


# diffusers' machinery


@pytest.mark.parametrize("backend", ["native", "_native_math", "_native_flash", "flex"])
def test_attention_backend(model, inputs, backend):
    """T4."""
    expected = model(**inputs).sample
    with attention_backend("native"), torch.no_grad():  # `set_attention_backend` changes all other models too
        model.set_attention_backend(backend)
        attentions = [module for module in model.modules() if isinstance(module, DiTAttention)]
        assert len(attentions) == 6
        assert all(attention.processor._attention_backend == backend for attention in attentions)
        torch.testing.assert_close(model(**inputs).sample, expected, rtol=1e-4, atol=1e-5)


def test_backends_that_cannot_mask_or_are_not_there_are_refused(model, inputs):
    mask = torch.ones(2, 5, dtype=torch.bool)
    with attention_backend("_native_flash"), pytest.raises(ValueError, match="`attn_mask` is not supported"):
        model(**inputs, encoder_attention_mask=mask)
    with pytest.raises(ValueError, match="must be one of the following"):
        model.set_attention_backend("fast")
    if not is_flash_attn_available():
        with pytest.raises(RuntimeError, match="Please install `flash-attn"):
            model.set_attention_backend("flash_varlen")
    if not is_sageattention_available():
        with pytest.raises(RuntimeError, match="Please install `sageattention"):
            model.set_attention_backend("sage")


@pytest.mark.parametrize("qk_norm", [None, "layer_norm"])
def test_fused_projections_change_nothing(inputs, qk_norm):
    model = build(qk_norm=qk_norm)
    inputs["encoder_attention_mask"] = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected, keys = run(model, inputs), list(model.state_dict())
    model.fuse_qkv_projections()
    calls = []
    for attention in (module for module in model.modules() if isinstance(module, DiTAttention)):
        fused = attention.to_kv if attention.is_cross_attention else attention.to_qkv
        fused.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(run(model, inputs)[0], expected[0], rtol=1e-5, atol=1e-5)
    assert len(calls) == 6
    model.unfuse_qkv_projections()
    assert list(model.state_dict()) == keys
    assert_all_equal(run(model, inputs), expected)


def test_first_block_cache(model, inputs):
    """A second call with the same inputs is answered by the first block and the remembered rest."""
    expected = model(**inputs).sample
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    calls = []
    model.transformer_blocks[1].attn1.register_forward_hook(lambda *_: calls.append(1))
    with model.cache_context("test"), torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(model(**inputs).sample, expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1
    model.disable_cache()


def test_lora(model, inputs):
    peft = pytest.importorskip("peft")
    expected = model(**inputs).sample
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    torch.testing.assert_close(model(**inputs).sample, expected)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 3 * 2 * 2 * 2 and all("lora" in name for name in trainable)


def test_layerwise_casting(model, inputs):
    """Linear weights stored in eight bits give the output of weights rounded to eight bits; the others are kept."""
    rounded = copy.deepcopy(model)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert model.transformer_blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    for kept in (model.time_proj, model.proj_in, model.proj_out, model.transformer_blocks[0].norm1):
        assert kept.weight.dtype == torch.float32
    rounded.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    with torch.no_grad():
        assert_all_equal(run(model, inputs), run(rounded, inputs))


def test_gradients_reach_every_weight(model, inputs):
    model(**inputs).sample.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_compiles_to_one_graph(model, inputs):
    inputs["encoder_attention_mask"] = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        expected = model(**inputs).sample
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for _ in range(2):
            torch.testing.assert_close(compiled(**inputs).sample, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_model_checks(inputs, tmp_path, patch_size):
    model = build(patch_size=patch_size)
    inputs["attention_mask"] = torch.arange(12).expand(2, -1) < 9
    inputs["encoder_attention_mask"] = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    check_save_load(model, inputs, tmp_path)
    check_determinism(model, inputs)
    check_half_precision(model, inputs, tolerance=0.05, keep_float32=("timestep",))
    check_gradient_checkpointing(model, inputs)


def test_context_parallelism_equals_one_process():
    call_in_processes(2, in_processes.share_a_sequence, build, make_inputs)
