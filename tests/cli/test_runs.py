"""`stable-longform runs show`: the last values and a picture of the curves, also of a run that was cut off."""

import json

import pytest
from common import png_size

from stable_longform import cli


def test_show_prints_the_last_values_and_draws(tmp_path, capsys):
    rows = [{"step": step, "loss": 1 / step, "learning_rate": 1e-3} for step in range(1, 40)]
    rows.insert(20, {"step": 20, "valid/loss": 0.25, "valid/si_sdr": -3.5})
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "lo')  # cut off by a kill
    assert cli.main(["runs", "show", str(tmp_path)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[:-1] == [
        ["loss", f"{1 / 39:.5g}", "step", "39"],
        ["learning_rate", "0.001", "step", "39"],
        ["valid/loss", "0.25", "step", "20"],
        ["valid/si_sdr", "-3.5", "step", "20"],
    ]
    assert printed[-1] == [str(tmp_path / "curves.png")]
    width, height = png_size(tmp_path / "curves.png")
    assert width > 500 and height > 200


def test_odd_metrics_are_left_out_and_counted(tmp_path, capsys, caplog):
    odd = ["5", "null", "[1]", '{"loss": 1.0}', '{"step": "2", "loss": 1.0}', '{"step": 2.5, "loss": 1.0}', "{"]
    odd += ['{"step": true, "loss": 1.0}', '{"step": 3, "loss": "low"}', '{"step": 3, "loss": null}', "[" * 100_000]
    odd += ['{"step": 3, "loss": [1]}', f'{{"step": 3, "loss": 1{"0" * 400}}}']
    lines = ['{"step": 1, "loss": 2.0, "a$b_$": NaN}', *odd, '{"step": 9, "loss": Infinity}']
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff{")
    assert cli.main(["runs", "show", str(tmp_path)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[:-1] == [["loss", "inf", "step", "9"], ["a$b_$", "nan", "step", "1"]]
    (record,) = caplog.records
    assert (
        f"metrics.jsonl: {len(odd)} lines without a `step` and numbers are left out, line 2 first"
        in record.getMessage()
    )


def test_the_picture_can_have_another_name(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert cli.main(["runs", "show", str(tmp_path), "-o", str(tmp_path / "a.svg")]) == 0
    assert "<svg" in (tmp_path / "a.svg").read_text() and not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "content, message", [(None, "is not the folder of a training run"), ("", "no metrics to draw yet")]
)
def test_folders_without_metrics_end_in_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert cli.main(["runs", "show", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
