"""The commands `stable-longform convert` and `export`: from checkpoints of other tools, and to them."""

from pathlib import Path
from typing import Annotated

import typer

import stable_longform
from stable_longform.cli.common import NAMED_CHECKPOINTS, quiet_libraries
from stable_longform.cli.options import Checkpoint, folder_option

Verify = Annotated[
    bool, typer.Option("--verify", help="Run the other tool on the same random inputs and print the differences.")
]


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors or .ckpt file.")],
    output: Annotated[Path, folder_option("Folder to write, new or empty.")],
    config: Annotated[
        Path | None, typer.Option(help="Its model_config.json. [default: the one in the folder of CHECKPOINT]")
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="LAION-CLAP checkpoint, or folder or Hub id of a CLAP or T5. [default: from the configuration]"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id. [default: RoBERTa base, or that of the T5]")
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema", help="Use the averaged weights of a training checkpoint. [default: if there are any]"
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Open files that can run arbitrary code. Only for files that you trust."),
    ] = False,
    verify: Verify = False,
) -> None:
    """Converts a stable-audio-tools or LAION-CLAP CHECKPOINT to a folder for `from_pretrained`.

    Every tensor is accounted for: keys that are missing, unknown or of another shape, and fields of the configuration
    that cannot be represented, end the conversion.
    """
    quiet_libraries()
    differences = stable_longform.convert_checkpoint(
        checkpoint, output, config, text_encoder, tokenizer, ema, allow_pickle, verify
    )
    _report_conversion(output, differences)


def export(
    output: Annotated[Path, folder_option("Folder to write, new or empty.")],
    to: Annotated[str, typer.Option(help="diffusers (StableAudioPipeline) or stable-audio-tools.")],
    checkpoint: Checkpoint = "tiny",
    text_encoder: Annotated[
        bool, typer.Option(help="Write the CLAP text encoder for stable-audio-tools to a separate file.")
    ] = True,
    verify: Verify = False,
) -> None:
    """Writes a checkpoint in the format of another tool, or names the field that the tool does not support."""
    quiet_libraries()
    checkpoint = NAMED_CHECKPOINTS.get(checkpoint, checkpoint)
    _report_conversion(output, stable_longform.export_checkpoint(checkpoint, output, to, text_encoder, verify))


def _report_conversion(output: Path, differences: dict[str, float]) -> None:
    """Prints the largest relative differences, if there are any, and the path."""
    for name, value in differences.items():
        typer.echo(f"{name}: largest relative difference {value:.1e}", err=True)
    typer.echo(output)
