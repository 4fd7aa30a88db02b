"""Trains the diffusion transformer and the timing conditioner on latents. Paper: §2.2, §3.

    accelerate launch training/train_dit.py --latents latents --clap runs/clap/clap --output_dir runs/dit_190s \
        --model.sample_size 4096
    accelerate launch training/train_dit.py --latents latents --clap runs/clap/clap --output_dir runs/dit_285s \
        --init_from runs/dit_190s/dit

The defaults are the paper's second stage (4m45s); the first (3m10s) differs in `model.sample_size` only. To resume,
run the same command again. The result is `output_dir/dit`: the moving average of the transformer, and the timing
conditioner; `training/make_checkpoint.py` puts a pipeline together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.quasirandom import SobolEngine
from tqdm import tqdm

from stable_longform import noise_schedule
from stable_longform import training_utils as utils
from stable_longform.data.latents import LatentWindows, collate_windows
from stable_longform.models.clap_text_encoder import encode_texts
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D

VALIDATION_SEED = 2**30  # far from any training seed


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's configuration; `batch_size` is per process and was not published."""

    latents: str
    clap: str  # folder or Hub id of a transformers ClapModel with its tokenizer, or folder of a checkpoint
    output_dir: str
    init_from: str | None = None  # the `dit` folder of another run, of any window length, or folder of a checkpoint
    model: dict = field(default_factory=dict)  # arguments of DiTTransformer1D that differ from the paper
    timing: dict = field(default_factory=dict)  # likewise of TimingConditioner
    batch_size: int = 4
    max_steps: int = 1_000_000
    learning_rate: float = 5e-5
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 1e-3
    inv_gamma: float = 1_000_000.0
    warmup: float = 0.99
    ema_decay: float = 0.9999
    condition_dropout: float = 0.1
    terminal_probability: float = 0.01  # share of items at t = 1, pure noise
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    num_workers: int = 2
    seed: int = 0
    save_every: int = 1000
    log_every: int = 20
    validate_every: int = 1000
    num_validation_windows: int = 8


def main(config: Config) -> None:
    """Builds, resumes, loops, saves."""
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    utils.seed_step(config.seed, 0)
    transformer = utils.build_model(DiTTransformer1D, config.model, "model")
    timing_conditioner = utils.build_model(TimingConditioner, config.timing, "timing")
    window_length, max_seconds = transformer.config.sample_size, timing_conditioner.config.max_value
    windows = LatentWindows(config.latents, "train", window_length, max_seconds, config.seed)
    text_encoder, tokenizer = utils.load_text_encoder(config.clap)
    text_encoder.requires_grad_(False).eval().to(accelerator.device)

    def encode(prompts: list[str]) -> dict:
        return {"text": encode_texts(text_encoder, tokenizer, prompts)[0]}

    output_dir = utils.start_run(config.output_dir, config)
    if config.init_from is not None:
        utils.load_weights(transformer, DiTTransformer1D.from_pretrained(config.init_from, subfolder="transformer"))
        utils.load_weights(
            timing_conditioner, TimingConditioner.from_pretrained(config.init_from, subfolder="timing_conditioner")
        )
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    ema = EMAModel(transformer.parameters(), config.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    ema.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        [*transformer.parameters(), *timing_conditioner.parameters()],
        lr=config.learning_rate,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
    )
    transformer, timing_conditioner, optimizer = accelerator.prepare(transformer, timing_conditioner, optimizer)
    accelerator.register_for_checkpointing(ema)
    start_step = utils.resume(accelerator, output_dir)
    loader = utils.make_loader(
        windows, accelerator, config.batch_size, start_step, config.max_steps, config.num_workers, collate_windows
    )
    times = uniform_times(config.seed, config.batch_size, accelerator, start_step)
    progress = tqdm(loader, initial=start_step, total=config.max_steps, disable=not accelerator.is_main_process)
    for step, batch in enumerate(progress, start_step):
        utils.seed_step(config.seed, step, accelerator.process_index)
        t = next(times).to(accelerator.device)
        t = torch.where(torch.rand_like(t) < config.terminal_probability, 1.0, t)
        batch |= encode(batch["prompt"])
        keep = torch.rand(len(t), device=t.device) >= config.condition_dropout
        noise = torch.randn(batch["latents"].shape)
        with accelerator.autocast():
            loss = velocity_loss(transformer, timing_conditioner, batch, noise, t, keep).mean()
        utils.check_finite({"loss": loss}, step)
        factor = utils.inverse_lr(step, config.inv_gamma, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        ema.step(transformer.parameters())
        done = step + 1
        if accelerator.is_main_process and (done % config.log_every == 0 or done == config.max_steps):
            utils.log_metrics(output_dir, done, {"loss": loss, "learning_rate": config.learning_rate * factor})
            progress.set_postfix(loss=f"{float(loss):.3f}")
        if done % config.validate_every == 0 or done == config.max_steps:  # before the checkpoint: never left out
            models = accelerator.unwrap_model(transformer), accelerator.unwrap_model(timing_conditioner)
            if accelerator.is_main_process:
                ema.store(transformer.parameters())
                ema.copy_to(transformer.parameters())
                export(*models, output_dir / "dit")
                metrics = validate(*models, encode, config)
                utils.log_metrics(output_dir, done, metrics)
                ema.restore(transformer.parameters())
            accelerator.wait_for_everyone()
        if done % config.save_every == 0 or done == config.max_steps:
            utils.save_checkpoint(accelerator, output_dir, done)


def velocity_loss(
    transformer, timing_conditioner, batch: dict, noise: torch.Tensor, t: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Squared error of the predicted velocity, averaged over each item, padding included. Paper: §3.

    Args:
        batch: `latents (B, C, L)`, `seconds_start (B,)`, `seconds_total (B,)`, `text (B, S, D)` and, if padding is to
            be hidden, boolean `text_mask (B, S)`.
        noise: `(B, C, L)`.
        t: `(B,)` in [0, 1].
        keep: boolean `(B,)`; where False, all text and timing tokens are zero (the global timing token stays).

    Returns:
        `(B,)`.
    """
    latents, noise = batch["latents"].to(t.device), noise.to(t.device)
    timing = timing_conditioner(batch["seconds_start"].to(t.device), batch["seconds_total"].to(t.device))
    text = batch["text"]
    condition = torch.cat([text, timing.encoder_hidden_states.to(text)], dim=1) * keep[:, None, None]
    mask = batch.get("text_mask")
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(timing.encoder_hidden_states.shape[:2])], dim=1)
    prediction = transformer(
        noise_schedule.add_noise(latents, noise, t),
        t,
        encoder_hidden_states=condition,
        global_hidden_states=timing.global_hidden_states.to(text),
        encoder_attention_mask=mask,
    ).sample
    target = noise_schedule.velocity(latents, noise, t)
    return F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2))


def uniform_times(seed: int, batch_size: int, accelerator: Accelerator, start_step: int):
    """Yields each step's times `(batch_size,)`: a scrambled Sobol sequence shared out to the processes."""
    engine = SobolEngine(1, scramble=True, seed=seed)
    per_step = batch_size * accelerator.num_processes
    engine.fast_forward(start_step * per_step)
    first = accelerator.process_index * batch_size
    while True:
        yield engine.draw(per_step)[first : first + batch_size, 0]


@torch.no_grad()
def validate(transformer, timing_conditioner, encode: Callable[[list[str]], dict], config) -> dict[str, float]:
    """Velocity loss on fixed windows of the valid split, with fixed noise and equally spaced times.

    `encode` gives the `text`, and perhaps the `text_mask`, of prompts.
    """
    windows = LatentWindows(
        config.latents,
        "valid",
        transformer.config.sample_size,
        timing_conditioner.config.max_value,
        VALIDATION_SEED,
    )
    count = config.num_validation_windows
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    losses = []
    for i in range(count):
        batch = collate_windows([windows[i]])
        batch |= encode(batch["prompt"])
        noise = torch.randn(batch["latents"].shape, generator=generator)
        t = torch.tensor([(i + 0.5) / count], device=transformer.device)
        keep = torch.ones(1, dtype=torch.bool, device=transformer.device)
        losses.append(float(velocity_loss(transformer, timing_conditioner, batch, noise, t, keep)))
    return {"valid/loss": sum(losses) / count}


def export(transformer, timing_conditioner, directory: Path) -> None:
    """Saves both models for `--init_from` and `make_checkpoint.py`."""
    directory.mkdir(exist_ok=True)
    utils.export_model(transformer, directory / "transformer")
    utils.export_model(timing_conditioner, directory / "timing_conditioner")


if __name__ == "__main__":
    utils.launch(main, Config)
