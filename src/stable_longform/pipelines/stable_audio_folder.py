"""Lets `from_pretrained` open Hub repositories of ours, and folders saved by diffusers' `StableAudioPipeline`.

Weights and configurations of autoencoder, transformer and projection model have the same names in both packages. This
module handles the differences: the classes of the components, the projection model, which is our timing conditioner,
and the features of padding tokens, which are set to zero.
"""

import os
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler
from stable_longform.schedulers.scheduling_sde_dpmsolver import SDEDPMSolverMultistepScheduler
from stable_longform.utils.text_files import parse_json_object, read_text

STABLE_AUDIO_PIPELINE = "StableAudioPipeline"
COMPONENTS = {"vae": AutoencoderOobleck, "transformer": DiTTransformer1D, "timing_conditioner": TimingConditioner}

# A repository names our components by their modules. diffusers must know these modules: otherwise it looks for them
# inside the repository and cannot open Hub repositories of ours.
for component in (*COMPONENTS.values(), ClapTextEncoder):
    LOADABLE_CLASSES[component.__module__] = {"ModelMixin": ["save_pretrained", "from_pretrained"]}
for component in (PingPongScheduler, SDEDPMSolverMultistepScheduler):
    LOADABLE_CLASSES[component.__module__] = {"SchedulerMixin": ["save_pretrained", "from_pretrained"]}

# Arguments of `from_pretrained` that say where a repository is, how to download it, and how to read its weights.
HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")
# What transformers and diffusers raise for files that are not as they expect, besides OSError.
LOADING_ERRORS = (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)
WEIGHT_ARGUMENTS = ("variant", "use_safetensors", "low_cpu_mem_usage", "disable_mmap")


class StableAudioFolderMixin:
    """Lets `from_pretrained` of our pipelines open folders saved by `StableAudioPipeline`."""

    @classmethod
    def load_config(cls, pretrained_model_name_or_path, **kwargs):
        """Reads `model_index.json`; that of a `StableAudioPipeline` is translated to ours."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        _check_index(config[0] if isinstance(config, tuple) else config, pretrained_model_name_or_path)
        if isinstance(config, tuple):
            return translate_index(config[0], cls.__name__), *config[1:]
        return translate_index(config, cls.__name__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a pipeline. diffusers expects folders with our names, so the renamed component is loaded here.

        Raises:
            ValueError: a file that is not what the pipeline needs.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        index = DiffusionPipeline.load_config(pretrained_model_name_or_path, **hub)
        _check_index(index, pretrained_model_name_or_path)
        if index.get("_class_name") == STABLE_AUDIO_PIPELINE and "timing_conditioner" not in kwargs:
            weights = {name: kwargs[name] for name in WEIGHT_ARGUMENTS if name in kwargs}
            dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
            if isinstance(dtype, dict):
                dtype = dtype.get("timing_conditioner", dtype.get("default", torch.float32))
            kwargs["timing_conditioner"] = TimingConditioner.from_pretrained(
                pretrained_model_name_or_path, subfolder="projection_model", dtype=dtype, **hub, **weights
            )
        if "scheduler" not in kwargs:
            _check_scheduler_class(index, pretrained_model_name_or_path)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except LOADING_ERRORS as error:
            if isinstance(error, ValueError) and "\n" not in str(error):
                raise
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{pretrained_model_name_or_path} cannot be opened: {type(error).__name__}: {reason}"
            ) from error


def _check_scheduler_class(index: dict, source: str | os.PathLike) -> None:
    """Raises a ValueError if a scheduler in a local folder is of another class than the index says."""
    file, named = Path(source, "scheduler", "scheduler_config.json"), index.get("scheduler")
    if not file.is_file() or named in (None, [None, None]):
        return
    name = parse_json_object(read_text(file), str(file)).get("_class_name")
    if name not in (None, named[-1]):
        raise ValueError(f"{file}: _class_name must be {named[-1]}, as model_index.json says, got {name!r}.")


def _check_index(index: dict, source: str | os.PathLike) -> None:
    """Raises a ValueError unless an index is that of one of our pipelines or of `StableAudioPipeline`."""
    name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(name, str) or not name.startswith(("LongFormMusic", STABLE_AUDIO_PIPELINE)):
        raise ValueError(f"The model_index.json of {source} names no pipeline that this one can open, got {name!r}.")
    for part in (*COMPONENTS, "text_encoder", "tokenizer", "scheduler"):
        entry = index.get(part, [None, None])
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"The model_index.json of {source}: {part} must be [library, class], got {entry!r}.")
        expected = COMPONENTS[part].__name__ if part in COMPONENTS and name != STABLE_AUDIO_PIPELINE else entry[1]
        if entry != [None, None] and entry[1] != expected:
            raise ValueError(f"The model_index.json of {source}: {part} must be a {expected}, got {entry!r}.")


def translate_index(index: dict, class_name: str) -> dict:
    """Translates the index of a `StableAudioPipeline` to our pipeline `class_name`; others are returned unchanged."""
    if index.get("_class_name") != STABLE_AUDIO_PIPELINE:
        return index
    index = {name: value for name, value in index.items() if name != "projection_model"}
    loaders = {name: [component.__module__, component.__name__] for name, component in COMPONENTS.items()}
    return index | loaders | {"_class_name": class_name, "zero_text_padding": True}
