"""Dissimilarity guidance on a model that is overfitted on purpose: how near its samples are to what it learned.

    python benchmarks/dissimilarity.py

A small transformer learns four pieces of random latents by heart and is sampled with and without guidance away from
them. The cosine with the nearest piece is 1 for a copy and about 0 for other music.
"""

import argparse

import torch

from stable_longform.evaluation.reports import markdown_table
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.noise_schedule import V_PREDICTION, add_noise, amplitudes, latents_from_velocity, velocity
from stable_longform.pipelines.dissimilarity import DissimilarityGuidance, DissimilarVelocity
from stable_longform.utils.scripts import run_main

NUM_PIECES, CHANNELS, LENGTH, WIDTH, COPY = 4, 8, 32, 64, 0.9
THRESHOLDS = (0.8, 0.5, 0.2)


def main() -> None:
    """Trains, samples and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_steps", type=int, default=1000, help="of the training")
    parser.add_argument("--num_samples", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(NUM_PIECES, CHANNELS, LENGTH, generator=generator)
    model = overfit(known, arguments.num_steps, generator)
    condition = torch.zeros(arguments.num_samples, 1, WIDTH)

    def predict(latents, t, time):
        return model(
            latents,
            t.expand(len(latents)),
            encoder_hidden_states=None,
            global_hidden_states=condition,
            return_dict=False,
        )[0]

    measure, rows = DissimilarityGuidance(known), []
    for threshold in (None, *THRESHOLDS):
        guided = predict
        if threshold is not None:
            guided = DissimilarVelocity(predict, DissimilarityGuidance(known, threshold), V_PREDICTION)
        samples = sample(guided, arguments.num_samples)
        cosines, spread = measure.nearest(samples)[0], float(samples.std())
        rows.append(["off" if threshold is None else f"{threshold:g}", float(cosines.mean()), float(cosines.max())])
        rows[-1] += [f"{int((cosines > COPY).sum())} of {len(cosines)}", spread]
    header = (
        "threshold",
        "mean cosine with the nearest piece",
        "highest",
        f"above {COPY:g}",
        "deviation of the latents",
    )
    print(markdown_table(header, rows), end="")


def overfit(known: torch.Tensor, num_steps: int, generator: torch.Generator) -> DiTTransformer1D:
    """A model that has seen nothing but the known pieces."""
    torch.manual_seed(0)
    model = DiTTransformer1D(
        sample_size=LENGTH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_attention_heads=4,
        cross_attention_dim=WIDTH,
        time_proj_dim=32,
        global_states_input_dim=WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / num_steps)
        clean = known[torch.randint(NUM_PIECES, (16,), generator=generator)]
        t = torch.rand(16, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy, condition = add_noise(clean, noise, t), torch.zeros(16, 1, WIDTH)
        predicted = model(noisy, t, encoder_hidden_states=None, global_hidden_states=condition, return_dict=False)[0]
        optimizer.zero_grad()
        (predicted - velocity(clean, noise, t)).square().mean().backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def sample(predict, num_samples: int, num_steps: int = 50) -> torch.Tensor:
    """Samples of the deterministic sampler of first order."""
    latents = torch.randn(num_samples, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(1))
    times = torch.linspace(0.99, 0.0, num_steps + 1)
    for t, after in zip(times[:-1], times[1:], strict=True):
        clean = latents_from_velocity(latents, predict(latents, t, float(t)), t)
        (a, s), (b, r) = amplitudes(t), amplitudes(after)
        latents = b * clean + r * (latents - a * clean) / s
    return latents


if __name__ == "__main__":
    run_main(main)
