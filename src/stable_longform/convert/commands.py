"""Whole conversions from files to a folder, for the commands `stable-longform convert` and `export`.

Contents: `convert_checkpoint`, `export_checkpoint`, `sampling_settings`. A folder appears under its name only when it
is complete.
"""

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableAudioPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, ClapModel, T5EncoderModel

from stable_longform.convert import verify as verification
from stable_longform.convert.laion_clap import from_laion_clap, is_laion_clap, text_branch_to_laion_clap
from stable_longform.convert.model_config import (
    CLAP_WIDTH,
    OBJECTIVES,
    T5_WIDTHS,
    DiffusionModelConfig,
    read_model_config,
    write_autoencoder_config,
    write_model_config,
)
from stable_longform.convert.stable_audio_pipeline import to_stable_audio_pipeline
from stable_longform.convert.stable_audio_tools import (
    autoencoder_from_stable_audio_tools,
    autoencoder_to_stable_audio_tools,
    from_stable_audio_tools,
    to_stable_audio_tools,
)
from stable_longform.convert.state_dict_files import read_state_dict, unwrap_training
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.noise_schedule import FLOW_PREDICTION
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler
from stable_longform.utils.files import atomic_folder, write_json
from stable_longform.utils.model_sources import load_whole

CONFIG_NAME, WEIGHTS_NAME, CLAP_NAME = "model_config.json", "model.safetensors", "clap.ckpt"
ROBERTA = "FacebookAI/roberta-base"  # whose tokenizer LAION-CLAP uses
T5_OWNER = "google-t5"  # the owner on the Hub of names without an owner
FORMATS = ("diffusers", "stable-audio-tools")
SIZES_OF_ROBERTA_BASE = (
    "vocab_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "max_length",
)
T5_SIZES = {(512, 6, 2048): "t5-small", (768, 12, 3072): "t5-base", (1024, 24, 4096): "t5-large"}


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    config: str | os.PathLike | None = None,
    text_encoder: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    use_ema: bool | None = None,
    allow_pickle: bool = False,
    verify: bool = False,
) -> dict[str, float]:
    """Converts a checkpoint of stable-audio-tools or LAION-CLAP to a folder for `from_pretrained`.

    Args:
        checkpoint: a `.safetensors` file or one of torch's, with a diffusion model, an autoencoder, a training
            checkpoint of either, or a LAION-CLAP model, which becomes a transformers `ClapModel`.
        output_dir: a folder that does not exist or is empty.
        config: the `model_config.json`; None: the one beside the checkpoint.
        text_encoder: for CLAP text a LAION-CLAP checkpoint, or the folder or Hub id of a `ClapModel`; for T5 a folder
            or Hub id, by default Google's with the name in the configuration.
        tokenizer: folder or Hub id; None: RoBERTa's, or T5's from the same source as the encoder.
        use_ema: take the moving average of the weights from a training checkpoint; None: if there is one.
        allow_pickle: open files that hold more than tensors. They can run any code: only for files that you trust.
        verify: also run the other tool on random inputs and compare.

    Returns:
        The largest relative difference by component, empty without `verify`.

    Raises:
        ValueError: the checkpoint cannot be converted; the message names the field of the configuration or all keys
            that don't fit.
        OSError: a file or Hub repository cannot be read.
    """
    checkpoint = Path(checkpoint)
    _check_output(output_dir)
    state_dict = read_state_dict(checkpoint, allow_pickle)
    if is_laion_clap(state_dict):
        model = from_laion_clap(state_dict)
        with atomic_folder(output_dir) as folder:
            model.save_pretrained(folder)
            if tokenizer is not None:
                AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
        return verification.against_laion_clap(ClapModel.from_pretrained(output_dir), state_dict) if verify else {}
    fields = _read_json(checkpoint.with_name(CONFIG_NAME) if config is None else Path(config))
    model_config = read_model_config(fields)
    state_dict = unwrap_training(state_dict, use_ema)
    if verify:
        verification.check_stable_audio_tools()
    if not isinstance(model_config, DiffusionModelConfig):
        vae = autoencoder_from_stable_audio_tools(state_dict, model_config)
        with atomic_folder(output_dir) as folder:
            vae.save_pretrained(folder)
        if not verify:
            return {}
        written = AutoencoderOobleck.from_pretrained(output_dir)
        return verification.autoencoder_against_stable_audio_tools(written, state_dict, fields)
    components: dict[str, Any] = dict(from_stable_audio_tools(state_dict, model_config))
    components |= _load_text(model_config, text_encoder, tokenizer, allow_pickle)
    is_t5 = model_config.text["type"] == "t5"
    pipe = LongFormMusicPipeline(**components, zero_text_padding=is_t5, **sampling_settings(model_config.objective))
    with atomic_folder(output_dir) as folder:
        pipe.save_pretrained(folder)
    if not verify:
        return {}
    written = LongFormMusicPipeline.from_pretrained(output_dir)
    return verification.against_stable_audio_tools(
        written.vae, written.transformer, written.timing_conditioner, state_dict, fields
    )


def export_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    to: str,
    include_text_encoder: bool = True,
    verify: bool = False,
) -> dict[str, float]:
    """Writes a pipeline, or an autoencoder alone, in the format of another tool.

    Args:
        checkpoint: folder or Hub id, as for `LongFormMusicPipeline.from_pretrained`; or the folder of an
            `AutoencoderOobleck`, for stable-audio-tools.
        output_dir: a folder that does not exist or is empty.
        to: "diffusers": a folder for `StableAudioPipeline.from_pretrained`. "stable-audio-tools": `model.safetensors`
            and `model_config.json`, and for CLAP text `clap.ckpt`, because their checkpoints hold no text encoder.
        include_text_encoder: for stable-audio-tools, write `clap.ckpt`; the encoder must have the size of RoBERTa
            base. T5 is never written: stable-audio-tools loads Google's by name.
        verify: also run the other tool on random inputs and compare.

    Returns:
        The largest relative difference by component, empty without `verify`.

    Raises:
        ValueError: the other tool cannot express something; the message names it.
    """
    if to not in FORMATS:
        raise ValueError(f"The format must be one of {', '.join(FORMATS)}, got {to!r}.")
    _check_output(output_dir)
    if verify and to == "stable-audio-tools":
        verification.check_stable_audio_tools()
    is_autoencoder = Path(checkpoint).is_dir() and not (Path(checkpoint) / "model_index.json").is_file()
    if is_autoencoder:
        if to == "diffusers":
            raise ValueError(
                f"{checkpoint} is an autoencoder alone, which diffusers' AutoencoderOobleck opens as it is."
            )
        return _export_autoencoder(AutoencoderOobleck.from_pretrained(checkpoint), output_dir, verify)
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    if to == "stable-audio-tools":
        return _export_to_stable_audio_tools(pipe, output_dir, include_text_encoder, verify)
    theirs = to_stable_audio_pipeline(pipe)
    with atomic_folder(output_dir) as folder:
        theirs.save_pretrained(folder)
    if not verify:
        return {}
    return verification.against_stable_audio_pipeline(pipe, StableAudioPipeline.from_pretrained(output_dir))


def _export_to_stable_audio_tools(
    pipe: LongFormMusicPipeline, output_dir: str | os.PathLike, include_text_encoder: bool, verify: bool
) -> dict[str, float]:
    """Writes a pipeline for stable-audio-tools."""
    for name, accepted in (("mask_text_padding", False), ("zero_text_padding", _is_t5(pipe))):
        if pipe.config[name] != accepted:
            raise ValueError(f"stable-audio-tools cannot express {name}={pipe.config[name]} with this text encoder.")
    components = {name: getattr(pipe, name) for name in ("vae", "transformer", "timing_conditioner")}
    text = _describe_text(pipe, include_text_encoder)
    fields = write_model_config(**components, text=text, objective=_objective(pipe))
    state_dict = to_stable_audio_tools(**components)
    with atomic_folder(output_dir) as folder:
        save_file(state_dict, folder / WEIGHTS_NAME)
        write_json(folder / CONFIG_NAME, fields)
        if include_text_encoder and not _is_t5(pipe):
            torch.save({"state_dict": text_branch_to_laion_clap(pipe.text_encoder)}, folder / CLAP_NAME)
    if not verify:
        return {}
    written = read_state_dict(Path(output_dir) / WEIGHTS_NAME)
    return verification.against_stable_audio_tools(**components, state_dict=written, config=fields)


def _export_autoencoder(vae: AutoencoderOobleck, output_dir: str | os.PathLike, verify: bool) -> dict[str, float]:
    """Writes an autoencoder alone for stable-audio-tools."""
    fields = write_autoencoder_config(vae)
    with atomic_folder(output_dir) as folder:
        save_file(autoencoder_to_stable_audio_tools(vae), folder / WEIGHTS_NAME)
        write_json(folder / CONFIG_NAME, fields)
    if not verify:
        return {}
    written = read_state_dict(Path(output_dir) / WEIGHTS_NAME)
    return verification.autoencoder_against_stable_audio_tools(vae, written, fields)


def sampling_settings(objective: str) -> dict:
    """Scheduler and settings of a pipeline for a model of one of `OBJECTIVES`, with the defaults of their tool."""
    prediction_type = OBJECTIVES[objective]
    if objective == "rf_denoiser":
        scheduler = PingPongScheduler(prediction_type, timestep_spacing="log_snr")
        return {
            "scheduler": scheduler,
            "prediction_type": prediction_type,
            "num_inference_steps": 8,
            "guidance_scale": 1,
        }
    is_flow = prediction_type == FLOW_PREDICTION
    scheduler = FlowMatchEulerDiscreteScheduler() if is_flow else make_scheduler()
    return {"scheduler": scheduler, "prediction_type": prediction_type}


def _objective(pipe: LongFormMusicPipeline) -> str:
    """The objective of a pipeline, one of `OBJECTIVES`; for rectified flow, the sampler shows if it is distilled."""
    if pipe.config.prediction_type != FLOW_PREDICTION:
        return "v"
    return "rf_denoiser" if isinstance(pipe.scheduler, PingPongScheduler) else "rectified_flow"


def _load_text(
    config: DiffusionModelConfig,
    source: str | os.PathLike | None,
    tokenizer: str | os.PathLike | None,
    allow_pickle: bool,
) -> dict:
    """Loads the components "text_encoder" and "tokenizer"."""
    text = config.text
    if text["type"] == "t5":
        name = text["name"] if "/" in text["name"] else f"{T5_OWNER}/{text['name']}"
        source = name if source is None else source
        try:
            encoder = load_whole(T5EncoderModel, source)
        except OSError as error:
            raise ValueError(f"{source} cannot be loaded: give the text encoder, a T5. {error}") from error
        width = encoder.config.d_model
        loaded_tokenizer = AutoTokenizer.from_pretrained(source if tokenizer is None else tokenizer)
        loaded_tokenizer.model_max_length = text["max_length"]
    else:
        if source is None:
            source = text["path"]
            if source is None or not Path(source).exists():
                raise ValueError(
                    f"The configuration's clap_ckpt_path {source!r} does not exist: give the text encoder."
                )
        if Path(source).is_file():
            clap = from_laion_clap(read_state_dict(source, allow_pickle))
        else:
            clap = load_whole(ClapModel, source)
        encoder = ClapTextEncoder.from_clap(clap, text["feature_layer"], text["max_length"])
        width = encoder.config.hidden_size
        has_tokenizer = Path(source).is_dir() and (Path(source) / "tokenizer_config.json").is_file()
        default = source if has_tokenizer else ROBERTA
        loaded_tokenizer = AutoTokenizer.from_pretrained(default if tokenizer is None else tokenizer)
    if width != text["width"]:
        raise ValueError(f"The text encoder must have {text['width']} features for this checkpoint, got {width}.")
    return {"text_encoder": encoder, "tokenizer": loaded_tokenizer}


def _is_t5(pipe: LongFormMusicPipeline) -> bool:
    """Whether the text encoder is a T5 and not our CLAP."""
    return isinstance(pipe.text_encoder, T5EncoderModel)


def _describe_text(pipe: LongFormMusicPipeline, include_text_encoder: bool) -> dict:
    """The text conditioner's type, configuration and width in stable-audio-tools' terms."""
    config = pipe.text_encoder.config
    if _is_t5(pipe):
        name = T5_SIZES.get((config.d_model, config.num_layers, config.d_ff))
        if name is None or config.is_gated_act:
            raise ValueError(
                "text_encoder cannot be represented: stable-audio-tools only knows Google's T5 by name, and this one "
                f"has {config.num_layers} layers of width {config.d_model}."
            )
        settings = {"t5_model_name": name, "max_length": pipe.tokenizer.model_max_length}
        return {"type": "t5", "config": settings, "width": T5_WIDTHS[name]}
    if not isinstance(pipe.text_encoder, ClapTextEncoder):
        raise ValueError(f"text_encoder cannot be represented: {type(pipe.text_encoder).__name__}.")
    if config.hidden_size != CLAP_WIDTH:
        raise ValueError(f"text_encoder.hidden_size must be {CLAP_WIDTH}, got {config.hidden_size}.")
    defaults = inspect.signature(ClapTextEncoder).parameters
    for name in SIZES_OF_ROBERTA_BASE if include_text_encoder else ():
        value = defaults[name].default
        if config[name] != value:
            raise ValueError(
                f"text_encoder.{name} must be {value} to be written as {CLAP_NAME}, got {config[name]}; without the "
                "text encoder the rest can be."
            )
    settings = {
        "audio_model_type": "HTSAT-base",
        "enable_fusion": True,
        "clap_ckpt_path": CLAP_NAME,
        "use_text_features": True,
        "feature_layer_ix": config.feature_layer,
    }
    return {"type": "clap_text", "config": settings, "width": CLAP_WIDTH}


def _check_output(output_dir: str | os.PathLike) -> None:
    """Raises a ValueError unless the folder is new or empty."""
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not an empty folder: choose another.")


def _read_json(path: Path) -> Mapping:
    """Reads a configuration file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}: name the checkpoint's configuration.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
