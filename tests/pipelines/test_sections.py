"""Prompts by section: which frame attends to which tokens, and what that means for the music."""

import pytest
import torch
from common import relative_error
from tiny_pipeline import PROMPTS, SHORT, generate, record_transformer, seed, tiny_pipeline

from stable_longform import LongFormMusicAudioToAudioPipeline, LongFormMusicInpaintPipeline
from stable_longform.pipelines.sections import attention_mask, sections_of_times

RATE, HOP = 8000, 32


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def latents(pipe, prompt, **arguments):
    return generate(pipe, prompt, output_type="latent", **arguments)


# --- laws


@pytest.mark.parametrize("mask_text_padding", [False, True])
def test_sections_of_one_prompt_are_that_prompt(mask_text_padding):
    pipe = tiny_pipeline(mask_text_padding=mask_text_padding)
    for arguments in ({}, {"negative_prompt": PROMPTS[1]}, {"guidance_scale": 1}):
        expected = latents(pipe, SHORT, **arguments)
        for sections in ([(0, SHORT)], [(0, SHORT), (0.1, SHORT), (0.2, SHORT)]):
            assert relative_error(latents(pipe, sections, **arguments), expected) < 1e-4


def test_sections_without_a_prompt_are_no_prompt(pipe):
    expected = latents(pipe, "")
    assert relative_error(latents(pipe, [(0, ""), (0.1, " ")]), expected) < 1e-5


def test_every_section_is_heard_and_where_it_starts(pipe):
    sections = [(0, SHORT), (0.1, PROMPTS[1])]
    first = latents(pipe, sections)
    changes = ([(0, PROMPTS[2] + "!"), sections[1]], [sections[0], (0.1, "")], [sections[0], (0.15, PROMPTS[1])])
    for changed in (*changes, SHORT, PROMPTS[1]):
        assert relative_error(latents(pipe, changed), first) > 1e-3


def test_an_item_does_not_depend_on_its_neighbours(pipe):
    prompts = [PROMPTS[1], [(0, SHORT), (0.1, ""), (0.2, PROMPTS[1])], [(0, SHORT), (0.05, PROMPTS[3])]]
    batch = latents(pipe, prompts, generator=[seed(0), seed(1), seed(2)])
    for number, prompt in enumerate(prompts):
        assert relative_error(batch[number : number + 1], latents(pipe, prompt, generator=seed(number))) < 1e-4


# --- masks


def test_the_section_of_a_frame():
    times = torch.arange(6.0)[None].expand(2, -1)
    sections = sections_of_times([[(0, "a"), (2.0, "b"), (4.5, "c")], [(0, "a")]], times)
    assert sections.int().argmax(dim=2).tolist() == [[0, 0, 1, 1, 1, 2], [0] * 6]
    assert (sections.sum(dim=2) == 1).all()


def test_each_token_sees_its_own_section_and_the_timing():
    sections = sections_of_times([[(0, "a"), (1, "b"), (4, "")]], torch.arange(6.0)[None])
    embeds = torch.ones(1, 6, 3)
    embeds[:, 4:] = 0  # the last section has no prompt
    mask = attention_mask(sections, embeds, None, 1, 2)[0].int().tolist()
    a, b, c = [1, 1, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]
    assert mask == [b, a, b, b, b, c, c]  # the first is the whole's: the longest section
    hidden = torch.tensor([[True, False, True, True, True, True]])
    assert attention_mask(sections, embeds, hidden, 2, 2)[0].int().tolist() == [b, [1, 0, *a[2:]], b, c]


def test_the_transformer_attends_row_by_row(pipe):
    """A mask of rows that are equal is a mask of tokens; another row changes the result."""
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 4, 8),
        "timestep": torch.rand(2),
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "global_hidden_states": torch.randn(2, 1, 32),
    }
    tokens = torch.rand(2, 5) > 0.4
    tokens[:, 0] = True
    rows = tokens[:, None].expand(-1, 9, -1).clone()
    with torch.no_grad():
        expected = pipe.transformer(**inputs, encoder_attention_mask=tokens).sample
        assert relative_error(pipe.transformer(**inputs, encoder_attention_mask=rows).sample, expected) < 1e-5
        rows[:, 4] = ~rows[:, 4]
        assert relative_error(pipe.transformer(**inputs, encoder_attention_mask=rows).sample, expected) > 1e-3
    with pytest.raises(ValueError, match=r"encoder_attention_mask must be a boolean tensor .* \(2, 9, 5\)"):
        pipe.transformer(**inputs, encoder_attention_mask=rows[:, :8])


# --- the other pipelines


def masks_of(pipe, call) -> list[torch.Tensor]:
    """The masks that the transformer was given in a call."""
    calls = record_transformer(pipe)
    call()
    return [recorded["encoder_attention_mask"] for recorded in calls]


def test_audio_to_audio_in_sections(pipe, make_audio):
    other = LongFormMusicAudioToAudioPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    audio, sections = make_audio(2048, sampling_rate=RATE), [(0, SHORT), (0.128, PROMPTS[1])]
    masks = masks_of(pipe, lambda: latents(pipe, sections, num_inference_steps=1))
    for method in ("noise", "edit"):
        arguments = {"num_inference_steps": 1, "method": method, "generator": seed(0)}
        theirs = masks_of(other, lambda arguments=arguments: other(sections, audio, **arguments))
        assert torch.equal(theirs[0], masks[0]) and (method == "noise") == (len(theirs) == 1)


def test_inpainting_in_sections_of_the_result(pipe, make_audio):
    """In windows of long music, and in a loop that is entered elsewhere, frames are in the section of their time."""
    other = LongFormMusicInpaintPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    audio, sections = make_audio(1600, sampling_rate=RATE), [(0, SHORT), (0.4, PROMPTS[1])]
    arguments = {"num_inference_steps": 1, "num_repeats": 1, "generator": seed(0)}
    masks = masks_of(other, lambda: other(sections, audio, extend_to=0.6, **arguments))
    is_second = [mask[0, 1:, 12].tolist() for mask in masks]  # whether frames see the first token of the second
    first_frame = 50 - 16
    for start, seen in zip((0, 32, 52), is_second, strict=True):
        assert seen == [(first_frame + start + frame) * HOP / RATE >= 0.4 for frame in range(64)]
    masks = masks_of(
        other, lambda: other([(0, SHORT), (0.1, PROMPTS[1])], audio, regions=[(0.16, 0.2)], loop=True, **arguments)
    )
    shift = 640  # the middle of what is kept, at which the loop is entered
    seen = masks[0][0, 1:51, 12].tolist()
    assert seen == [((frame * HOP + shift) % 1600) / RATE >= 0.1 for frame in range(50)]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([(1, "a"), (2, "b")], "Sections must start at 0 s and rise, got 1, 2"),
        ([(0, "a"), (0, "b")], "rise, got 0, 0"),
        ([(0, "a"), (0.2, "b"), (0.1, "c")], "rise"),
        ([(0, "a"), (float("nan"), "b")], "The start of a section must be finite"),
        ([(0, "a"), (0.256, "b")], "Sections must start before the end at 0.256 s, got 0.256 s"),
        ([(0, "a"), ("0.1", "b")], "The start of a section must be a number, got '0.1'"),
        ([(number / 1000, "a") for number in range(101)], "There may be at most 100 sections, got 101"),
        ([(0, "a", 1)], "A section must be"),
        ([(0, "a"), (0.1, 3)], "prompt must be text, got 3"),
        ([[(0, "a")], 3], "prompt must"),
    ],
)
def test_bad_sections_are_refused_before_any_work(pipe, prompt, message):
    calls = record_transformer(pipe)
    with pytest.raises(ValueError, match=message):
        generate(pipe, prompt)
    assert not calls
