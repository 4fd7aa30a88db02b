"""The two forms of a listening test: a page that needs no server, and configurations for webMUSHRA.

The page is one HTML file with script, style, plan and, unless it is in a folder beside the page, the audio. The files
for webMUSHRA are YAML and audio to copy into a checkout of it, without any of its code. They avoid its pitfalls: ids
only have small letters, digits, - and _; each stimulus has its own page, because stimuli on the same page share its id
and are shuffled; every page has the same five scales, because the header of the results comes from the first page;
each session has its own configuration with only as much decoded music as a browser can hold; each listener has their
own test id, because the results don't name the session; there is no text field, because an & or % in it would corrupt
the results.

References: Schoeffler et al., "webMUSHRA: a comprehensive framework for web-based listening tests" (Journal of Open
Research Software, 2018).
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from stable_longform.analysis.listening_test import QUESTIONS, SCALE, STEREO, allowed_answers
from stable_longform.utils.optional import require

MIME = {"flac": "audio/flac", "wav": "audio/wav", "ogg": "audio/ogg"}
MAX_DECODED_IN_BYTES = 10**9  # for one session of webMUSHRA, which decodes all music before the first page
DECODED_BYTES_A_SECOND = 48000 * 2 * 4


def question_options(question: str) -> list[tuple[str, str]]:
    """Value and label of each answer to a question."""
    values = allowed_answers(question)
    return list(
        zip(
            values,
            values if question == STEREO else (f"{v} {s}" for v, s in zip(values, SCALE, strict=True)),
            strict=True,
        )
    )


def render_page(plan: Mapping, audio: Mapping[str, Path]) -> str:
    """Renders the page.

    Args:
        plan: `test_id`, `title`, `extension`, `min_listened_in_s`, and `listeners`, the trials of each by number. A
            trial has `id`, `part`, `prompt`, and `audio`, an id, or `pair`, two ids.
        audio: files to embed into the page, by id; others are in `audio/` beside it.
    """
    folder = resources.files("stable_longform.analysis") / "listening_test_page"
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    questions = [(name, text, question_options(name)) for name, text in QUESTIONS.items()]
    plan = dict(plan) | {
        "questions": questions,
        "mime": MIME[plan["extension"]],
        "num_listeners": len(plan["listeners"]),
    }
    encoded = {name: base64.b64encode(path.read_bytes()).decode() for name, path in audio.items()}
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{html.escape(plan["title"])}</title>\n'
        f'<style>\n{style}</style></head>\n<body><main id="test"></main>\n'
        f"<script>\nconst PLAN = {_script_json(plan)};\nconst AUDIO = {_script_json(encoded)};\n"
        f"{script}</script></body></html>\n"
    )


def _script_json(content) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(content).replace("<", "\\u003c")


def webmushra_sessions(trials: Sequence[Mapping], durations_in_s: Mapping[str, float]) -> list[list[Mapping]]:
    """Divides a listener's ratings into sessions: by part, and with only as much music as a browser can decode."""
    sessions: list[list[Mapping]] = []
    heard: set[str] = set()
    for trial in trials:
        names = heard | {trial["audio"]}
        size = sum(durations_in_s[name] for name in names) * DECODED_BYTES_A_SECOND
        if not sessions or trial["part"] != sessions[-1][-1]["part"] or size > MAX_DECODED_IN_BYTES:
            sessions.append([])
            names = {trial["audio"]}
        sessions[-1].append(trial)
        heard = names
    return sessions


def webmushra_config(test_id: str, title: str, listener: int, trials: Sequence[Mapping], extension: str) -> str:
    """YAML of one session of a listener: an introduction, a page for each trial, the end."""
    scales = "".join(f"<li>{html.escape(text)}</li>" for text in QUESTIONS.values())
    responses = [
        [{"value": value, "label": label} for value, label in question_options(question)] for question in QUESTIONS
    ]
    pages: list[dict[str, object]] = [
        {
            "type": "generic",
            "id": "introduction",
            "name": title,
            "content": f"Please use headphones in a quiet room. After each piece, answer in order:<ol>{scales}</ol>",
        }
    ]
    pages += [
        {
            "type": "likert_single_stimulus",
            "id": trial["id"],
            "name": f"Piece {number} of {len(trials)}",
            "content": f"<b>{html.escape(trial['prompt'])}</b><ol>{scales}</ol>",
            "mustPlayback": "processUpdate",
            "mustRate": True,
            "stimuli": {trial["audio"]: f"configs/resources/{test_id}/{trial['audio']}.{extension}"},
            "response": responses,
        }
        for number, trial in enumerate(trials, 1)
    ]
    pages.append(
        {
            "type": "finish",
            "name": "Thank you",
            "content": "Please send your answers.",
            "showResults": False,
            "writeResults": True,
        }
    )
    config = {
        "testname": title,
        "testId": f"{test_id}-l{listener}",
        "bufferSize": 2048,
        "stopOnErrors": True,
        "showButtonPreviousPage": False,
        "remoteService": "service/write.php",
        "pages": pages,
    }
    return require("yaml", "eval").safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)
