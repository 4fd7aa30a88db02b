"""The commands `stable-longform listening-test ...`: the paper's listening test, Table 4."""

from pathlib import Path
from typing import Annotated

import typer

from stable_longform.analysis.listening_test_scores import MAX_REPEAT_DIFFERENCE
from stable_longform.analysis.listening_test_server import make_server
from stable_longform.cli.analyze import name_folders
from stable_longform.cli.common import end_on_sigterm
from stable_longform.cli.options import MAX_COUNT, folder_option, seconds_option
from stable_longform.evaluation.listening_test import ListeningTestSettings, build_test, score_test
from stable_longform.evaluation.prompt_lists import read_prompt_list
from stable_longform.utils.accepted_values import MAX_SEED

app = typer.Typer(help="Listening tests, Table 4.", rich_markup_mode=None, add_completion=False)

PARTS_IN_S = [120.0, 285.0]

Test = Annotated[Path, typer.Argument(help="Folder of the test, made by build.")]


@app.command()
def build(
    systems: Annotated[
        list[str],
        typer.Argument(metavar="NAME=FOLDER...", help="Folders with one file per prompt, named by its id."),
    ],
    prompts: Annotated[Path, typer.Option(help="Prompts: .jsonl, .txt (one a line) or Song Describer's .csv.")],
    output: Annotated[Path, folder_option("Folder for the test.")],
    part: Annotated[
        list[float], seconds_option("--part", "Duration of a part in seconds. May be repeated.")
    ] = PARTS_IN_S,
    test_id: Annotated[str, typer.Option(help="Name of the test: lower-case letters, digits, - and _.")] = "listening",
    title: Annotated[str, typer.Option(help="Title that listeners see.")] = "Listening test",
    listeners: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Number of listeners; the paper has 26.")] = 26,
    repeats: Annotated[int, typer.Option(min=0, max=MAX_COUNT, help="Number of ratings to repeat in each part.")] = 2,
    pairs: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Number of pairs that each listener compares in each part.")
    ] = 6,
    min_listened: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds of listening before a rating is possible.")
    ] = 30.0,
    format: Annotated[str, typer.Option(help="Audio format: flac, wav or ogg.")] = "flac",
    separate_audio: Annotated[
        bool, typer.Option("--separate-audio", help="Store the audio in separate files, not inside the page.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Use only the first prompts.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the stimulus names.")] = 0,
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
    for stimulus in key["stimuli"].values():
        if notes := stimulus.get("notes"):
            place = ", ".join(stimulus[field] for field in ("part", "system", "prompt_id"))
            typer.echo(f"used: {place}: {', '.join(notes)}", err=True)
    typer.echo(f"{len(key['stimuli'])} stimuli, {len(key['left_out'])} left out", err=True)
    typer.echo(output / "page" / "index.html")


@app.command()
def serve(
    test: Test,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
) -> None:
    """Serves the page and stores its answers in the test's folder results/, until interrupted."""
    end_on_sigterm()
    with make_server(test / "page", test / "results", host, port) as server:
        typer.echo(f"http://{host}:{server.server_address[1]}/")
        server.serve_forever()


@app.command()
def score(
    test: Test,
    results: Annotated[
        list[Path], typer.Argument(help="Result files and folders, from the page, webMUSHRA or pymushra.")
    ],
    output: Annotated[Path, folder_option("Folder for the report.")],
    max_difference: Annotated[
        float, typer.Option(min=0, max=100, help="Exclude listeners whose repeated ratings differ by more than this.")
    ] = MAX_REPEAT_DIFFERENCE,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Table 4: mean ± deviation, percentage of correct stereo, 95 % intervals over listeners; strengths from pairs."""
    score_test(test / "key.json", results, output, max_difference, seed)
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)
