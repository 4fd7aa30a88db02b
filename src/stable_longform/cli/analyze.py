"""The commands `stable-longform analyze ...`: what music is like beyond its scores."""

from pathlib import Path
from typing import Annotated

import typer

from stable_longform.evaluation.audio_files import ReadingSettings
from stable_longform.evaluation.structure import NUM_RESAMPLES, analyze_folders, read_sections

app = typer.Typer(help="Musical structure, as in Figure 4.", rich_markup_mode=None, add_completion=False)


@app.callback()
def analyze() -> None:
    # With it, an app of a single command has that command's name. A docstring would replace the help.
    pass


@app.command()
def structure(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FOLDER...", help="Folders of audio, each a row of the figure: real=... ours=..."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")],
    truth: Annotated[
        Path | None, typer.Option(help="Manifest of composed pieces with their sections, to score boundaries against.")
    ] = None,
    trim: Annotated[float | None, typer.Option(min=10, help="Only the first seconds of each file.")] = None,
    max_duration: Annotated[float, typer.Option(help="Files of more seconds than this are left out.")] = 7200.0,
    pictures: Annotated[bool, typer.Option(help="Draw the matrix of each file.")] = True,
    num_resamples: Annotated[int, typer.Option(min=2, help="Draws of files for intervals.")] = NUM_RESAMPLES,
    seed: Annotated[int, typer.Option(min=0, help="Of those draws.")] = 0,
) -> None:
    """Self-similarity matrices, and numbers of repetition, loops, introduction and ending, and sections.

    Folders with the same subfolders, one for each genre, are drawn as in the paper: genres from left to right, systems
    from top to bottom. Run it again after an interruption.
    """
    systems = name_folders(folders)
    sections = None if truth is None else read_sections(truth)
    settings = ReadingSettings(trim, max_duration)
    analyze_folders(systems, output, settings, sections, pictures, num_resamples, seed)
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)


def name_folders(specs: list[str]) -> dict[str, Path]:
    """Folders by name, from `NAME=FOLDER`, or `FOLDER`, which is named after its last part.

    Raises:
        ValueError: one is no folder, or two have one name.
    """
    folders = {}
    for spec in specs:
        name, separator, path = spec.partition("=")
        folder = Path(path if separator else spec)
        name = name if separator else folder.resolve().name
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder.")
        if not name or name in folders:
            raise ValueError(f"Folders must have names that differ, got {name!r} for {folder}: write NAME={folder}.")
        folders[name] = folder
    return folders
