"""The transformer in one sampling step with guidance, and the schedulers: ours against diffusers, same weights.

    python benchmarks/transformer_step.py --num_layers 2 --lengths 1024
    python benchmarks/transformer_step.py --num_layers 1 --lengths 6144 --dtype bfloat16
    python benchmarks/transformer_step.py --schedulers --lengths 6144

diffusers is called as in its pipeline: both branches in a batch, zeros as the unconditional text, positions on the
CPU. `--stable_audio_tools PATH`, a checkout whose requirements are installed, adds its transformer with the same
weights, also with both branches in a batch. Runs are interleaved. The share of the peak is the arithmetic rate of the
step, with only the operations that guidance needs, relative to that of a matrix product in the same run. The error is
the distance from ours in float32.
"""

import argparse
from pathlib import Path

import torch
from diffusers import CosineDPMSolverMultistepScheduler
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from model_pairs import LATENT_CHANNELS, TRANSFORMERS, stable_audio_tools_transformer, transformers
from timing import interleave, machine, matmul_peak, print_table, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from stable_longform.pipelines.guidance import branches_in_turn, make_conditions, predict_velocity
from stable_longform.schedulers import scheduling
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

NUM_TEXT_TOKENS = 77


def main() -> None:
    """Prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--size", choices=TRANSFORMERS, default="paper", help="size of the model")
    parser.add_number("--num_layers", Range(1, 1024), help="layers of the transformer; by default all")
    parser.add_number(
        "--lengths", Range(1, 2**20), nargs="+", default=[1024], help="window lengths in latent frames, one row each"
    )
    parser.add_argument("--schedulers", action="store_true", help="measure the stochastic schedulers instead")
    parser.add_argument("--stable_audio_tools", type=Path, help="a checkout to compare with too")
    parser.add_number("--repeats", Range(1, 1000), default=3, help="number of runs; the table shows medians")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the computation")
    parser.add_device()
    arguments = parser.parse_args()
    print(f"{machine(arguments.device)}\n")
    if arguments.schedulers:
        print_schedulers(arguments)
    else:
        print_transformers(arguments)


@torch.inference_mode()
def print_transformers(arguments: argparse.Namespace) -> None:
    """A row for each length and model."""
    dtype, device = DTYPES[arguments.dtype], arguments.device
    ours, theirs = transformers(arguments.size, arguments.num_layers, dtype, device)
    other = arguments.stable_audio_tools and stable_audio_tools_transformer(ours, arguments.stable_audio_tools)
    config = ours.config
    rows = []
    for length in arguments.lengths:
        latents = torch.randn(1, LATENT_CHANNELS, length, device=device)
        text = torch.randn(1, NUM_TEXT_TOKENS, config.cross_attention_input_dim, device=device)
        timing = torch.randn(1, 2, config.cross_attention_input_dim, device=device)
        global_states = torch.randn(1, 1, config.global_states_input_dim, device=device)
        t = torch.tensor(0.7, device=device)
        fixed = (text, torch.zeros_like(text), timing, global_states, None)
        conditions = make_conditions(ours, *fixed, in_turn=branches_in_turn(ours, latents))
        tokens = torch.cat([text, timing], dim=1).to(dtype)
        both = torch.cat([torch.zeros_like(tokens), tokens])
        global_both, batch = global_states.repeat(2, 1, 1).to(dtype), latents.repeat(2, 1, 1).to(dtype)
        rotary = get_1d_rotary_pos_embed(32, length + 1, use_real=True, repeat_interleave_real=False)

        def run_theirs(batch=batch, both=both, global_both=global_both, t=t, rotary=rotary) -> torch.Tensor:
            return theirs(batch, t[None].to(dtype), both, global_both, rotary, return_dict=False)[0]

        def run_other(batch=batch, both=both, global_both=global_both, t=t) -> torch.Tensor:
            return other(batch, t.repeat(2).to(dtype), cross_attn_cond=both, global_embed=global_both[:, 0])

        functions = {"diffusers": run_theirs} | ({"stable-audio-tools": run_other} if other else {})
        functions["ours"] = lambda latents=latents, t=t, conditions=conditions: predict_velocity(
            ours, latents, t, conditions
        )
        peak = matmul_peak(dtype, device)
        timings = interleave(functions, arguments.repeats)
        with_float32, _ = transformers(arguments.size, arguments.num_layers, torch.float32, device)
        expected = predict_velocity(with_float32, latents, t, make_conditions(with_float32, *fixed))
        first = timings["diffusers"]
        for name, timing in timings.items():
            ratios = first.seconds / timing.seconds, first.cpu_seconds / timing.cpu_seconds
            share = operations(config, length) / timing.seconds / peak
            error = f"{relative_error(timing.output, expected):.1e}"
            case = (length, config.num_layers, arguments.dtype, name)
            rows.append((*case, timing.seconds, *ratios, share, error))
    header = (
        "latents, layers, dtype, model, seconds, ratio, ratio of processor time, share of the peak, relative error"
    )
    print_table(header.split(", "), rows)


def operations(config, length: int) -> float:
    """Floating-point operations of a step with guidance and no negative prompt."""
    width, tokens = config.num_attention_heads * config.attention_head_dim, length + 1
    own = 2 * tokens * width * width * (4 + 12) + 4 * tokens * tokens * width  # self-attention and feed-forward
    cross = 2 * tokens * width * width * 2 + 4 * tokens * (NUM_TEXT_TOKENS + 2) * width
    ends = 4 * length * LATENT_CHANNELS * (width + LATENT_CHANNELS)
    return config.num_layers * (2 * own + cross) + 2 * ends


def print_schedulers(arguments: argparse.Namespace) -> None:
    """Prints the time and the number of operations of both schedulers' stochastic steps."""
    rows = []
    for length in arguments.lengths:
        shape = (1, LATENT_CHANNELS, length)
        functions, counts = {}, {}
        for name, scheduler in (
            ("CosineDPMSolverMultistepScheduler", CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500.0)),
            ("make_scheduler, sde-dpmsolver++", scheduling.make_scheduler(algorithm_type="sde-dpmsolver++")),
        ):
            timesteps = iter(scheduling.set_timesteps(scheduler, 100, arguments.device).tolist())
            state = {"latents": torch.randn(shape, device=arguments.device) * scheduler.init_noise_sigma}
            generator, velocity = torch.Generator().manual_seed(0), torch.randn(shape, device=arguments.device)

            def step(scheduler=scheduler, timesteps=timesteps, state=state, generator=generator, velocity=velocity):
                t = torch.tensor(next(timesteps), device=arguments.device)
                state["latents"] = scheduler.step(
                    velocity, t, state["latents"], generator=generator, return_dict=False
                )[0]

            step()
            with Counter() as counter:
                step()
            functions[name], counts[name] = step, counter.count
        timings = interleave(functions, min(arguments.repeats * 3, 90))
        first = timings["CosineDPMSolverMultistepScheduler"].seconds
        for name, timing in timings.items():
            rows.append((length, name, 1000 * timing.seconds, first / timing.seconds, counts[name]))
    print_table(("latents", "scheduler", "a step, ms", "ratio", "operations"), rows)


class Counter(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Counts one and runs it."""
        self.count += 1
        return operation(*args, **(kwargs or {}))


if __name__ == "__main__":
    run_main(main)
