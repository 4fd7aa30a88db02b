"""Long-form music generation with latent diffusion: text to up to 4m45s of stereo 44.1 kHz music.

The public names are imported when they are first used, because torch, diffusers and transformers take seconds to
import and most commands need only a part of them.
"""

import importlib
from pathlib import Path

__version__ = "0.1.0"

# Folder of the checkpoint inside the package, an argument for `from_pretrained`.
TINY_CHECKPOINT = str(Path(__file__).parent / "checkpoints" / "tiny")

# Folder of its LoRA adapter for 8 steps without guidance, an argument for `load_lora_weights`.
TINY_8_STEPS_LORA = str(Path(__file__).parent / "checkpoints" / "tiny_8_steps")

# Public name -> module that defines it.
_MODULES = {
    "LongFormMusicPipeline": "stable_longform.pipelines.pipeline_longform_music",
    "LongFormMusicAudioToAudioPipeline": "stable_longform.pipelines.pipeline_longform_music_audio_to_audio",
    "LongFormMusicInpaintPipeline": "stable_longform.pipelines.pipeline_longform_music_inpaint",
    "AutoencoderOobleck": "stable_longform.models.autoencoder_oobleck",
    "ClapTextEncoder": "stable_longform.models.clap_text_encoder",
    "DiTTransformer1D": "stable_longform.models.transformer_dit_1d",
    "TimingConditioner": "stable_longform.models.timing_conditioner",
    "convert_checkpoint": "stable_longform.convert.commands",
    "export_checkpoint": "stable_longform.convert.commands",
}

__all__ = ["TINY_8_STEPS_LORA", "TINY_CHECKPOINT", *_MODULES]


def __getattr__(name: str):
    """Imports a public class or function (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Names for completion, including those that are not imported yet."""
    return sorted({*globals(), *_MODULES})
