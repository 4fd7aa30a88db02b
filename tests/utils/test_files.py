"""Files and folders that appear whole or not at all; hashes of files and of weights."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from stable_longform.utils.files import (
    atomic_folder,
    atomic_path,
    file_sha256,
    make_link,
    weights_sha256,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent and temporary.suffix == path.suffix and not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_file_that_was_there(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_link_replaces_an_earlier_one_even_to_a_file_that_is_gone(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
        make_link(tmp_path / "links" / "a", tmp_path / name)
        assert (tmp_path / "links" / "a").is_symlink() and (tmp_path / "links" / "a").read_text() == name
        (tmp_path / name).unlink()
    assert names(tmp_path / "links") == ["a"]


def test_text_and_json_replace_what_was_there(tmp_path):
    for text in ("first and longer", "é\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, None]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, None]}
    assert names(tmp_path) == ["a.json", "a.txt"]


def test_a_folder_takes_the_place_of_the_old_one_at_the_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        with atomic_folder("model") as folder:
            assert names(folder) == []
            write_text(folder / name, name)
            assert not (tmp_path / "model" / name).exists()
        assert names(tmp_path / "model") == [name]
    assert names(tmp_path) == ["model"]


def test_a_failure_leaves_the_folder_that_was_there(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "model") as folder:
        write_text(folder / "weights", "old")

    def fail(source, target):
        if source.name == ".model.partial":
            raise OSError("no room")
        replace(source, target)

    replace = os.replace
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as folder:
        write_text(folder / "weights", "half")
        raise RuntimeError
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no room"), atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_not_taken_over(tmp_path):
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "leftover").touch()
    with atomic_folder(tmp_path / "model") as folder:
        write_text(folder / "weights", "new")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["weights"]


@pytest.mark.parametrize("size", [0, 3, 2**20, 2**20 + 1])
def test_file_sha256_is_that_of_the_contents(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


def test_weights_sha256_depends_on_names_and_values_only():
    layer = torch.nn.Linear(3, 2)
    expected = weights_sha256(layer)
    assert weights_sha256(dict(reversed(layer.state_dict().items()))) == expected
    assert weights_sha256({f"x.{name}": value for name, value in layer.state_dict().items()}) != expected
    half = torch.nn.Linear(3, 2).half()
    assert weights_sha256(half) == weights_sha256({name: value.float() for name, value in half.state_dict().items()})
    with torch.no_grad():
        layer.bias[1] += 1e-6
    assert weights_sha256(layer) != expected


def test_weights_sha256_tells_integers_apart_that_float32_does_not():
    first, second = (weights_sha256({"count": torch.tensor(2**24 + offset)}) for offset in (0, 1))
    assert first != second


@pytest.mark.parametrize("save", ["torch", "safetensors"])
def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path, save):
    """Whoever writes it; what was there stays."""
    resource = pytest.importorskip("resource")
    path, tensors = tmp_path / "weights", {"a": torch.zeros(10_000)}
    path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError), atomic_path(path) as temporary:
            torch.save(tensors, temporary) if save == "torch" else save_file(tensors, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_errors_of_another_kind_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="CUDA out of memory"), atomic_path(tmp_path / "weights"):
        raise RuntimeError("CUDA out of memory")


def test_a_folder_comes_back_after_a_stop_between_two_renames(tmp_path):
    (tmp_path / ".model.previous").mkdir()
    (tmp_path / ".model.previous" / "weights").write_text("before")
    with pytest.raises(ValueError), atomic_folder(tmp_path / "model"):
        assert (tmp_path / "model" / "weights").read_text() == "before"
        raise ValueError
