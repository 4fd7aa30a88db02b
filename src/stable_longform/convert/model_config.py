"""Translates between stable-audio-tools' `model_config.json` and our configurations, in both directions.

Every field of the sections that describe a network is read. If a field is unknown, or describes something that our
architecture does not support, a ValueError names its path in the file. Fields that only matter for training or memory
are ignored.

Contents: `ModelConfig`, `DiffusionModelConfig`, `read_model_config` and `write_model_config`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.stable_audio_tools_keys import NUMBER_CONDITIONERS
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.noise_schedule import FLOW_PREDICTION, V_PREDICTION

NUM_FOURIER_FEATURES = 256  # of the time and of each number; their configuration cannot change it
MIN_ROTARY_DIM = 32  # their transformer rotates half of each head's channels, but at least this many
CLAP_WIDTH = 768  # of RoBERTa base, the only text encoder of their CLAP conditioner
T5_WIDTHS = {"t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024}
T5_WIDTHS |= {"google/flan-t5-small": 512, "google/flan-t5-base": 768, "google/flan-t5-large": 1024}
T5_WIDTHS |= {"google/flan-t5-xl": 2048, "google/flan-t5-xxl": 4096}
# Their objectives, and what the transformer predicts for each; "rf_denoiser" is distilled rectified flow.
OBJECTIVES = {"v": V_PREDICTION, "rectified_flow": FLOW_PREDICTION, "rf_denoiser": FLOW_PREDICTION}
QK_NORMS = {"none": None, "ln": "layer_norm"}
REQUIRED = object()


@dataclass(frozen=True)
class ModelConfig:
    """The content of an autoencoder's `model_config.json`, as arguments of our classes.

    Args:
        autoencoder: of `AutoencoderOobleck`.
    """

    autoencoder: dict


@dataclass(frozen=True)
class DiffusionModelConfig(ModelConfig):
    """The same of a diffusion model.

    Args:
        transformer: of `DiTTransformer1D`.
        timing: of `TimingConditioner`.
        text: "id", "type" ("t5" or "clap_text") and the settings of the text conditioner.
        objective: one of `OBJECTIVES`.
    """

    transformer: dict
    timing: dict
    text: dict
    objective: str


class JsonObject:
    """A JSON object that records which of its fields were read.

    Args:
        fields: the object.
        path: its path in the file.
    """

    def __init__(self, fields, path: str = ""):
        if not isinstance(fields, Mapping):
            raise ValueError(f"{path or 'The configuration'} must be an object, got {fields!r}.")
        self._fields, self._path = dict(fields), path
        self._read: set[str] = set()

    def path(self, name: str) -> str:
        """The full name of a field."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str, default=REQUIRED):
        """The field's value. If the field is missing, the default, or a ValueError without a default."""
        self._read.add(name)
        value = self._fields.get(name, default)
        if value is REQUIRED:
            raise ValueError(f"{self.path(name)} is missing.")
        return value

    def count(self, name: str, default=REQUIRED) -> int:
        """The field's value, a positive integer."""
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{self.path(name)} must be a positive integer, got {value!r}.")
        return value

    def counts(self, name: str, default=REQUIRED) -> list[int]:
        """The field's value, a list of positive integers."""
        value = self.take(name, default)
        if not isinstance(value, list) or not value or not all(type(entry) is int and entry > 0 for entry in value):
            raise ValueError(f"{self.path(name)} must be a list of positive integers, got {value!r}.")
        return value

    def section(self, name: str, default=REQUIRED) -> "JsonObject":
        """The field's value as a section."""
        return JsonObject(self.take(name, default), self.path(name))

    def require(self, name: str, *accepted, default=REQUIRED) -> None:
        """Raises a ValueError unless the field has one of the accepted values."""
        value = self.take(name, default)
        if value not in accepted:
            choices = " or ".join(repr(choice) for choice in accepted)
            raise ValueError(f"{self.path(name)} is {value!r}; it can only be represented if it is {choices}.")

    def ignore(self, *names: str) -> None:
        """Marks fields as read that do not affect a network's results."""
        self._read.update(names)

    def finish(self) -> None:
        """Raises a ValueError if a field was never read."""
        unknown = [self.path(name) for name in self._fields if name not in self._read]
        if unknown:
            raise ValueError(f"Unknown fields, which may change what the model computes: {', '.join(unknown)}.")


def read_model_config(config: Mapping) -> ModelConfig:
    """Reads a `model_config.json` of an Oobleck autoencoder or of a conditional diffusion transformer.

    Raises:
        ValueError: a field is missing, unknown, or cannot be represented; the message names it.
    """
    top = JsonObject(config)
    top.require("model_type", "autoencoder", "diffusion_cond")
    top.ignore("training", "dataset", "audio_channels", "name", "description")
    sampling_rate, window = top.count("sample_rate"), top.count("sample_size")
    model = top.section("model")
    top.finish()
    if config["model_type"] == "autoencoder":
        return ModelConfig(_read_autoencoder(model, sampling_rate))
    pretransform = model.section("pretransform")
    pretransform.require("type", "autoencoder")
    pretransform.require("scale", 1.0, default=1.0)
    pretransform.ignore("iterate_batch", "model_half", "chunked", "enable_grad")  # memory and precision only
    autoencoder = _read_autoencoder(pretransform.section("config"), sampling_rate)
    pretransform.finish()
    hop_length = math.prod(autoencoder["downsampling_ratios"])
    if window % hop_length:
        raise ValueError(f"sample_size must be a multiple of the autoencoder's {hop_length}, got {window}.")
    timing, text = _read_conditioning(model.section("conditioning"))
    latent_channels = autoencoder["decoder_input_channels"]
    model.require("io_channels", latent_channels)
    diffusion = model.section("diffusion")
    diffusion.require("diffusion_objective", *OBJECTIVES, default="v")
    transformer = _read_diffusion(diffusion, timing, text, latent_channels)
    model.finish()
    objective = diffusion.take("diffusion_objective", "v")
    return DiffusionModelConfig(
        autoencoder, transformer | {"sample_size": window // hop_length}, timing, text, objective
    )


def _read_autoencoder(model: JsonObject, sampling_rate: int) -> dict:
    """Arguments of `AutoencoderOobleck`."""
    latent_channels, audio_channels = model.count("latent_dim"), model.count("io_channels")
    for name in ("in_channels", "out_channels"):
        model.require(name, None, audio_channels, default=None)
    model.require("pretransform", None, default=None)
    bottleneck = model.section("bottleneck")
    bottleneck.require("type", "vae")
    bottleneck.ignore("requires_grad", "config")
    bottleneck.finish()
    parts = {}
    for name, channels, width in (("encoder", "in_channels", 2 * latent_channels), ("decoder", "out_channels", None)):
        part = model.section(name)
        part.require("type", "oobleck")
        part.ignore("requires_grad")
        part.require("soft_clip", False, default=False)
        fields = part.section("config")
        part.finish()
        fields.require(channels, audio_channels, default=2)
        fields.require("latent_dim", width or latent_channels, default=32)
        fields.require("use_snake", True, default=False)
        fields.require("antialias_activation", False, default=False)
        if name == "decoder":
            fields.require("use_nearest_upsample", False, default=False)
            fields.require("final_tanh", False, default=True)
        strides = fields.counts("strides", [2, 4, 8, 8])
        if any(stride % 2 for stride in strides):
            raise ValueError(f"{fields.path('strides')} must be even (odd ones lose samples), got {strides}.")
        parts[name] = fields.count("channels", 128), fields.counts("c_mults", [1, 2, 4, 8]), strides
        fields.finish()
    if parts["encoder"][1:] != parts["decoder"][1:]:
        raise ValueError(f"{model.path('decoder')}.config must have the c_mults and strides of the encoder.")
    model.require("downsampling_ratio", math.prod(strides))
    model.finish()
    return {
        "encoder_hidden_size": parts["encoder"][0],
        "decoder_channels": parts["decoder"][0],
        "channel_multiples": parts["encoder"][1],
        "downsampling_ratios": strides,
        "decoder_input_channels": latent_channels,
        "audio_channels": audio_channels,
        "sampling_rate": sampling_rate,
    }


def _read_conditioning(conditioning: JsonObject) -> tuple[dict, dict]:
    """Arguments of `TimingConditioner`, and the settings of the text conditioner."""
    width = conditioning.count("cond_dim")
    for name, empty in (("default_keys", {}), ("pre_encoded_keys", [])):
        conditioning.require(name, empty, default=empty)
    ranges, text = {}, None
    for i, entry in enumerate(conditioning.take("configs")):
        conditioner = JsonObject(entry, f"{conditioning.path('configs')}[{i}]")
        name, kind = conditioner.take("id"), conditioner.take("type")
        fields = conditioner.section("config", {})
        conditioner.finish()
        if kind == "number" and name in NUMBER_CONDITIONERS:
            ranges[name] = fields.take("min_val", 0), fields.take("max_val", 1)
        elif kind in ("t5", "clap_text") and text is None:
            text = {"id": name, "type": kind} | _read_text(kind, fields)
        else:
            raise ValueError(
                f"{conditioner.path('id')} {name!r} of type {kind!r} cannot be represented: there may be one text "
                f"(t5 or clap_text), and the numbers {' and '.join(NUMBER_CONDITIONERS)}."
            )
        fields.require("project_out", False, default=False)
        fields.finish()
    conditioning.finish()
    path = conditioning.path("configs")
    if text is None or "seconds_total" not in ranges:
        raise ValueError(f"{path} must hold a text conditioner and the number seconds_total.")
    if len(set(ranges.values())) > 1:
        raise ValueError(f"{path}: seconds_start and seconds_total must have the same range, got {ranges}.")
    low, high = ranges["seconds_total"]
    timing = {"conditioning_dim": width, "min_value": low, "max_value": high, "internal_dim": NUM_FOURIER_FEATURES}
    return timing | {"use_seconds_start": "seconds_start" in ranges, "text_encoder_dim": text["width"]}, text


def _read_text(kind: str, fields: JsonObject) -> dict:
    """The width of a text conditioner and the settings that its encoder needs."""
    if kind == "t5":
        fields.require("enable_grad", False, default=False)  # else its weights would be in the checkpoint
        fields.require("t5_model_name", *T5_WIDTHS, default="t5-base")
        name = fields.take("t5_model_name", "t5-base")
        return {"name": name, "width": T5_WIDTHS[name], "max_length": fields.take("max_length", 128)}
    fields.require("use_text_features", True, default=False)
    fields.require("finetune", False, default=False)  # else its weights would be in the checkpoint
    fields.ignore("audio_model_type", "enable_fusion")
    layer, path = fields.take("feature_layer_ix", -1), fields.take("clap_ckpt_path", None)
    return {"width": CLAP_WIDTH, "feature_layer": layer, "path": path, "max_length": 77}


def _read_diffusion(diffusion: JsonObject, timing: dict, text: dict, latent_channels: int) -> dict:
    """Arguments of `DiTTransformer1D` except the window."""
    diffusion.require("type", "dit")
    numbers = ["seconds_start", "seconds_total"][0 if timing["use_seconds_start"] else 1 :]
    diffusion.require("cross_attention_cond_ids", [text["id"], *numbers], default=[])
    diffusion.require("global_cond_ids", numbers, default=[])
    diffusion.ignore("distribution_shift_options")  # of rectified flow only
    for name in ("input_concat_ids", "prepend_cond_ids"):
        diffusion.require(name, [], default=[])
    fields = diffusion.section("config")
    diffusion.finish()
    attention = _require_plain_transformer(fields)
    inner_dim, num_heads = fields.count("embed_dim", 768), fields.count("num_heads", 8)
    head_dim = inner_dim // num_heads
    if head_dim < 2 * MIN_ROTARY_DIM or head_dim % 4 or inner_dim % num_heads:
        raise ValueError(
            f"{fields.path('embed_dim')} / num_heads must be a multiple of 4 and at least {2 * MIN_ROTARY_DIM}, since "
            f"our transformer rotates half of each head's channels; got {inner_dim} / {num_heads}."
        )
    width = timing["conditioning_dim"]
    fields.require("io_channels", latent_channels, default=32)
    fields.require("cond_token_dim", width, default=0)
    fields.require("global_cond_dim", len(numbers) * width, default=0)
    if not fields.take("project_global_cond", True) and len(numbers) * width != inner_dim:
        raise ValueError(f"{fields.path('project_global_cond')} must be true unless global_cond_dim is embed_dim.")
    context_dim = inner_dim if fields.take("project_cond_tokens", True) else width
    if context_dim % head_dim:
        raise ValueError(f"{fields.path('cond_token_dim')} must be a multiple of {head_dim} channels a head.")
    norm = fields.section("norm_kwargs", {})
    norm.require("eps", 1e-5, default=1e-5)
    norm.ignore("fix_scale", "force_fp32")
    transformer = {
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "num_layers": fields.count("depth", 12),
        "attention_head_dim": head_dim,
        "num_attention_heads": num_heads,
        "num_key_value_attention_heads": context_dim // head_dim,
        "cross_attention_dim": context_dim,
        "cross_attention_input_dim": width,
        "global_states_input_dim": len(numbers) * width,
        "time_proj_dim": NUM_FOURIER_FEATURES,
        "patch_size": fields.count("patch_size", 1),
        "norm_bias": norm.take("bias", False),
        "qk_norm": QK_NORMS[attention.take("qk_norm", "none")],
    }
    norm.finish()
    fields.finish()
    return transformer


def _require_plain_transformer(fields: JsonObject) -> JsonObject:
    """Raises a ValueError if the transformer has parts that ours does not have; returns "attn_kwargs"."""
    fields.ignore("zero_init_branch_outputs", "abs_pos_emb_max_length")
    required: dict[str, Any] = {"transformer_type": "continuous_transformer", "global_cond_type": "prepend"}
    required |= {"timestep_cond_type": "global", "timestep_embed_dim": None, "diffusion_objective": "v"}
    required |= {"input_concat_dim": 0, "prepend_cond_dim": 0, "rotary_pos_emb": True, "final_cross_attn_ix": -1}
    required |= {"num_memory_tokens": 0, "sliding_window": None}
    absent = ("causal", "conformer", "use_sinusoidal_emb", "use_abs_pos_emb", "remove_norms", "add_rope")
    for name, value in (required | dict.fromkeys((*absent, "layer_scale"), False)).items():
        fields.require(name, value, default=value)
    attention = fields.section("attn_kwargs", {})
    attention.require("qk_norm", *QK_NORMS, default="none")
    for name in ("differential", "feat_scale", "causal"):
        attention.require(name, False, default=False)
    feed_forward = fields.section("ff_kwargs", {})
    for name, value in {"mult": 4, "no_bias": False, "glu": True, "use_conv": False}.items():
        feed_forward.require(name, value, default=value)
    for section in (attention, feed_forward):
        section.ignore("zero_init_output", "conv_kernel_size")
        section.finish()
    return attention


def write_model_config(
    vae: AutoencoderOobleck,
    transformer: DiTTransformer1D,
    timing_conditioner: TimingConditioner,
    text: dict,
    objective: str = "v",
) -> dict:
    """The `model_config.json` of a pipeline's components.

    Args:
        vae: the autoencoder.
        transformer: the transformer.
        timing_conditioner: the timing conditioner.
        text: the text conditioner's "type" and "config" in their terms, and "width", the width of its features.
        objective: one of `OBJECTIVES`.

    Raises:
        ValueError: their configuration cannot express a field of ours; the message names it.
    """
    config, timing = transformer.config, timing_conditioner.config
    width, head_dim = timing.conditioning_dim, config.attention_head_dim
    inner_dim = config.num_attention_heads * head_dim
    numbers = list(NUMBER_CONDITIONERS)[0 if timing.use_seconds_start else 1 :]
    checks = {
        "transformer.time_proj_dim": (config.time_proj_dim, NUM_FOURIER_FEATURES),
        "timing_conditioner.internal_dim": (timing.internal_dim, NUM_FOURIER_FEATURES),
        "timing_conditioner.text_encoder_dim": (timing.text_encoder_dim or width, text["width"]),
        "transformer.out_channels": (config.out_channels, config.in_channels),
        "transformer.in_channels": (config.in_channels, vae.config.decoder_input_channels),
        "transformer.cross_attention_input_dim": (config.cross_attention_input_dim, width),
        "transformer.global_states_input_dim": (config.global_states_input_dim, len(numbers) * width),
        "transformer.num_key_value_attention_heads": (
            config.num_key_value_attention_heads * head_dim,
            config.cross_attention_dim,
        ),
    }
    for name, (value, accepted) in checks.items():
        if value != accepted:
            raise ValueError(
                f"{name} cannot be represented: it amounts to {value} where only {accepted} can be represented."
            )
    if head_dim < 2 * MIN_ROTARY_DIM:
        raise ValueError(f"transformer.attention_head_dim must be at least {2 * MIN_ROTARY_DIM}, got {head_dim}.")
    if config.cross_attention_dim not in (width, inner_dim):
        raise ValueError(
            f"transformer.cross_attention_dim must be {width} or {inner_dim}: {config.cross_attention_dim}."
        )
    limits = {"min_val": timing.min_value, "max_val": timing.max_value}
    dit = {
        "io_channels": config.in_channels,
        "embed_dim": inner_dim,
        "depth": config.num_layers,
        "num_heads": config.num_attention_heads,
        "cond_token_dim": width,
        "global_cond_dim": len(numbers) * width,
        "project_cond_tokens": config.cross_attention_dim != width,
        "transformer_type": "continuous_transformer",
    }
    dit |= {"patch_size": config.patch_size} if config.patch_size > 1 else {}
    dit |= {"norm_kwargs": {"bias": True}} if config.norm_bias else {}
    dit |= {"attn_kwargs": {"qk_norm": "ln"}} if config.qk_norm else {}
    prompt = {"id": "prompt", "type": text["type"], "config": text["config"]}
    model = {
        "pretransform": {"type": "autoencoder", "iterate_batch": True, "config": _write_autoencoder(vae)},
        "conditioning": {
            "configs": [prompt, *({"id": name, "type": "number", "config": limits} for name in numbers)],
            "cond_dim": width,
        },
        "diffusion": {
            "cross_attention_cond_ids": ["prompt", *numbers],
            "global_cond_ids": numbers,
            **({} if objective == "v" else {"diffusion_objective": objective}),
            "type": "dit",
            "config": dit,
        },
        "io_channels": config.in_channels,
    }
    return {
        "model_type": "diffusion_cond",
        "sample_size": config.sample_size * vae.hop_length,
        "sample_rate": vae.config.sampling_rate,
        "audio_channels": vae.config.audio_channels,
        "model": model,
    }


def write_autoencoder_config(vae: AutoencoderOobleck) -> dict:
    """The `model_config.json` of an autoencoder alone."""
    return {
        "model_type": "autoencoder",
        "sample_size": 32 * vae.hop_length,
        "sample_rate": vae.config.sampling_rate,
        "audio_channels": vae.config.audio_channels,
        "model": _write_autoencoder(vae),
    }


def _write_autoencoder(vae: AutoencoderOobleck) -> dict:
    """The section of an autoencoder."""
    config = vae.config
    strides = list(config.downsampling_ratios)
    if any(stride % 2 for stride in strides):
        raise ValueError(f"vae.downsampling_ratios must be even (theirs lose samples at odd ones), got {strides}.")
    common = {"c_mults": list(config.channel_multiples), "strides": strides, "use_snake": True}
    latent_channels, audio_channels = config.decoder_input_channels, config.audio_channels
    encoder = {
        "in_channels": audio_channels,
        "channels": config.encoder_hidden_size,
        "latent_dim": 2 * latent_channels,
    }
    decoder = {"out_channels": audio_channels, "channels": config.decoder_channels, "latent_dim": latent_channels}
    return {
        "encoder": {"type": "oobleck", "config": encoder | common},
        "decoder": {"type": "oobleck", "config": decoder | common | {"final_tanh": False}},
        "bottleneck": {"type": "vae"},
        "latent_dim": latent_channels,
        "downsampling_ratio": vae.hop_length,
        "io_channels": audio_channels,
    }
