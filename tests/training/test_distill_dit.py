"""Distillation by the real script: trajectories, resuming, the student as a checkpoint and as an adapter."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from common import relative_error
from launch import check_script, run_script
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_pipeline import PROMPTS, generate, tiny_pipeline

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import SIGMA_MIN

SETTINGS = {
    "num_trajectories": 6,
    "num_validation_trajectories": 2,
    "durations_in_s": [0.1, 0.2],
    "teacher_steps": 5,
    "teacher_guidance_scale": 2.0,
    "num_inference_steps": 2,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "ema_decay": 0.5,
    "num_workers": 0,
    "log_every": 1,
    "max_steps": 12,
    "save_every": 6,
    "validate_every": 6,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a teacher of random weights and its prompts."""
    folder = tmp_path_factory.mktemp("distill")
    tiny_pipeline(mask_text_padding=True).save_pretrained(folder / "teacher")
    rows = [
        {"id": str(k), "prompt": prompt} | ({"duration": 0.15} if k == 0 else {}) for k, prompt in enumerate(PROMPTS)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "distill.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def command(folder: Path, name: str, *changes: object) -> list:
    """The command of a training; later options win."""
    paths = ("--checkpoint", folder / "teacher", "--prompts", folder / "prompts.jsonl", "--output_dir", folder / name)
    return ["distill_dit.py", "--config", folder / "distill.yaml", *paths, *changes]


@pytest.fixture(scope="module")
def trained(folder):
    """Twelve steps at once."""
    check_script(*command(folder, "whole"))
    return folder / "whole"


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["valid/loss"] for row in rows if "valid/loss" in row]  # always of the same points


def test_loss_falls(trained):
    first, last = losses(trained)
    assert last < first


def test_six_steps_and_six_more_with_the_same_trajectories_equal_twelve(folder, trained):
    reused = ("--trajectories", trained / "trajectories")
    before = {file.name: file.stat().st_mtime_ns for file in (trained / "trajectories").iterdir()}
    check_script(*command(folder, "parts", *reused, "--max_steps=6"))
    check_script(*command(folder, "parts", *reused))
    assert {file.name: file.stat().st_mtime_ns for file in (trained / "trajectories").iterdir()} == before
    weights = "checkpoint/transformer/diffusion_pytorch_model.safetensors"
    one, other = (load_file(run / weights) for run in (trained, folder / "parts"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_prompt_keeps_its_own_duration_and_the_others_draw_one(trained):
    requests = []
    for file in sorted((trained / "trajectories").glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            requests.append(json.loads(tensors.metadata()["request"]))
    assert [prompt for prompt, _ in requests] == [*PROMPTS, *PROMPTS[:2]]
    assert all((duration == 0.15) == (prompt == PROMPTS[0]) for prompt, duration in requests)
    assert {duration for _, duration in requests} <= {0.1, 0.15, 0.2}


def test_the_student_says_how_it_is_sampled(trained):
    student = LongFormMusicPipeline.from_pretrained(trained / "checkpoint")
    settings = student.config.num_inference_steps, student.config.guidance_scale
    assert settings == (2, 1.0) and student.scheduler.config.solver_order == 1
    assert student.config.mask_text_padding
    teacher = tiny_pipeline(mask_text_padding=True)
    assert relative_error(student.transformer.proj_out.weight, teacher.transformer.proj_out.weight) > 1e-3
    assert all(
        torch.equal(tensor, teacher.timing_conditioner.state_dict()[name])
        for name, tensor in student.timing_conditioner.state_dict().items()
    )
    stage = json.loads((trained / "checkpoint/stage.json").read_text())
    assert (stage["stage"], stage["step"]) == ("distilled", 12)


def test_a_student_of_the_end_is_sampled_with_ping_pong_and_has_other_losses(folder, trained):
    reused = ("--trajectories", trained / "trajectories")
    check_script(*command(folder, "end", *reused, "--target=end", "--max_steps=6"))
    scheduler = LongFormMusicPipeline.from_pretrained(folder / "end/checkpoint").scheduler
    assert type(scheduler).__name__ == "PingPongScheduler"
    assert scheduler.config.timestep_end == pytest.approx(2 / math.pi * math.atan(SIGMA_MIN))
    assert losses(folder / "end")[0] > 1.1 * losses(trained)[0]  # the end is farther than the next point


def test_an_adapter_of_the_student_opens_in_the_teachers_pipeline(folder, trained):
    adapter = ("--rank=2", "--alpha=2", "--adapter_dtype=float16", "--trajectories", trained / "trajectories")
    check_script(*command(folder, "adapter", *adapter, "--max_steps=6"))
    assert not (folder / "adapter/checkpoint").exists()
    assert not [file.name for file in (folder / "adapter/checkpoint-00000006").iterdir() if file.name[:5] == "model"]
    weights = load_file(folder / "adapter/lora/pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    pipe = tiny_pipeline(mask_text_padding=True)
    before = generate(pipe, output_type="latent")
    pipe.load_lora_weights(folder / "adapter/lora")
    assert relative_error(generate(pipe, output_type="latent"), before) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--num_validation_trajectories=6", "must be below num_trajectories=6"),
        ("--num_inference_steps=6", "at most teacher_steps=5 with target=next, got 6"),
        ("--prompts=nowhere.txt", "nowhere.txt"),
        ("--window_in_s=9", "window_in_s"),
        ("--durations_in_s=[0.1, 300]", "duration must be in"),
        ("--rank=2 --target_modules=[nothing]", "no linear layer whose name ends in 'nothing'"),
        ("--seed=1 --trajectories={folder}/whole/trajectories", "other values of seed"),
    ],
)
def test_wrong_settings(folder, trained, change, message):
    finished = run_script(*command(folder, "wrong", *change.format(folder=folder).replace(" --", "\n--").split("\n")))
    assert finished.returncode == 2 and message in finished.stderr.splitlines()[-1]
    assert not (folder / "wrong").exists()
