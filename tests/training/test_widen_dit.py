"""A widened transformer computes what the narrow one did, and all of its weights can learn."""

import runpy

import pytest
import torch
from launch import ROOT, check_script

from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D

WIDEN = runpy.run_path(ROOT / "training" / "widen_dit.py")["widen"]
NARROW = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_attention_heads": 2,
    "cross_attention_dim": 16,
    "cross_attention_input_dim": 8,
    "global_states_input_dim": 16,
    "time_proj_dim": 8,
    "patch_size": 2,
}
WIDE = NARROW | {"num_attention_heads": 6, "num_key_value_attention_heads": 3, "cross_attention_dim": 24}


def trained(options: dict, seed: int = 0) -> DiTTransformer1D:
    """A transformer all of whose weights matter."""
    torch.manual_seed(seed)
    model = DiTTransformer1D(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(3, 4, 32), torch.rand(3), torch.randn(3, 5, 8), torch.randn(3, 1, 16)


def centre(model: DiTTransformer1D) -> None:
    """Makes the mean of every token zero: then layer norms change nothing."""
    writers = [model.proj_in, model.global_proj[2], model.timestep_proj[2]]
    for block in model.transformer_blocks:
        writers += [block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]]
    with torch.no_grad():
        for writer in writers:
            writer.weight -= writer.weight.mean(dim=0)
            if writer.bias is not None:
                writer.bias -= writer.bias.mean()


@pytest.mark.parametrize("norms", [{}, {"norm_bias": True}, {"qk_norm": "layer_norm"}])
def test_the_function_stays_exactly_if_tokens_have_no_mean(norms):
    narrow = trained(NARROW | norms)
    centre(narrow)
    wide = DiTTransformer1D(**(WIDE | norms))
    for block in (*narrow.transformer_blocks, *wide.transformer_blocks):
        for norm in (block.norm1, block.norm2, block.norm3):
            norm.eps = 0.0  # it weighs more where zeros make the deviation smaller
    WIDEN(narrow, wide)
    with torch.no_grad():
        expected, result = narrow(*inputs()).sample, wide(*inputs()).sample
    assert torch.allclose(result, expected, atol=1e-5 * expected.abs().max(), rtol=1e-4)


def difference(wide: DiTTransformer1D, narrow: DiTTransformer1D) -> float:
    """Relative to what the narrow one computes."""
    with torch.no_grad():
        expected, result = narrow(*inputs()).sample, wide(*inputs()).sample
    return float((result - expected).norm() / expected.norm())


def test_the_function_almost_stays_in_any_case():
    narrow, wide = trained(NARROW), DiTTransformer1D(**WIDE)
    WIDEN(narrow, wide)
    assert difference(wide, narrow) < 0.4 < 0.9 < difference(trained(NARROW, seed=3), narrow)


def test_new_weights_learn():
    """After one step of gradient descent, there is a gradient for every weight."""
    wide = DiTTransformer1D(**WIDE)
    WIDEN(trained(NARROW), wide)
    optimizer = torch.optim.SGD(wide.parameters(), 1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        wide(*inputs()).sample.square().mean().backward()
        optimizer.step()
    for name, weight in wide.named_parameters():
        if weight.requires_grad:
            assert (weight.grad != 0).float().mean() > 0.9, name


def test_new_channels_weigh_as_much_as_old_ones():
    """Layer norms of ones become one value, so that the deviation of a token is the same in all of them."""
    narrow, wide = DiTTransformer1D(**NARROW), DiTTransformer1D(**WIDE)
    WIDEN(narrow, wide)
    for block in wide.transformer_blocks:
        for norm in (block.norm1, block.norm2, block.norm3):
            torch.testing.assert_close(norm.weight, torch.full((48,), (32 / 48) ** 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, "not num_layers from 2 to 3"),
        ({"num_attention_heads": 2, "num_key_value_attention_heads": 1}, "num_attention_heads must be at least 4"),
        ({"num_key_value_attention_heads": 2}, "must be 2 times num_key_value_attention_heads"),
    ],
)
def test_what_cannot_be_widened_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        WIDEN(DiTTransformer1D(**NARROW), DiTTransformer1D(**(WIDE | change)))


def test_the_script_writes_what_train_dit_reads(tmp_path):
    narrow, timing_conditioner = trained(NARROW), TimingConditioner(conditioning_dim=8)
    narrow.save_pretrained(tmp_path / "dit" / "transformer")
    timing_conditioner.save_pretrained(tmp_path / "dit" / "timing_conditioner")
    (tmp_path / "dit" / "stage.json").write_text('{"stage": "dit"}')
    check_script("widen_dit.py", "--dit", tmp_path / "dit", "--output_dir", tmp_path / "wide",
                 "--model.num_attention_heads", 6, "--model.num_key_value_attention_heads", 3)  # fmt: skip
    wide = DiTTransformer1D.from_pretrained(tmp_path / "wide", subfolder="transformer")
    assert (tmp_path / "wide" / "stage.json").read_text() == '{"stage": "dit"}'
    assert wide.proj_in.out_features == 48 and wide.config.cross_attention_dim == 16
    assert difference(wide, narrow) < 0.4
    same = TimingConditioner.from_pretrained(tmp_path / "wide", subfolder="timing_conditioner")
    for name, weight in same.state_dict().items():
        assert torch.equal(weight, timing_conditioner.state_dict()[name]), name
