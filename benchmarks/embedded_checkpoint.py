"""Measures a checkpoint against real music: reconstruction, spectrum, loudness, silence, effect of the prompt, time.

    python benchmarks/embedded_checkpoint.py --manifest corpus/manifest.jsonl

The real music is the manifest's test split: games that no training has seen. Prints the tables of the model card.
Needs the extra `eval`.
"""

import argparse
import time

import auraloss
import numpy as np
import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.data.audio_crops import AudioCrops
from stable_longform.data.manifest import read_manifest

BAND_EDGES_IN_HZ = (0, 60, 120, 250, 500, 1000, 2000, 4000, 8000, 16000, 22050)
PROMPTS = (
    "Genre: Ambient|Instruments: Synth|Moods: Slow",
    "Genre: Rock|Instruments: Guitar, Drums",
    "Genre: Classical|Instruments: Strings, Piano",
    "Genre: Techno|BPM: 140",
)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT)
    parser.add_argument("--num_crops", type=int, default=24, help="real crops of 10 s")
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--guidance_scale", type=float, default=4.0)
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of each generation")
    arguments = parser.parse_args()
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    rate = pipe.sampling_rate
    crops = AudioCrops(read_manifest(arguments.manifest, "test"), 10 * rate, rate, 0, phase_flip_probability=0.0)
    real = torch.stack([crops[index]["waveform"] for index in range(arguments.num_crops)])
    print_reconstruction(pipe.vae, real)
    print_generation(pipe, real, arguments)


@torch.no_grad()
def print_reconstruction(vae, real: torch.Tensor) -> None:
    """Distances of the paper's table 5 with auraloss's defaults, averaged over the crops."""
    stft = auraloss.freq.STFTLoss()
    mel = auraloss.freq.MelSTFTLoss(vae.config.sampling_rate)
    si_sdr = auraloss.time.SISDRLoss()
    decoded = torch.cat([vae(crop).sample for crop in real.split(1)])
    pairs = list(zip(decoded.split(1), real.split(1), strict=True))
    rows = [[float(stft(*pair)), float(mel(*pair)), -float(si_sdr(*pair))] for pair in pairs]
    print("| reconstruction of held-out music | STFT distance | mel distance | SI-SDR (dB) |\n|---|---|---|---|")
    print(f"| {len(rows)} crops of 10 s | " + " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0)) + " |\n")


def print_generation(pipe, real: torch.Tensor, arguments: argparse.Namespace) -> None:
    """Loudness and spectrum beside real music, silence after the asked duration, effect of prompt and seed."""
    profiles = np.array([band_levels(crop, pipe.sampling_rate) for crop in real])
    mean_profile = profiles.mean(axis=0)
    rows = [("real, held out", real, profiles)]
    settings = {
        "num_inference_steps": arguments.num_inference_steps,
        "guidance_scale": arguments.guidance_scale,
        "output_type": "latent",
    }
    latents, seconds = {}, []
    for index, (prompt, seed) in enumerate([(prompt, 0) for prompt in PROMPTS] + [(PROMPTS[0], 1)]):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        latents[index] = pipe(prompt, duration=arguments.duration, generator=generator, **settings).audios[0]
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    audios = [pipe.decode_latents(item, pipe.max_duration_in_s) for item in latents.values()]
    decoding = (time.perf_counter() - start) / len(audios)
    asked = round(arguments.duration * pipe.sampling_rate)
    for prompt, audio in zip(PROMPTS, audios, strict=False):
        music = audio[:, :asked]
        rows.append((prompt, music[None], np.array([band_levels(music, pipe.sampling_rate)])))
    print(
        "| music | RMS (dBFS) | peak | " + " | ".join(f"{edge} Hz" for edge in BAND_EDGES_IN_HZ[:-1]) + " | distance |"
    )
    print("|---" * (len(BAND_EDGES_IN_HZ) + 3) + "|")
    for name, waveforms, levels in rows:
        level, peak = 10 * np.log10(float(waveforms.square().mean())), float(waveforms.abs().max())
        profile = levels.mean(axis=0)
        distance = np.abs(levels - mean_profile).mean()
        print(f"| {name.replace('|', ', ')} | {level:.1f} | {peak:.2f} | " + " | ".join(f"{v:.0f}" for v in profile)
              + f" | {distance:.1f} dB |")  # fmt: skip
    tails = [10 * np.log10(float(a[:, 2 * asked :].square().mean() / a[:, :asked].square().mean())) for a in audios]
    print(f"\n- Level behind {2 * arguments.duration:.0f} s when {arguments.duration:.0f} s are asked for, beside "
          f"the music: {np.mean(tails):.1f} dB.")  # fmt: skip
    num_frames = round(arguments.duration * pipe.vae.latent_rate)
    first = latents[0][:, :num_frames]
    for name, index in (("another prompt, same seed", 1), ("another seed, same prompt", len(PROMPTS))):
        other = latents[index][:, :num_frames]
        print(
            f"- Change of the latents with {name}: {float((first - other).norm() / first.norm()):.2f} of their norm."
        )
    print(f"- Sampling {arguments.num_inference_steps} steps: {np.mean(seconds):.1f} s; decoding "
          f"{pipe.max_duration_in_s:.0f} s: {decoding:.1f} s; {torch.get_num_threads()} threads.")  # fmt: skip


def band_levels(waveform: torch.Tensor, sampling_rate: int) -> np.ndarray:
    """Power of each band in dB below the whole, of `(channels, num_samples)`."""
    spectrum = torch.stft(waveform, 4096, window=torch.hann_window(4096), return_complex=True).abs().square()
    power = spectrum.mean(dim=(0, 2)).numpy()
    frequencies = np.linspace(0, sampling_rate / 2, len(power))
    bands = zip(BAND_EDGES_IN_HZ[:-1], BAND_EDGES_IN_HZ[1:], strict=True)
    levels = [power[(frequencies >= low) & (frequencies < high)].sum() for low, high in bands]
    return 10 * np.log10(np.array(levels) / power.sum() + 1e-10)


if __name__ == "__main__":
    main()
