"""Lists of prompts to generate from and to score against: JSONL, text, or the Song Describer Dataset's CSV.

- `.jsonl`: an object a line with `id` and `prompt`, and where known `reference` (name of the recording that the prompt
  describes) and `duration` (seconds);
- `.txt`: a prompt a line; ids are the line numbers;
- `.csv`: Song Describer: `caption_id`, `track_id`, `caption`; ids are the captions', references the tracks'.

References: Manco et al., "The Song Describer Dataset" (2023). Paper: §4.1 and footnote 10.
"""

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CSV_COLUMNS = ("caption_id", "track_id", "caption")
SAFE_ID = re.compile(r"[\w][\w.-]*")

# A caption that holds one of these, in any case and also inside a word, is about singing. The paper's footnote names
# 24 words, which leave 632 captions; with the last five the result is the published list of 586, caption by caption.
SINGING_WORDS = (
    "speech, speech synthesizer, hubbub, babble, singing, male, man, female, woman, child, kid, synthetic singing, "
    "choir, chant, mantra, rapping, humming, groan, grunt, vocal, vocalist, singer, voice, acapella, "
    "rap, french, spanish, english, portuguese"
).split(", ")


@dataclass(frozen=True)
class PromptRow:
    """A prompt with its id, which names the generated file; name of its reference and seconds, where known."""

    id: str
    prompt: str
    reference: str | None = None
    duration: float | None = None


def read_prompt_list(path: str | os.PathLike, is_singing_excluded: bool = False) -> list[PromptRow]:
    """Reads a list of prompts.

    Args:
        path: `.jsonl`, `.txt` or `.csv`, UTF-8.
        is_singing_excluded: leaves out prompts with one of `SINGING_WORDS`.

    Raises:
        ValueError: another extension, a row without id or prompt, ids that repeat or cannot name a file, or no prompt
            left.
    """
    path = Path(path)
    readers = {".jsonl": _read_jsonl, ".txt": _read_text, ".csv": _read_song_describer}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: the extension must be one of {', '.join(readers)}.")
    try:
        rows = list(readers[path.suffix.lower()](path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    seen = set()
    for row in rows:
        if not SAFE_ID.fullmatch(row.id) or row.id in seen:
            raise ValueError(f"{path}: ids must differ and be letters, digits, '_', '.' and '-', got {row.id!r}.")
        if row.duration is not None and not row.duration > 0:
            raise ValueError(f"{path}: the duration of {row.id} must be greater than 0 seconds, got {row.duration}.")
        seen.add(row.id)
    rows = [row for row in rows if not (is_singing_excluded and mentions_singing(row.prompt))]
    if not rows:
        raise ValueError(f"{path} has no prompt.")
    return rows


def mentions_singing(caption: str) -> bool:
    """Whether a caption holds one of `SINGING_WORDS`."""
    return any(word in caption.lower() for word in SINGING_WORDS)


def match_references(rows: Iterable[PromptRow], names: Iterable[str]) -> dict[str, str]:
    """Finds the recording of each prompt's reference.

    Args:
        rows: prompts.
        names: of recordings, paths without extension. A reference "1004034" is the recording of that path, or else the
            only one whose file name up to the first dot is "1004034", as in "34/1004034.2min".

    Returns:
        Names by the prompts' ids; prompts without a reference, or whose reference is not there, are left out.
    """
    names = list(names)
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(name.split("/")[-1].split(".")[0], []).append(name)
    found = {}
    for row in rows:
        if row.reference in names:
            found[row.id] = row.reference
        elif row.reference is not None and len(stems.get(row.reference, ())) == 1:
            found[row.id] = stems[row.reference][0]
    return found


def _read_jsonl(path: Path) -> Iterable[PromptRow]:
    """Rows of a JSONL file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                yield PromptRow(str(row["id"]), row["prompt"], row.get("reference"), row.get("duration"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number} must be an object with `id` and `prompt`, got {line!r}.") from error


def _read_text(path: Path) -> Iterable[PromptRow]:
    """Lines of a text file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            yield PromptRow(str(number), line.strip())


def _read_song_describer(path: Path) -> Iterable[PromptRow]:
    """Rows of the Song Describer Dataset's CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in CSV_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(CSV_COLUMNS)}; {', '.join(missing)} missing.")
        for row in reader:
            yield PromptRow(row["caption_id"], row["caption"], row["track_id"])
