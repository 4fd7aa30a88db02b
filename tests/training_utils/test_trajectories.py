import json

import pytest
import torch
from tiny_pipeline import PROMPTS, SHORT, seed, tiny_pipeline

from stable_longform.data.bad_tracks import DataError
from stable_longform.noise_schedule import alpha, sigma
from stable_longform.schedulers.scheduling import scheduler_by_name, set_timesteps
from stable_longform.training_utils.items import item_generator
from stable_longform.training_utils.trajectories import (
    TrajectoryPoints,
    check_teacher,
    collate_points,
    make_trajectories,
    read_point,
    sample_trajectory,
    trajectory_path,
)

CALL = {"num_inference_steps": 4, "guidance_scale": 3.0}
REQUESTS = [(PROMPTS[0], 0.1), ("", 0.25), (SHORT, 0.2)]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trajectories")
    make_trajectories(pipe, REQUESTS, folder, {"steps": 4}, 5, **CALL)
    return folder


def test_a_trajectory_ends_in_what_the_pipeline_makes_of_the_same_seed(pipe, folder):
    for number, (prompt, duration) in enumerate(REQUESTS):
        call = CALL | {"generator": item_generator(5, number), "output_type": "latent"}
        expected = pipe(prompt, duration, **call).audios[0]
        assert torch.equal(read_point(trajectory_path(folder, number), 0.0)["target"], expected)


def test_its_points_are_what_the_network_saw_at_their_times(pipe):
    seen = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    trajectory = sample_trajectory(pipe, SHORT, 0.1, seed(0), num_inference_steps=4, guidance_scale=1.0)
    hook.remove()
    assert torch.equal(trajectory["points"], torch.cat([latents for latents, _ in seen]))
    assert torch.equal(trajectory["times"], torch.cat([t for _, t in seen]))


@pytest.mark.parametrize("num_steps", [3, 4, 7])
def test_ddim_that_hits_its_targets_ends_where_the_teacher_does(pipe, tmp_path, num_steps):
    make_trajectories(pipe, REQUESTS[:1], tmp_path, {}, 5, num_inference_steps=7, guidance_scale=3.0)
    stride = 6 / (num_steps - 1)
    points = [read_point(trajectory_path(tmp_path, 0), (k + 0.5) / 7, stride) for k in range(7)]
    scheduler, x = scheduler_by_name("ddim", pipe.scheduler), points[0]["noisy_latents"]
    for number, t in enumerate(set_timesteps(scheduler, num_steps)):
        point = points[round(number * stride)]
        torch.testing.assert_close(t, point["timestep"])
        torch.testing.assert_close(x, point["noisy_latents"], rtol=0, atol=1e-4)
        velocity = (alpha(t) * x - point["target"]) / sigma(t)
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, read_point(trajectory_path(tmp_path, 0), 0.0)["target"], rtol=0, atol=1e-4)


def test_between_two_points_targets_are_interpolated(folder):
    path = trajectory_path(folder, 0)
    near, between, far = (read_point(path, 0.3, stride)["target"] for stride in (1, 1.25, 2))
    torch.testing.assert_close(between, 0.75 * near + 0.25 * far)
    assert not torch.equal(near, far)
    last, beyond = (read_point(path, 0.5, stride)["target"] for stride in (1, 1.5))  # from the last point but one
    assert torch.equal(last, beyond)


def test_each_process_makes_its_share_and_nothing_twice(pipe, folder, tmp_path):
    for index in (0, 1):
        make_trajectories(pipe, REQUESTS, tmp_path, {"steps": 4}, 5, torch.float32, index, 2, **CALL)
        assert len(list(tmp_path.glob("*.safetensors"))) == (2, 3)[index]
    for number in range(3):
        assert trajectory_path(tmp_path, number).read_bytes() == trajectory_path(folder, number).read_bytes()
    trajectory_path(tmp_path, 1).write_bytes(b"kept")
    make_trajectories(pipe, REQUESTS, tmp_path, {"steps": 4}, 5, **CALL)
    assert trajectory_path(tmp_path, 1).read_bytes() == b"kept"


@pytest.mark.parametrize("settings, number, name", [({"steps": 5}, 5, "steps"), ({"steps": 4}, 6, "seed")])
def test_trajectories_made_otherwise_are_refused(pipe, folder, settings, number, name):
    with pytest.raises(ValueError, match=f"other values of {name}"):
        make_trajectories(pipe, REQUESTS, folder, settings, number, **CALL)


def test_a_stochastic_teacher_is_refused():
    pipe = tiny_pipeline()
    pipe.use_scheduler("sde-dpmsolver++")
    with pytest.raises(ValueError, match="deterministic"):
        check_teacher(pipe, REQUESTS)


@pytest.mark.parametrize("duration", [1e-9, 1e3])
def test_a_request_that_the_teacher_refuses_is_found_among_many(pipe, duration):
    check_teacher(pipe, REQUESTS, **CALL)
    with pytest.raises(ValueError, match=f"duration must be .*{duration:g}"):
        check_teacher(pipe, [REQUESTS[0], ("Genre: Rock", duration), REQUESTS[1]], **CALL)


def test_items_are_points_of_trajectories_as_their_numbers_say(folder):
    points = TrajectoryPoints(folder, [0, 2], seed=1)
    items = points.take(40)
    again = TrajectoryPoints(folder, [0, 2], seed=1)[7]
    assert torch.equal(again["noisy_latents"], items[7]["noisy_latents"])
    assert {item["prompt"] for item in items} == {REQUESTS[0][0], REQUESTS[2][0]}
    assert len({float(item["timestep"]) for item in items}) == 4
    for item in items:
        assert float(item["seconds_total"]) == pytest.approx(dict(REQUESTS)[item["prompt"]])
    batch = collate_points(items[:3])
    assert batch["noisy_latents"].shape == batch["target"].shape == (3, *items[0]["target"].shape)
    assert batch["timestep"].shape == (3,) and len(batch["prompt"]) == 3


def test_a_broken_trajectory_stops_the_run(folder, tmp_path):
    trajectory_path(tmp_path, 0).write_bytes(trajectory_path(folder, 0).read_bytes()[:100])
    with pytest.raises(DataError, match="00000000.safetensors"):
        TrajectoryPoints(tmp_path, [0], seed=0)[0]
    assert json.loads((folder / "trajectories.json").read_text()) == {"steps": 4, "seed": 5}
