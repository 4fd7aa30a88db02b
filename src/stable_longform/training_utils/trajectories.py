"""Trajectories of a teacher: the points that its sampling passes on the way from noise to latents, stored on disk.

Each trajectory is a file that depends only on the seed and its number. Making them needs prompts and durations, but no
audio.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from stable_longform.data.bad_tracks import BadTrackError, BadTracks, one_line
from stable_longform.data.numbered_items import NumberedItems
from stable_longform.noise_schedule import alpha, sigma
from stable_longform.training_utils.items import item_generator
from stable_longform.utils.files import atomic_path, write_json
from stable_longform.utils.text_files import read_json

TRAJECTORIES_FILE = "trajectories.json"


def trajectory_path(folder: Path, number: int) -> Path:
    """The file of a trajectory."""
    return folder / f"{number:08d}.safetensors"


def make_trajectories(
    pipe,
    requests: Sequence[tuple[str, float]],
    folder: Path,
    settings: dict,
    seed: int,
    dtype: torch.dtype = torch.float32,
    process_index: int = 0,
    num_processes: int = 1,
    **call,
) -> None:
    """Samples the trajectories that do not exist yet; it can be stopped at any time and run again.

    Trajectory k starts with noise and ends with the latents that the pipeline returns for
    `pipe(prompt, duration, generator=item_generator(seed, k), **call)`.

    Args:
        pipe: the teacher, with a deterministic scheduler.
        requests: prompt and seconds of each trajectory.
        folder: for the files.
        settings: everything besides seed and requests on which they depend, as JSON. Trajectories with other settings
            are rejected.
        seed: of all trajectories.
        dtype: of the points on disk.
        process_index: number of this process, in [0, `num_processes`); all processes call this.
        num_processes: number of processes that share the work.
        call: further arguments of the pipeline.

    Raises:
        ValueError: the folder holds trajectories with other settings.
    """
    check_settings(folder, settings, seed)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / TRAJECTORIES_FILE).is_file():
        write_json(folder / TRAJECTORIES_FILE, settings | {"seed": seed})
    todo = [k for k in range(process_index, len(requests), num_processes) if not trajectory_path(folder, k).is_file()]
    for number in tqdm(todo, desc="trajectories", disable=process_index > 0):
        prompt, duration = requests[number]
        tensors = sample_trajectory(pipe, prompt, duration, item_generator(seed, number), **call)
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        tensors |= {name: tensors[name].to(dtype).contiguous() for name in ("points", "end")}
        metadata = {"request": json.dumps([prompt, duration])}
        with atomic_path(trajectory_path(folder, number)) as temporary:
            save_file(tensors, temporary, metadata)


def check_settings(folder: Path, settings: dict, seed: int) -> None:
    """Raises a ValueError if the folder holds trajectories with other settings or another seed."""
    path, new = folder / TRAJECTORIES_FILE, json.loads(json.dumps(settings | {"seed": seed}))
    old = read_json(path) if path.is_file() else new
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed:
        raise ValueError(f"{folder} holds trajectories made with other values of {', '.join(changed)}.")


def check_teacher(pipe, requests: Sequence[tuple[str, float]], **call) -> None:
    """Checks that a teacher can sample some requests; takes one step for the shortest and one for the longest.

    Args:
        pipe: the teacher.
        requests: prompts and seconds.
        call: further arguments of the pipeline.

    Raises:
        ValueError: the scheduler is stochastic, or the pipeline refuses a request or an argument.
    """
    if getattr(pipe.scheduler.config, "algorithm_type", "sde").startswith("sde"):
        raise ValueError(f"The teacher's scheduler must be deterministic, got {type(pipe.scheduler).__name__}.")
    for choose in (min, max):
        prompt, duration = choose(requests, key=lambda request: request[1])
        pipe(prompt, duration, output_type="latent", **call | {"num_inference_steps": 1})


def sample_trajectory(
    pipe, prompt: str, duration: float, generator: torch.Generator, **call
) -> dict[str, torch.Tensor]:
    """The points of one sampling.

    Args:
        pipe: the teacher.
        prompt: of the music.
        duration: in seconds.
        generator: for the noise, on the CPU.
        call: further arguments of the pipeline.

    Returns:
        `points (N, C, L)`, the noisy latents before each of N steps, their `times (N,)`, and the result `end (C, L)`.
    """
    start = generator.get_state()
    points, times = [], []

    def keep(_, step: int, t: torch.Tensor, tensors: dict) -> dict:
        points.append(tensors["latents"][0])
        times.append(float(t))
        return {}

    output_type = {"output_type": "latent", "callback_on_step_end": keep}
    end = pipe(prompt, duration, generator=generator, **output_type, **call).audios[0]
    noise = torch.randn(end.shape, generator=torch.Generator().set_state(start)).to(end)
    trajectory = torch.stack([noise, *points[:-1]])
    return {"points": trajectory, "times": torch.tensor(times), "end": end}


class TrajectoryPoints(NumberedItems):
    """An endless sequence of items, each a random point of a random trajectory and its end.

    Args:
        folder: of `make_trajectories`.
        numbers: of the trajectories to use.
        seed: of the whole sequence.
        stride: as in `read_point`.
    """

    def __init__(self, folder: Path, numbers: Sequence[int], seed: int, stride: float = math.inf):
        super().__init__(seed, BadTracks(len(numbers), 0.0, "trajectories"))
        self.folder, self.numbers, self.stride = folder, numbers, stride

    def candidates(self, number: int, rng: np.random.Generator) -> Iterator[int]:
        """One trajectory. A broken file is an error; it is not skipped."""
        yield int(rng.choice(self.numbers))

    def make(self, candidate: int, rng: np.random.Generator) -> dict:
        """A random point of the trajectory; all are equally likely."""
        return read_point(trajectory_path(self.folder, candidate), float(rng.random()), self.stride)


def read_point(path: Path, place: float, stride: float = math.inf) -> dict:
    """One point of a trajectory, read without the others.

    Args:
        path: of the trajectory.
        place: position of the point in the trajectory, in [0, 1): 0 is the noise.
        stride: how many of the teacher's steps the student is to take in one, at least 1; infinite: all of them.

    Returns:
        `noisy_latents (C, L)` and `target (C, L)` in float32, `timestep`, `prompt`, `seconds_start` and
        `seconds_total`. The target is where a first-order step from this point has to aim (its clean latents) to reach
        the point `stride` steps later, at most the last one; between two points it is interpolated. From the last
        point, and with an infinite stride, it is the trajectory's end.

    Raises:
        BadTrackError: the file cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            prompt, duration = json.loads(file.metadata()["request"])
            times = file.get_tensor("times")
            index = int(place * len(times))
            points, last = file.get_slice("points"), len(times) - 1
            noisy_latents = points[index].float()
            if index == last or stride == math.inf:
                target = file.get_tensor("end").float()
            else:
                later = min(index + stride, last)
                before, after = (
                    _target(noisy_latents, times[index], points[k].float(), times[k])
                    for k in (math.floor(later), math.ceil(later))
                )
                target = torch.lerp(before, after, later % 1)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadTrackError(path, "broken", one_line(error)) from error
    return {
        "noisy_latents": noisy_latents,
        "target": target,
        "timestep": times[index],
        "prompt": prompt,
        "seconds_start": torch.tensor(0.0),
        "seconds_total": torch.tensor(float(duration)),
    }


def _target(noisy_latents: torch.Tensor, t: torch.Tensor, later: torch.Tensor, t_later: torch.Tensor) -> torch.Tensor:
    """The clean latents with which DDIM's step from one point leads to a later one.

    Reference: Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", arXiv 2202.00512,
    appendix G: x̃ = (z' − (σ'/σ) z) / (α' − (σ'/σ) α).
    """
    ratio = sigma(t_later) / sigma(t)
    return (later - ratio * noisy_latents) / (alpha(t_later) - ratio * alpha(t))


def collate_points(items: Sequence[dict]) -> dict:
    """Makes a batch of points, whose windows must have the same length."""
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "prompt"}
    return batch | {"prompt": [item["prompt"] for item in items]}
