"""The environment that a result was computed with."""

import json
import platform

import torch
from packaging.version import Version

from stable_longform.utils.environment import describe_environment, package_version


def test_it_names_what_runs_and_can_be_saved():
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["python"] == platform.python_version()
    assert Version(environment["versions"]["torch"]).public == Version(torch.__version__).public  # wheels add +cpu
    assert set(environment) == {"git_commit", "python", "versions", "machine", "gpu"}


def test_a_package_that_is_not_installed_has_no_version():
    assert package_version("no-such-package") is None
