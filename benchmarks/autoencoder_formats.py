"""The autoencoder on a CPU in three formats: time last, channels last, and channels last with bfloat16 convolutions.

    python benchmarks/autoencoder_formats.py
    OMP_NUM_THREADS=1 python benchmarks/autoencoder_formats.py --seconds 30

Decodes music that the embedded checkpoint generates, and encodes it again. "time last" is the engine without
channels-last format; errors are relative to it. Runs are interleaved; the table has medians of processor and wall
time. On a CPU without bfloat16 instructions, the bfloat16 row repeats the one before it.
"""

import torch
from music_errors import music_errors
from timing import interleave, machine, print_table, relative_error

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.models.acceleration import oobleck_engine
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

HEADER = ("what", "format", "seconds", "processor, s", "ratio of processor time", "relative error", "log-mel L1, dB")
TIME_LAST, CHANNELS_LAST, BFLOAT16 = "time last", "channels last", "channels last, bfloat16"


@torch.inference_mode()
def main() -> None:
    """Prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number("--seconds", SECONDS, kind=float, default=285.0, help="seconds of music")
    parser.add_number("--steps", STEPS, default=8, help="sampling steps")
    parser.add_number("--repeats", Range(1, 1000), default=3, help="number of runs; the table shows medians")
    arguments = parser.parse_args()
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    seconds, vae = min(arguments.seconds, pipe.max_duration_in_s), pipe.vae
    settings = {"num_inference_steps": arguments.steps, "generator": torch.Generator().manual_seed(0)}
    latents = pipe("Genre: Rock", seconds, output_type="latent", **settings).audios
    latents = latents[..., : round(seconds * vae.latent_rate)]
    print(f"{seconds:g} s; {machine('cpu')}\n")
    music, decoding = measure("decode", vae, lambda: vae.decode(latents).sample, arguments.repeats)
    _, encoding = measure("encode", vae, lambda: vae.encode(music).latent_dist.mean, arguments.repeats)
    print_table(HEADER, decoding + encoding)


def measure(name: str, vae, function, repeats: int) -> tuple[torch.Tensor, list[tuple]]:
    """The result in the first format, and a row for each."""

    def in_format(kind: str) -> torch.Tensor:
        fast_dtypes = oobleck_engine.FAST_DTYPES
        try:
            oobleck_engine.FAST_DTYPES = () if kind == TIME_LAST else fast_dtypes
            vae.use_bfloat16_decoding = kind == BFLOAT16
            return function()
        finally:
            oobleck_engine.FAST_DTYPES, vae.use_bfloat16_decoding = fast_dtypes, False

    kinds = (TIME_LAST, CHANNELS_LAST, BFLOAT16) if name == "decode" else (TIME_LAST, CHANNELS_LAST)
    timings = interleave({kind: lambda kind=kind: in_format(kind) for kind in kinds}, repeats, warmup=False)
    first, rows = timings[TIME_LAST], []
    for kind, timing in timings.items():
        error = f"{relative_error(timing.output, first.output):.1e}"
        is_audio = timing.output.shape[1] == vae.config.audio_channels
        heard = (
            music_errors(timing.output[0], first.output[0], vae.config.sampling_rate).log_mel_l1 if is_audio else ""
        )
        ratio = first.cpu_seconds / timing.cpu_seconds
        rows.append((name, kind, timing.seconds, timing.cpu_seconds, ratio, error, heard))
    return first.output, rows


if __name__ == "__main__":
    run_main(main)
