import threading
import time

import pytest
import torch
from tiny_pipeline import seed

from stable_longform.app import studio as studio_module
from stable_longform.app.studio import Busy, Cancelled, Progress, Studio, Visitors
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline


@pytest.fixture
def studio(pipe):
    """One that is closed in the end."""
    studio = Studio(pipe, "random")
    yield studio
    studio.close()


def music(steps=4):
    """Two seconds of music."""

    def make(open_pipeline):
        pipe = open_pipeline(LongFormMusicPipeline)
        latents = pipe("", 2.0, num_inference_steps=steps, generator=seed(0), output_type="latent").audios[0]
        yield from pipe.stream_latents(latents, 2.0)

    return make


def wait_for(is_true, timeout_in_s=20):
    """Waits for something another thread does."""
    end = time.monotonic() + timeout_in_s
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_music_is_the_pipeline_s_own_and_the_progress_rises(studio, pipe, monkeypatch):
    monkeypatch.setattr(studio_module, "POLL_IN_S", 0.0005)
    events = list(studio.run(music(20), 2.0))
    chunks = [event for event in events if isinstance(event, torch.Tensor)]
    expected = pipe("", 2.0, num_inference_steps=20, generator=seed(0)).audios[0]
    assert torch.equal(torch.cat(chunks, dim=1), expected)
    told = [event for event in events if isinstance(event, Progress)]
    stages = ["waiting", "preparing", "sampling", "decoding"]
    order = [(stages.index(progress.stage), progress.done) for progress in told]
    assert order == sorted(order) and {progress.stage for progress in told} >= {"sampling"}
    steps = [progress for progress in told if progress.stage == "sampling"]
    assert len({progress.done for progress in steps}) > 2 and {progress.total for progress in steps} == {20}
    assert all(progress.remaining_in_s >= 0 for progress in steps if progress.done > 0)


def test_closing_stops_at_the_next_step_and_the_next_one_has_its_turn(studio):
    events = studio.run(music(100_0), 2.0)
    assert any(event.stage == "sampling" for event in events)
    events.close()
    start = time.monotonic()
    assert any(isinstance(event, torch.Tensor) for event in studio.run(music(), 2.0))
    assert time.monotonic() - start < 10 and studio.num_generations == 0


def test_generations_take_turns(studio):
    is_free, running, most = threading.Event(), [], []

    def make(open_pipeline):
        running.append(1)
        most.append(len(running))
        is_free.wait(20)
        running.pop()
        yield torch.zeros(2, 8)

    readers = [threading.Thread(target=list, args=[studio.run(make, 1.0)]) for _ in range(3)]
    for reader in readers:
        reader.start()
    wait_for(lambda: studio.num_generations == 3)
    is_free.set()
    for reader in readers:
        reader.join()
    assert most == [1, 1, 1]


def test_errors_reach_the_reader_and_nobody_else(studio):
    def make(open_pipeline):
        yield from open_pipeline(LongFormMusicPipeline)("", 99.0).audios

    with pytest.raises(ValueError, match="duration must be in"):
        list(studio.run(make, 99.0))
    assert any(isinstance(event, torch.Tensor) for event in studio.run(music(), 2.0))


def test_a_full_queue_and_a_closed_studio_refuse(pipe, monkeypatch):
    studio = Studio(pipe, "random")
    monkeypatch.setattr(studio_module, "MAX_WAITING", 1)
    first, second = studio.run(music(1000), 2.0), studio.run(music(), 2.0)
    next(first), next(second)
    with pytest.raises(Busy, match="try again later"):
        next(studio.run(music(), 2.0))
    studio.close()
    for events in (first, second):
        with pytest.raises(Cancelled):
            list(events)


def test_a_slow_reader_holds_the_decoder_up(studio):
    made = []

    def make(open_pipeline):
        for number in range(50):
            made.append(number)
            yield torch.zeros(2, 8)

    events = studio.run(make, 1.0)
    wait_for(lambda: isinstance(next(events), torch.Tensor))
    time.sleep(0.1)
    assert len(made) <= studio_module.MAX_CHUNKS + 2
    events.close()


def test_a_visitor_has_one_generation_until_it_ends_or_is_cancelled():
    visitors = Visitors()
    with (
        visitors.generation("a") as is_first,
        visitors.generation("a") as is_second,
        visitors.generation("b") as other,
    ):
        assert (is_first, is_second, other) == (True, False, True)
        visitors.release("a")
        with visitors.generation("a") as is_third:
            assert is_third
    cancelled = visitors.generation("a")
    cancelled.__enter__()
    visitors.release("a")
    with visitors.generation("a") as is_new:
        cancelled.__exit__(None, None, None)  # the end of the old one does not end the new one
        with visitors.generation("a") as is_second:
            assert is_new and not is_second
    with visitors.generation("a") as is_first:
        assert is_first
