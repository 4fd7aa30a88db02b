"""Reports: the table's cells, JSON without NaN, pictures."""

import json

import pytest
import torch

from stable_longform.evaluation.reports import markdown_table, plot_values, versions, write_json, write_text


def test_markdown_table():
    table = markdown_table(("a|b", "x"), [("one|two", 1.23456), ("three", None), ("four", 2.0), ("five", 7)])
    assert table.splitlines() == [
        "| a|b | x |", "|---|---|", "| one\\|two | 1.235 |", "| three | – |", "| four | 2 |", "| five | 7 |"
    ]  # fmt: skip


def test_json_and_text_appear_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, None]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    write_text(tmp_path / "c.md", "ü")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "c.md"]


def test_versions_name_what_runs():
    found = versions()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["device"] and all(isinstance(value, str) for value in found.values())


def test_pictures(tmp_path):
    values = {"one": 3.5, "several": [1.0, 2.0, 4.0], "equal": [1.0, 1.0], "negative": -1.0}
    plot_values(tmp_path / "a.png", values, "title")
    plot_values(tmp_path / "a.svg", values, "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "a.svg").read_text()
    assert (
        drawing.count('id="axes_') == 4 and drawing.count("FillBetweenPolyCollection") + drawing.count("PolyColl") >= 1
    )
