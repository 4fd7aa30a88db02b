"""Adapters in training: which layers get one, and what is refused."""

import pytest
from peft.tuners.lora import Linear
from tiny_pipeline import tiny_pipeline

from stable_longform.training_utils.adapters import add_adapter


@pytest.mark.parametrize(
    ("target", "is_adapted"),
    [
        ("proj_out", lambda name: name == "proj_out"),  # a layer of the transformer itself
        ("to_q", lambda name: name.endswith(".to_q")),
        ("net.2", lambda name: name.endswith(".ff.net.2")),
        ("attn1.to_q", lambda name: name.endswith(".attn1.to_q")),
    ],
)
def test_a_target_names_all_layers_whose_names_end_in_it(target, is_adapted):
    transformer = tiny_pipeline().transformer
    expected = {name for name, _ in transformer.named_modules() if is_adapted(name)}
    add_adapter(transformer, 2, 2.0, [target])
    assert {name for name, module in transformer.named_modules() if isinstance(module, Linear)} == expected != set()


@pytest.mark.parametrize("target", ["q", "_out", "norm1", ""])
def test_other_ends_are_refused(target):
    transformer = tiny_pipeline().transformer
    with pytest.raises(ValueError, match=f"no linear layer whose name ends in '{target}'"):
        add_adapter(transformer, 2, 2.0, ["to_q", target])
