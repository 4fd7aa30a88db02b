"""Prompt lists, folders of audio and metrics that are wrong, each in its own way."""

import json

import pytest
import soundfile
from conftest import synthetic_audio
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from stable_longform.evaluation import control_report, generation
from stable_longform.evaluation.audio_files import list_audio
from stable_longform.evaluation.prompt_lists import read_prompt_list
from stable_longform.utils.run_folder import read_metrics
from stable_longform.utils.text_files import read_json

PROMPT_LISTS = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n \n",
    "text.jsonl": b"calm piano\n",
    "numbers.jsonl": b"1\n2\n",
    "null.jsonl": b"null\n",
    "list.jsonl": b'["calm"]\n',
    "deep.jsonl": b"[" * 100_000,
    "no id.jsonl": b'{"prompt": "calm"}\n',
    "no prompt.jsonl": b'{"id": "a"}\n',
    "null prompt.jsonl": b'{"id": "a", "prompt": null}\n',
    "list prompt.jsonl": b'{"id": "a", "prompt": ["calm"]}\n',
    "true prompt.jsonl": b'{"id": "a", "prompt": true}\n',
    "object prompt.jsonl": b'{"id": "a", "prompt": {"x": 1}}\n',
    "null id.jsonl": b'{"id": null, "prompt": "calm"}\n',
    "empty id.jsonl": b'{"id": "", "prompt": "calm"}\n',
    "path id.jsonl": b'{"id": "../../x", "prompt": "calm"}\n',
    "absolute id.jsonl": b'{"id": "/etc/x", "prompt": "calm"}\n',
    "dots id.jsonl": b'{"id": "..", "prompt": "calm"}\n',
    "zero id.jsonl": b'{"id": "a\\u0000b", "prompt": "calm"}\n',
    "long id.jsonl": b'{"id": "' + b"x" * 300 + b'", "prompt": "calm"}\n',
    "surrogate prompt.jsonl": b'{"id": "a", "prompt": "calm \\ud800"}\n',
    "equal ids.jsonl": b'{"id": "a", "prompt": "calm"}\n{"id": "a", "prompt": "loud"}\n',
    "duration text.jsonl": b'{"id": "a", "prompt": "calm", "duration": "long"}\n',
    "duration 0.jsonl": b'{"id": "a", "prompt": "calm", "duration": 0}\n',
    "duration NaN.jsonl": b'{"id": "a", "prompt": "calm", "duration": NaN}\n',
    "duration infinite.jsonl": b'{"id": "a", "prompt": "calm", "duration": Infinity}\n',
    "duration true.jsonl": b'{"id": "a", "prompt": "calm", "duration": true}\n',
    "duration list.jsonl": b'{"id": "a", "prompt": "calm", "duration": [5]}\n',
    "latin.jsonl": '{"id": "a", "prompt": "für"}\n'.encode("latin-1"),
    "wide.jsonl": '{"id": "a", "prompt": "calm"}\n'.encode("utf-16"),
    "empty.txt": b"",
    "blank.txt": b"\n\t\n  \n",
    "latin.txt": "für Elise\n".encode("latin-1"),
    "wide.txt": "calm\n".encode("utf-16"),
    "binary.txt": bytes(range(256)),
    "empty.csv": b"",
    "header.csv": b"caption_id,track_id,caption\n",
    "other columns.csv": b"a,b\n1,2\n",
    "huge.csv": b"caption_id,track_id,caption\n1,2," + b"x" * 200_000 + b"\n",
    "latin.csv": "caption_id,track_id,caption\n1,2,für\n".encode("latin-1"),
    "prompts.json": b'{"id": "a", "prompt": "calm"}\n',
    "prompts": b"calm\n",
}


@pytest.mark.parametrize("name", PROMPT_LISTS)
def test_prompt_lists(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PROMPT_LISTS[name])
    refused(lambda: read_prompt_list(path), name)


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_prompts_that_are_written_are_read_back(tmp_path_factory, prompts):
    prompts = [prompt for prompt in prompts if prompt.strip()] or ["calm"]
    path = tmp_path_factory.getbasetemp() / "prompts.jsonl"
    rows = [{"id": str(number), "prompt": prompt} for number, prompt in enumerate(prompts)]
    for is_ascii in (True, False):
        path.write_text("".join(json.dumps(row, ensure_ascii=is_ascii) + "\n" for row in rows), "utf-8", newline="")
        assert [row.prompt for row in read_prompt_list(path)] == [row["prompt"] for row in rows]


FOLDERS = {
    "missing": lambda folder: folder / "missing",
    "a file": lambda folder: folder / "a.wav",
    "empty": lambda folder: folder / "empty",
    "no audio": lambda folder: folder / "text",
    "two of one name": lambda folder: folder / "twice",
}


@pytest.mark.parametrize("choose", FOLDERS.values(), ids=FOLDERS)
def test_folders_of_audio(tmp_path, choose):
    soundfile.write(tmp_path / "a.wav", synthetic_audio(800).T, 8000)
    for name in ("empty", "text", "twice"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no music")
    for extension in ("wav", "flac"):
        soundfile.write(tmp_path / "twice" / f"a.{extension}", synthetic_audio(800).T, 8000)
    refused(lambda: list_audio(choose(tmp_path)), str(choose(tmp_path)))


METRICS = [
    b"5", b"null", b"[]", b'"x"', b"{", b"{}", b'{"step": "1", "loss": 1}', b'{"step": 1.5, "loss": 1}',
    b'{"step": true, "loss": 1}', b'{"step": 1, "loss": "low"}', b'{"step": 1, "loss": null}',
    b'{"step": 1, "loss": [1]}', b'{"step": 1, "loss": {"a": 1}}', b'{"step": 1, "loss": true}', b"\xff\xfe",
    b"[" * 100_000, b'{"step": 1, "loss": ' + b"9" * 400 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("line", METRICS)
def test_lines_of_metrics_that_are_none_are_left_out_and_counted(tmp_path, line, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n' + line + b'\n{"step": 2, "loss": 1.0}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    (record,) = caplog.records
    assert "1 line" in record.getMessage() and "line 2 first" in record.getMessage()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"seed": 1, "seed": 2}'])
def test_reports_that_were_damaged_are_named(tmp_path, content):
    """What was computed earlier is used only where it can be read as it was written."""
    path = tmp_path / "protocol.json"
    path.write_bytes(content)
    refused(lambda: read_json(path), str(path))
    refused(lambda: generation._check_protocol(path, {"seed": 1}), str(path))
    refused(lambda: control_report._read_protocol(tmp_path), str(path))
