"""A lock on a file that is released when its process ends, however it ends."""

import datetime
import errno
import json
import logging
import os
import platform
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

logger = logging.getLogger(__name__)

_held: dict[Path, IO] = {}  # the open files of this process's locks: closing one would release the lock


def hold_lock(path: str | os.PathLike) -> None:
    """Takes the lock of a file for the life of this process; the file then names its process, host and job.

    Child processes do not inherit it. Asking again for a lock that is held already does nothing. Where the file system
    has no locks, a warning says so.

    Raises:
        ValueError: another process holds it, whose name, host, job and start are told.
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
    holder = {"pid": os.getpid(), "host": platform.node(), "job": os.environ.get("SLURM_JOB_ID"), "started": started}
    file.write(json.dumps(holder) + "\n")
    file.flush()
    _held[path] = file


def _lock(file: IO) -> None:
    """Locks a file or raises an OSError at once."""
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        file.seek(2**30)  # a byte that nobody reads: Windows lets nobody read a locked one
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


def _describe_holder(file: IO) -> str:
    """Who holds a lock, as far as its file says."""
    try:
        file.seek(0)
        holder = json.loads(file.read())
        job = f", job {holder['job']}" if holder["job"] else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
