"""Demos of a training in progress: music from prompts of the valid split, to listen to and to measure.

Level and flatness reveal the most common failures: silence and noise.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from stable_longform.data.numbered_items import Items
from stable_longform.losses.stft import stft_magnitude
from stable_longform.training_utils.processes import share_out
from stable_longform.utils.audio import write_audio

FFT_SIZE = 2048


@torch.no_grad()
def make_demos(
    pipe,
    windows: Items,
    folder: Path,
    num_demos: int,
    duration_in_s: float,
    num_inference_steps: int,
    guidance_scales: Sequence[float],
    accelerator: Accelerator,
) -> dict[str, float]:
    """Generates from the prompts of some windows with fixed seeds, and decodes the windows' own latents to compare.

    Args:
        pipe: `LongFormMusicPipeline` with the weights to demonstrate.
        windows: items of the valid split with `latents` and `prompt`.
        folder: for the audio files.
        num_demos: number of windows.
        duration_in_s: of each demo, at most the window.
        num_inference_steps: of the sampler.
        guidance_scales: each prompt is generated once with each scale.
        accelerator: of the run; the demos are shared out to its processes, each of which must call this.

    Returns:
        mean level (silence: below -60 dBFS) and flatness (white noise: 0.56) of the real and the generated audio.
    """
    duration_in_s = min(duration_in_s, pipe.max_duration_in_s)
    num_frames = math.ceil(duration_in_s * pipe.vae.latent_rate)
    folder.mkdir(parents=True, exist_ok=True)

    def make_demo(i: int) -> dict[str, float]:
        facts = {}
        item = windows[i]
        real = pipe.vae.decode(item["latents"][None].to(pipe.vae.device), num_frames).sample[0]
        audios = {"real": real[:, : round(duration_in_s * pipe.sampling_rate)]}
        for scale in guidance_scales:
            generator = torch.Generator().manual_seed(i)
            options = {"num_inference_steps": num_inference_steps, "guidance_scale": scale, "generator": generator}
            audios[f"guidance-{scale:g}"] = pipe(item["prompt"], duration_in_s, **options).audios[0]
        for name, audio in audios.items():
            write_audio(folder / f"{i}-{name}.flac", audio, pipe.sampling_rate, tags={"title": item["prompt"]})
            facts[f"demo/{name}/level_in_dbfs"] = level_in_dbfs(audio)
            facts[f"demo/{name}/flatness"] = spectral_flatness(audio)
        return facts

    demos = share_out(accelerator, num_demos, make_demo)
    return {name: sum(facts[name] for facts in demos) / len(demos) for name in demos[0]}


def level_in_dbfs(waveform: torch.Tensor) -> float:
    """Root mean square of `(channels, num_samples)` in dB: 0 for a full-scale square wave, -200 for silence."""
    return 20 * math.log10(max(float(waveform.float().square().mean().sqrt()), 1e-10))


def spectral_flatness(waveform: torch.Tensor) -> float:
    """Geometric over arithmetic mean of the power spectrum, averaged over frames: 0 for a tone.

    The periodogram of white noise is exponentially distributed, so its flatness is exp(−0.577) = 0.56 and not 1.
    """
    power = stft_magnitude(waveform.float().mean(dim=0), FFT_SIZE).square()
    return float((power.log().mean(dim=-2).exp() / power.mean(dim=-2)).mean())
