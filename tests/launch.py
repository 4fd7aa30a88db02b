"""Launches scripts as a user would, each in a process of its own.

The processes are forks of a server that has imported the package and its libraries once, which is most of the work of
a short run. They share nothing else: each has its own arguments, environment, memory and output, and can be killed.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
TIMEOUT_IN_S = 240
TRAINING_UTILS = [
    f"stable_longform.training_utils.{file.stem}"
    for file in (ROOT / "src" / "stable_longform" / "training_utils").glob("[a-z]*.py")
]
PRELOADED = (
    "pytest",
    "stable_longform.pipelines.pipeline_longform_music",
    "transformers.models.clap",
    "peft",
    "preloaded",
)

os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*PRELOADED, *TRAINING_UTILS])


class RunningScript:
    """A script that runs: `process`, with its process group, and the files of its output.

    Args:
        name: file in `training/`, or a path.
        arguments: of the command line.
        environment: variables to set.
        max_file_size: bytes after which writing to a file fails, as on a full disk.
    """

    def __init__(
        self, name: str, *arguments: object, environment: dict | None = None, max_file_size: int | None = None
    ):
        self.arguments = [str(ROOT / "training" / name), *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | (environment or {})
        self.process = _context.Process(
            target=_run, args=(self.arguments, environment, max_file_size, self._folder.name), daemon=False
        )
        self.process.start()

    def output(self, name: str = "stderr") -> str:
        """What it has written so far to "stdout" or "stderr"."""
        file = Path(self._folder.name) / name
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def kill(self) -> None:
        """Kills the process and its workers at once, as `kill -9` does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(TIMEOUT_IN_S)

    def wait(self, timeout_in_s: float = TIMEOUT_IN_S) -> subprocess.CompletedProcess:
        """Waits for the end and returns exit code and output."""
        self.process.join(timeout_in_s)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"{' '.join(self.arguments)}\n{self.output()[-3000:]}")
        return subprocess.CompletedProcess(
            self.arguments, self.process.exitcode, self.output("stdout"), self.output("stderr")
        )


def _run(arguments: list[str], environment: dict, max_file_size: int | None, folder: str) -> None:
    """Runs a script in this process, as `python script arguments` would."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # torch has read the variable long ago
    sys.argv = arguments
    if max_file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))
    runpy.run_path(arguments[0], run_name="__main__")


def run_script(
    name: str, *arguments: object, timeout_in_s: float = TIMEOUT_IN_S, **options
) -> subprocess.CompletedProcess:
    """Runs a script with one thread and no network; returns the finished process with its output as text."""
    return RunningScript(name, *arguments, **options).wait(timeout_in_s)


def check_script(name: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    """Runs a script that must succeed."""
    finished = run_script(name, *arguments, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished


def process_environments(num_processes: int) -> list[dict[str, str]]:
    """What `torchrun` sets for each of several processes on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes, "MASTER_ADDR": "localhost"}
    shared |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return [
        {key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        for rank in range(num_processes)
    ]


def check_processes(
    num_processes: int,
    name: str,
    *arguments: object,
    environment: dict | None = None,
    timeout_in_s: float = TIMEOUT_IN_S,
) -> list[subprocess.CompletedProcess]:
    """Runs a script that must succeed in several processes that know of each other."""
    environments = [own | (environment or {}) for own in process_environments(num_processes)]
    running = [RunningScript(name, *arguments, environment=environment) for environment in environments]
    finished = [script.wait(timeout_in_s) for script in running]
    assert all(script.returncode == 0 for script in finished), finished[0].stderr[-3000:]
    return finished


def call_in_processes(num_processes: int, function: Callable, *arguments: object) -> None:
    """Calls a function of an importable module, which must not raise, in several processes joined by gloo."""
    environments = process_environments(num_processes)
    processes = [
        _context.Process(target=_call, args=(environment, function, arguments)) for environment in environments
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_IN_S)
    assert [process.exitcode for process in processes] == [0] * num_processes


def _call(environment: dict, function: Callable, arguments: tuple) -> None:
    """Calls a function within a process group."""
    os.environ.update(environment)
    torch.distributed.init_process_group("gloo")
    function(*arguments)
    torch.distributed.destroy_process_group()
