"""The command `stable-longform generate`: music from a prompt."""

import math
import secrets
from pathlib import Path
from typing import Annotated

import torch
import typer

import stable_longform
from stable_longform.cli.common import (
    DTYPES,
    Checkpoint,
    Device,
    SampleFormat,
    check_device,
    check_output,
    load_pipeline,
    make_tags,
    resolve_checkpoint,
    show_progress,
)
from stable_longform.utils.audio import stored, write_audio

DEFAULT_STEPS = 50
DEFAULT_GUIDANCE_SCALE = 7.0
MAX_SEED = 2**63 - 1
MAX_RANDOM_SEED = 2**32 - 1


def generate(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="For example 'Genre: Ambient|Instruments: Piano, Strings'.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write: .wav, .flac or .ogg. Replaced if it exists.")
    ] = Path("music.wav"),
    prompt_file: Annotated[
        Path | None, typer.Option(help="UTF-8 text file with one prompt, instead of PROMPT; its lines are joined.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of music, up to the model's window. [default: the window]")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the music should not be like.")] = None,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Sampling steps. The Python pipeline's default is 100, which takes twice the time."),
    ] = DEFAULT_STEPS,
    guidance_scale: Annotated[
        float, typer.Option(help="How strongly the prompt is followed; 1 switches guidance off.")
    ] = DEFAULT_GUIDANCE_SCALE,
    guidance_rescale: Annotated[
        float, typer.Option(min=0, max=1, help="How far guidance is kept from making the result louder.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="[default: random, and reported]")] = None,
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16 or float16, of the transformer and the text encoder. "
            "The autoencoder always computes in float32."
        ),
    ] = "float32",
    sample_format: SampleFormat = None,
) -> None:
    """Makes music from PROMPT and writes it to a file.

    Prompt, seed, settings and checkpoint are stored in the file's tags as JSON (the comment): the same options make
    the same music again. Where the audio goes beyond full scale it is turned down as a whole, not clipped.
    """
    prompt = _read_prompt(prompt, prompt_file)
    if negative_prompt is not None:
        _check_text("--negative-prompt", negative_prompt)
    if duration is not None and not 0 < duration < math.inf:
        raise ValueError(f"--duration must be greater than 0 seconds and finite, got {duration}.")
    for name, value in (("--guidance-scale", guidance_scale), ("--guidance-rescale", guidance_rescale)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}.")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    device = check_device(device)
    check_output(output, sample_format)

    pipe = load_pipeline(resolve_checkpoint(checkpoint), device, DTYPES[dtype])
    is_random = seed is None
    seed = secrets.randbelow(MAX_RANDOM_SEED + 1) if is_random else seed
    duration = pipe.max_duration_in_s if duration is None else duration
    latents = pipe(
        prompt,
        duration,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).audios[0]
    settings = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "duration_in_s": duration,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "checkpoint": checkpoint,
        "dtype": dtype,
        "device": device.type,
        "version": stable_longform.__version__,
    }
    chunks = show_progress(pipe.stream_latents(latents, duration), duration, pipe.sampling_rate)
    with stored(chunks, output.absolute().parent) as (chunks, peak):
        gain = 1 / max(peak, 1)
        tags = make_tags(prompt, settings | {"gain": gain})
        write_audio(output, (chunk * gain for chunk in chunks), pipe.sampling_rate, sample_format, tags)
    if is_random:
        typer.echo(f"seed: {seed}", err=True)
    if gain < 1:
        typer.echo(f"turned down by {-20 * math.log10(gain):.2f} dB: the peak was {1 / gain:.3f}", err=True)
    typer.echo(output)


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The prompt from the argument or the file, whichever was given."""
    if (prompt is None) == (prompt_file is None):
        raise ValueError("Give either PROMPT or --prompt-file.")
    if prompt_file is not None:
        try:
            prompt = " ".join(prompt_file.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError as error:
            raise ValueError(f"{prompt_file} is not UTF-8 text: {error}") from error
    _check_text("PROMPT" if prompt_file is None else str(prompt_file), prompt)
    return prompt


def _check_text(name: str, text: str) -> None:
    """Raises a ValueError unless there is some text, all of it valid Unicode."""
    if not text.strip():
        raise ValueError(f"{name} must be text that is not blank, got {text!r}.")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} must be valid text, got {text!r}.")
