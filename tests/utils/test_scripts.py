"""How scripts end: a user's mistake in one line, a mistake of ours with its traceback."""

import pytest
from launch import ROOT, run_script

from stable_longform.utils.scripts import run_main

SCRIPTS = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/**/*.py")]


def test_what_a_user_can_put_right_ends_in_one_line(capsys):
    def main():
        open("missing.txt")

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith("error: ") and "missing.txt" in line


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_that_runs_ends_this_way(path):
    _, separator, end = path.read_text(encoding="utf-8").partition('if __name__ == "__main__":')
    assert not separator or end == "\n    run_main(main)\n"


def test_table_5_names_a_manifest_without_a_test_split(tiny_manifest, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    lines = [line for line in tiny_manifest.read_text().splitlines() if '"split": "test"' not in line]
    folder = tiny_manifest.parent.as_posix()
    manifest.write_text("\n".join(lines).replace('"path": "', f'"path": "{folder}/') + "\n")
    script = ROOT / "examples" / "paper" / "table_5.py"
    result = run_script(script, "--output_dir", tmp_path / "out", "--manifest", manifest)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"error: {manifest} has no track in split 'test'."
