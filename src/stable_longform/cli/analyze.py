"""The commands `stable-longform analyze ...`: musical structure and memorization."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import PartialState

from stable_longform.cli.evaluate import GuidanceScale, Seed, Steps, load_codec, load_model
from stable_longform.cli.options import (
    MAX_COUNT,
    Checkpoint,
    Device,
    check_device,
    folder_option,
    seconds_option,
)
from stable_longform.evaluation.audio_files import ReadingSettings, list_audio
from stable_longform.evaluation.embedders import NAMES, load_embedder
from stable_longform.evaluation.generation import generate_folder
from stable_longform.evaluation.memorization import (
    MemorizationAnalysis,
    MemorizationSettings,
    choose_prompts,
    open_tracks,
)
from stable_longform.evaluation.memorization_report import CARD_TITLE, card_section, report_generations
from stable_longform.evaluation.structure import NUM_RESAMPLES, analyze_folders, read_sections
from stable_longform.utils.accepted_values import MAX_SEED
from stable_longform.utils.model_card import read_card, set_section

HELD_OUT = ("valid", "test")  # splits of music that the model has not seen
PROMPT_SETS = ("training_prompts", "held_out_prompts")

app = typer.Typer(
    help="Musical structure, as in Figure 4, and memorization.", rich_markup_mode=None, add_completion=False
)


@app.command()
def structure(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FOLDER...", help="Folders of audio, one for each row of the figure: real=... ours=..."
        ),
    ],
    output: Annotated[Path, folder_option("Folder for the report.")],
    truth: Annotated[
        Path | None, typer.Option(help="Manifest of composed pieces with their sections, to score boundaries against.")
    ] = None,
    trim: Annotated[
        float | None, typer.Option(min=10, max=1e6, help="Use only the first seconds of each file.")
    ] = None,
    max_duration: Annotated[float, seconds_option("--max-duration", "Longer files are skipped.")] = 7200.0,
    pictures: Annotated[bool, typer.Option(help="Draw the matrix of each file.")] = True,
    num_resamples: Annotated[
        int, typer.Option(min=2, max=MAX_COUNT, help="Bootstrap samples for the intervals.")
    ] = NUM_RESAMPLES,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Self-similarity matrices, and measures of repetition, loops, introduction, ending and sections.

    Folders with the same subfolders, one for each genre, are drawn as in the paper: genres from left to right, systems
    from top to bottom. Run it again after an interruption.
    """
    systems = name_folders(folders)
    sections = None if truth is None else read_sections(truth)
    settings = ReadingSettings(trim, max_duration)
    analyze_folders(systems, output, settings, sections, pictures, num_resamples, seed)
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)


@app.command()
def memorization(
    source: Annotated[
        str,
        typer.Argument(help="Manifest, folder or CSV file with the training set and, in other splits, other music."),
    ],
    output: Annotated[Path, folder_option("Folder for the report.")],
    embedder: Annotated[
        str, typer.Option(help=f"One of {', '.join(NAMES)}; with weights as NAME=FILE_OR_FOLDER.")
    ] = "mel44",
    generated: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Existing generations instead of new ones. May be repeated; the first two are compared.",
        ),
    ] = None,
    checkpoint: Checkpoint = "tiny",
    num_generations: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_COUNT,
            help="Generations from training prompts, duplicates first, and as many from other prompts.",
        ),
    ] = 100,
    duration: Annotated[float, seconds_option("--duration", "Seconds of each generation.")] = 30.0,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint through whose autoencoder held-out and planted music passes, as generations do. Default: "
            "that of --checkpoint, or with --generated none."
        ),
    ] = None,
    segment: Annotated[float, seconds_option("--segment", "Seconds of the passages that are compared.")] = 10.0,
    num_copies: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Number of recordings to plant copies of.")
    ] = 40,
    num_splices: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Number of generations to splice training music into.")
    ] = 40,
    max_duration: Annotated[float, seconds_option("--max-duration", "Longer files are skipped.")] = 1800.0,
    limit: Annotated[
        int | None,
        typer.Option(
            min=2, max=MAX_COUNT, help="Use only the first recordings of the training set, and of the other splits."
        ),
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Checkpoint whose model card gets the verdict.")] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Finds duplicates in a training set, and generated music that copies it.

    Run it again after an interruption; `accelerate launch -m stable_longform analyze memorization ...` shares the work
    among processes.
    """
    folders = name_folders(generated or [])
    for folder in folders.values():
        list_audio(folder)
    if card is not None:
        read_card(card)
    training, held_out = open_tracks(source, ("train",), limit), open_tracks(source, HELD_OUT, limit)
    state = PartialState()
    chosen = check_device(device) if device or state.num_processes == 1 else state.device
    settings = MemorizationSettings(
        segment, duration, num_copies, num_splices, max_duration_in_s=max_duration, seed=seed
    )
    with_codec = autoencoder or (None if folders else checkpoint)
    codec = None if with_codec is None else load_codec(with_codec, True, torch.device(chosen))
    analysis = MemorizationAnalysis(
        {name: track.path for name, track in training.items()},
        {name: track.path for name, track in held_out.items()},
        load_embedder(embedder, chosen),
        output,
        settings,
        codec,
        state.process_index,
        state.num_processes,
        state.wait_for_everyone,
    )
    analysis.embed()
    calibration = analysis.calibrate()
    duplicates = analysis.find_duplicates(calibration["duplicate_threshold"])
    if not folders:
        synthesize, protocol = load_model(checkpoint, None, chosen, steps, guidance_scale, 0.0)
        groups = [group["names"] for group in duplicates["groups"]]
        for name, tracks in zip(PROMPT_SETS, (training, held_out), strict=True):
            rows = choose_prompts(tracks, groups, num_generations, name, seed)
            folders[name] = output / "generated" / name
            shares = (state.process_index, state.num_processes)
            generate_folder(synthesize, rows, folders[name], duration, protocol, seed, *shares)
    state.wait_for_everyone()
    if state.is_main_process:
        verdict = report_generations(analysis, calibration, duplicates, folders, output)
        if card is not None:
            set_section(card, CARD_TITLE, card_section(verdict, embedder))
        typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)
    state.wait_for_everyone()


def name_folders(specs: list[str]) -> dict[str, Path]:
    """Folders by name, from `NAME=FOLDER`, or `FOLDER`, whose name is its last part.

    Raises:
        ValueError: one is not a folder, its name is a path, or two have the same name.
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
        if Path(name).name != name:
            raise ValueError(f"The name of a folder may not be a path, got {name!r} for {folder}.")
        folders[name] = folder
    return folders
