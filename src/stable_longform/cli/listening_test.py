"""The commands `stable-longform listening-test ...`: the paper's listening test, Table 4."""

from pathlib import Path
from typing import Annotated

import typer

from stable_longform.analysis.listening_test_scores import MAX_REPEAT_DIFFERENCE
from stable_longform.analysis.listening_test_server import make_server
from stable_longform.cli.analyze import name_folders
from stable_longform.cli.options import MAX_COUNT, MAX_SEED, seconds_option
from stable_longform.evaluation.listening_test import ListeningTestSettings, build_test, score_test
from stable_longform.evaluation.prompt_lists import read_prompt_list

app = typer.Typer(help="Listening tests, Table 4.", rich_markup_mode=None, add_completion=False)

Test = Annotated[Path, typer.Argument(help="Folder of the test, as build made it.")]


@app.command()
def build(
    systems: Annotated[
        list[str],
        typer.Argument(metavar="NAME=FOLDER...", help="Folders with a file for each prompt, named by its id."),
    ],
    prompts: Annotated[Path, typer.Option(help="Prompts: .jsonl, .txt (one a line) or Song Describer's .csv.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the test.")],
    part: Annotated[list[float], seconds_option("--part", "Seconds of the music of a part. May be repeated.")] = (
        120.0,
        285.0,
    ),
    test_id: Annotated[str, typer.Option(help="Small letters, digits, - and _.")] = "listening",
    title: Annotated[str, typer.Option(help="What listeners see.")] = "Listening test",
    listeners: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="For whom orders are made; the paper's 26.")
    ] = 26,
    repeats: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Ratings of a part that are asked for again.")
    ] = 2,
    pairs: Annotated[int, typer.Option(min=0, max=MAX_COUNT, help="Pairs that each listener compares in a part.")] = 6,
    min_listened: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to hear before rating.")] = 30.0,
    format: Annotated[str, typer.Option(help="flac, wav or ogg.")] = "flac",
    separate_audio: Annotated[
        bool, typer.Option("--separate-audio", help="Audio beside the page, not inside.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Only the first prompts.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the names of the stimuli.")] = 0,
) -> None:
    """Builds a test: a page that needs no server, and files for webMUSHRA. Run it again after an interruption.

    key.json tells which system made which music: it is not for listeners.
    """
    settings = ListeningTestSettings(
        test_id, title, tuple(part), listeners, repeats, pairs, min_listened, format, not separate_audio, seed
    )
    key = build_test(name_folders(systems), read_prompt_list(prompts)[:limit], output, settings)
    for name, reason in key["left_out"].items():
        typer.echo(f"left out: {name}: {reason}", err=True)
    typer.echo(f"{len(key['stimuli'])} stimuli, {len(key['left_out'])} left out", err=True)
    typer.echo(output / "page" / "index.html")


@app.command()
def serve(
    test: Test,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
) -> None:
    """Serves the page, and keeps the answers that it sends in the test's folder results/, until it is interrupted."""
    with make_server(test / "page", test / "results", host, port) as server:
        typer.echo(f"http://{host}:{server.server_address[1]}/")
        server.serve_forever()


@app.command()
def score(
    test: Test,
    results: Annotated[
        list[Path], typer.Argument(help="Result files and folders: of the page, of webMUSHRA, of pymushra.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")],
    max_difference: Annotated[
        float, typer.Option(min=0, max=100, help="Listeners whose repeated ratings differ by more are left out.")
    ] = MAX_REPEAT_DIFFERENCE,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws of listeners.")] = 0,
) -> None:
    """Table 4: mean ± deviation, percentage of correct stereo, 95 % intervals over listeners; strengths from pairs."""
    score_test(test / "key.json", results, output, max_difference, seed)
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)
