"""Reports: the table's cells, pictures."""

from stable_longform.evaluation.reports import markdown_table, plot_values


def test_markdown_table():
    table = markdown_table(("a|b", "x"), [("one|two", 1.23456), ("three", None), ("four", 2.0), ("five", 7)])
    assert table.splitlines() == [
        "| a|b | x |", "|---|---|", "| one\\|two | 1.235 |", "| three | – |", "| four | 2 |", "| five | 7 |"
    ]  # fmt: skip


def test_pictures(tmp_path):
    values = {"one": 3.5, "several": [1.0, 2.0, 4.0], "equal": [1.0, 1.0], "negative": -1.0}
    plot_values(tmp_path / "a.png", values, "title")
    plot_values(tmp_path / "a.svg", values, "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "a.svg").read_text()
    assert (
        drawing.count('id="axes_') == 4 and drawing.count("FillBetweenPolyCollection") + drawing.count("PolyColl") >= 1
    )
