"""Lists of prompts: three formats, the rule for singing, matching of references."""

import json

import pytest

from stable_longform.evaluation.prompt_lists import (
    SINGING_WORDS,
    PromptRow,
    match_references,
    mentions_singing,
    read_prompt_list,
)

CSV = """caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration
7,1004034,"Slow piano, calm",True,0,1,1,34/1004034.mp3,202.5
8,1004034,A man sings,True,0,1,1,34/1004034.mp3,202.5
9,1007274,Strings over a drone,True,0,1,1,74/1007274.mp3,140.2
10,1007275,Trap beat with rapid hats,True,0,1,1,75/1007275.mp3,140.2
"""


@pytest.fixture
def song_describer(tmp_path):
    """Four captions of three tracks."""
    path = tmp_path / "song_describer.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def test_song_describer(song_describer):
    rows = read_prompt_list(song_describer)
    assert [(row.id, row.reference) for row in rows] == [
        ("7", "1004034"), ("8", "1004034"), ("9", "1007274"), ("10", "1007275")
    ]  # fmt: skip
    assert rows[0].prompt == "Slow piano, calm"


def test_singing_words_count_inside_words_and_in_any_case(song_describer):
    assert [row.id for row in read_prompt_list(song_describer, is_singing_excluded=True)] == ["7", "9"]
    assert len(SINGING_WORDS) == 29 and len(set(SINGING_WORDS)) == 29
    assert mentions_singing("SPANISH guitar") and mentions_singing("human") and mentions_singing("vibraphone")
    assert not mentions_singing("a calm piano and strings")


def test_jsonl_and_text(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"id": 1, "prompt": "piano", "reference": "a/b", "duration": 30}, {"id": "x.2", "prompt": "häuser"}]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_prompt_list(path) == [PromptRow("1", "piano", "a/b", 30), PromptRow("x.2", "häuser")]
    path = tmp_path / "prompts.txt"
    path.write_text("piano\n\n strings \n", encoding="utf-8")
    assert read_prompt_list(path) == [PromptRow("1", "piano"), PromptRow("3", "strings")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "", "extension must be one of .jsonl, .txt, .csv"),
        ("a.txt", "\n", "has no prompt"),
        ("a.jsonl", '{"id": 1}', ":1: `prompt` must be valid text, not None"),
        ("a.jsonl", '{"prompt": "p"}', ":1: `id` must be a name of up to 200 letters.*, not None"),
        ("a.jsonl", '{"id": 1, "prompt": "p"}\n\n[1]', ":3 must be a JSON object"),
        ("a.jsonl", "null", ":1 must be a JSON object"),
        ("a.jsonl", "[" * 100_000, ":1 must be a JSON object"),
        ("a.jsonl", '{"id": 1, "prompt": ["p", "q"]}', ":1: `prompt` must be valid text, not .'p', 'q'."),
        ("a.jsonl", '{"id": 1, "prompt": null}', ":1: `prompt` must be valid text, not None"),
        ("a.jsonl", '{"id": 1, "prompt": "\\ud800"}', ":1: `prompt` must be valid text"),
        ("a.jsonl", '{"id": true, "prompt": "p"}', ":1: `id` must be a name .*, not True"),
        ("a.jsonl", '{"id": 1.5, "prompt": "p"}', ":1: `id` must be a name .*, not 1.5"),
        ("a.jsonl", '{"id": "../x", "prompt": "p"}', ":1: `id` must be a name .*, not '../x'"),
        ("a.jsonl", f'{{"id": "{"x" * 201}", "prompt": "p"}}', ":1: `id` must be a name of up to 200"),
        ("a.jsonl", '{"id": 1, "prompt": "p"}\n{"id": "1", "prompt": "q"}', ":2 has the id of line 1, '1'"),
        ("a.jsonl", '{"id": 1, "prompt": "p", "reference": []}', ":1: `reference` must be the name of a recording"),
        ("a.csv", "caption_id,caption\n1,x\n", "track_id missing"),
        ("a.csv", "caption_id,track_id,caption\n1\n", ":2: `prompt` must be valid text, not None"),
        ("a.csv", f"caption_id,track_id,caption\n1,2,{'x' * 200_000}\n", ":2 cannot be read as CSV: field larger"),
    ],
)
def test_bad_lists_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_prompt_list(tmp_path / name)


@pytest.mark.parametrize("duration", ('"30"', "[30]", "0", "-1", "NaN", "Infinity", "true", "1e9", f"1{'0' * 400}"))
def test_durations_are_numbers_of_seconds(tmp_path, duration):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": 1, "prompt": "p", "duration": {duration}}}', encoding="utf-8")
    with pytest.raises(ValueError, match="a.jsonl:1: `duration` must be a number of seconds in .0.001, 86400., not"):
        read_prompt_list(path)


def test_only_a_line_feed_ends_a_line_and_a_mark_of_byte_order_is_no_text(tmp_path):
    prompt = "slow\u2028piano\x85\x0bwith strings"
    for name, text, row_id in (("a.txt", prompt, "1"), ("a.jsonl", f'{{"id": "x", "prompt": "{prompt[:10]}"}}', "x")):
        (tmp_path / name).write_text(f"{text}\r\n", encoding="utf-8-sig", newline="")
        assert read_prompt_list(tmp_path / name) == [PromptRow(row_id, prompt if name == "a.txt" else prompt[:10])]


def test_null_is_unknown_and_numbers_are_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 7, "prompt": "", "reference": 34, "duration": null, "more": {}}', encoding="utf-8")
    assert read_prompt_list(path) == [PromptRow("7", "", "34")]


def test_unreadable_lists_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    for name, message in (("a.txt", "a.txt is not UTF-8"), ("missing.txt", "missing.txt cannot be read")):
        with pytest.raises(ValueError, match=message):
            read_prompt_list(tmp_path / name)


def test_references_by_path_or_by_number():
    rows = [PromptRow("a", "", "real/x"), PromptRow("b", "", "34"), PromptRow("c", "", "twice"), PromptRow("d", "")]
    names = ["real/x", "00/34.2min", "1/twice", "2/twice", "3/34x"]
    assert match_references(rows, names) == {"a": "real/x", "b": "00/34.2min"}
