"""slurm.sh: signals reach the processes, and the job is queued again if and only if it was stopped by its end.

Slurm's two commands are played by shell scripts that start real processes and pass real signals on.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "training" / "configs" / "accelerate" / "slurm.sh"
SRUN = """
while [ "$1" != bash ]; do shift; done
trap 'kill -USR1 $tasks' USR1
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" &
    tasks="${tasks:-} $!"
done
worst=0
for task in $tasks; do
    while :; do
        wait $task; code=$?
        kill -0 $task 2> /dev/null || break
    done
    [ $code -gt $worst ] && worst=$code
done
exit $worst
"""
SCONTROL = """
case $1 in
    show) echo first; echo second;;
    requeue) echo "$2" >> requeued;;
esac
"""
# A training, as far as signals go: it ends with 75 after SIGUSR1, or else at once with the code that it is given.
TASK = """
import os, signal, sys, time
from pathlib import Path

signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
facts = [os.environ[name] for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_FSDP")]
Path("rank-" + os.environ["RANK"]).write_text(" ".join([*facts, *sys.argv[1:]]))
if sys.argv[1] != "wait":
    sys.exit(int(sys.argv[1]))
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts the job with arguments of the task."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "task.py").write_text(TASK)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    environment |= {"SLURM_JOB_NODELIST": "node[1-2]"}
    return lambda *arguments: subprocess.Popen(
        ["bash", SCRIPT, "task.py", *arguments], cwd=tmp_path, env=environment, start_new_session=True
    )


pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def test_a_job_that_comes_to_its_end_is_queued_again(start, tmp_path):
    job = start("wait", "a b")
    while not all((tmp_path / f"rank-{rank}").exists() for rank in (0, 1)):
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 75
    assert (tmp_path / "requeued").read_text() == "42\n"
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == [
        "0 2 first true wait a b", "1 2 first true wait a b",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_a_job_that_ends_otherwise_is_not(start, tmp_path, code):
    """Done, wrong input, not finite, or cancelled."""
    assert start(str(code)).wait(30) == code
    assert not (tmp_path / "requeued").exists()
