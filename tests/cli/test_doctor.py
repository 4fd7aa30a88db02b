"""`stable-longform doctor`: versions, devices, extras."""

import importlib.metadata
import json

import soundfile

from stable_longform import __version__
from stable_longform.cli import main
from stable_longform.cli.options import DEVICE_VARIABLE


def test_what_is_installed_is_shown(capsys, monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["program"] == f"stable_longform {__version__}"
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    assert report["libsndfile"] == soundfile.__libsndfile_version__
    assert "cores" in report["devices"]["cpu"] and report["environment"][DEVICE_VARIABLE] == "cpu"
    assert main(["doctor"]) == 0
    assert f"  torch: {report['versions']['torch']}" in capsys.readouterr().out.splitlines()


def test_missing_parts_of_an_extra_are_named(capsys, monkeypatch):
    requirements = [
        "torch>=2",
        "torch>=99; extra == 'train'",
        "no-such-package; extra == 'app'",
        "numpy; extra == 'app'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    metadata = importlib.metadata.metadata("torch")
    del metadata["Provides-Extra"]
    for extra in ("train", "app", "dev"):
        metadata["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["extras"] == {
        "train": "missing torch>=99: pip install 'stable_longform[train]'",
        "app": "missing no-such-package: pip install 'stable_longform[app]'",
    }
