"""Atomic files and folders, and hashes of files and weights."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

HASH_BLOCK = 2**20  # bytes
TORCH_WRITE_ERRORS = ("[enforce fail at inline_container.cc", "PytorchStreamWriter failed")


def check_output_file(path: str | os.PathLike) -> None:
    """Raises a ValueError unless a file of that name can be written; its folder must exist."""
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file name.")
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be written: the folder {folder} does not exist.")
    _try_to_write(path, folder)


def check_output_folder(folder: str | os.PathLike) -> None:
    """Raises a ValueError unless files can be written to the folder, which may be made for that."""
    folder = Path(folder)
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{folder} cannot be a folder: {nearest} is a file.")
    _try_to_write(folder, nearest)


def _try_to_write(path: Path, folder: Path) -> None:
    """Raises a ValueError unless a file can be opened in an existing folder: permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(prefix=".try", dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which is renamed to it on success and removed on failure."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # several processes may write it
    try:
        with raise_as_os_error():
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a new folder beside `folder`, which replaces it on success.

    On failure it is removed, and `folder` stays unchanged.
    """
    folder = Path(folder).absolute()
    partial = folder.with_name(f".{folder.name}.partial")
    _put_back(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with raise_as_os_error():
            yield partial
        for file in (path for path in partial.rglob("*") if path.is_file()):
            sync_file(file)
        replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_link(link: str | os.PathLike, target: str | os.PathLike) -> None:
    """Makes a symbolic link to a file, and the folder that it is in; an earlier link is replaced."""
    link = Path(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(link) as temporary:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(target).resolve())


@contextlib.contextmanager
def raise_as_os_error() -> Iterator[None]:
    """Turns the errors of torch and safetensors for files that cannot be written, as on a full disk, into OSErrors."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
    except RuntimeError as error:
        if not str(error).startswith(TORCH_WRITE_ERRORS):  # a bug, or out of memory
            raise
        raise OSError(str(error).splitlines()[0]) from error


def replace_folder(complete: Path, folder: Path) -> None:
    """Renames a folder beside `folder` to `folder`. The previous folder is removed only after that.

    If the process is stopped in between, the previous folder has a hidden name; the next call restores it first.
    """
    previous = _put_back(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)
    try:
        os.replace(complete, folder)
    except OSError:
        if previous.exists():
            os.replace(previous, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _put_back(folder: Path) -> Path:
    """Undoes an interrupted replacement; returns the temporary path of the previous folder."""
    previous = folder.with_name(f".{folder.name}.previous")
    if previous.exists() and not folder.exists():
        os.replace(previous, folder)
    return previous


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8 atomically and flushes it to disk."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)


def write_json(path: str | os.PathLike, content: Mapping) -> None:
    """Writes a JSON file atomically and flushes it to disk.

    Raises:
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_file(path: str | os.PathLike) -> None:
    """Flushes the content of a file to disk."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: str | os.PathLike) -> None:
    """Flushes the names in a folder to disk; without effect on Windows, which cannot open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def weights_sha256(weights: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names and values of weights, in hexadecimal, independent of the file format.

    Values are converted to float32. So weights stored in half precision have the same hash as exact copies of them in
    float32, but another one than the weights before rounding.

    Args:
        weights: a module or its state dict.
    """
    state_dict = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        tensor = tensor.detach().cpu()
        digest.update(name.encode())
        digest.update((tensor.float() if tensor.is_floating_point() else tensor).numpy().tobytes())
    return digest.hexdigest()
