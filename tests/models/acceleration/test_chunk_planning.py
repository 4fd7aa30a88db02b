"""Fewer workers before shorter chunks."""

import pytest

from stable_longform.models.acceleration.chunk_planning import MIN_LENGTH_OF_WORKER, make_plan

MIB = 2**20
NUM_THREADS = range(1, 65)


def bytes_of_chunk(num_frames: int) -> int:
    """A megabyte a frame up to 20, then tiles bound it: as in the engine."""
    return min(num_frames, 20) * MIB


def test_long_audio_is_computed_in_long_chunks_by_every_thread():
    for num_threads in NUM_THREADS:
        assert make_plan(bytes_of_chunk, num_threads, 100_000) == (512, num_threads)
        assert make_plan(bytes_of_chunk, num_threads) == (512, num_threads)  # a stream


@pytest.mark.parametrize("memory", [1, 20 * MIB, 70 * MIB, 1000 * MIB])
@pytest.mark.parametrize("num_frames", [1, 31, 64, 215, 6137, None])
@pytest.mark.parametrize("chunk_length", [None, 1, 100])
def test_laws(memory, num_frames, chunk_length):
    for num_threads in NUM_THREADS:
        length, num_workers = make_plan(bytes_of_chunk, num_threads, num_frames, chunk_length, memory)
        assert 1 <= num_workers <= num_threads
        assert num_workers == 1 or num_workers * bytes_of_chunk(length) <= memory
        if chunk_length is not None:
            assert length == chunk_length
            assert num_frames is None or (num_workers - 1) * length < num_frames
        else:
            assert 1 <= length <= 512
            if memory >= 20 * MIB:  # enough for one worker
                assert length >= min(num_frames or 512, MIN_LENGTH_OF_WORKER)
            if num_frames is not None and num_workers > 1:
                assert length <= -(-num_frames // num_workers)  # every worker has something to do


def test_a_single_chunk_is_shorter_only_when_it_does_not_fit():
    assert make_plan(lambda num_frames: num_frames, 8, 1000, memory_in_bytes=100) == (64, 1)
    assert make_plan(lambda num_frames: num_frames, 8, 1000, memory_in_bytes=3) == (16, 1)
    assert make_plan(lambda num_frames: num_frames, 8, 1000, memory_in_bytes=1024) == (500, 2)
    assert make_plan(lambda num_frames: num_frames, 2, 50) == (50, 1)
    assert make_plan(lambda num_frames: num_frames, 2, 90) == (45, 2)
