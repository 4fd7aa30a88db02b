"""Launches a training script as a user would, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs `training/<name>` with one thread and no network; returns the finished process with its output as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "training" / name), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def check_script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a script that must succeed."""
    finished = run_script(name, *arguments)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished
