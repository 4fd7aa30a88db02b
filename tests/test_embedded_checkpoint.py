"""The checkpoint inside the package: its size and window, and that it sounds the same after saving and loading."""

import json
from pathlib import Path

import pytest
import torch
from common import assert_all_equal, relative_error

from stable_longform import TINY_8_STEPS_LORA, TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.metrics.tonality import chroma_agreement, partial_share


@pytest.fixture(scope="module")
def pipe():
    pipe = LongFormMusicPipeline.from_pretrained(TINY_CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, prompt: str = "Genre: Ambient|Instruments: Piano", seed: int = 1) -> list[torch.Tensor]:
    """Two seconds in one step without guidance."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, duration=2.0, num_inference_steps=1, guidance_scale=1.0, generator=generator).audios


@pytest.fixture(scope="module")
def audio(pipe):
    return generate(pipe)[0]


def test_it_is_small_and_its_window_is_the_papers(pipe):
    assert sum(path.stat().st_size for path in Path(TINY_CHECKPOINT).rglob("*") if path.is_file()) < 90e6
    assert pipe.max_duration_in_s == pytest.approx(285.327, abs=1e-3)
    assert pipe.sampling_rate == 44100 and pipe.vae.config.audio_channels == 2


def test_it_carries_card_and_attribution():
    card = (Path(TINY_CHECKPOINT) / "README.md").read_text(encoding="utf-8")
    attribution = (Path(TINY_CHECKPOINT) / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "What it cannot do" in card and "held-out loss" in card
    assert "FluidR3 GM" in attribution and "MIT" in attribution


def test_saved_and_loaded_it_gives_the_same_bits(pipe, audio, tmp_path):
    assert audio.shape == (2, 88200) and 1e-4 < audio.std() < 1
    pipe.save_pretrained(tmp_path)
    loaded = LongFormMusicPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert_all_equal(generate(loaded), [audio])


def test_prompt_and_seed_change_the_result(pipe, audio):
    for other in (generate(pipe, prompt="Genre: Rock|Instruments: Drums"), generate(pipe, seed=2)):
        assert (other[0] - audio).norm() > 1e-3 * audio.norm()


def test_what_follows_the_requested_duration_is_quieter(pipe):
    """As in the paper the rest of the window should be silence; this model has only begun to learn that."""
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 12, "window_in_s": 47.55, "output_type": "latent"}
    latents = pipe("Genre: Ambient|Instruments: Synth Pad|Moods: Calm", 20.0, generator=generator, **options).audios[0]
    music, behind = (pipe.decode_latents(latents[:, first:], 10.0) for first in (0, 700))  # 700: 32.5 s
    music, behind = (20 * waveform.std().log10() for waveform in (music, behind))
    assert music > -30 and behind < music - 5


def test_it_samples_the_smallest_window_that_holds_the_duration(pipe):
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    for duration, latent_length in ((5.0, 256), (12.5, 1024), (50.0, 6144)):
        assert pipe("Genre: Ambient", duration, **options).audios[0].shape == (64, latent_length)


def test_its_autoencoder_keeps_the_notes(pipe):
    """A chord through the autoencoder is still that chord; noise of the same spectrum would not be."""
    seconds = torch.arange(3 * 44100) / 44100
    chord = sum(0.1 * torch.sin(2 * torch.pi * frequency * seconds) for frequency in (220.0, 277.2, 329.6))
    audio = torch.stack([chord, chord])
    with torch.no_grad():
        decoded = pipe.vae.decode(pipe.vae.encode(audio[None]).latent_dist.mode()).sample[0, :, : audio.shape[1]]
    assert partial_share(decoded, 44100) > 0.9
    assert chroma_agreement(decoded, audio, 44100) > 0.9


def test_it_does_not_say_where_its_parts_lay():
    """diffusers would write the folders of the machine on which it was made."""
    configs = [json.loads(path.read_text()) for path in Path(TINY_CHECKPOINT).glob("*/config.json")]
    assert len(configs) == 4 and not any(config.get("_name_or_path") for config in configs)


def test_its_adapter_needs_neither_guidance_nor_many_steps(pipe):
    """Eight steps of the student are nearer to the teacher's twenty guided steps than its eight without guidance."""
    pytest.importorskip("peft")

    def sample(pipe, num_inference_steps: int, guidance_scale: float) -> torch.Tensor:
        generator, prompt = torch.Generator().manual_seed(1), "Genre: Rock|Instruments: Electric Guitar, Drums"
        settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        return pipe(prompt, 12.5, generator=generator, output_type="latent", **settings).audios[0]

    student = LongFormMusicPipeline.from_pretrained(TINY_CHECKPOINT)
    student.set_progress_bar_config(disable=True)
    student.use_scheduler("ddim")
    reference, unguided = sample(pipe, 20, 3.0), sample(student, 8, 1.0)
    student.load_lora_weights(TINY_8_STEPS_LORA)
    assert relative_error(sample(student, 8, 1.0), reference) < 0.6 * relative_error(unguided, reference)
    assert sum(path.stat().st_size for path in Path(TINY_8_STEPS_LORA).iterdir()) < 5e6
