"""Stored results: used if they are whole; named and computed again if they are damaged."""

import logging

import numpy as np
import pytest

from stable_longform.utils import caches
from stable_longform.utils.caches import cached_arrays, cached_json

ARRAYS = {"rows": np.arange(12, dtype=np.float32).reshape(3, 4).T, "notes": np.zeros(0, dtype=np.uint8)}


def damage(data, how):
    """A file's bytes after an accident."""
    return {"empty": b"", "cut off": data[: len(data) * 2 // 3], "zeros": bytes(len(data))}[how]


@pytest.mark.parametrize("how", ["empty", "cut off", "zeros"])
@pytest.mark.parametrize(
    ("cached", "name", "value"),
    [(cached_arrays, "a.safetensors", ARRAYS), (cached_json, "a.json", {"a": 1.5, "b": [None, "ä"]})],
)
def test_damaged_files_are_named_and_computed_again(tmp_path, caplog, cached, name, value, how):
    path, num_computed = tmp_path / name, []

    def compute():
        num_computed.append(1)
        return value

    first = cached(path, compute)
    again = cached(path, compute)
    assert len(num_computed) == 1 and first.keys() == again.keys() == value.keys() and caplog.text == ""
    for key, expected in value.items():
        np.testing.assert_array_equal(again[key], expected)
    whole = path.read_bytes()
    path.write_bytes(damage(whole, how))
    with caplog.at_level(logging.WARNING):
        found = cached(path, compute)
    assert len(num_computed) == 2 and f"{path} is damaged and computed again" in caplog.text
    assert path.read_bytes() == whole and all(np.array_equal(found[key], first[key]) for key in value)


def test_a_file_without_what_is_needed_is_damaged(tmp_path, caplog):
    for cached, name, value in (
        (cached_arrays, "a.safetensors", np.zeros(1)),
        (cached_json, "a.json", [2]),
    ):
        cached(tmp_path / name, lambda value=value: {"other": value})
        found = cached(tmp_path / name, lambda value=value: {"needed": value}, ("needed",))
        assert found.keys() == {"needed"}
        assert f"{name} is damaged and computed again: it has no needed" in caplog.text


def test_what_cannot_be_computed_is_not_stored(tmp_path):
    def compute():
        raise ValueError("too short")

    for cached in (cached_arrays, cached_json):
        with pytest.raises(ValueError, match="too short"):
            cached(tmp_path / "a", compute)
    assert list(tmp_path.iterdir()) == []


def test_the_first_result_is_the_one_that_later_calls_read(tmp_path):
    """Also where JSON has no such type."""
    first, again = (cached_json(tmp_path / "a.json", lambda: {"pair": (1, 2.5)}) for _ in range(2))
    assert first == again == {"pair": [1, 2.5]}


def test_a_file_that_was_not_written_to_its_end_is_not_there(tmp_path, monkeypatch):
    def stop_halfway(arrays, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(caches, "save_file", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        cached_arrays(tmp_path / "a.safetensors", lambda: ARRAYS)
    assert list(tmp_path.iterdir()) == []
