"""Folders saved by diffusers' `StableAudioPipeline`: the same audio from ours, and weights that load back."""

import pytest
import torch
from common import assert_all_equal, relative_error
from diffusers import AutoencoderOobleck, StableAudioDiTModel
from diffusers import DPMSolverMultistepScheduler as StockScheduler
from stable_audio import SAMPLE_SIZE, WIDTH, stable_audio_pipeline
from transformers import T5EncoderModel

from stable_longform import LongFormMusicPipeline
from stable_longform.pipelines.stable_audio_folder import translate_index
from stable_longform.schedulers.scheduling import make_scheduler

PROMPTS, NEGATIVES = ["solo piano", "slow drums piano"], ["drums", "slow slow"]
DURATION = 0.125  # seconds
TOLERANCE = 1e-5
OTHER_WIDTH = 7  # of a text encoder that needs a projection

pytest.importorskip("torchsde")  # of diffusers' stochastic scheduler


@pytest.fixture(scope="module", params=[WIDTH, OTHER_WIDTH], ids=["same width", "projected"])
def folders(request, tmp_path_factory):
    """The pipeline of diffusers, the folder it saved, and ours from that folder."""
    theirs = stable_audio_pipeline(text_encoder_dim=request.param)
    folder = tmp_path_factory.mktemp("stable_audio")
    theirs.save_pretrained(folder)
    ours = LongFormMusicPipeline.from_pretrained(folder)
    ours.set_progress_bar_config(disable=True)
    return theirs, folder, ours


def noise(batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 5, SAMPLE_SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_components_agree(folders):
    theirs, _, ours = folders
    assert isinstance(ours.text_encoder, T5EncoderModel)
    waveform = torch.randn(2, 2, 32 * 9, generator=torch.Generator().manual_seed(1))
    encoded = theirs.vae.encode(waveform).latent_dist
    assert relative_error(ours.vae.encode(waveform).latent_dist.mean, encoded.mean) < TOLERANCE
    assert relative_error(ours.vae.decode(noise()).sample, theirs.vae.decode(noise()).sample) < TOLERANCE
    seconds = torch.tensor([0.0, 12.5]), torch.tensor([47.0, 299.0])
    timing, expected = ours.timing_conditioner(*seconds), theirs.projection_model(None, *seconds)
    assert relative_error(timing.seconds_start_hidden_states, expected.seconds_start_hidden_states) < TOLERANCE
    assert relative_error(timing.seconds_total_hidden_states, expected.seconds_end_hidden_states) < TOLERANCE
    features = torch.randn(2, 3, theirs.text_encoder.config.d_model)
    expected = theirs.projection_model(text_hidden_states=features).text_hidden_states
    assert relative_error(ours.timing_conditioner.project_text(features), expected) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("negative_prompt", [None, NEGATIVES], ids=["null", "negative"])
def test_one_step_agrees_in_latents_and_audio(folders, negative_prompt):
    theirs, _, ours = folders
    for output_type in ("latent", "pt"):
        arguments = {"num_inference_steps": 1, "latents": noise(), "output_type": output_type}
        arguments |= {"negative_prompt": negative_prompt}
        generators = [torch.Generator().manual_seed(2) for _ in range(2)]
        expected = theirs(PROMPTS, audio_end_in_s=DURATION, generator=generators[0], **arguments).audios
        result = ours(PROMPTS, DURATION, generator=generators[1], **arguments).audios
        result = result if output_type == "latent" else torch.stack(result)
        assert expected.shape == result.shape and expected.std() > 0.01
        assert relative_error(result, expected) < TOLERANCE


def test_saved_and_loaded_again_nothing_changes(folders, tmp_path):
    _, _, ours = folders
    ours.save_pretrained(tmp_path)
    again = LongFormMusicPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.text_encoder, T5EncoderModel) and again.config.zero_text_padding
    results = [pipe(PROMPTS[0], DURATION, num_inference_steps=1, latents=noise(1)).audios for pipe in (ours, again)]
    assert_all_equal(*results)


def test_what_we_save_loads_in_diffusers_without_missing_or_unexpected_key(folders, tmp_path):
    theirs, _, ours = folders
    ours.save_pretrained(tmp_path)
    for name, model_class in (("vae", AutoencoderOobleck), ("transformer", StableAudioDiTModel)):
        loaded, info = model_class.from_pretrained(tmp_path, subfolder=name, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        expected = getattr(theirs, name).state_dict()
        assert list(expected) == list(loaded.state_dict())
        assert_all_equal(list(loaded.state_dict().values()), list(expected.values()))


def test_components_and_dtype_can_be_given(folders):
    _, folder, ours = folders
    scheduler = make_scheduler()
    pipe = LongFormMusicPipeline.from_pretrained(
        folder, scheduler=scheduler, timing_conditioner=ours.timing_conditioner, torch_dtype=torch.bfloat16
    )
    assert pipe.scheduler is scheduler and isinstance(scheduler, StockScheduler)
    assert pipe.timing_conditioner is ours.timing_conditioner
    assert (pipe.transformer.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    dtypes = {"timing_conditioner": torch.float16, "default": torch.float32}
    pipe = LongFormMusicPipeline.from_pretrained(folder, torch_dtype=dtypes)
    assert (pipe.timing_conditioner.dtype, pipe.vae.dtype) == (torch.float16, torch.float32)


def test_padding_is_zeroed_and_the_tokenizer_tells_its_length(folders):
    _, _, ours = folders
    embeddings, mask = ours.encode_prompt(PROMPTS[0])
    assert mask is None and embeddings.shape == (1, ours.tokenizer.model_max_length, WIDTH)
    num_tokens = len(ours.tokenizer(PROMPTS[0]).input_ids)
    assert (embeddings[:, num_tokens:] == 0).all() and (embeddings[:, :num_tokens] != 0).any(dim=-1).all()


def test_an_index_of_ours_is_left_as_it_is():
    index = {"_class_name": "LongFormMusicPipeline", "vae": ["a", "b"]}
    assert translate_index(index, "LongFormMusicPipeline") is index
