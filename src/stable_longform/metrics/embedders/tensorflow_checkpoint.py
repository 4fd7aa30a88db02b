"""Reads TensorFlow "V2" checkpoints (tensor bundles) without TensorFlow.

A checkpoint is `<prefix>.index`, an uncompressed table in LevelDB's format whose values are protocol-buffer messages
(dtype, shape, offset, size ...), and `<prefix>.data-00000-of-00001`, the raw little-endian tensors.

References: tensorflow/core/protobuf/tensor_bundle.proto; leveldb/doc/table_format.md.
"""

import os
import struct
from pathlib import Path

import numpy as np

FOOTER_SIZE = 48
TABLE_MAGIC = 0xDB4775248B80FB57
NUMPY_DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}
# Fields of BundleEntryProto and, inside its shape, of TensorShapeProto and its Dim.
DTYPE_FIELD, SHAPE_FIELD, SHARD_FIELD, OFFSET_FIELD, SIZE_FIELD = 1, 2, 3, 4, 5
DIM_FIELD, DIM_SIZE_FIELD = 2, 1


def read_checkpoint(prefix: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint with one shard, by name.

    Args:
        prefix: path without `.index` and `.data-00000-of-00001`; ends with a slash if the file names have no prefix.

    Raises:
        ValueError: the files are not a checkpoint of this kind.
    """
    index, data = Path(f"{prefix}.index").read_bytes(), Path(f"{prefix}.data-00000-of-00001").read_bytes()
    if len(index) < FOOTER_SIZE or struct.unpack("<Q", index[-8:])[0] != TABLE_MAGIC:
        raise ValueError(f"{prefix}.index is not the index of a TensorFlow checkpoint.")
    footer = index[-FOOTER_SIZE:]
    position = 0
    for _ in range(2):  # the handle of the meta index, which is empty
        _, position = _read_varint(footer, position)
    tensors = {}
    for _, handle in _read_block(index, *_read_handle(footer, position)):
        for name, entry in _read_block(index, *_read_handle(handle, 0)):
            if name:  # the entry without a name describes the bundle
                tensors[name.decode()] = _read_tensor(entry, data, name.decode())
    return tensors


def _read_tensor(entry: bytes, data: bytes, name: str) -> np.ndarray:
    """The tensor that a BundleEntryProto describes."""
    fields = _read_message(entry)
    shape = []
    for dim in _read_message(fields.get(SHAPE_FIELD, [b""])[0]).get(DIM_FIELD, []):
        shape.append(_read_message(dim).get(DIM_SIZE_FIELD, [0])[0])
    dtype = NUMPY_DTYPES.get(fields.get(DTYPE_FIELD, [0])[0])
    offset, size = fields.get(OFFSET_FIELD, [0])[0], fields.get(SIZE_FIELD, [0])[0]
    count = int(np.prod(shape, dtype=np.int64))
    if dtype is None or SHARD_FIELD in fields or size != count * dtype.itemsize or offset + size > len(data):
        raise ValueError(f"{name}: the entry does not describe a tensor of the only shard.")
    return np.frombuffer(data, dtype, count, offset).reshape(shape).copy()


def _read_block(table: bytes, offset: int, size: int) -> list[tuple[bytes, bytes]]:
    """Keys and values of a block; the first number of an entry is how much of the previous key it shares."""
    if table[offset + size] != 0:
        raise ValueError("Compressed tables are not supported.")
    block = table[offset : offset + size]
    end = len(block) - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    entries, key, position = [], b"", 0
    while position < end:
        num_shared, position = _read_varint(block, position)
        num_unshared, position = _read_varint(block, position)
        value_size, position = _read_varint(block, position)
        key = key[:num_shared] + block[position : position + num_unshared]
        position += num_unshared
        entries.append((key, block[position : position + value_size]))
        position += value_size
    return entries


def _read_handle(buffer: bytes, position: int) -> tuple[int, int]:
    """Offset and size of a block."""
    offset, position = _read_varint(buffer, position)
    return offset, _read_varint(buffer, position)[0]


def _read_message(message: bytes) -> dict[int, list]:
    """Values of a protocol-buffer message by field number: integers, or bytes for nested ones."""
    fields: dict[int, list] = {}
    value: int | bytes
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _read_varint(message, position)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, position = message[position : position + width], position + width
        elif kind == 2:
            size, position = _read_varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise ValueError(f"Protocol-buffer wire type {kind} is not supported.")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _read_varint(buffer: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
