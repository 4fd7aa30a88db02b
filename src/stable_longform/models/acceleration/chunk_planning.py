"""How many chunks are computed at a time, and how many frames each of them has."""

import math
from collections.abc import Callable
from typing import NamedTuple

from stable_longform.models.chunks import DEFAULT_MEMORY_IN_BYTES, MAX_LENGTH, MIN_LENGTH

MIN_LENGTH_OF_WORKER = 32  # frames; the context of shorter chunks costs more than another worker gains
MEMORY_OF_THREAD_IN_BYTES = 96 * 2**20  # default for each thread, if this is more than the default for all together


class ChunkPlan(NamedTuple):
    """Frames of a chunk, and how many chunks are computed at a time, each of them by one thread."""

    chunk_length: int
    num_workers: int


def make_plan(
    bytes_of_chunk: Callable[[int], float],
    num_threads: int,
    num_frames: int | None = None,
    chunk_length: int | None = None,
    memory_in_bytes: int | None = None,
) -> ChunkPlan:
    """Plans a decoding or an encoding.

    Short chunks recompute their context; idle workers cost nothing. So if memory is short, the number of workers is
    reduced first, and only then the length of the chunks.

    Args:
        bytes_of_chunk: returns the memory that a chunk of this number of frames needs.
        num_threads: number of threads available.
        num_frames: of all chunks together; None: not known.
        chunk_length: frames of a chunk, if the user has set it.
        memory_in_bytes: for all chunks that are computed at the same time. Only a single chunk of the set length, or
            of `MIN_LENGTH`, may take more. None: 256 MiB, or 96 MiB for each thread if that is more.
    """
    memory = memory_in_bytes or max(DEFAULT_MEMORY_IN_BYTES, MEMORY_OF_THREAD_IN_BYTES * num_threads)
    longest = MAX_LENGTH if chunk_length is None else chunk_length
    most = num_threads
    if num_frames is not None:
        longest = min(longest, num_frames)
        most = min(most, math.ceil(num_frames / longest) if chunk_length else num_frames // MIN_LENGTH_OF_WORKER)
    num_workers = max(min(most, int(memory // bytes_of_chunk(longest))), 1)
    if chunk_length is not None:
        return ChunkPlan(chunk_length, num_workers)
    length = MAX_LENGTH
    while length > MIN_LENGTH and num_workers * bytes_of_chunk(length) > memory:
        length //= 2
    return ChunkPlan(length if num_frames is None else min(length, math.ceil(num_frames / num_workers)), num_workers)
