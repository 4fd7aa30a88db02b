"""The command `stable-longform`: music from a prompt, reconstructions by the autoencoder, conversion of checkpoints.

Progress goes to stderr, the path of the written file to stdout. Bad input ends with exit code 2 and one line,
`error: ...`, on stderr, before the model is loaded wherever it can be told without it.
"""

import importlib
import json
import math
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

import stable_longform
from stable_longform.cli_common import (
    DTYPES,
    NAMED_CHECKPOINTS,
    Checkpoint,
    Device,
    check_device,
    load_autoencoder,
    load_pipeline,
    quiet_libraries,
    resolve_checkpoint,
)
from stable_longform.utils.audio import check_output_path, read_blocks, stored, to_stereo, write_audio

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
DEFAULT_STEPS = 50
DEFAULT_GUIDANCE_SCALE = 7.0
MAX_SEED = 2**63 - 1
MAX_RANDOM_SEED = 2**32 - 1

# What typer raises for unknown options, missing values and the like: click's class or typer's copy of it.
UsageError = typer.BadParameter.__base__

# Groups of commands -> the module that defines them as `app`, imported when one of its commands is called.
GROUPS = {
    "data": "stable_longform.cli_data",
    "evaluate": "stable_longform.cli_evaluate",
    "runs": "stable_longform.cli_runs",
}


class CommandGroup(typer.core.TyperGroup):
    """The program, whose groups of commands are imported only when they are called, because that takes seconds."""

    def resolve_command(self, ctx, args):
        """Finds the command that the arguments name."""
        name = args[0] if args else None
        if name not in GROUPS:
            return super().resolve_command(ctx, args)
        group = typer.main.get_command(importlib.import_module(GROUPS[name]).app)
        group.name = name
        return name, group, args[1:]


app = typer.Typer(
    cls=CommandGroup,
    help=stable_longform.__doc__.splitlines()[0],
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(typer.Typer(), name="data", help="Sources of music: what they hold, and what prompts they give.")
app.add_typer(
    typer.Typer(), name="evaluate", help="Scores, timings and sizes of models, as in the tables of the paper."
)
app.add_typer(typer.Typer(), name="runs", help="Training runs: how they are doing.")

Verify = Annotated[
    bool, typer.Option("--verify", help="Run the other tool on the same random inputs and print the differences.")
]
SampleFormat = Annotated[
    str | None,
    typer.Option(
        help="pcm16, pcm24 or float for wav, pcm16 or pcm24 for flac, vorbis for ogg. "
        "[default: pcm16 for wav, pcm24 for flac]"
    ),
]


@app.callback(invoke_without_command=True)
def stable_longform_command(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    # The help of the program is the app's; a docstring here would replace it.
    if version:
        typer.echo(f"stable_longform {stable_longform.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
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
    _check_output(output, sample_format)

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
    chunks = _show_progress(pipe.stream_latents(latents, duration), duration, pipe.sampling_rate)
    with stored(chunks, output.absolute().parent) as (chunks, peak):
        gain = 1 / max(peak, 1)
        tags = _tags(prompt, settings | {"gain": gain})
        write_audio(output, (chunk * gain for chunk in chunks), pipe.sampling_rate, sample_format, tags)
    if is_random:
        typer.echo(f"seed: {seed}", err=True)
    if gain < 1:
        typer.echo(f"turned down by {-20 * math.log10(gain):.2f} dB: the peak was {1 / gain:.3f}", err=True)
    typer.echo(output)


@app.command()
def reconstruct(
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="Audio file of any rate; mono is made stereo.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .wav, .flac or .ogg.")],
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    sample_format: SampleFormat = None,
) -> None:
    """Encodes INPUT with the model's autoencoder, decodes it and writes the result, to hear what latents keep.

    The result has the model's sampling rate and as many samples as the input at that rate. It keeps its level:
    samples beyond full scale are clipped unless --sample-format is float.
    """
    device = check_device(device)
    _check_output(output, sample_format)
    if output.resolve() == input.resolve():
        raise ValueError(f"{output} is the input: choose another output.")
    next(read_blocks(input), None)  # an input that is no audio is told before the model is loaded

    vae = load_autoencoder(resolve_checkpoint(checkpoint), device)
    chunks = _reconstruct_chunks(vae, input)
    settings = {"input": input.name, "checkpoint": checkpoint, "version": stable_longform.__version__}
    write_audio(output, chunks, vae.config.sampling_rate, sample_format, _tags(input.name, settings))
    typer.echo(output)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors or .ckpt file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, new or empty.")],
    config: Annotated[
        Path | None, typer.Option(help="Its model_config.json. [default: the one beside CHECKPOINT]")
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="LAION-CLAP checkpoint, or folder or Hub id of a CLAP or T5. [default: as configured]"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id. [default: that of RoBERTa base, or of the T5]")
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option("--ema/--no-ema", help="Take a training's averaged weights. [default: if there are any]"),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Open files that can run any code. Only for files that you trust.")
    ] = False,
    verify: Verify = False,
) -> None:
    """Makes a folder for `from_pretrained` of a stable-audio-tools or LAION-CLAP CHECKPOINT.

    Every tensor is accounted for: keys that are missing, unknown or of another shape, and fields of the configuration
    that cannot be represented, end the conversion.
    """
    quiet_libraries()
    differences = stable_longform.convert_checkpoint(
        checkpoint, output, config, text_encoder, tokenizer, ema, allow_pickle, verify
    )
    _report_conversion(output, differences)


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, new or empty.")],
    to: Annotated[str, typer.Option(help="diffusers (StableAudioPipeline) or stable-audio-tools.")],
    checkpoint: Checkpoint = "tiny",
    text_encoder: Annotated[
        bool, typer.Option(help="Write the CLAP text encoder for stable-audio-tools, as a file of its own.")
    ] = True,
    verify: Verify = False,
) -> None:
    """Writes a checkpoint in the format of another tool, or says which field that cannot express."""
    quiet_libraries()
    checkpoint = NAMED_CHECKPOINTS.get(checkpoint, checkpoint)
    _report_conversion(output, stable_longform.export_checkpoint(checkpoint, output, to, text_encoder, verify))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0, or 2 for bad input, or 130 when interrupted.
    """
    try:
        return app(args=argv, prog_name="stable-longform", standalone_mode=False) or 0
    except UsageError as error:
        message = error.format_message()
    except (ValueError, OSError) as error:
        message = str(error)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return EXIT_BAD_INPUT


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


def _check_output(path: Path, sample_format: str | None) -> None:
    """Raises a ValueError unless the file can be written; permissions alone do not tell, so one is opened beside."""
    check_output_path(path, sample_format)
    try:
        with tempfile.TemporaryFile(prefix=f".{path.name}", dir=path.absolute().parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from error


def _report_conversion(output: Path, differences: dict[str, float]) -> None:
    """Prints the largest relative differences, if there are any, and the path."""
    for name, value in differences.items():
        typer.echo(f"{name}: largest relative difference {value:.1e}", err=True)
    typer.echo(output)


def _show_progress(chunks: Iterator[torch.Tensor], duration_in_s: float, sampling_rate: int) -> Iterator[torch.Tensor]:
    """Passes on decoded chunks, with a progress bar in seconds; raises a ValueError for audio that is not finite."""
    with tqdm(total=round(duration_in_s), unit="s", desc="decoding") as progress:
        done = 0
        for chunk in chunks:
            if not chunk.isfinite().all():
                raise ValueError(
                    "The model returned audio that is not finite: try --dtype float32, or another checkpoint."
                )
            yield chunk
            done += chunk.shape[-1]
            progress.update(min(round(done / sampling_rate), progress.total) - progress.n)


@torch.no_grad()
def _reconstruct_chunks(vae, path: Path) -> Iterator[torch.Tensor]:
    """Encodes a file, then yields the reconstruction, of the same length, chunk by chunk."""
    num_samples = 0

    def read() -> Iterator[torch.Tensor]:
        nonlocal num_samples
        for block in read_blocks(path, vae.config.sampling_rate):
            if not block.isfinite().all():
                raise ValueError(f"{path} holds samples that are not finite.")
            num_samples += block.shape[1]
            yield (to_stereo(block) if vae.config.audio_channels == 2 else block)[None]

    latents = torch.cat([posterior.mode() for posterior in vae.encode_stream(read())], dim=-1)
    chunks = _show_progress(
        vae.decode_stream(latents), num_samples / vae.config.sampling_rate, vae.config.sampling_rate
    )
    for chunk in chunks:
        yield chunk[0, :, :num_samples]
        num_samples -= chunk.shape[-1]


def _tags(title: str, settings: dict) -> dict[str, str]:
    """Tags of a file that was made with these settings."""
    return {
        "title": title,
        "software": f"stable_longform {stable_longform.__version__}",
        "comment": json.dumps(settings, ensure_ascii=False),
    }


if __name__ == "__main__":
    sys.exit(main())
