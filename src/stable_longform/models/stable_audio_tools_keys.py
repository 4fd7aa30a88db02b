"""Maps the tensor names of stable-audio-tools to ours.

Our keys are diffusers'. Each function takes the configuration of our model and the prefix of the model's keys in
their checkpoint. The prefixes here are those of the checkpoint of a whole diffusion model.
"""

from collections.abc import Iterable, Mapping

import torch

from stable_longform.models.dit_attention import rotary_frequencies
from stable_longform.utils.key_maps import KeyMap, Rule

AUTOENCODER_PREFIX = "pretransform.model."
TRANSFORMER_PREFIX = "model.model."
CONDITIONER_PREFIX = "conditioner.conditioners."
NUMBER_CONDITIONERS = {"seconds_start": "start_number_conditioner", "seconds_total": "end_number_conditioner"}
NORMS = ("pre_norm", "cross_attend_norm", "ff_norm")  # the norms of a block, in the order of ours


def autoencoder_keys(config: Mapping, prefix: str = "") -> KeyMap:
    """The map for `AutoencoderOobleck`; the prefix precedes "encoder."."""
    num_blocks = len(config["downsampling_ratios"])
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
    return KeyMap(rules, {})


def transformer_keys(config: Mapping, prefix: str = "") -> KeyMap:
    """The map for `DiTTransformer1D`; the prefix precedes "timestep_features.".

    Their checkpoints also hold the rotary frequencies and norm biases. The biases are zero if our model has none.
    """
    constants = {f"{prefix}transformer.rotary_pos_emb.inv_freq": rotary_frequencies(config["attention_head_dim"] // 2)}
    inner_dim = config["num_attention_heads"] * config["attention_head_dim"]
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
    for number in range(config["num_layers"]):
        source, target = f"{prefix}transformer.layers.{number}", f"transformer_blocks.{number}"
        for i, norm in enumerate(NORMS, start=1):
            rules.append(Rule(f"{source}.{norm}.gamma", (f"{target}.norm{i}.weight",)))
            if config["norm_bias"]:
                rules.append(Rule(f"{source}.{norm}.beta", (f"{target}.norm{i}.bias",)))
            else:
                constants[f"{source}.{norm}.beta"] = torch.zeros(inner_dim)
        query, key, value = (f"{target}.attn1.to_{name}.weight" for name in "qkv")
        rules.append(Rule(f"{source}.self_attn.to_qkv.weight", (query, key, value)))
        query, key, value = (f"{target}.attn2.to_{name}.weight" for name in "qkv")
        rules.append(Rule(f"{source}.cross_attn.to_q.weight", (query,)))
        rules.append(Rule(f"{source}.cross_attn.to_kv.weight", (key, value)))
        for attention, ours in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            rules += _rules(f"{source}.{attention}.to_out", f"{target}.{ours}.to_out.0", ("weight",))
            for norm in ("q", "k") if config["qk_norm"] else ():
                names = ("weight", "bias")
                rules += _rules(f"{source}.{attention}.{norm}_norm", f"{target}.{ours}.norm_{norm}", names)
        rules += _rules(f"{source}.ff.ff.0.proj", f"{target}.ff.net.0.proj", ("weight", "bias"))
        rules += _rules(f"{source}.ff.ff.2", f"{target}.ff.net.2", ("weight", "bias"))
    return KeyMap(rules, constants)


def timing_keys(config: Mapping, text_id: str = "prompt", prefix: str = "") -> KeyMap:
    """The map for `TimingConditioner`; the prefix precedes the ids of their conditioners, `text_id` is the text's."""
    rules = []
    for theirs, ours in NUMBER_CONDITIONERS.items():
        if theirs == "seconds_start" and not config["use_seconds_start"]:
            continue
        source, target = f"{prefix}{theirs}.embedder.embedding", f"{ours}.time_positional_embedding"
        rules += _rules(source, target, ("0.weights", "1.weight", "1.bias"))
    if config["text_encoder_dim"] not in (None, config["conditioning_dim"]):
        rules += _rules(f"{prefix}{text_id}.proj_out", "text_projection", ("weight", "bias"))
    return KeyMap(rules, {})


def _rules(theirs: str, ours: str, names: Iterable[str], shape: str = "same") -> list[Rule]:
    """Rules for parameters that have the same names in both modules."""
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
