"""Trains the diffusion transformer and the timing conditioner. Paper: §2.2, §3.

    accelerate launch training/train_dit.py --latents latents --clap runs/clap/clap --output_dir runs/dit_190s \
        --model.sample_size 4096
    accelerate launch training/train_dit.py --latents latents --clap runs/clap/clap --output_dir runs/dit_285s \
        --init_from runs/dit_190s/dit

Instead of `--latents`, `--manifest corpus/manifest.jsonl --autoencoder runs/autoencoder/autoencoder` encodes the music
while it trains. The defaults are the paper's second stage (4m45s); the first (3m10s) differs in `model.sample_size`
only. To resume, run the same command again. The result is `output_dir/dit`: the moving average of the transformer,
and the timing conditioner; `training/make_checkpoint.py` puts a pipeline together.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from demos import assemble, make_demos
from torch.quasirandom import SobolEngine
from windows import VALIDATION_SEED, check_latents, open_windows

from stable_longform import noise_schedule
from stable_longform.data.latents import collate_windows
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import encode_texts
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.checkpointing import latest_checkpoint, resume, save_checkpoint
from stable_longform.training_utils.config import build_model, launch
from stable_longform.training_utils.ema import EMAModel, full_tensor
from stable_longform.training_utils.items import ItemOrder, item_generator, make_loader, seed_generators
from stable_longform.training_utils.learning_rate import inverse_lr
from stable_longform.training_utils.loop import TimeLimit, is_due, progress_bar
from stable_longform.training_utils.metric_log import log_metrics, report
from stable_longform.training_utils.pretrained import load_text_encoder, load_weights
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import check_finite, gradient_norm, mean_losses
from stable_longform.utils.files import atomic_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's configuration; `batch_size` is per process and was not published."""

    clap: str  # folder or Hub id of a transformers ClapModel with its tokenizer, or folder of a checkpoint
    output_dir: str
    latents: str | None = None  # folder of latents, or in its place
    manifest: str | None = None  # any source of music, see stable_longform.data.sources, and `autoencoder`
    max_bad_fraction: float = 0.01  # of the tracks, which may turn out to be unusable or lost
    init_from: str | None = None  # the `dit` folder of another run, of any window length, or folder of a checkpoint
    model: dict = field(default_factory=dict)  # arguments of DiTTransformer1D that differ from the paper
    timing: dict = field(default_factory=dict)  # likewise of TimingConditioner
    batch_size: int = 4
    gradient_accumulation_steps: int = 1  # micro-batches of batch_size in a step
    max_steps: int = 1_000_000
    max_minutes: float | None = None  # then the script stops after the step it is in, as if it were the last
    learning_rate: float = 5e-5
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 1e-3
    inv_gamma: float = 1_000_000.0
    warmup: float = 0.99
    max_grad_norm: float | None = None  # the paper's code does not clip
    ema_decay: float = 0.9999
    condition_dropout: float = 0.1
    excerpt_probability: float = 0.0  # share of items for which a part of the track stands for all of it
    timestep_shift: float = 1.0  # above 1 more items are near t = 1, see `shift_times`; the paper: none
    terminal_probability: float = 0.01  # share of items at t = 1, pure noise
    balance_silence: bool = False  # music and the silence behind it weigh the same, see `balance`; the paper: no
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    num_workers: int = 2
    seed: int = 0
    save_every: int = 1000
    log_every: int = 20
    validate_every: int = 1000
    num_validation_windows: int = 8
    num_validation_buckets: int = 4  # of t, whose losses are shown apart; at most one for each window
    demo_every: int = 0  # steps between demos, which need `autoencoder`; 0: none
    autoencoder: str | None = None  # for demos, the one that made the latents
    demo_duration_in_s: float = 30.0  # cut to the window
    demo_steps: int = 50
    demo_guidance_scales: tuple = (1.0, 7.0)
    num_demos: int = 2
    trackers: tuple = ()  # "tensorboard", "wandb", "trackio"


class Denoiser(torch.nn.Module):
    """What is trained, as one module, which FSDP and DeepSpeed ask for; gives `velocity_loss`."""

    def __init__(self, transformer: DiTTransformer1D, timing_conditioner: TimingConditioner):
        super().__init__()
        self.transformer, self.timing_conditioner = transformer, timing_conditioner

    def forward(self, *arguments) -> torch.Tensor:
        return velocity_loss(self.transformer, self.timing_conditioner, *arguments)


def main(config: Config) -> None:
    """Builds, resumes, loops, saves."""
    time_limit = TimeLimit(config.max_minutes)
    accelerator = make_accelerator(
        config.mixed_precision, config.gradient_accumulation_steps, config.trackers, config.output_dir, can_shard=True
    )
    seed_generators(config.seed, 0)
    transformer = build_model(DiTTransformer1D, config.model, "model")
    timing_conditioner = build_model(TimingConditioner, config.timing, "timing")
    shape = transformer.config.sample_size, timing_conditioner.config.max_value
    vae = load_autoencoder(config)
    windows = open_windows(config, vae, *shape, accelerator)
    text_encoder, tokenizer = load_text_encoder(config.clap)
    text_encoder.requires_grad_(False).eval().to(accelerator.device)

    def encode(prompts: list[str]) -> dict:
        return {"text": encode_texts(text_encoder, tokenizer, prompts)[0]}

    sources = {"init_from": config.init_from, "clap": config.clap}
    sources |= {"latents": config.latents} if config.latents else {"autoencoder": config.autoencoder}
    output_dir = start_run(config.output_dir, config, accelerator, sources)
    describe_latents(windows.inspected, accelerator)
    denoiser = Denoiser(transformer, timing_conditioner)
    if config.init_from is not None and latest_checkpoint(output_dir) is None:
        for name, model in denoiser.named_children():
            load_weights(model, type(model).from_pretrained(config.init_from, subfolder=name))
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), config.learning_rate, tuple(config.betas), weight_decay=config.weight_decay
    )
    denoiser, optimizer = accelerator.prepare(denoiser, optimizer)
    averaged = list(accelerator.unwrap_model(denoiser).transformer.parameters())
    ema = EMAModel(averaged, config.ema_decay)
    accelerator.register_for_checkpointing(ema)
    order = resume(accelerator, output_dir, config.batch_size)
    batches = iter(make_loader(windows.train, order, config.max_steps, config.num_workers, windows.collate))
    times = uniform_times(config.seed, order)
    progress = progress_bar(accelerator, order.start_step, config.max_steps)
    for step in progress:
        rate = config.learning_rate * inverse_lr(step, config.inv_gamma, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        losses = []
        for micro_batch in range(order.accumulation):
            numbers = order.numbers(step, micro_batch)
            batch = windows.with_latents(next(batches), numbers)
            noise, t, keep = draw(batch["latents"].shape, numbers, next(times), config)
            t, keep = t.to(accelerator.device), keep.to(accelerator.device)
            if config.balance_silence:
                batch["frame_weights"] = balance(batch["latent_mask"])
            with accelerator.accumulate(denoiser):
                with accelerator.autocast():
                    loss = denoiser(batch | encode(batch["prompt"]), noise, t, keep).mean()
                losses.append({"loss": loss})
                check_finite(losses[-1], step, batch)
                accelerator.backward(loss)
        norm = gradient_norm(accelerator, denoiser.parameters(), config.max_grad_norm)
        check_finite(norm, step, batch)
        optimizer.step()
        ema.step(averaged)
        done = step + 1
        is_last = done == config.max_steps or time_limit.is_reached(accelerator)
        if is_due(done, config.log_every, is_last):
            metrics = mean_losses(accelerator, losses) | norm | {"learning_rate": rate}
            report(accelerator, output_dir, done, metrics, progress)
        if is_due(done, config.validate_every, is_last):  # before the checkpoint: never left out
            with ema.swapped(averaged):
                metrics = validate(denoiser, windows.valid, encode, config, accelerator)
            whole = whole_models(accelerator, denoiser, ema)
            if accelerator.is_main_process:
                log_metrics(output_dir, done, metrics, accelerator)
                export(*whole, output_dir, done)
            accelerator.wait_for_everyone()
        if is_due(done, config.demo_every, is_last):
            whole = whole_models(accelerator, denoiser, ema)
            if accelerator.is_main_process:
                pipe = assemble(*whole, vae, text_encoder, tokenizer)
                metrics = demonstrate(pipe, windows.valid, config, output_dir / "demos" / f"step-{done:08d}")
                log_metrics(output_dir, done, metrics, accelerator)
            accelerator.wait_for_everyone()
        if is_due(done, config.save_every, is_last):
            save_checkpoint(accelerator, output_dir, done, order)
        if is_last:
            break
    accelerator.end_training()


def load_autoencoder(config: Config) -> AutoencoderOobleck | None:
    """The autoencoder that encodes the music or decodes the demos, if any.

    Raises:
        ValueError: demos are wanted and it is missing, or it is not the one that made the latents.
    """
    if config.autoencoder is None:
        if config.demo_every:
            raise ValueError("demo_every needs --autoencoder, the one that made the latents.")
        return None
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    if config.latents is not None:
        check_latents(config.latents, vae)
    return vae


def describe_latents(latents: torch.Tensor, accelerator: Accelerator) -> None:
    """Logs mean and deviation of some latents, which the noise's deviation of 1 should be comparable to.

    Raises:
        ValueError: they are all the same.
    """
    mean, std = float(latents.mean()), float(latents.std())
    if not std > 0:  # also if it is not a number
        raise ValueError(f"The latents have deviation {std}: is the autoencoder trained?")
    if accelerator.is_main_process:
        far = "" if 1 / 3 < std < 3 else "; far from the noise's 1: see training/normalize_latents.py"
        logger.info("Latents: mean %.3f, deviation %.3f%s.", mean, std, far)


def velocity_loss(
    transformer, timing_conditioner, batch: dict, noise: torch.Tensor, t: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Squared error of the predicted velocity, averaged over each item, padding included. Paper: §3.

    Args:
        batch: `latents (B, C, L)`, `seconds_start (B,)`, `seconds_total (B,)`, `text (B, S, D)` and, if padding is to
            be hidden, boolean `text_mask (B, S)`; if frames don't weigh the same, `frame_weights (B, L)` of mean 1.
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
    errors = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=1)
    if "frame_weights" in batch:
        errors = errors * batch["frame_weights"].to(errors)
    return errors.mean(dim=1)


def balance(mask: torch.Tensor) -> torch.Tensor:
    """Weights `(B, L)` of mean 1 with which the frames of music and those of silence get half of the loss each.

    The mask `(B, L)` is True for music. In a window of 4m45s the 10 s of a short piece are 3 % of the loss, so that it
    hardly says where such a piece ends. As the weights depend only on what the model is told, the duration and the
    place, they leave the best prediction as it is. Windows without silence, or of nothing else, have weights of 1.
    """
    share = mask.float().mean(dim=1, keepdim=True)
    weights = torch.where(mask, 0.5 / share, 0.5 / (1 - share))
    return torch.where((share == 0) | (share == 1), 1.0, weights)


def uniform_times(seed: int, order: ItemOrder) -> Iterator[torch.Tensor]:
    """Yields each micro-batch's times `(batch_size,)`: a scrambled Sobol sequence shared out to the processes."""
    engine = SobolEngine(1, scramble=True, seed=seed)
    engine.fast_forward(order.first_item)
    own = slice(order.process_index * order.batch_size, (order.process_index + 1) * order.batch_size)
    while True:
        yield engine.draw(order.num_processes * order.batch_size)[own, 0]


def shift_times(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Moves times in [0, 1] towards 1: `shift·t / (1 + (shift − 1)·t)` multiplies the odds t/(1 − t) by `shift`.

    Near t = 1 is decided what the whole is like, such as where it ends; short trainings see little of it. The same
    shift as in Esser et al., "Scaling rectified flow transformers", arXiv 2403.03206, §5.3.2.
    """
    return shift * t / (1 + (shift - 1) * t)


def draw(shape: Sequence[int], numbers: range, times: torch.Tensor, config) -> tuple[torch.Tensor, ...]:
    """Noise `shape`, times `(B,)` and which conditions are kept `(B,)`, each item's as a function of its number.

    Args:
        shape: `(B, C, L)` of the latents.
        numbers: of the items.
        times: `(B,)` in [0, 1]; a share of `config.terminal_probability` is set to 1, pure noise.
        config: also has `seed`, `condition_dropout` and `timestep_shift`.
    """
    generators = [item_generator(config.seed, number) for number in numbers]
    chances = torch.stack([torch.rand(2, generator=generator) for generator in generators])
    noise = torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])
    times = shift_times(times, config.timestep_shift)
    t = torch.where(chances[:, 0] < config.terminal_probability, 1.0, times)
    return noise, t, chances[:, 1] >= config.condition_dropout


@torch.no_grad()
def validate(
    denoiser: Callable, windows: Sequence[dict], encode: Callable[[list[str]], dict], config, accelerator: Accelerator
) -> dict[str, float]:
    """Velocity loss on fixed windows with fixed noise and equally spaced times, also for each bucket of times.

    Args:
        denoiser: gives the losses `(B,)` of a batch, noise, times and `keep`, as `Denoiser` does.
        windows: of the valid split, shared out to the processes, each of which must call this.
        encode: gives the `text`, and perhaps the `text_mask`, of prompts.
        config: has `num_validation_windows` and perhaps `num_validation_buckets`.
    """
    count = config.num_validation_windows
    losses = torch.zeros(count, device=accelerator.device)
    for first in range(0, count, accelerator.num_processes):
        i = min(first + accelerator.process_index, count - 1)  # with FSDP all must compute equally often
        batch = collate_windows([windows[i]])
        noise = torch.randn(batch["latents"].shape, generator=item_generator(VALIDATION_SEED, i))
        t = torch.tensor([(i + 0.5) / count], device=accelerator.device)
        keep = torch.ones(1, dtype=torch.bool, device=accelerator.device)
        with accelerator.autocast():
            loss = denoiser(batch | encode(batch["prompt"]), noise, t, keep)
        if i == first + accelerator.process_index:
            losses[i] = loss.float().sum()
    losses = accelerator.reduce(losses, reduction="sum").cpu()
    metrics = {"valid/loss": float(losses.mean())}
    num_buckets = min(getattr(config, "num_validation_buckets", 1), count)
    for bucket, part in enumerate(losses.tensor_split(num_buckets) if num_buckets > 1 else ()):
        low, high = bucket / num_buckets, (bucket + 1) / num_buckets
        metrics[f"valid/loss_t{low:.2f}-{high:.2f}"] = float(part.mean())
    return metrics


@torch.no_grad()
def whole_models(accelerator: Accelerator, denoiser, ema: EMAModel) -> tuple[DiTTransformer1D, TimingConditioner]:
    """The averaged transformer and the timing conditioner on the CPU; every process must call this, sharded or not."""
    raw = accelerator.unwrap_model(denoiser)
    transformer = DiTTransformer1D.from_config(raw.transformer.config)
    timing_conditioner = TimingConditioner.from_config(raw.timing_conditioner.config)
    ema.copy_whole_to(list(transformer.parameters()))
    for mine, trained in zip(timing_conditioner.parameters(), raw.timing_conditioner.parameters(), strict=True):
        mine.copy_(full_tensor(trained))
    return transformer.eval(), timing_conditioner.eval()


def export(transformer, timing_conditioner, output_dir: Path, step: int) -> None:
    """Saves both models for `--init_from` and `make_checkpoint.py`, with a note of where they come from."""
    with atomic_folder(output_dir / "dit") as folder:
        transformer.save_pretrained(folder / "transformer")
        timing_conditioner.save_pretrained(folder / "timing_conditioner")
        write_stage(folder, output_dir, "dit", step, window_length=transformer.config.sample_size)


def demonstrate(pipe, windows: Sequence[dict], config: Config, folder: Path) -> dict[str, float]:
    """The demos that the configuration asks for."""
    return make_demos(
        pipe,
        windows,
        folder,
        config.num_demos,
        config.demo_duration_in_s,
        config.demo_steps,
        config.demo_guidance_scales,
    )


if __name__ == "__main__":
    launch(main, Config)
