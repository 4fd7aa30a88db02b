"""Lists of prompts to generate from and to score against: JSONL, text, or the Song Describer Dataset's CSV.

- `.jsonl`: one object per line with `id` and `prompt`, and optionally `reference` (name of the recording that the
  prompt describes) and `duration` (seconds); null counts as missing, other keys are ignored;
- `.txt`: one prompt per line; ids are the line numbers;
- `.csv`: Song Describer: `caption_id`, `track_id`, `caption`; the captions give the ids, the tracks the references.

References: Manco et al., "The Song Describer Dataset" (2023). Paper: §4.1 and footnote 10.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stable_longform.utils.ranges import Range
from stable_longform.utils.text_files import read_lines, read_text
from stable_longform.utils.timecodes import SECONDS

CSV_COLUMNS = ("caption_id", "track_id", "caption")
DURATIONS = Range(SECONDS.low, 86400)  # seconds
SAFE_ID = re.compile(r"[\w][\w.-]{0,199}")

# A caption that contains one of these, in any case and also inside a word, is about singing. The paper's footnote
# names 24 words, which leave 632 captions; with the last five words, the result is exactly the published list of 586.
SINGING_WORDS = (
    "speech, speech synthesizer, hubbub, babble, singing, male, man, female, woman, child, kid, synthetic singing, "
    "choir, chant, mantra, rapping, humming, groan, grunt, vocal, vocalist, singer, voice, acapella, "
    "rap, french, spanish, english, portuguese"
).split(", ")


@dataclass(frozen=True)
class PromptRow:
    """A prompt with its id, which names the generated file; optionally the name of its reference and its seconds."""

    id: str
    prompt: str
    reference: str | None = None
    duration: float | None = None


def read_prompt_list(path: str | os.PathLike, is_singing_excluded: bool = False) -> list[PromptRow]:
    """Reads a list of prompts.

    Args:
        path: `.jsonl`, `.txt` or `.csv`, UTF-8.
        is_singing_excluded: leave out prompts with one of `SINGING_WORDS`.

    Raises:
        ValueError: the extension is unknown, the text is not UTF-8, a row has no id or prompt or has a value of the
            wrong type, an id occurs twice or cannot name a file, or there is no prompt. The message names file and
            line.
    """
    path = Path(path)
    readers = {".jsonl": _read_jsonl, ".txt": _read_text, ".csv": _read_song_describer}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: the extension must be one of {', '.join(readers)}.")
    rows = []
    lines: dict[str, int] = {}
    for number, values in readers[path.suffix.lower()](path):
        row = _make_row(f"{path}:{number}", values)
        if row.id in lines:
            raise ValueError(f"{path}:{number} has the id of line {lines[row.id]}, {row.id!r}; ids must differ.")
        rows.append(row)
        lines[row.id] = number
    rows = [row for row in rows if not (is_singing_excluded and mentions_singing(row.prompt))]
    if not rows:
        raise ValueError(f"{path} has no prompt.")
    return rows


def mentions_singing(caption: str) -> bool:
    """Whether a caption contains one of `SINGING_WORDS`."""
    return any(word in caption.lower() for word in SINGING_WORDS)


def match_references(rows: Iterable[PromptRow], names: Iterable[str]) -> dict[str, str]:
    """Finds the recording of each prompt's reference.

    Args:
        rows: prompts.
        names: of recordings: paths without extension. A reference "1004034" means the recording with this path, or the
            only one whose file name up to the first dot is "1004034", as in "34/1004034.2min".

    Returns:
        Names by the prompts' ids; prompts without a reference, or with a missing one, are omitted.
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


def _make_row(place: str, values: Mapping) -> PromptRow:
    """Makes a row from the values that were read; `place` is the file and line for errors."""
    row_id, prompt, reference, duration = (values.get(key) for key in ("id", "prompt", "reference", "duration"))
    if not _is_name(row_id) or not SAFE_ID.fullmatch(str(row_id)):
        raise ValueError(
            f"{place}: `id` must be a name of up to 200 letters, digits, '_', '.' and '-', not {_short(row_id)}."
        )
    if not isinstance(prompt, str) or any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError(f"{place}: `prompt` must be valid text, not {_short(prompt)}.")
    if reference is not None and not _is_name(reference):
        raise ValueError(f"{place}: `reference` must be the name of a recording, not {_short(reference)}.")
    if duration is not None and duration not in DURATIONS:
        raise ValueError(f"{place}: `duration` must be a number of seconds {DURATIONS}, not {_short(duration)}.")
    return PromptRow(str(row_id), prompt, None if reference is None else str(reference), duration)


def _is_name(value) -> bool:
    """Whether a value is text or a whole number, as data sets number their recordings."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _short(value) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_jsonl(path: Path) -> Iterator[tuple[int, Mapping]]:
    """Rows of a JSONL file."""
    for number, line in read_lines(path):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"{path}:{number} must be a JSON object with `id` and `prompt`, not {_short(line)}.")
        yield number, values


def _read_text(path: Path) -> Iterator[tuple[int, Mapping]]:
    """Lines of a text file."""
    return ((number, {"id": number, "prompt": line}) for number, line in read_lines(path))


def _read_song_describer(path: Path) -> Iterator[tuple[int, Mapping]]:
    """Rows of the Song Describer Dataset's CSV."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        missing = [column for column in CSV_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(CSV_COLUMNS)}; {', '.join(missing)} missing.")
        for row in reader:
            caption_id, track_id, caption = (row[column] for column in CSV_COLUMNS)
            yield reader.line_num, {"id": caption_id, "prompt": caption, "reference": track_id}
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num + 1} cannot be read as CSV: {error}") from error
