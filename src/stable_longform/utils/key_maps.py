"""The same weights under two names: stable-audio-tools' state dicts and ours, which are diffusers'.

A list of rules says which tensor of theirs holds the numbers of which of ours, and in which shape. It is used in both
directions and is complete: every tensor of either side is in one rule, or is a constant that the architecture implies.

Contents: `Rule`; `autoencoder_rules`, `transformer_rules`, `timing_rules`; `transformer_constants`; `to_ours` and
`to_theirs`. Nothing here knows models or files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

ROTARY_BASE = 10000.0
CONSTANT_TOLERANCE = 5e-3  # relative; checkpoints may hold them in half precision


@dataclass(frozen=True)
class Rule:
    """One tensor of theirs and those of ours that hold its numbers.

    Args:
        theirs: its key.
        ours: our keys; the tensors of several are stacked along the first dimension in theirs.
        shape: "same", or how a single tensor lies in theirs: "flat" `(C,)` for our `(1, C, 1)`, "column" `(C, 1)`
            for our `(C,)`.
    """

    theirs: str
    ours: tuple[str, ...]
    shape: str = "same"

    def shape_of_theirs(self, shapes: Mapping[str, torch.Size]) -> torch.Size:
        """The shape of their tensor, given the shapes of ours."""
        first = shapes[self.ours[0]]
        if self.shape == "flat":
            return torch.Size([first.numel()])
        if self.shape == "column":
            return torch.Size([*first, 1])
        return torch.Size([sum(shapes[key][0] for key in self.ours), *first[1:]]) if first else first


def _rules(theirs: str, ours: str, names: Iterable[str], shape: str = "same") -> list[Rule]:
    """Rules for parameters of the same names in two modules."""
    return [Rule(f"{theirs}.{name}", (f"{ours}.{name}",), shape) for name in names]


def _conv(theirs: str, ours: str, bias: bool = True) -> list[Rule]:
    """A convolution with weight norm."""
    return _rules(theirs, ours, ("weight_g", "weight_v", "bias") if bias else ("weight_g", "weight_v"))


def _snake(theirs: str, ours: str) -> list[Rule]:
    """A Snake activation."""
    return _rules(theirs, ours, ("alpha", "beta"), "flat")


def _residual_units(theirs: str, ours: str, first: int) -> list[Rule]:
    """The three residual units of a block, which start at layer `first`."""
    rules = []
    for unit in range(3):
        source, target = f"{theirs}.layers.{first + unit}.layers", f"{ours}.res_unit{unit + 1}"
        rules += _snake(f"{source}.0", f"{target}.snake1") + _conv(f"{source}.1", f"{target}.conv1")
        rules += _snake(f"{source}.2", f"{target}.snake2") + _conv(f"{source}.3", f"{target}.conv2")
    return rules


def autoencoder_rules(num_blocks: int, prefix: str = "") -> list[Rule]:
    """Rules for `AutoencoderOobleck` of `num_blocks` strides; `prefix` is what stands before "encoder." in theirs."""
    encoder, decoder = f"{prefix}encoder.layers", f"{prefix}decoder.layers"
    rules = _conv(f"{encoder}.0", "encoder.conv1") + _conv(f"{decoder}.0", "decoder.conv1")
    for block in range(num_blocks):
        source, target = f"{encoder}.{block + 1}", f"encoder.block.{block}"
        rules += _residual_units(source, target, first=0)
        rules += _snake(f"{source}.layers.3", f"{target}.snake1") + _conv(f"{source}.layers.4", f"{target}.conv1")
        source, target = f"{decoder}.{block + 1}", f"decoder.block.{block}"
        rules += _snake(f"{source}.layers.0", f"{target}.snake1") + _conv(f"{source}.layers.1", f"{target}.conv_t1")
        rules += _residual_units(source, target, first=2)
    for part, source, bias in (("encoder", encoder, True), ("decoder", decoder, False)):
        rules += _snake(f"{source}.{num_blocks + 1}", f"{part}.snake1")
        rules += _conv(f"{source}.{num_blocks + 2}", f"{part}.conv2", bias)
    return rules


def transformer_rules(num_layers: int, norm_bias: bool, prefix: str = "") -> list[Rule]:
    """Rules for `DiTTransformer1D`; `prefix` is what stands before "timestep_features." in theirs."""
    rules = [Rule(f"{prefix}timestep_features.weight", ("time_proj.weight",), "column")]
    for layer in ("0", "2"):
        names = ("weight", "bias")
        rules += _rules(f"{prefix}to_timestep_embed.{layer}", f"timestep_proj.{layer}", names)
        rules += _rules(f"{prefix}to_global_embed.{layer}", f"global_proj.{layer}", names[:1])
        rules += _rules(f"{prefix}to_cond_embed.{layer}", f"cross_attention_proj.{layer}", names[:1])
    for source, target in (
        ("preprocess_conv", "preprocess_conv"),
        ("postprocess_conv", "postprocess_conv"),
        ("transformer.project_in", "proj_in"),
        ("transformer.project_out", "proj_out"),
    ):
        rules += _rules(f"{prefix}{source}", target, ("weight",))
    for layer in range(num_layers):
        source, target = f"{prefix}transformer.layers.{layer}", f"transformer_blocks.{layer}"
        for i, norm in enumerate(("pre_norm", "cross_attend_norm", "ff_norm"), start=1):
            rules.append(Rule(f"{source}.{norm}.gamma", (f"{target}.norm{i}.weight",)))
            if norm_bias:
                rules.append(Rule(f"{source}.{norm}.beta", (f"{target}.norm{i}.bias",)))
        query, key, value = (f"{target}.attn1.to_{name}.weight" for name in "qkv")
        rules.append(Rule(f"{source}.self_attn.to_qkv.weight", (query, key, value)))
        query, key, value = (f"{target}.attn2.to_{name}.weight" for name in "qkv")
        rules.append(Rule(f"{source}.cross_attn.to_q.weight", (query,)))
        rules.append(Rule(f"{source}.cross_attn.to_kv.weight", (key, value)))
        for attention, ours in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            rules += _rules(f"{source}.{attention}.to_out", f"{target}.{ours}.to_out.0", ("weight",))
        rules += _rules(f"{source}.ff.ff.0.proj", f"{target}.ff.net.0.proj", ("weight", "bias"))
        rules += _rules(f"{source}.ff.ff.2", f"{target}.ff.net.2", ("weight", "bias"))
    return rules


def timing_rules(names: Mapping[str, str], text_id: str | None = None, prefix: str = "") -> list[Rule]:
    """Rules for `TimingConditioner`.

    Args:
        names: their conditioner's id for each of ours, such as {"end_number_conditioner": "seconds_total"}.
        text_id: the id of their text conditioner if it has a projection.
        prefix: what stands before these ids in theirs.
    """
    rules = []
    for ours, theirs in names.items():
        source, target = f"{prefix}{theirs}.embedder.embedding", f"{ours}.time_positional_embedding"
        rules += _rules(source, target, ("0.weights", "1.weight", "1.bias"))
    if text_id is not None:
        rules += _rules(f"{prefix}{text_id}.proj_out", "text_projection", ("weight", "bias"))
    return rules


def transformer_constants(
    num_layers: int, inner_dim: int, head_dim: int, norm_bias: bool, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Tensors of their transformer that hold nothing learned: rotary frequencies, and zeros for absent norm biases."""
    exponents = torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2)
    constants = {f"{prefix}transformer.rotary_pos_emb.inv_freq": 1.0 / ROTARY_BASE**exponents}
    if not norm_bias:
        for layer in range(num_layers):
            for norm in ("pre_norm", "cross_attend_norm", "ff_norm"):
                constants[f"{prefix}transformer.layers.{layer}.{norm}.beta"] = torch.zeros(inner_dim)
    return constants


def to_ours(
    rules: Sequence[Rule], theirs: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Translates their tensors to ours.

    Args:
        rules: which is which.
        theirs: their state dict; keys of no rule are left alone.
        shapes: of all our tensors.

    Returns:
        Our state dict, and a description of each tensor that is missing or has another shape.
    """
    ours, problems = {}, []
    for rule in rules:
        expected = rule.shape_of_theirs(shapes)
        if rule.theirs not in theirs:
            problems.append(f"missing {rule.theirs}")
        elif theirs[rule.theirs].shape != expected:
            found = tuple(theirs[rule.theirs].shape)
            problems.append(f"{rule.theirs} has shape {found} and not {tuple(expected)}")
        elif len(rule.ours) == 1:
            ours[rule.ours[0]] = theirs[rule.theirs].reshape(shapes[rule.ours[0]])
        else:
            parts = theirs[rule.theirs].split([shapes[key][0] for key in rule.ours])
            ours |= {key: part.contiguous() for key, part in zip(rule.ours, parts, strict=True)}
    return ours, problems


def to_theirs(rules: Sequence[Rule], ours: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translates our state dict to theirs, without their constants."""
    shapes = {key: tensor.shape for key, tensor in ours.items()}
    theirs = {}
    for rule in rules:
        parts = [ours[key] for key in rule.ours]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        theirs[rule.theirs] = tensor.reshape(rule.shape_of_theirs(shapes)).contiguous()
    return theirs


def check_constants(constants: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    """Describes the constants that are in their state dict with other values; those that are absent don't matter."""
    problems = []
    for key, expected in constants.items():
        if key in theirs:
            found = theirs[key].float()
            is_same = found.shape == expected.shape and torch.allclose(found, expected, CONSTANT_TOLERANCE, 1e-7)
            problems += [] if is_same else [f"{key} holds values that our architecture does not have"]
    return problems
