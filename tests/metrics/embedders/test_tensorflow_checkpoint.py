"""TensorFlow checkpoints: a bundle written here by the format's rules is read back."""

import struct

import numpy as np
import pytest

from stable_longform.metrics.embedders.tensorflow_checkpoint import read_checkpoint


def varint(value):
    """Seven bits a byte, the lowest first."""
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])


def block(entries):
    """A table's block without restarts but the first, every key sharing what it can with the one before it."""
    data, previous = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
            shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return data + struct.pack("<II", 0, 1)


def write_bundle(prefix, tensors, magic=0xDB4775248B80FB57):
    """Writes `.index` and `.data-00000-of-00001`."""
    codes = {"float32": 1, "int64": 9}
    entries, data = [(b"", b"\x08\x01\x1a\x02\x08\x01")], b""
    for name, tensor in sorted(tensors.items()):
        dims = b"".join(b"\x12" + varint(len(dim)) + dim for size in tensor.shape for dim in [b"\x08" + varint(size)])
        entry = b"\x08" + varint(codes[tensor.dtype.name]) + b"\x12" + varint(len(dims)) + dims
        entry += (b"\x20" + varint(len(data)) if data else b"") + b"\x28" + varint(tensor.nbytes)
        entries.append((name.encode(), entry + b"\x35" + bytes(4)))  # a checksum, which is not read
        data += tensor.tobytes()
    table, handles = b"", []
    for part in (entries[:2], entries[2:]):  # two data blocks
        content = block(part)
        handles.append((part[-1][0], varint(len(table)) + varint(len(content))))
        table += content + bytes(5)
    index_handle = varint(len(table)) + varint(len(block(handles)))
    table += block(handles) + bytes(5)
    footer = (varint(0) + varint(0) + index_handle).ljust(40, b"\0") + struct.pack("<Q", magic)
    prefix.parent.joinpath(prefix.name + ".index").write_bytes(table + footer)
    prefix.parent.joinpath(prefix.name + ".data-00000-of-00001").write_bytes(data)


@pytest.fixture
def tensors():
    """Names with common beginnings; sizes of one and two bytes; a scalar."""
    rng = np.random.default_rng(0)
    shapes = {
        "dense/bias": (3,),
        "dense/kernel": (40, 30),
        "dense_1/kernel": (2, 1, 3, 4),
        "global": (),
        "x/y": (200, 2),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | {
        "step": np.array([7, -1], dtype=np.int64)
    }


def test_reads_what_the_format_says(tmp_path, tensors):
    write_bundle(tmp_path / "model", tensors)
    loaded = read_checkpoint(tmp_path / "model")
    assert sorted(loaded) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor, strict=True)


def test_other_files_are_refused(tmp_path, tensors):
    write_bundle(tmp_path / "model", tensors, magic=1)
    with pytest.raises(ValueError, match="not the index of a TensorFlow checkpoint"):
        read_checkpoint(tmp_path / "model")
    write_bundle(tmp_path / "model", tensors)
    data = tmp_path / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match="x/y: the entry does not describe"):
        read_checkpoint(tmp_path / "model")
