"""The program as a whole: help, version, how it ends."""

import runpy
import subprocess
import sys

import pytest
import soundfile

from stable_longform import __version__
from stable_longform.cli import main


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["-h"], ["generate", "--help"], ["reconstruct", "-h"], ["data", "-h"], ["--version"]],
)
def test_help_and_version(capsys, arguments):
    assert main(arguments) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert __version__ in stdout if "--version" in arguments else "Usage: stable-longform" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--steps", "0"], "'--steps': must be in [1, 1000], got '0'."),
        (["generate", "--steps", "many"], "'--steps': must be in [1, 1000], got 'many'."),
        (["generate", "--guidance-rescale", "nan"], "'--guidance-rescale': must be in [0, 1], got 'nan'."),
        (["generate", "--guidance-interval", "0", "x"], "got 'x'."),
        (["generate", "--guidance-interval", "0"], "'--guidance-interval' requires 2 arguments"),
        (["generate", "--steps"], "'--steps' requires an argument"),
        (["evaluate", "score", "a", "b", "-o", "c", "--num-windows", "1"], "must be in [2, 1000000], got '1'."),
        (["compose"], "No such command 'compose'"),
        (["--what"], "No such option: --what"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_line_with_its_value_and_range(capsys, arguments, message):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def run_process(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def test_help_does_not_wait_for_the_models():
    code = "import sys; from stable_longform.cli import main; main(['--help']); print('diffusers' in sys.modules)"
    assert run_process("-c", code).stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("module", ["stable_longform", "stable_longform.cli"])
def test_modules_that_run_are_the_command(monkeypatch, capsys, module):
    monkeypatch.setattr(sys, "argv", ["", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert caught.value.code == 0 and __version__ in capsys.readouterr().out


def test_process(checkpoint, tmp_path):
    path = tmp_path / "a.flac"
    options = ["--duration", "0.2", "--steps", "2", "--seed", "1", "-o", str(path), "--checkpoint", str(checkpoint)]
    done = run_process("-m", "stable_longform", "generate", "piano", *options)
    assert (done.returncode, done.stdout) == (0, f"{path}\n")
    assert "sampling: 100%" in done.stderr and "2/2" in done.stderr and "warn" not in done.stderr.lower()
    assert soundfile.info(path).frames == 1600


def test_hub_checkpoint_that_cannot_be_fetched(tmp_path, fails):
    options = ["-o", str(tmp_path / "a.flac"), "--checkpoint", "no-such-owner/no-such-model"]
    line = fails("generate", "piano", *options)
    assert line.startswith("error: 'no-such-owner/no-such-model' is not a folder, and downloading it from the Hub")
