"""Parts of files are files of their own."""

import io
import pickle

import numpy as np
import pytest

from stable_longform.data.storage import FilePart, InMemory, TarMember, open_audio

DATA = bytes(np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8))


def test_a_part_reads_and_seeks_as_its_bytes_alone_would():
    part, alone = FilePart(io.BytesIO(DATA), 100, 300), io.BytesIO(DATA[100:400])
    rng = np.random.default_rng(1)
    for _ in range(300):
        whence = int(rng.integers(3))
        offset = int(rng.integers(0, 350)) if whence == 0 else int(rng.integers(-40, 40))
        if alone.tell() + offset < 0 and whence == 1:
            continue
        assert part.seek(offset, whence) == alone.seek(offset, whence) == part.tell()
        count = int(rng.integers(0, 200))
        assert part.read(count) == alone.read(count)
    part.seek(0)
    assert part.read() == DATA[100:400]


def test_closing_a_part_closes_its_file(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    part = TarMember(tmp_path / "x", 10, 20).open()
    with part:
        assert part.read() == DATA[10:30]
    assert part._file.closed


@pytest.mark.parametrize("storage", [None, InMemory(DATA)])
def test_open_audio_gives_the_path_or_the_stored_bytes(tmp_path, storage):
    (tmp_path / "x").write_bytes(DATA)
    with open_audio(tmp_path / "x", pickle.loads(pickle.dumps(storage))) as file:
        assert (file.read_bytes() if storage is None else file.read()) == DATA
