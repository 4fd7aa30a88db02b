"""The commands `stable-longform runs ...`: the progress of trainings."""

from pathlib import Path
from typing import Annotated

import typer

from stable_longform.utils.files import check_output_file
from stable_longform.utils.pictures import draw_curves
from stable_longform.utils.run_folder import last_values, read_metrics

app = typer.Typer(help="Training runs.", no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@app.callback()
def runs() -> None:
    """Training runs."""


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --output_dir of a training run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Picture to write. [default: DIR/curves.png]")
    ] = None,
) -> None:
    """Prints the last value of every metric of a training run and draws the curves."""
    output = output or folder / "curves.png"
    rows = read_metrics(folder)
    check_output_file(output)
    draw_curves(rows, output, str(folder))
    for name, (step, value) in last_values(rows).items():
        typer.echo(f"{name:<40} {value:>12.5g}   step {step}")
    typer.echo(output)
