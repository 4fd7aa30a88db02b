"""Items per second and memory of each training script, beside a plain loop of the same networks and losses.

    python benchmarks/training.py                       # the small networks of the tests, for any machine
    python benchmarks/training.py --preset paper_285s --steps 20 --batch_size 8    # on a GPU

The script is the real one, with its loader, checks, distribution, average and records, on synthetic music. The plain
loop has the batch in memory and does nothing but forward, backward, optimiser and average. Each runs in a process of
its own. A ratio near 1 says that a script costs nothing beyond its networks. With --stable_audio_tools PATH, a
checkout whose requirements are installed, its transformer is trained by the plain loop as well, on the same shapes and
without text encoder; its own trainer adds that of Lightning.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig, RobertaTokenizerFast

from stable_longform import training_utils as utils
from stable_longform.data.latents import (
    INDEX_FILE,
    INFO_FILE,
    SILENCE_FILE,
    LatentWindows,
    collate_windows,
    write_shard,
)
from stable_longform.data.tokenizer import train_tokenizer
from stable_longform.losses.contrastive import clap_loss

ROOT = Path(__file__).parents[1]
for folder in ("training", "tests"):
    sys.path.insert(0, str(ROOT / folder))
import tiny_training  # noqa: E402
import train_autoencoder  # noqa: E402
import train_clap  # noqa: E402
import train_dit  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

STAGES = {"autoencoder": train_autoencoder, "clap": train_clap, "dit": train_dit}
NUM_TRACKS, TRACK_IN_S, WARMUP_STEPS = 32, 20.0, 3
PROMPT = {"genre": ["Rock", "Jazz"], "moods": ["Calm"], "bpm": 120}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset", default="tests", help="'tests', or the end of names in training/configs: tiny_48s ..."
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--latent_length", type=int, help="window of the transformer, instead of the preset's")
    parser.add_argument("--stable_audio_tools", type=Path, help="checkout to compare the transformer's step with")
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; batches of {options.batch_size}, {options.steps} steps, preset {options.preset}\n")
    print("| stage | loop | items/s | of the plain loop | peak memory (GiB) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_music(Path(folder))
        for stage in options.stages:
            config = make_config(stage, options, Path(folder))
            loops = {"plain": run_plain, "script": run_script}
            if stage == "dit" and options.stable_audio_tools:
                loops["stable-audio-tools"] = run_stable_audio_tools
            rates = {}
            for name, loop in loops.items():
                seconds, memory = in_a_process(loop, stage, config, options)
                rates[name] = options.batch_size / seconds
                ratio = rates[name] / rates["plain"]
                print(f"| {stage} | {name} | {rates[name]:.2f} | {ratio:.2f} | {memory / 2**30:.2f} |", flush=True)


def in_a_process(loop: Callable, *arguments) -> tuple[float, float]:
    """Seconds of a step and peak bytes of a loop, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, loop, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        sys.exit(f"{loop.__name__} failed.")
    finally:
        process.join()


def _send(sender, loop: Callable, *arguments) -> None:
    """Sends what `in_a_process` returns."""
    durations = loop(*arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
    sender.send((float(np.median(durations[WARMUP_STEPS:])), memory))


def make_music(folder: Path) -> None:
    """A manifest of noise, latents of noise, and a CLAP with random weights."""
    rows = []
    for number in range(NUM_TRACKS):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, (round(TRACK_IN_S * 44100), 2))
        soundfile.write(folder / f"{number}.flac", noise, 44100)
        split = "train" if number < NUM_TRACKS - 4 else "valid"
        rows.append({"path": f"{number}.flac", "duration_in_s": TRACK_IN_S, "split": split} | PROMPT)
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))


def make_config(stage: str, options: argparse.Namespace, folder: Path):
    """The script's configuration for the preset."""
    script = STAGES[stage]
    settings = getattr(tiny_training, stage.upper())
    if options.preset != "tests":
        file = ROOT / "training" / "configs" / f"{stage}_{options.preset}.yaml"
        if not file.exists():  # the other stages of paper_285s are called paper
            file = file.with_name(f"{stage}_{options.preset.split('_')[0]}.yaml")
        settings = yaml.safe_load(file.read_text())
    steps = options.steps + WARMUP_STEPS
    settings = settings | {"batch_size": options.batch_size, "max_steps": steps, "save_every": 10**9, "log_every": 1}
    settings |= {"output_dir": str(folder / stage), "validate_every": 10**9}
    if stage == "dit":
        if options.latent_length is not None:
            settings["model"] = settings["model"] | {"sample_size": options.latent_length}
        network = utils.build_model(train_dit.DiTTransformer1D, {**settings["model"], "num_layers": 0}, "model").config
        make_latents(folder / "latents", network.in_channels, network.sample_size)
        make_clap(folder / "text", network.cross_attention_input_dim)
        settings |= {"latents": str(folder / "latents"), "clap": str(folder / "text"), "num_validation_windows": 1}
    else:
        settings |= {"manifest": str(folder / "manifest.jsonl")}
        settings |= {"tokenizer": None} if stage == "clap" else {"num_samples": 0, "num_validation_crops": 1}
    (folder / f"{stage}.yaml").write_text(yaml.safe_dump(settings))
    return utils.load_config(script.Config, ["--config", str(folder / f"{stage}.yaml")])


def make_latents(folder: Path, channels: int, length: int) -> None:
    """Latents of noise, one track a window long and a bit for each split."""
    folder.mkdir()
    rows, posteriors = [], []
    for key, split in (("a", "train"), ("b", "valid")):
        frames = round(1.2 * length)
        facts = {"duration_in_s": frames * 2048 / 44100, "split": split, "weight": 1.0, "metadata": PROMPT}
        rows.append({"key": key, "latent_length": frames} | facts)
        noise = torch.randn(channels, frames)
        posteriors.append({"mean": noise.half(), "std": torch.full_like(noise, 0.1).half()})
    index = write_shard(folder, rows, posteriors)
    (folder / INDEX_FILE).write_text("".join(json.dumps(row) + "\n" for row in index))
    (folder / INFO_FILE).write_text(json.dumps({"latent_rate": 44100 / 2048, "encoder_sha256": "none"}))
    save_file({"mean": torch.zeros(channels, 1).half(), "std": torch.ones(channels, 1).half()}, folder / SILENCE_FILE)


def make_clap(folder: Path, width: int) -> None:
    """A CLAP whose text encoder has random weights and RoBERTa base's depth only if it has its width."""
    text = ClapTextConfig(
        hidden_size=width, num_hidden_layers=12 if width == 768 else 2, num_attention_heads=max(width // 64, 1),
        intermediate_size=4 * width, max_position_embeddings=80, vocab_size=1000,
    )  # fmt: skip
    audio = ClapAudioConfig(patch_embeds_hidden_size=4, depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2])
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8))
    tokenizer: Tokenizer = train_tokenizer(["Genre: Rock, Jazz|Moods: Calm"], 1000)
    model.save_pretrained(folder)
    RobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=77).save_pretrained(folder)


def run_script(stage: str, config, options: argparse.Namespace) -> list[float]:
    """Seconds between the steps that the real script reports."""
    script, times, report = STAGES[stage], [], utils.report

    def note(*arguments) -> None:
        _synchronize()
        times.append(time.perf_counter())
        report(*arguments)

    utils.report = note
    script.main(dataclasses.replace(config, output_dir=tempfile.mkdtemp()))
    return list(np.diff(times))


def run_plain(stage: str, config, options: argparse.Namespace) -> list[float]:
    """Seconds of each step of a loop with nothing around it."""
    step = {"autoencoder": plain_autoencoder, "clap": plain_clap, "dit": plain_dit}[stage](config, options)
    durations = []
    for number in range(options.steps + WARMUP_STEPS):
        _synchronize()
        start = time.perf_counter()
        step(number)
        _synchronize()
        durations.append(time.perf_counter() - start)
    return durations


def plain_dit(config, options: argparse.Namespace) -> Callable[[int], None]:
    """Forward, backward, AdamW and average of the transformer."""
    device, autocast = _device(), _autocast(config)
    transformer = train_dit.DiTTransformer1D(**config.model)
    timing = train_dit.TimingConditioner(**config.timing)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    denoiser = train_dit.Denoiser(transformer, timing).to(device)
    text_encoder, tokenizer = utils.load_text_encoder(config.clap)
    text_encoder.to(device)
    optimizer = torch.optim.AdamW(denoiser.parameters(), config.learning_rate)
    ema = utils.WeightAverage(transformer.parameters())
    windows = LatentWindows(config.latents, "train", transformer.config.sample_size)
    batch = collate_windows([windows[i] for i in range(options.batch_size)])

    def step(number: int) -> None:
        noise = torch.randn(batch["latents"].shape)
        t = torch.rand(len(noise), device=device)
        text = train_dit.encode_texts(text_encoder, tokenizer, batch["prompt"])[0]
        with autocast():
            loss = denoiser(batch | {"text": text}, noise, t, torch.ones_like(t).bool()).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.step(transformer.parameters())

    return step


def plain_autoencoder(config, options: argparse.Namespace) -> Callable[[int], None]:
    """The two networks in turn."""
    device, autocast = _device(), _autocast(config)
    model = train_autoencoder.AutoencoderOobleck(**config.model).to(device)
    discriminator = train_autoencoder.MultiScaleSTFTDiscriminator(**config.discriminator).to(device)
    optimizers = [torch.optim.AdamW(network.parameters(), 1e-4) for network in (model, discriminator)]
    ema = utils.WeightAverage(model.parameters())
    waveform = torch.rand(options.batch_size, 2, config.crop_num_samples, device=device) - 0.5

    def step(number: int) -> None:
        turn = train_autoencoder.choose_turn(number, config.discriminator_start_step)
        with autocast():
            if turn.is_discriminators:
                losses = train_autoencoder.discriminator_step_losses(model, discriminator, waveform)
            else:
                judge = discriminator if turn.is_adversarial else None
                losses = train_autoencoder.generator_step_losses(model, judge, waveform, config.fft_sizes)
        train_autoencoder.weighted_sum(losses, config.loss_weights).backward()
        optimizers[turn.is_discriminators].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        if not turn.is_discriminators:
            ema.step(model.parameters())

    return step


def plain_clap(config, options: argparse.Namespace) -> Callable[[int], None]:
    """Forward, backward and Adam of CLAP."""
    device, autocast = _device(), _autocast(config)
    extractor = train_clap.build_feature_extractor(config)
    tracks = train_clap.open_tracks(config.manifest, "train")
    pairs = train_clap.ClapPairs(tracks, extractor, options.batch_size, 0, config.crop_duration_in_s)
    batch = torch.utils.data.default_collate([pairs[i] for i in range(options.batch_size)])
    tokenizer = train_clap.load_tokenizer(config, Path(tempfile.mkdtemp()), pairs.tracks)
    model = train_clap.build_model(config, len(tokenizer)).to(device).train()
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], config.learning_rate
    )

    def step(number: int) -> None:
        with autocast():
            embeds = train_clap.embed_pairs(model, tokenizer, batch, device)
        clap_loss(*embeds, model.logit_scale_a.exp()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def run_stable_audio_tools(stage: str, config, options: argparse.Namespace) -> list[float]:
    """Seconds of each step of the plain loop with stable-audio-tools' transformer, without text encoder."""
    sys.path.insert(0, str(options.stable_audio_tools))
    from stable_audio_tools.models.dit import DiffusionTransformer

    device, autocast = _device(), _autocast(config)
    ours = train_dit.DiTTransformer1D(**config.model).config
    if ours.patch_size != 1 or ours.attention_head_dim * ours.num_attention_heads % 64:
        sys.exit("stable-audio-tools has no patches of latents in one sequence, and heads of 64 channels.")
    model = DiffusionTransformer(
        io_channels=ours.in_channels, embed_dim=ours.attention_head_dim * ours.num_attention_heads,
        depth=ours.num_layers, num_heads=ours.num_attention_heads, cond_token_dim=ours.cross_attention_input_dim,
        global_cond_dim=ours.global_states_input_dim, project_cond_tokens=False, project_global_cond=True,
        transformer_type="continuous_transformer",
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate)
    ema = utils.WeightAverage(model.parameters())
    size, length = options.batch_size, ours.sample_size
    latents = torch.randn(size, ours.in_channels, length, device=device)
    text = torch.randn(size, 79, ours.cross_attention_input_dim, device=device)
    timing = torch.randn(size, ours.global_states_input_dim, device=device)
    durations = []
    for _ in range(options.steps + WARMUP_STEPS):
        _synchronize()
        start = time.perf_counter()
        t, noise = torch.rand(size, device=device), torch.randn_like(latents)
        alphas, sigmas = torch.cos(t * torch.pi / 2)[:, None, None], torch.sin(t * torch.pi / 2)[:, None, None]
        with autocast():
            output = model(
                latents * alphas + noise * sigmas, t, cross_attn_cond=text, global_embed=timing, cfg_dropout_prob=0.1
            )
        F.mse_loss(output.float(), noise * alphas - latents * sigmas).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        _synchronize()
        durations.append(time.perf_counter() - start)
    return durations


def _device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _autocast(config) -> Callable:
    """The autocast of a configuration's precision."""
    is_enabled = config.mixed_precision != "no"
    dtype = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
    return lambda: torch.autocast(_device().type, dtype, enabled=is_enabled)


def _synchronize() -> None:
    """Waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
