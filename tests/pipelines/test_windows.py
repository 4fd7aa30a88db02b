"""Windows: which one a duration takes, and that it is a generation of that length and nothing else."""

import itertools
import math

import pytest
import torch
from common import assert_all_equal, relative_error
from tiny_pipeline import LATENT_CHANNELS, SHORT, generate, record_transformer, seed, tiny_pipeline

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.pipelines.windows import WindowSizes, window_starts

WINDOWS_IN_S = [16 * 32 / 8000, 32 * 32 / 8000]  # 0.064 s and 0.128 s, of the tiny pipeline's 0.256 s
PAPER = WindowSizes(max_length=6144, patch_size=1, latent_rate=44100 / 2048)


@pytest.fixture
def pipe():
    """Trained, as it says, on windows of 16, 32 and 64 frames."""
    pipe = LongFormMusicPipeline(**tiny_pipeline().components, window_in_s=WINDOWS_IN_S)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("patch_size", [1, 4])
def test_seconds_and_frames_are_inverse_even_when_rounded(patch_size):
    sizes = WindowSizes(6144, patch_size, 44100 / 2048)
    for length in range(patch_size, 6145, 4 * patch_size):
        assert sizes.length(sizes.seconds(length)) == length
        assert sizes.length(round(sizes.seconds(length), 3)) == length


@pytest.mark.parametrize("patch_size", [1, 4, 64])
def test_a_window_holds_its_seconds_and_is_the_smallest(patch_size):
    sizes = WindowSizes(6144, patch_size, 44100 / 2048)
    for seconds in (0.01, 1.0, 12.0, 47.0, 95.0, 190.0, 285.0):
        length = sizes.length(seconds)
        assert length % patch_size == 0 and sizes.seconds(length) > seconds - 0.0025
        assert length == patch_size or sizes.seconds(length - patch_size) < seconds


def test_the_smallest_window_that_holds_a_duration():
    windows = (95.0, 12.0, 47.0)
    assert [PAPER.seconds(PAPER.smallest(seconds, windows)) > seconds for seconds in (3, 12, 30, 100, 285)] == [
        True
    ] * 5
    assert PAPER.smallest(3.0, windows) == PAPER.smallest(12.0, windows) == math.ceil(12 * 44100 / 2048)
    assert PAPER.smallest(12.1, windows) == PAPER.smallest(47.0, windows) == math.ceil(47 * 44100 / 2048 - 0.05)
    assert PAPER.smallest(95.3, windows) == 6144
    assert PAPER.smallest(3.0, ()) == PAPER.smallest(3.0, (1000.0,)) == 6144
    assert PAPER.smallest(PAPER.seconds(1024), [PAPER.seconds(1024)]) == 1024


@pytest.mark.parametrize("window_in_s", [0.0, -1.0, math.nan, 286.0, math.inf])
def test_seconds_that_no_window_has(window_in_s):
    with pytest.raises(ValueError, match=r"window_in_s must be in \(0, 285.327\] seconds, got"):
        PAPER.length(window_in_s)


@pytest.mark.parametrize(
    "duration, length", [(0.01, 16), (0.064, 16), (0.0641, 32), (0.128, 32), (0.13, 64), (None, 64)]
)
def test_a_generation_takes_the_smallest_window_that_holds_it(pipe, duration, length):
    """Also when it is a late part of a long piece."""
    calls = record_transformer(pipe)
    for start, total in ((0.0, None), (100.0, 300.0)):
        audio = generate(pipe, duration=duration, seconds_start=start, seconds_total=total)[0]
        assert audio.shape[-1] == round((duration or 0.256) * 8000)
    assert {call["latents"].shape[-1] for call in calls} == {length}


def test_without_windows_in_the_configuration_the_whole_window_is_sampled():
    pipe = tiny_pipeline()
    calls = record_transformer(pipe)
    generate(pipe, duration=0.01)
    assert {call["latents"].shape[-1] for call in calls} == {64}


def test_a_call_may_choose_its_window(pipe):
    calls = record_transformer(pipe)
    assert generate(pipe, window_in_s=0.2)[0].shape[-1] == 50 * 32
    generate(pipe, duration=0.01, window_in_s=0.256)
    assert [call["latents"].shape[-1] for call in calls] == [50] * 4 + [64] * 4


def test_the_noise_of_a_window_is_a_draw_of_its_own_size(pipe):
    """And latents that are given decide the window by their length."""
    noise = torch.randn(LATENT_CHANNELS, 16, generator=seed(0))
    expected = generate(pipe, duration=0.05, output_type="latent")
    result = generate(pipe, duration=0.05, latents=noise[None], generator=None, output_type="latent")
    assert expected.shape == (1, LATENT_CHANNELS, 16) and torch.equal(result, expected)
    longer = torch.randn(1, LATENT_CHANNELS, 40, generator=seed(0))
    assert generate(pipe, duration=0.05, latents=longer, output_type="latent").shape[-1] == 40
    assert generate(pipe, latents=longer)[0].shape[-1] == 40 * 32


def test_a_model_of_that_window_gives_the_same(pipe):
    """A window of 16 frames is what a model with nothing but this window would sample."""
    small = tiny_pipeline(sample_size=16)
    small.transformer.load_state_dict(pipe.transformer.state_dict())
    expected = generate(small, duration=0.05, output_type="latent")
    assert torch.equal(generate(pipe, duration=0.05, output_type="latent"), expected)


def test_an_item_has_its_own_window_whatever_its_neighbours(pipe):
    durations = [0.2, 0.05, 0.1, 0.06]
    generators = [seed(number) for number in range(4)]
    calls = record_transformer(pipe)
    batch = generate(pipe, [SHORT, "rock", "rock", SHORT], duration=durations, generator=generators)
    assert [call["latents"].shape[::2] for call in calls[::4]] == [(4, 16), (2, 32), (2, 64)]
    for number, prompt in enumerate((SHORT, "rock", "rock", SHORT)):
        alone = generate(pipe, prompt, duration=durations[number], generator=seed(number))[0]
        assert relative_error(batch[number], alone) < 1e-4
    latents = generate(pipe, [SHORT, "rock"], duration=[0.2, 0.05], output_type="latent")
    assert [item.shape for item in latents] == [(LATENT_CHANNELS, 64), (LATENT_CHANNELS, 16)]


def test_windows_are_saved_and_checked(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = LongFormMusicPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert list(loaded.config.window_in_s) == WINDOWS_IN_S
    assert_all_equal(generate(loaded, duration=0.05), generate(pipe, duration=0.05))
    assert list(LongFormMusicPipeline(**pipe.components, window_in_s=0.1).config.window_in_s) == [0.1]
    for wrong, message in (
        ([0.1, 0.0], "greater than 0"),
        (["1"], "a number, got '1'"),
        ([0.1, 0.3], r"\(0, 0.256\]"),
    ):
        with pytest.raises(ValueError, match=message):
            LongFormMusicPipeline(**pipe.components, window_in_s=wrong)


@pytest.mark.parametrize("length", [65, 96, 100, 128, 1000])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_windows_of_a_long_piece_cover_it(length, step):
    starts = window_starts(length, 64, step)
    assert starts[0] == 0 and starts[-1] == length - 64
    assert all(0 < later - earlier <= 32 for earlier, later in itertools.pairwise(starts))
    assert all(start % step == 0 for start in starts[:-1])
