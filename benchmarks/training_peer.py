"""The training steps of stable-audio-tools for `training_speed.py`: networks, losses and averages without Lightning.

Each step does the same as the `training_step` of its wrapper (`training/autoencoders.py`, `training/diffusion.py`),
except for logging. For the autoencoder, both turns compute the adversarial losses of both networks, and both get
gradients. Activations are always recomputed in the backward pass. None of its code is in this repository: `load`
imports it from a checkout whose requirements are installed.
"""

import importlib.util
import math
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from peer_checkout import use_checkout
from torch import nn

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.transformer_dit_1d import DiTTransformer1D


def load(checkout: Path) -> types.SimpleNamespace:
    """The modules that the steps need, from the folder of stable-audio-tools' repository."""
    use_checkout(checkout)
    import ema_pytorch
    from stable_audio_tools.models import autoencoders, bottleneck, conditioners, discriminators, dit

    # By its path: its package imports Lightning and all trainers.
    file = checkout / "stable_audio_tools" / "training" / "losses" / "auraloss.py"
    spec = importlib.util.spec_from_file_location("stable_audio_tools_auraloss", file)
    auraloss = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(auraloss)
    return types.SimpleNamespace(
        autoencoders=autoencoders, bottleneck=bottleneck, conditioners=conditioners, discriminators=discriminators,
        dit=dit, auraloss=auraloss, EMA=ema_pytorch.EMA,
    )  # fmt: skip


def why_not(stage: str, config) -> str | None:
    """The reason why stable-audio-tools cannot build a configuration, or None."""
    if stage == "clap":
        return "it trains no CLAP"
    if stage == "dit":
        ours = configuration(DiTTransformer1D, config.model)
        if ours.cross_attention_dim != ours.cross_attention_input_dim:
            return "its cross-attention is as wide as its conditions"
        if ours.attention_head_dim < 64:
            return "it turns at least 32 channels of a head, half of it, by the position"
    return None


def configuration(model_class: type, arguments: dict):
    """The whole configuration of one of our models, without allocating its memory."""
    with torch.device("meta"):
        return model_class(**arguments).config


class AutoencoderLosses:
    """The two networks and their weighted losses; `generator` and `discriminator` are minimised in turn.

    Args:
        theirs: the result of `load`.
        config: of the script.
        device: of the networks.
    """

    def __init__(self, theirs: types.SimpleNamespace, config, device: torch.device):
        self.config, self.weights = config, config.loss_weights
        self.theirs = theirs
        self.model = self.make_model().to(device)
        sizes = configuration(MultiScaleSTFTDiscriminator, config.discriminator)
        self.num_scales = len(sizes.fft_sizes)
        self.judge = theirs.discriminators.EncodecDiscriminator(
            in_channels=2, filters=sizes.filters, stride=(1, sizes.stride), **_windows("n_ffts", "hop_lengths", sizes)
        ).to(device)
        stft = _windows("fft_sizes", "hop_sizes", config) | {"perceptual_weighting": True}
        stft["sample_rate"] = configuration(AutoencoderOobleck, config.model).sampling_rate
        both = {"w_sum": 2 * self.weights["mid"], "w_diff": 2 * self.weights["side"]}  # it halves their sum
        self.mid_side = theirs.auraloss.SumAndDifferenceSTFTLoss(**stft, **both).to(device)
        self.left_right = theirs.auraloss.MultiResolutionSTFTLoss(**stft).to(device)

    def make_model(self) -> nn.Module:
        """An `AudioAutoencoder` with the shapes of ours."""
        ours, module = configuration(AutoencoderOobleck, self.config.model), self.theirs.autoencoders
        shape = list(ours.channel_multiples), list(ours.downsampling_ratios)
        latents = ours.decoder_input_channels
        encoder = module.OobleckEncoder(2, ours.encoder_hidden_size, 2 * latents, *shape, use_snake=True)
        decoder = module.OobleckDecoder(2, ours.decoder_channels, latents, *shape, use_snake=True, final_tanh=False)
        ratio = math.prod(ours.downsampling_ratios)
        bottleneck = self.theirs.bottleneck.VAEBottleneck()
        return module.AudioAutoencoder(encoder, decoder, latents, ratio, ours.sampling_rate, 2, bottleneck)

    def __call__(self, waveform: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
        """Runs the networks on `(B, 2, N)`; returns functions that compute the sums for both turns.

        The discriminator's losses are sums over scales, as at the time of the paper; its own are means today.
        """
        latents, info = self.model.encode(waveform, return_info=True)
        decoded = self.model.decode(latents).float()
        judged = self.judge.loss(reals=waveform, fakes=decoded)
        discriminator, adversarial, feature_matching = (self.num_scales * loss for loss in judged)

        def generator() -> torch.Tensor:
            weights = self.weights
            total = weights["adversarial"] * adversarial + weights["feature_matching"] * feature_matching
            total = total + self.mid_side(waveform, decoded) + weights["kl"] * info["kl"]
            for channel, side in enumerate(("left", "right")):
                channels = slice(channel, channel + 1)
                total = total + weights[side] * self.left_right(waveform[:, channels], decoded[:, channels])
            return total + weights["l1"] * F.l1_loss(waveform, decoded) if weights["l1"] else total

        return {"generator": generator, "discriminator": lambda: discriminator}


def autoencoder_step(
    theirs: types.SimpleNamespace, config, batch_size: int, device: torch.device, autocast: Callable
) -> Callable[[int], None]:
    """A step of `AutoencoderTrainingWrapper`: the generator in even steps, the discriminator in odd ones."""
    losses = AutoencoderLosses(theirs, config, device)
    average = _average(theirs, losses.model, losses.make_model().to(device))
    optimizers = [
        torch.optim.AdamW(network.parameters(), 1e-4, (0.8, 0.99), weight_decay=1e-3)
        for network in (losses.model, losses.judge)
    ]
    waveform = torch.rand(batch_size, 2, config.crop_num_samples, device=device) - 0.5

    def step(number: int) -> None:
        is_discriminators = bool(number % 2)
        with autocast():
            loss = losses(waveform)["discriminator" if is_discriminators else "generator"]()
        if not is_discriminators:
            average.update()
        optimizer = optimizers[is_discriminators]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def dit_step(
    theirs: types.SimpleNamespace, config, batch: dict, encode: Callable, device: torch.device, autocast: Callable
) -> Callable[[int], None]:
    """A step of `DiffusionCondTrainingWrapper` on latents.

    Args:
        theirs: the result of `load`.
        config: of the script.
        batch: of `collate_windows`.
        encode: maps texts to features `(B, S, D)`; ours, so that both use the same text encoder.
        device: of the networks.
        autocast: a context.
    """
    ours = configuration(DiTTransformer1D, config.model)

    def make_model() -> nn.Module:
        return theirs.dit.DiffusionTransformer(
            io_channels=ours.in_channels, embed_dim=ours.attention_head_dim * ours.num_attention_heads,
            depth=ours.num_layers, num_heads=ours.num_attention_heads, cond_token_dim=ours.cross_attention_input_dim,
            global_cond_dim=ours.global_states_input_dim, project_cond_tokens=False, patch_size=ours.patch_size,
        ).to(device)  # fmt: skip

    model = make_model()
    numbers = [
        theirs.conditioners.NumberConditioner(ours.cross_attention_input_dim, 0, 512).to(device) for _ in range(2)
    ]
    average = _average(theirs, model, make_model())
    optimizer = torch.optim.AdamW(nn.ModuleList([model, *numbers]).parameters(), config.learning_rate)

    def step(number: int) -> None:
        latents = batch["latents"].to(device)
        with autocast():
            seconds = (batch["seconds_start"].tolist(), batch["seconds_total"].tolist())
            tokens = [embed(values, device)[0] for embed, values in zip(numbers, seconds, strict=True)]
            text = torch.cat([encode(batch["prompt"]), *tokens], dim=1)
            t, noise = torch.rand(len(latents), device=device), torch.randn_like(latents)
            alphas, sigmas = torch.cos(t * math.pi / 2)[:, None, None], torch.sin(t * math.pi / 2)[:, None, None]
            output = model(
                latents * alphas + noise * sigmas, t, cross_attn_cond=text,
                global_embed=torch.cat(tokens, dim=-1)[:, 0], cfg_dropout_prob=config.condition_dropout,
            )  # fmt: skip
            loss = F.mse_loss(output, noise * alphas - latents * sigmas)
        loss.backward()
        optimizer.step()
        average.update()
        optimizer.zero_grad()

    return step


def _windows(sizes_name: str, hops_name: str, config) -> dict[str, list[int]]:
    """FFT sizes, which are also the windows, and hops of a quarter, under the given names."""
    sizes = list(config.fft_sizes)
    return {sizes_name: sizes, hops_name: [size // 4 for size in sizes], "win_lengths": sizes}


def _average(theirs: types.SimpleNamespace, model: nn.Module, copy: nn.Module) -> nn.Module:
    """Its moving average with its settings, stored in `copy`."""
    return theirs.EMA(model, ema_model=copy, beta=0.9999, power=0.75, update_every=1, update_after_step=1)
