"""The command `stable-longform info`: the properties and tags of an audio file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stable_longform.cli.options import Json
from stable_longform.music_files import read_values
from stable_longform.utils.audio import read_info


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any audio file.")],
    is_json: Json = False,
) -> None:
    """Shows length and format of FILE and, if this program made it, its settings."""
    description = {name: value for name, value in asdict(read_info(file)).items() if value is not None}
    description = {"path": str(file)} | description
    settings = read_values(file)
    if is_json:
        typer.echo(json.dumps(description | {"settings": settings}, ensure_ascii=False))
        return
    for name, value in description.items():
        typer.echo(f"{name}: {value}")
    typer.echo("settings:" if settings else "settings: none in the tags")
    for name, value in (settings or {}).items():
        typer.echo(f"  {name}: {value}")
