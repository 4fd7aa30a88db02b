"""The command `stable-longform reconstruct`: audio through the autoencoder and back."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

import stable_longform
from stable_longform.cli.common import check_outputs, load_autoencoder, resolve_checkpoint, show_progress
from stable_longform.cli.options import Checkpoint, Device, Overwrite, Quiet, SampleFormat, check_device
from stable_longform.music_files import make_tags
from stable_longform.utils.audio import read_blocks, to_stereo, write_audio


def reconstruct(
    input: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Audio file of any rate; mono is converted to stereo.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .wav, .flac, .ogg, .opus or .mp3.")],
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    sample_format: SampleFormat = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encodes INPUT with the model's autoencoder, decodes it and writes the result.

    The result has the model's sampling rate and as many samples as the input at that rate. It keeps its level:
    samples beyond full scale are clipped unless --sample-format is float.
    """
    chosen_device = check_device(device)
    if os.path.realpath(output) == os.path.realpath(input):  # unlike Path.resolve, works with a loop of links
        raise ValueError(f"{output} is the input: choose another output.")
    check_outputs([output], sample_format, overwrite)
    if next(read_blocks(input), None) is None:  # reported before the model is loaded, as an input that is not audio
        raise ValueError(f"{input} holds no samples.")

    vae = load_autoencoder(resolve_checkpoint(checkpoint), chosen_device)
    chunks = _reconstruct_chunks(vae, input, quiet)
    settings = {"input": input.name, "checkpoint": checkpoint, "version": stable_longform.__version__}
    write_audio(output, chunks, vae.config.sampling_rate, sample_format, make_tags(input.name, settings))
    typer.echo(output)


@torch.no_grad()
def _reconstruct_chunks(vae, path: Path, quiet: bool) -> Iterator[torch.Tensor]:
    """Encodes a file, then yields the reconstruction, of the same length, chunk by chunk."""
    num_samples = 0

    def read() -> Iterator[torch.Tensor]:
        nonlocal num_samples
        for block in read_blocks(path, vae.config.sampling_rate):
            if not block.isfinite().all():
                raise ValueError(f"{path} contains non-finite samples.")
            num_samples += block.shape[1]
            yield (to_stereo(block) if vae.config.audio_channels == 2 else block)[None]

    latents = torch.cat([posterior.mode() for posterior in vae.encode_stream(read())], dim=-1)
    rate = vae.config.sampling_rate
    for chunk in show_progress(vae.decode_stream(latents), num_samples / rate, rate, quiet):
        if not chunk.isfinite().all():
            raise ValueError(f"The reconstruction of {path} is not finite: take another checkpoint.")
        yield chunk[0, :, :num_samples]
        num_samples -= chunk.shape[-1]
