"""What a CPU computes, a GPU computes too; `make gpu-check` runs this where there is one."""

import pytest
import torch
from common import relative_error
from tiny_pipeline import SHORT, generate, tiny_pipeline

from stable_longform.utils.accepted_values import SCHEDULER_NAMES

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture(scope="module")
def expected():
    """Latents and audio on the CPU, for each scheduler."""
    return {name: make(tiny_pipeline(), name) for name in SCHEDULER_NAMES}


def make(pipe, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    pipe.use_scheduler(name)
    latents = generate(pipe, [SHORT, ""], output_type="latent")
    return latents.cpu().float(), pipe.decode_latents(latents[0], 0.1).cpu().float()


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_latents_and_audio_are_those_of_a_cpu_for_the_same_seed(expected, name):
    for result, reference in zip(make(tiny_pipeline().to("cuda"), name), expected[name], strict=True):
        assert relative_error(result, reference) < 1e-3


def test_bfloat16_is_near(expected):
    latents, _ = make(tiny_pipeline().to("cuda", torch.bfloat16), "dpmsolver++")
    assert relative_error(latents, expected["dpmsolver++"][0]) < 0.1  # 0.058 on an H200
