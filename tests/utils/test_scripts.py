"""How scripts end: a user's mistake in one line, a mistake of ours with its traceback."""

import ast
import importlib.util
import sys

import pytest
from launch import ROOT, run_script

from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

SCRIPTS = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/**/*.py")]
OWN_OPTIONS = [
    path
    for path in sorted([*SCRIPTS, *ROOT.glob("training/*.py")])
    if "ScriptParser(__doc__" in path.read_text(encoding="utf-8")
]


def test_what_a_user_can_put_right_ends_in_one_line(capsys):
    def main():
        open("missing.txt")

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith("error: ") and "missing.txt" in line


def test_an_interruption_has_no_traceback(capsys):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_main(interrupt)
    assert ended.value.code == 130 and capsys.readouterr().err == ""


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_that_runs_ends_this_way(path):
    _, separator, end = path.read_text(encoding="utf-8").partition('if __name__ == "__main__":')
    assert not separator or end == "\n    run_main(main)\n"


def make_parser() -> ScriptParser:
    parser = ScriptParser("Does it.\n\nAnd more.")
    parser.add_number("--steps", Range(1, 100), nargs="+", default=[4, 8], help="to take")
    parser.add_number("--scale", Range(0, 2, above=True), kind=float, default=1.0, help="of the noise")
    parser.add_number("--limit", Range(0, 9), help="or all")
    parser.add_argument("--size", choices=("small", "large"), default="small", help="of 100 % of it")
    parser.add_device()
    return parser


def test_help_has_ranges_and_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and "Does it." in text and "And more." not in text
    assert "to take; whole numbers in [1, 100] (default: 4 8)" in text
    assert "of the noise; numbers in (0, 2] (default: 1.0)" in text
    assert "or all; whole numbers in [0, 9] -" in text and "of 100 % of it (default: small)" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "4", "0"], "argument --steps: must be a whole number in [1, 100], got '0'"),
        (["--steps", "2.5"], "argument --steps: must be a whole number in [1, 100], got '2.5'"),
        (["--steps"], "argument --steps: expected at least one argument"),
        (["--scale", "0"], "argument --scale: must be a number in (0, 2], got '0'"),
        (["--scale", "nan"], "got 'nan'"),
        (["--scale", "inf"], "got 'inf'"),
        (["--scale", "1e999"], "got '1e999'"),
        (["--limit", "9" * 5000], "argument --limit: must be a whole number in [0, 9], got '999"),
        (["--size", "huge"], "argument --size: invalid choice: 'huge'"),
        (["--device", "abacus"], "argument --device: must be a device of this machine, got 'abacus'"),
        (["--device", "cuda:99"], "argument --device: must be a device of this machine, got 'cuda:99'"),
        (["--speed", "3"], "unrecognized arguments: --speed 3"),
    ],
)
def test_wrong_options_are_one_line(arguments, message):
    with pytest.raises(ValueError) as caught:
        make_parser().parse_args(arguments)
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", OWN_OPTIONS, ids=lambda path: path.name)
def test_every_script_has_help_and_ranges(path, monkeypatch, capsys):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("add_argument", "add_number"):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert "help" in keywords and keywords.get("type") not in ("int", "float"), ast.unparse(node)
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and " ".join(module.__doc__.splitlines()[0].split()) in text


def test_table_5_names_a_manifest_without_a_test_split(tiny_manifest, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    lines = [line for line in tiny_manifest.read_text().splitlines() if '"split": "test"' not in line]
    folder = tiny_manifest.parent.as_posix()
    manifest.write_text("\n".join(lines).replace('"path": "', f'"path": "{folder}/') + "\n")
    script = ROOT / "examples" / "paper" / "table_5.py"
    result = run_script(script, "--output_dir", tmp_path / "out", "--manifest", manifest)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"error: {manifest} has no track in split 'test'."
