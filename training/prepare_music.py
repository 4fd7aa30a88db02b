"""Downloads real music (game soundtracks packaged by Debian) and writes the manifest for the training scripts.

Usage: `python training/prepare_music.py --output_dir DIR [--preset ci|core|full | --packages NAME ...]`

Needs `apt-get` and `dpkg` (Debian bookworm's archive; no root rights, nothing is installed) and no other network. For
each package of the table `training/corpus/free_game_music.jsonl`, it downloads the package, unpacks it to
`DIR/<package>`, extracts the tracks from `.pk3` archives, checks the md5 of every file, and mixes songs that consist
of two files. Then it writes, each only when complete:

- `DIR/manifest.jsonl`, the format of `stable_longform.data.manifest`, of the chosen packages;
- `DIR/ATTRIBUTION.md`, with title, artist, album, package and licence of every track in that manifest.

Run the same command again after an interruption: correct files are kept. Files that are missing or differ are named
and left out. Exit status: 0; 2 if a tool is missing, a package name is wrong, or more than 10 % of the tracks had to
be left out (then nothing is written).
"""

import argparse
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from torch.nn.functional import pad

from stable_longform.utils.audio import read_audio, write_audio
from stable_longform.utils.files import atomic_path, write_text
from stable_longform.utils.scripts import ScriptParser
from stable_longform.utils.text_files import read_json_lines

logger = logging.getLogger("prepare_music")

TABLE = Path(__file__).parent / "corpus" / "free_game_music.jsonl"
MAX_BAD_SHARE = 0.1
# "ci": 49 MB, 4 training and 4 validation tracks. "core": 1.3 GB, 20.7 h. None: every package, 2.6 GB, 28.6 h.
PRESETS = {
    "ci": ["fretsonfire-songs-sectoid", "zaz-data"],
    "core": [
        *("warzone2100-music", "ufoai-music", "wesnoth-1.16-music", "supertux-data", "hedgewars-data", "nexuiz-music"),
        *("colobot-common-sounds", "singularity-music", "marsshooter-data", "drascula-music", "pushover-data"),
        *("starfighter-data", "hyperrogue-music", "zaz-data", "fretsonfire-songs-muldjord"),
        "fretsonfire-songs-sectoid",
    ],
    "full": None,
}
DESCRIPTIVE_KEYS = ("package", "game", "title", "artist", "composer", "album", "licence")
PROMPT_KEYS = ("genre", "moods", "instruments", "bpm")


def read_table(path: Path, packages: list[str] | None) -> list[dict]:
    """Reads the rows of the chosen packages (None: all) in the table's order, each md5 once.

    Raises:
        ValueError: the table cannot be read or does not know one of the packages.
    """
    try:
        rows = [row for _, row in read_json_lines(path)]
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"The table {path} cannot be read: {error}") from error
    unknown = sorted(set(packages or []) - {row["package"] for row in rows})
    if unknown:
        raise ValueError(f"{path} has no package {', '.join(unknown)}.")
    chosen = {}
    for row in rows:
        if packages is None or row["package"] in packages:
            chosen.setdefault(row["md5"], row)
    return list(chosen.values())


def unpack_package(package: str, output_dir: Path, download_dir: Path) -> None:
    """Creates `output_dir/<package>` if it does not exist: downloads the .deb if necessary and unpacks it.

    Raises:
        ValueError: a tool is missing, or it fails.
    """
    folder = output_dir / package
    if folder.is_dir():
        return
    archive = next(iter(sorted(download_dir.glob(f"{package}_*.deb"))), None) or _download(package, download_dir)
    logger.info("unpacking %s", archive.name)
    partial = _empty_folder(output_dir / f".{package}.partial")
    try:
        _run_tool(["dpkg", "-x", str(archive.absolute()), str(partial.absolute())], output_dir)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download(package: str, download_dir: Path) -> Path:
    """Downloads a package with `apt-get download`; the file appears in `download_dir` only when complete."""
    logger.info("downloading %s", package)
    partial = _empty_folder(download_dir / f".{package}.partial")
    try:
        _run_tool(["apt-get", "download", "--quiet", package], partial)
        archive = next(partial.glob("*.deb"))
        return archive.rename(download_dir / archive.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _empty_folder(folder: Path) -> Path:
    """Creates an empty `folder`, replacing an existing one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run_tool(command: list[str], folder: Path) -> None:
    """Runs a command in a folder; if it fails, its last line of errors becomes the text of a `ValueError`."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
        raise ValueError(f"{' '.join(command[:2])} failed: {last_line}") from error


def check_tools(packages: list[str], output_dir: Path, download_dir: Path) -> None:
    """Checks that the tools for the missing packages are installed.

    Raises:
        ValueError: dpkg or apt-get is needed but missing.
    """
    missing = [package for package in packages if not (output_dir / package).is_dir()]
    needed = {"dpkg"} if missing else set()
    if any(not any(download_dir.glob(f"{package}_*.deb")) for package in missing):
        needed.add("apt-get")
    absent = sorted(tool for tool in needed if shutil.which(tool) is None)
    if absent:
        raise ValueError(f"{' and '.join(absent)} not found: this script needs a Debian or Ubuntu system.")


def find_file(folder: Path, path: str, md5: str) -> Path | None:
    """Returns a package's file if it has the right md5; extracts it from a .pk3 archive if necessary."""
    file = folder / path
    if "/unpacked/" in path and not file.is_file():
        _extract_from_pk3(file)
    if not file.is_file():
        logger.warning("%s: missing", file)
        return None
    with file.open("rb") as stream:
        found = hashlib.md5(stream.read()).hexdigest()
    if found != md5:
        logger.warning("%s: md5 %s instead of %s", file, found, md5)
        return None
    return file


def _extract_from_pk3(file: Path) -> None:
    """Writes `.../unpacked/<member>` from the first archive `.../*.pk3` (a zip file) that holds the member."""
    folder = next(parent for parent in file.parents if parent.name == "unpacked")
    member = file.relative_to(folder).as_posix()
    for path in sorted(folder.parent.glob("*.pk3")):
        with zipfile.ZipFile(path) as archive:
            if member in archive.namelist():
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(file) as temporary:
                    temporary.write_bytes(archive.read(member))
                return


def mix_files(first: Path, second: Path) -> Path:
    """Mixes two recordings of one song to `mix.flac` beside them, unless it exists; returns its path.

    The shorter one is padded with silence, and the sum is scaled down if it would clip.
    """
    mix = first.with_name("mix.flac")
    if mix.is_file():
        return mix
    waveform, sampling_rate = read_audio(first)
    other, _ = read_audio(second, sampling_rate=sampling_rate)
    num_samples = max(waveform.shape[1], other.shape[1])
    total = sum(pad(part, (0, num_samples - part.shape[1])) for part in (waveform, other))
    write_audio(mix, total / torch.clamp(total.abs().max(), min=1.0), sampling_rate)
    return mix


def prepare_track(row: dict, output_dir: Path) -> dict | None:
    """Checks one track of the table and returns its row of the manifest; None if a file is missing or differs."""
    folder, duration_in_s = output_dir / row["package"], row["duration_in_s"]
    file = find_file(folder, row["path"], row["md5"])
    if file is None:
        return None
    if "mix_with" in row:
        other = find_file(folder, row["mix_with"], row["mix_with_md5"])
        if other is None:
            return None
        file = mix_files(file, other)
    entry = {"path": file.relative_to(output_dir).as_posix(), "duration_in_s": duration_in_s, "split": row["split"]}
    entry["weight"] = row.get("weight", 1.0)
    return entry | {key: row[key] for key in DESCRIPTIVE_KEYS + PROMPT_KEYS if key in row}


def attribution(entries: list[dict]) -> str:
    """The attribution of the manifest's tracks in Markdown, with a section for each game."""
    lines = [
        "# Attribution",
        "",
        "The recordings below come from packages of the Debian archive. Authors that the files do not name, and the",
        "full licence texts, are in `<package>/usr/share/doc/<package>/copyright`.",
    ]
    for package in sorted({entry["package"] for entry in entries}):
        tracks = [entry for entry in entries if entry["package"] == package]
        lines += ["", f"## {tracks[0]['game']} (package {package})", "", "| title | artist | album | licence |"]
        lines += ["|---|---|---|---|"] + [_attribution_line(track) for track in tracks]
    return "\n".join(lines) + "\n"


def _attribution_line(track: dict) -> str:
    """A track's line; a missing title is replaced by the file's name, a missing artist by the package's authors."""
    title = track.get("title") or f"`{Path(track['path']).name}`"
    artist = " / ".join(track[key] for key in ("artist", "composer") if key in track) or "see copyright"
    cells = (title, artist, track.get("album", ""), track["licence"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_if_changed(path: Path, text: str) -> None:
    """Writes a text file atomically, unless it already has this content."""
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)


def prepare(rows: list[dict], output_dir: Path, download_dir: Path) -> list[dict]:
    """Prepares the tracks of the table's rows and writes manifest and attribution.

    Returns:
        The rows of the manifest.

    Raises:
        ValueError: a tool is missing, or more than 10 % of the tracks had to be left out.
    """
    packages = list(dict.fromkeys(row["package"] for row in rows))
    check_tools(packages, output_dir, download_dir)
    for package in packages:
        try:
            unpack_package(package, output_dir, download_dir)
        except ValueError as error:
            logger.warning("%s: %s", package, error)
    entries = [entry for entry in (prepare_track(row, output_dir) for row in rows) if entry is not None]
    num_bad = len(rows) - len(entries)
    if num_bad > MAX_BAD_SHARE * len(rows):
        raise ValueError(f"{num_bad} of {len(rows)} tracks are missing or differ; nothing written to {output_dir}.")
    manifest = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    write_if_changed(output_dir / "manifest.jsonl", manifest)
    write_if_changed(output_dir / "ATTRIBUTION.md", attribution(entries))
    return entries


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the packages and the manifest")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--preset", choices=PRESETS, default="core", help="set of packages")
    choice.add_argument(
        "--packages", nargs="+", default=None, metavar="NAME", help="packages by name, instead of a preset"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="the table of tracks (default: the repository's)")
    parser.add_argument(
        "--download_dir", type=Path, default=None, help="folder of the .deb files (default: OUTPUT_DIR/debs)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        options = parse_arguments(arguments)
        download_dir = options.download_dir or options.output_dir / "debs"
        rows = read_table(options.table, options.packages or PRESETS[options.preset])
        for folder in (options.output_dir, download_dir):
            folder.mkdir(parents=True, exist_ok=True)
        entries = prepare(rows, options.output_dir, download_dir)
    except (ValueError, OSError) as error:
        print(f"prepare_music.py: error: {error}", file=sys.stderr)
        return 2
    hours = sum(entry["duration_in_s"] for entry in entries) / 3600
    num_bad = len(rows) - len(entries)
    print(f"{len(entries)} tracks, {hours:.2f} h, {num_bad} left out: {options.output_dir / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
