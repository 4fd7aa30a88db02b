"""Builds listening tests from folders of audio and a list of prompts, and scores their results. Paper: §4.2, Table 4.

Stimuli are trimmed to the length of their part, normalised to the same loudness (ITU-R BS.1770, pyloudnorm) without
clipping, and given anonymous names. `key.json`, which tells which system made which stimulus, stays with the
experimenter.
"""

import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stable_longform.analysis.listening_test import (
    AGAIN,
    QUESTIONS,
    STEREO,
    Stimulus,
    check_test_id,
    pair_order,
    rating_order,
    stimulus_id,
)
from stable_longform.analysis.listening_test_forms import MIME, render_page, webmushra_config, webmushra_sessions
from stable_longform.analysis.listening_test_results import read_results
from stable_longform.analysis.listening_test_scores import (
    MAX_REPEAT_DIFFERENCE,
    preference_table,
    rating_table,
    screen_listeners,
)
from stable_longform.evaluation.audio_files import (
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    list_audio,
    load_audio,
    to_channels,
)
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.audio import write_audio
from stable_longform.utils.caches import cached_json
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import atomic_path, file_sha256, write_json, write_text
from stable_longform.utils.optional import require
from stable_longform.utils.text_files import read_json

SAMPLING_RATE = 44100
LOUDNESS_IN_LUFS, PEAK_IN_DBFS = -23.0, -1.0
STIMULUS_FIELDS = ("part", "prompt_id", "system")  # in key.json
FADE_IN_S = 0.5  # at the end of each stimulus
TOLERANCE_IN_S = 0.5  # by which a file may be shorter than its part
MAX_PAGE_IN_BYTES = 300 * 10**6  # of audio inside the page, before base64


@dataclass(frozen=True)
class ListeningTestSettings:
    """Settings of a listening test.

    Args:
        test_id: small letters, digits, - and _.
        title: shown to listeners.
        parts_in_s: length of the music in each part; the paper's are 120 and 285.
        num_listeners: number of listeners.
        num_repeats: number of ratings in a part that are repeated.
        num_pairs: number of pairs that each listener compares in a part, on the page.
        min_listened_in_s: how much of a piece must be heard before it can be rated; shorter ones completely.
        extension: flac, wav or ogg.
        is_audio_inside: whether the audio is inside the page, or in a folder beside it.
        seed: of the ids.
    """

    test_id: str = "listening"
    title: str = "Listening test"
    parts_in_s: tuple[float, ...] = (120.0, 285.0)
    num_listeners: int = 26
    num_repeats: int = 2
    num_pairs: int = 6
    min_listened_in_s: float = 30.0
    extension: str = "flac"
    is_audio_inside: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_test_id(self.test_id)
        if not self.parts_in_s or not all(1 <= seconds < math.inf for seconds in self.parts_in_s):
            raise ValueError(f"Parts must last at least 1 second, got {self.parts_in_s}.")
        if len(set(self.parts_in_s)) < len(self.parts_in_s):
            raise ValueError(f"Parts must have different durations, got {self.parts_in_s}.")
        if self.extension not in MIME:
            raise ValueError(f"The format must be one of {', '.join(MIME)}, got {self.extension!r}.")
        if self.num_listeners < 1 or min(self.num_repeats, self.num_pairs, self.min_listened_in_s) < 0:
            raise ValueError("There must be at least one listener, and no number may be negative.")


@dataclass
class Material:
    """The stimuli of a test by id, with file, gain and duration; and why others are left out."""

    stimuli: dict[str, Stimulus] = field(default_factory=dict)
    details: dict[str, dict] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def part_name(seconds: float) -> str:
    """The name of a part, for example 2m, 4m45s or 30s."""
    minutes, rest = divmod(seconds, 60)
    return "".join([f"{minutes:.0f}m"] * (minutes > 0) + [f"{rest:g}s"] * (rest > 0))


def build_test(
    systems: Mapping[str, Path], prompts: Sequence[PromptRow], output: Path, settings: ListeningTestSettings
) -> dict:
    """Builds a test: `page/`, `webmushra/` and `key.json`. Run again, it continues with the existing files.

    Args:
        systems: folder of each system, with a file for each prompt, named after the prompt's id.
        prompts: of the music.
        output: folder of the test.
        settings: of the test.

    Returns:
        The content of `key.json`.

    Raises:
        ValueError: there is no usable stimulus, or too much audio for a page.
    """
    material = measure_material(systems, prompts, settings, output / "work")
    if not material.stimuli:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(material.left_out.items())[:5])
        raise ValueError(f"No music can be used: {reasons}.")
    files = write_stimuli(material, settings, output / "stimuli")
    size = sum(path.stat().st_size for path in files.values())
    if settings.is_audio_inside and size > MAX_PAGE_IN_BYTES:
        raise ValueError(
            f"The page would hold {size / 1e6:.0f} MB of audio, more than {MAX_PAGE_IN_BYTES / 1e6:.0f}: "
            "store it in separate files (--separate-audio), or write ogg (--format ogg)."
        )
    texts = {row.id: row.prompt for row in prompts}
    listeners = {str(n): make_trials(material, texts, settings, n) for n in range(1, settings.num_listeners + 1)}
    _write_page(listeners, files, settings, output / "page")
    durations = {name: details["duration_in_s"] for name, details in material.details.items()}
    _write_webmushra(listeners, files, durations, settings, output / "webmushra")
    key = {
        "settings": asdict(settings),
        "stimuli": {name: asdict(stimulus) | material.details[name] for name, stimulus in material.stimuli.items()},
        "prompts": texts,
        "listeners": {number: [trial["id"] for trial in trials] for number, trials in listeners.items()},
        "left_out": material.left_out,
        "environment": describe_environment(),
    }
    write_json(output / "key.json", key)
    return key


def measure_material(
    systems: Mapping[str, Path], prompts: Sequence[PromptRow], settings: ListeningTestSettings, cache: Path
) -> Material:
    """Finds the file of every system and prompt, and its gain to a loudness that all files reach without clipping."""
    cache.mkdir(parents=True, exist_ok=True)
    material, files = Material(), {name: list_audio(folder) for name, folder in systems.items()}
    wanted = [(part, row, name) for part in settings.parts_in_s for row in prompts for name in systems]
    for seconds, row, system in tqdm(wanted, desc="measuring", unit="file"):
        part = part_name(seconds)
        try:
            if row.id not in files[system]:
                raise UnusableAudioError("no file with that name")
            measured = _measure(files[system][row.id], seconds, cache)
        except UnusableAudioError as error:
            material.left_out[f"{part}, {system}, {row.id}"] = str(error)
            continue
        name = stimulus_id(settings.seed, part, row.id, system)
        material.stimuli[name] = Stimulus(name, part, row.id, system)
        material.details[name] = {"file": str(files[system][row.id]), "part_in_s": seconds} | measured
    levels = [m["loudness_in_lufs"] + PEAK_IN_DBFS - m["peak_in_dbfs"] for m in material.details.values()]
    target = min([LOUDNESS_IN_LUFS, *levels])
    for details in material.details.values():
        details["gain_in_db"] = target - details["loudness_in_lufs"]
    return material


def _load(path: Path, seconds: float) -> tuple[torch.Tensor, list[str]]:
    """The first seconds of a file, `(2, num_samples)` at 44.1 kHz, and notes such as that it is mono."""
    audio = load_audio(path, ReadingSettings(trim_in_s=seconds, peak_in_db=None))
    return to_channels(audio, 2, SAMPLING_RATE), list(audio.notes)


def _measure(path: Path, seconds: float, cache: Path) -> dict:
    """Loudness, peak, duration, notes and hash of the first seconds of a file."""
    digest = audio_hash(path)

    def compute() -> dict:
        waveform, notes = _load(path, seconds)
        duration = waveform.shape[1] / SAMPLING_RATE
        if duration < seconds - TOLERANCE_IN_S:
            raise UnusableAudioError(f"too short: {duration:.2f} s, less than the {seconds:g} s of the part")
        peak = float(waveform.abs().max())
        loudness = require("pyloudnorm", "eval").Meter(SAMPLING_RATE).integrated_loudness(waveform.T.double().numpy())
        if peak == 0 or not math.isfinite(loudness):
            raise UnusableAudioError("silent, or too soft to measure its loudness")
        measured = {"loudness_in_lufs": float(loudness), "peak_in_dbfs": 20 * math.log10(peak)}
        return measured | {"duration_in_s": duration, "notes": notes, "sha256": digest}

    return cached_json(cache / f"{digest}-{seconds:g}.json", compute, ("loudness_in_lufs", "peak_in_dbfs", "notes"))


def write_stimuli(material: Material, settings: ListeningTestSettings, folder: Path) -> dict[str, Path]:
    """Writes the missing stimuli; returns the file of each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, details in tqdm(material.details.items(), desc="writing", unit="file"):
        files[name] = folder / f"{name}.{settings.extension}"
        made_from, note = {key: details[key] for key in ("sha256", "part_in_s", "gain_in_db")}, folder / f"{name}.json"
        if not _is_written(files[name], note, made_from):
            waveform, _ = _load(Path(details["file"]), details["part_in_s"])
            waveform = waveform * 10 ** (details["gain_in_db"] / 20)
            fade = min(round(FADE_IN_S * SAMPLING_RATE), waveform.shape[1])
            waveform[:, waveform.shape[1] - fade :] *= torch.linspace(1, 0, fade)
            write_audio(files[name], waveform, SAMPLING_RATE, "vorbis" if settings.extension == "ogg" else "pcm16")
            write_json(note, made_from | {"written_sha256": file_sha256(files[name])})
    return files


def _is_written(path: Path, note: Path, made_from: dict[str, Any]) -> bool:
    """Whether a stimulus is there as its note says: of this music, and undamaged."""
    try:
        return read_json(note) == made_from | {"written_sha256": file_sha256(path)}
    except (OSError, ValueError):  # missing, or damaged itself
        return False


def make_trials(
    material: Material, texts: Mapping[str, str], settings: ListeningTestSettings, listener: int
) -> list[dict]:
    """All trials of a listener: for each part the ratings, then the pairs."""
    trials: list[dict] = []
    for part in dict.fromkeys(stimulus.part for stimulus in material.stimuli.values()):
        stimuli = [stimulus for stimulus in material.stimuli.values() if stimulus.part == part]
        for trial in rating_order(stimuli, listener, settings.num_repeats):
            name = trial.removesuffix(AGAIN)
            text = texts[material.stimuli[name].prompt_id]
            trials.append({"id": trial, "part": part, "prompt": text, "audio": name})
        for pair in pair_order(stimuli, listener, settings.num_pairs):
            text = texts[material.stimuli[pair[0]].prompt_id]
            trials.append({"id": "_".join(pair), "part": part, "prompt": text, "pair": list(pair)})
    return trials


def _write_page(
    listeners: Mapping[str, list], files: Mapping[str, Path], settings: ListeningTestSettings, folder: Path
) -> None:
    """Writes the page, and its audio if it is in a folder beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {name: getattr(settings, name) for name in ("test_id", "title", "extension", "min_listened_in_s")}
    inside = files if settings.is_audio_inside else {}
    write_text(folder / "index.html", render_page(plan | {"listeners": listeners}, inside))
    if not settings.is_audio_inside:
        _copy(files, folder / "audio")


def _write_webmushra(
    listeners: Mapping[str, list],
    files: Mapping[str, Path],
    durations_in_s: Mapping[str, float],
    settings: ListeningTestSettings,
    folder: Path,
) -> None:
    """Writes the files to copy into a checkout of webMUSHRA."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    _copy(files, folder / "configs" / "resources" / settings.test_id)
    for number, trials in listeners.items():
        ratings = [trial for trial in trials if "audio" in trial]
        for session, part in enumerate(webmushra_sessions(ratings, durations_in_s), 1):
            text = webmushra_config(settings.test_id, settings.title, int(number), part, settings.extension)
            write_text(folder / "configs" / f"{settings.test_id}_l{number}_{session}.yaml", text)


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    """Copies stimuli."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files.values():
        with atomic_path(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)


def read_key(path: Path) -> tuple[dict[str, dict], str, dict[str, list]]:
    """The stimuli, the id and the trials of each listener of a test, from its `key.json`.

    Raises:
        ValueError: the file is not the key of a test.
    """
    try:
        key = read_json(path, "stimuli", "settings", "listeners")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not the key.json of a listening test: {error}") from error
    stimuli, settings, plan = key["stimuli"], key["settings"], key["listeners"]
    for name, content in (("stimuli", stimuli), ("settings", settings), ("listeners", plan)):
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not the key.json of a listening test: {name} must be an object.")
    for name, stimulus in stimuli.items():
        fields = [stimulus.get(field) for field in STIMULUS_FIELDS] if isinstance(stimulus, dict) else [None]
        if not all(isinstance(value, str) for value in fields):
            raise ValueError(f"{path}: the stimulus {name} must have {', '.join(STIMULUS_FIELDS)} as text.")
    if not isinstance(settings.get("test_id"), str) or not all(isinstance(trials, list) for trials in plan.values()):
        raise ValueError(f"{path} is not the key.json of a listening test: test_id or the trials are missing.")
    for trial in itertools.chain(*plan.values()):
        names = trial.removesuffix(AGAIN).split("_") if isinstance(trial, str) else [trial]
        of_systems = {stimuli[name]["system"] for name in names if isinstance(name, str) and name in stimuli}
        if len(of_systems) < len(names):
            raise ValueError(f"{path}: the trial {trial!r} must be a stimulus, or two of different systems.")
    return stimuli, settings["test_id"], plan


def score_test(
    key_path: Path, results: Sequence[Path], output: Path, max_difference: float = MAX_REPEAT_DIFFERENCE, seed: int = 0
) -> dict:
    """Scores result files; writes `scores.json` and `table.md`.

    Args:
        key_path: the `key.json` of the test.
        results: result files and folders of them.
        output: folder of the report.
        max_difference: listeners with a larger mean difference of repeated ratings are excluded.
        seed: of the draws of listeners.

    Returns:
        The content of `scores.json`.

    Raises:
        ValueError: the file is not a key of a test, there is no result file, or no valid answer.
    """
    stimuli, test_id, plan = read_key(key_path)
    found = read_results(results, test_id, plan)
    screened = screen_listeners(found.answers, max_difference)
    answers = [answer for answer in found.answers if answer.listener not in screened]
    if not answers:
        reasons = "; ".join([*found.left_out[:5], *(f"listener {name}: {why}" for name, why in screened.items())])
        raise ValueError(f"No answer can be used: {reasons}.")
    answered = {(answer.listener, answer.trial_id) for answer in found.answers}
    unfinished: dict[str, int] = {}
    for listener in sorted({answer.listener for answer in found.answers}):
        missing = [trial for trial in plan.get(listener, ()) if (listener, trial) not in answered]
        unfinished |= {listener: len(missing)} if missing else {}
    report = {
        "ratings": rating_table(answers, stimuli, seed=seed),
        "preferences": preference_table(answers, stimuli, seed=seed),
        "num_listeners": len({answer.listener for answer in answers}),
        "num_answers": len(answers),
        "screened": screened,
        "unfinished": unfinished,
        "left_out": found.left_out,
        "protocol": {"max_difference": max_difference, "seed": seed, "environment": describe_environment()},
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "scores.json", report)
    write_text(output / "table.md", make_table(report))
    return report


def make_table(report: Mapping) -> str:
    """Table 4, the preferences, and the excluded listeners and answers."""
    rows = [
        [f"{system}, {part}", *(_cell(scores.get(name), name) for name in QUESTIONS), _listeners(scores)]
        for part, systems in report["ratings"].items()
        for system, scores in systems.items()
    ]
    text = markdown_table(("system", *(name.replace("_", " ") for name in QUESTIONS), "listeners"), rows)
    for part, found in report["preferences"].items():
        rows = [
            [name, round(row["strength"], 3), row["interval"] and "{:.2f} … {:.2f}".format(*row["interval"])]
            for name, row in sorted(found["strengths"].items(), key=lambda item: -item[1]["strength"])
        ]
        counts = f"{found['num_comparisons']} comparisons by {found['num_listeners']} listeners"
        text += f"\nPreferences, {part}: {counts}.\n\n"
        text += markdown_table(("system", "strength (log odds)", "95 % interval"), rows)
    text += f"\n{len(report['screened'])} listeners left out.\n"
    text += "".join(f"- {name}: {reason}\n" for name, reason in report["screened"].items())
    if report["unfinished"]:
        counts = ", ".join(f"{name} ({count} trials)" for name, count in report["unfinished"].items())
        text += f"\nListeners who did not finish, whose answers count: {counts}.\n"
    text += f"\n{len(report['left_out'])} answers or files left out.\n"
    return text + "".join(f"- {reason}\n" for reason in report["left_out"])


def _cell(score: Mapping | None, question: str) -> str | None:
    """Mean, deviation and interval; a percentage for stereo correctness."""
    if score is None:
        return None
    interval = "" if score["interval"] is None else " ({:.2f} … {:.2f})".format(*score["interval"])
    if question == STEREO:
        interval = "" if score["interval"] is None else " ({:.0f} … {:.0f})".format(*score["interval"])
        return f"{score['mean']:.0f} %{interval}"
    deviation = "" if score["deviation"] is None else f" ± {score['deviation']:.1f}"
    return f"{score['mean']:.1f}{deviation}{interval}"


def _listeners(scores: Mapping) -> int:
    """Number of listeners in a row."""
    return max(score["num_listeners"] for score in scores.values())
