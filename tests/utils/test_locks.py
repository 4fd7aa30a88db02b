"""A lock that ends with its process."""

import json
import multiprocessing
import os
import platform

import pytest

from stable_longform.utils.locks import hold_lock


def _hold(path, is_held, may_end) -> None:
    """Holds a lock until it may end."""
    hold_lock(path)
    is_held.set()
    may_end.wait(60)


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    """It names its holder; the file that is left does not count; asking again in one process does nothing."""
    context, path = multiprocessing.get_context("spawn"), tmp_path / "run.lock"
    is_held, may_end = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(path, is_held, may_end))
    holder.start()
    assert is_held.wait(60)
    message = f"is in use by process {holder.pid} on {platform.node()}, since 20"
    with pytest.raises(ValueError, match=message):
        hold_lock(path)
    holder.kill()
    holder.join()
    hold_lock(path)
    hold_lock(tmp_path / "." / "run.lock")
    assert json.loads(path.read_text())["pid"] == os.getpid()
