"""A lock on a file that is released when its process ends, however it ends."""

import datetime
import errno
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

_held: dict[Path, IO] = {}  # the open files of this process's locks: closing one would release the lock


def hold_lock(path: str | os.PathLike) -> None:
    """Locks a file until this process ends; the file then contains the process, the host and the job.

    Child processes do not inherit the lock. Locking a file again has no effect. If the file system does not support
    locks, a warning is logged.

    Raises:
        ValueError: another process holds the lock; the message has its process, host, job and start.
    """
    path = Path(path).resolve()
    if path in _held:
        return
    file = open(path, "a+", encoding="utf-8")  # kept open
    try:
        _lock(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            logger.warning("%s cannot be locked (%s): make sure that nothing else uses its folder.", path, error)
            _held[path] = file
            return
        holder = _describe_holder(file)
        file.close()
        raise ValueError(f"{path.parent} is in use by {holder}.") from error
    file.truncate(0)
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    this_process = {
        "pid": os.getpid(),
        "host": platform.node(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "started": started,
    }
    file.write(json.dumps(this_process) + "\n")
    file.flush()
    _held[path] = file


def _lock(file: IO) -> None:
    """Locks a file, or immediately raises an OSError."""
    if sys.platform != "win32":
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        file.seek(2**30)  # a byte that is never read: on Windows, a locked byte cannot be read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


def _describe_holder(file: IO) -> str:
    """Describes the holder of a lock, from the content of the file."""
    try:
        file.seek(0)
        holder = json.loads(file.read())
        job = f", job {holder['job']}" if holder["job"] else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
