"""Trains the autoencoder: spectral, KL, adversarial and feature-matching losses. Paper: §2.1, §3.

    accelerate launch training/train_autoencoder.py --manifest corpus/manifest.jsonl --output_dir runs/autoencoder
    python training/train_autoencoder.py --config training/configs/autoencoder_tiny.yaml ...

The defaults are the paper's. To resume, run the same command again. The result is `output_dir/autoencoder`, the
exponential moving average of the weights, for `AutoencoderOobleck.from_pretrained`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from stable_longform import training_utils as utils
from stable_longform.data.audio_crops import AudioCrops
from stable_longform.data.manifest import read_manifest
from stable_longform.losses.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss
from stable_longform.losses.stft import FFT_SIZES, stereo_stft_loss
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.oobleck_layers import OobleckResidualUnit

VALIDATION_SEED = 2**30  # far from any training seed


def _paper_weights() -> dict:
    """Loss weights of the paper's configuration; `l1` is there for ablations."""
    return {
        "mid": 1.0,
        "side": 1.0,
        "left": 0.5,
        "right": 0.5,
        "kl": 1e-4,
        "adversarial": 0.1,
        "feature_matching": 5.0,
        "l1": 0.0,
    }


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's configuration; `batch_size` is per process and was not published."""

    manifest: str
    output_dir: str
    init_from: str | None = None  # folder or Hub id of an autoencoder to go on from, of the same shape
    model: dict = field(default_factory=dict)  # arguments of AutoencoderOobleck that differ from the paper
    discriminator: dict = field(default_factory=dict)  # likewise of MultiScaleSTFTDiscriminator
    loss_weights: dict = field(default_factory=_paper_weights)
    fft_sizes: tuple = FFT_SIZES
    data_dependent_init: bool = False  # see `initialize_from_data`; the paper's code has torch's initial weights
    crop_num_samples: int = 65536  # 1.486 s
    batch_size: int = 8
    max_steps: int = 1_000_000  # counts steps of both networks
    discriminator_start_step: int = 0  # before it only the generator is trained
    learning_rate: float = 1.5e-4
    discriminator_learning_rate: float = 3e-4
    betas: tuple = (0.8, 0.99)
    weight_decay: float = 1e-3
    inv_gamma: float = 200_000.0
    warmup: float = 0.999
    max_grad_norm: float | None = None  # the paper's code does not clip
    ema_decay: float = 0.9999
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    num_workers: int = 2
    seed: int = 0
    save_every: int = 1000
    log_every: int = 20
    validate_every: int = 1000
    num_validation_crops: int = 16


def main(config: Config) -> None:
    """Builds, resumes, loops, saves."""
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    utils.seed_step(config.seed, 0)
    model = utils.build_model(AutoencoderOobleck, config.model, "model")
    if config.crop_num_samples % model.hop_length or config.crop_num_samples < max(config.fft_sizes):
        raise ValueError(
            f"crop_num_samples must be a multiple of {model.hop_length} and at least {max(config.fft_sizes)}, "
            f"got {config.crop_num_samples}."
        )
    output_dir = utils.start_run(config.output_dir, config)
    discriminator = utils.build_model(MultiScaleSTFTDiscriminator, config.discriminator, "discriminator")
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    sampling_rate = model.config.sampling_rate
    crops = AudioCrops(read_manifest(config.manifest, "train"), config.crop_num_samples, sampling_rate, config.seed)
    if config.init_from is not None:
        utils.load_weights(model, AutoencoderOobleck.from_pretrained(config.init_from))
    elif config.data_dependent_init:
        initialize_from_data(model, torch.stack([crops[VALIDATION_SEED + i]["waveform"] for i in range(8)]))
    ema = EMAModel(model.parameters(), config.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = _optimizer(model, config.learning_rate, config)
    discriminator_optimizer = _optimizer(discriminator, config.discriminator_learning_rate, config)
    model, discriminator, optimizer, discriminator_optimizer = accelerator.prepare(
        model, discriminator, optimizer, discriminator_optimizer
    )
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema)
    start_step = utils.resume(accelerator, output_dir)
    loader = utils.make_loader(crops, accelerator, config.batch_size, start_step, config.max_steps, config.num_workers)
    progress = tqdm(loader, initial=start_step, total=config.max_steps, disable=not accelerator.is_main_process)
    for step, batch in enumerate(progress, start_step):
        utils.seed_step(config.seed, step, accelerator.process_index)
        waveform = batch["waveform"].to(accelerator.device)
        adversarial, own_step = turn(step, config.discriminator_start_step)
        if adversarial and step % 2:
            losses = discriminator_step_losses(model, discriminator, waveform)
            total = losses["discriminator"]
            active, rate = discriminator_optimizer, config.discriminator_learning_rate
        else:
            judge = accelerator.unwrap_model(discriminator) if adversarial else None
            with accelerator.autocast():
                losses = generator_step_losses(model, judge, waveform, config.fft_sizes, sampling_rate)
            total = sum(config.loss_weights[name] * loss for name, loss in losses.items())
            active, rate = optimizer, config.learning_rate
        utils.check_finite(losses, step)
        for group in active.param_groups:
            group["lr"] = rate * utils.inverse_lr(own_step, config.inv_gamma, warmup=config.warmup)
        optimizer.zero_grad()
        discriminator_optimizer.zero_grad()
        accelerator.backward(total)
        if config.max_grad_norm is not None:
            accelerator.clip_grad_norm_(
                (p for group in active.param_groups for p in group["params"]), config.max_grad_norm
            )
        active.step()
        if active is optimizer:
            ema.step(model.parameters())
        done = step + 1
        if accelerator.is_main_process and (step % config.log_every < 2 or done == config.max_steps):
            utils.log_metrics(output_dir, done, losses)
            progress.set_postfix(loss=f"{float(total):.3f}")
        if done % config.validate_every == 0 or done == config.max_steps:  # before the checkpoint: never left out
            validate_and_export(accelerator, model, ema, config, output_dir, done)
        if done % config.save_every == 0 or done == config.max_steps:
            utils.save_checkpoint(accelerator, output_dir, done)


def turn(step: int, discriminator_start_step: int) -> tuple[bool, int]:
    """Whether the discriminator takes part in a step, and how many steps that step's network has had before.

    From `discriminator_start_step` on the networks take turns, the autoencoder in even steps; each has a learning-rate
    schedule of its own. Before it only the autoencoder is trained.
    """
    if step < discriminator_start_step:
        return False, step
    turns_taken = (step + 1) // 2 - (discriminator_start_step + 1) // 2  # even steps so far, the autoencoder's
    if step % 2:
        return True, step // 2 - discriminator_start_step // 2
    return True, discriminator_start_step + turns_taken


@torch.no_grad()
def initialize_from_data(
    model: AutoencoderOobleck, waveform: torch.Tensor, residual_std: float = 0.3, posterior_std: float = 0.018
) -> None:
    """Scales each weight norm so that its layer's output has deviation 1 on some audio; biases become 0.

    Salimans and Kingma, "Weight normalization" (2016), §3. With torch's initial weights little of the signal comes
    through both networks, and a short training ends in a decoder that ignores its latents.

    Args:
        model: freshly made.
        waveform: real audio `(B, 2, N)`, which the output's deviation will equal.
        residual_std: deviation of what each residual unit adds.
        posterior_std: deviation of the posterior, greater than 1e-4.
    """
    targets = {module.conv2: residual_std for module in model.modules() if isinstance(module, OobleckResidualUnit)}
    targets[model.decoder.conv2] = float(waveform.std())

    def scale(module, inputs, output):
        module.weight_g *= targets.get(module, 1.0) / output.std()
        if module.bias is not None:
            module.bias.zero_()
        return module.forward(*inputs)

    layers = [module for module in model.modules() if hasattr(module, "weight_g")]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    model(waveform)
    for hook in hooks:
        hook.remove()
    scales = slice(model.config.decoder_input_channels, None)
    model.encoder.conv2.weight_g[scales] *= 0.1
    model.encoder.conv2.bias[scales] = math.log(math.expm1(posterior_std - 1e-4))  # the inverse of softplus


def generator_step_losses(
    model, discriminator, waveform: torch.Tensor, fft_sizes: tuple, sampling_rate: int
) -> dict[str, torch.Tensor]:
    """Named losses of the autoencoder on `(B, 2, N)`; the adversarial ones only with a discriminator."""
    output = model(waveform, sample_posterior=True)
    decoded = output.sample.float()
    with torch.autocast(waveform.device.type, enabled=False):
        losses = stereo_stft_loss(waveform, decoded, sampling_rate, fft_sizes)
        losses |= {"kl": output.posterior.kl(), "l1": (waveform - decoded).abs().mean()}
    if discriminator is not None:
        discriminator.requires_grad_(False)
        fake_scores, fake_features = discriminator(decoded)
        with torch.no_grad():
            _, real_features = discriminator(waveform)
        discriminator.requires_grad_(True)
        losses["adversarial"] = adversarial_loss([scores.float() for scores in fake_scores])
        losses["feature_matching"] = feature_matching_loss(real_features, fake_features).float()
    return losses


def discriminator_step_losses(model, discriminator, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    """The hinge loss of the discriminator on real audio and its reconstruction."""
    with torch.no_grad():
        decoded = model(waveform, sample_posterior=True).sample.float()
    scores, _ = discriminator(torch.cat([waveform, decoded]))
    real_scores, fake_scores = zip(*(score.float().chunk(2) for score in scores), strict=True)
    return {"discriminator": discriminator_loss(real_scores, fake_scores)}


@torch.no_grad()
def validate_and_export(accelerator, model, ema: EMAModel, config: Config, output_dir: Path, step: int) -> None:
    """Exports the averaged weights and logs their spectral loss on fixed crops of the valid split."""
    if accelerator.is_main_process:
        model = accelerator.unwrap_model(model)
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        utils.export_model(model, output_dir / "autoencoder")
        crops = AudioCrops(
            read_manifest(config.manifest, "valid"),
            config.crop_num_samples,
            model.config.sampling_rate,
            VALIDATION_SEED,
            phase_flip_probability=0.0,
        )
        batch = torch.stack([crops[i]["waveform"] for i in range(config.num_validation_crops)])
        batch = batch.to(accelerator.device)
        decoded = torch.cat([model(item).sample for item in batch.split(1)])
        losses = stereo_stft_loss(batch, decoded, model.config.sampling_rate, config.fft_sizes)
        losses["l1"] = (batch - decoded).abs().mean()
        utils.log_metrics(output_dir, step, {f"valid/{name}": loss for name, loss in losses.items()})
        ema.restore(model.parameters())
    accelerator.wait_for_everyone()


def _optimizer(model: torch.nn.Module, learning_rate: float, config: Config) -> torch.optim.Optimizer:
    """AdamW with the paper's betas and weight decay."""
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=tuple(config.betas), weight_decay=config.weight_decay
    )


if __name__ == "__main__":
    utils.launch(main, Config)
