"""Items per second and memory of each training script, compared with a plain loop and stable-audio-tools' step.

    python benchmarks/training_speed.py --stable_audio_tools ../stable-audio-tools  # small networks
    python benchmarks/training_speed.py --preset paper_285s --steps 20 --batch_size 8 --mixed_precision=bf16  # GPU

The script is the real one, with its loader, checks, distribution, average and logs, on synthetic music. The plain
loop has the batch in memory and only does forward, backward, optimiser and average. A ratio near 1 means that a script
has no overhead beyond its networks. With --stable_audio_tools PATH, a checkout whose requirements are installed, its
training step is a third loop: same shapes, same losses, the batch in memory, without Lightning. It always recomputes
activations; ours do so with --gradient_checkpointing=true. Other arguments are passed to the scripts.

Each loop runs in its own process, in turn, `--rounds` times; its memory is that of the process beyond its imports
(Linux), or that of the GPU. A step of the autoencoder is half of a pair of turns. The processor time is that of the
process with all threads, without loader workers.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import runpy
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import training_peer
import yaml
from safetensors.torch import save_file
from script_config import ROOT, resolve, script_of
from timing import machine, peak_resident_bytes
from tokenizers import Tokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig, RobertaTokenizerFast

from stable_longform.data.clap_pairs import PairMaker
from stable_longform.data.latents import (
    INDEX_FILE,
    INFO_FILE,
    SILENCE_FILE,
    LatentWindows,
    collate_windows,
    write_shard,
)
from stable_longform.data.sources import open_source
from stable_longform.data.tokenizer import train_tokenizer
from stable_longform.losses.contrastive import clap_loss
from stable_longform.losses.stft import stereo_stft_loss
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import encode_texts
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils import loop as training_loop
from stable_longform.training_utils.adversarial_steps import (
    choose_turn,
    discriminator_step_losses,
    generator_step_losses,
)
from stable_longform.training_utils.clap_networks import (
    add_spec_augment,
    build_clap,
    build_feature_extractor,
    embed_pairs,
)
from stable_longform.training_utils.ema import EMAModel
from stable_longform.training_utils.pretrained import load_text_encoder
from stable_longform.training_utils.v_objective import VelocityLoss
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

STAGES = ("autoencoder", "clap", "dit")
NUM_TRACKS, TRACK_IN_S, WARMUP_STEPS = 32, 20.0, 2
PROMPT = {"genre": ["Rock", "Jazz"], "moods": ["Calm"], "bpm": 120}
MEBIBYTE = 2**20
SMALL = {  # networks that a CPU trains and both packages can build
    "autoencoder": {
        "model": {"encoder_hidden_size": 16, "decoder_channels": 16},
        "discriminator": {"filters": 16},
        "crop_num_samples": 16384,
    },
    "clap": {
        "audio_config": {"patch_embeds_hidden_size": 32, "depths": [2, 2, 2, 2], "num_attention_heads": [2, 4, 8, 16],
                         "enable_fusion": False},
        "text_config": {"vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
                        "intermediate_size": 1024, "max_position_embeddings": 80},
        "projection_dim": 256,
        "crop_duration_in_s": 10.0,
        "num_workers": 0,
    },
    "dit": {
        "model": {"sample_size": 512, "num_layers": 4, "num_attention_heads": 4, "num_key_value_attention_heads": 2,
                  "cross_attention_dim": 128, "cross_attention_input_dim": 128, "global_states_input_dim": 256},
        "timing": {"conditioning_dim": 128},
    },
}  # fmt: skip


def main() -> None:
    """Prints a table."""
    options, overrides = parse_arguments(sys.argv[1:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine(device)}; preset {options.preset}, batches of {options.batch_size}, {options.steps} steps "
          f"in each of {options.rounds} rounds {' '.join(overrides)}\n")  # fmt: skip
    header = "stage, loop, items/s, relative to plain loop, the same in processor time, peak memory (MiB)".split(", ")
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    with tempfile.TemporaryDirectory() as folder:
        make_music(Path(folder))
        for stage in options.stages:
            config = make_config(stage, options, overrides, Path(folder))
            loops = {"plain": run_plain, "script": run_script}
            reason = training_peer.why_not(stage, config)
            if options.stable_audio_tools and reason is None:
                loops["stable-audio-tools"] = run_stable_audio_tools
            runs = defaultdict(list)
            for _ in range(options.rounds):
                for name, loop in loops.items():
                    runs[name].append(in_a_process(loop, stage, config, options))
            print_rows(stage, runs, options.batch_size)
            if options.stable_audio_tools and reason is not None:
                print(f"| {stage} | stable-audio-tools: {reason} | – | – | – | – |", flush=True)


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The benchmark's own arguments, and those for the scripts."""
    parser = ScriptParser(__doc__, allow_abbrev=False)
    parser.add_argument(
        "--preset", default="small networks", help="suffix of presets in training/configs, such as paper_285s"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="trainings to measure")
    parser.add_number("--steps", Range(2, 10**6, multiple_of=2), default=20, help="steps to measure")
    parser.add_number(
        "--rounds",
        Range(1, 1000),
        default=1,
        help="number of rounds; more rounds reduce the effect of other processes",
    )
    parser.add_number("--batch_size", Range(1, 65536), default=4, help="items in a batch")
    parser.add_number("--latent_length", Range(1, 2**20), help="window of the transformer, instead of the preset's")
    parser.add_argument("--stable_audio_tools", type=Path, help="a checkout to compare with")
    return parser.parse_known_args(arguments)


def print_rows(stage: str, runs: dict[str, list[tuple[np.ndarray, int]]], batch_size: int) -> None:
    """A row for each loop: medians over the steps of all rounds."""
    seconds = {
        name: np.median(np.concatenate([steps for steps, _ in rounds]), axis=0) for name, rounds in runs.items()
    }
    for name, rounds in runs.items():
        ratio, processor_ratio = seconds["plain"] / seconds[name]
        memory = max(peak for _, peak in rounds) / MEBIBYTE
        cells = (f"{batch_size / seconds[name][0]:.2f}", f"{ratio:.2f}", f"{processor_ratio:.2f}", f"{memory:.0f}")
        print("| " + " | ".join((stage, name, *cells)) + " |", flush=True)


def in_a_process(loop: Callable, *arguments) -> tuple[np.ndarray, int]:
    """Calls `measure` in a new process."""
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


def _send(sender, *arguments) -> None:
    """Sends what `measure` returns."""
    sender.send(measure(*arguments))


def measure(loop: Callable, stage: str, config, options: argparse.Namespace) -> tuple[np.ndarray, int]:
    """Wall and processor seconds of each step, `(steps, 2)`, and the peak memory above that at the start in bytes."""
    if loop is run_stable_audio_tools:
        training_peer.load(options.stable_audio_tools)
    before = peak_resident_bytes(reset=True)
    times = np.array(loop(stage, config, options))
    seconds = np.diff(times, axis=0)[-options.steps :]
    memory = peak_resident_bytes() - before
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
    if stage == "autoencoder":  # its turns differ
        seconds = seconds.reshape(-1, 2, 2).mean(axis=1)
    return seconds, memory


def make_music(folder: Path) -> None:
    """A manifest of noise, latents of noise, and a CLAP with random weights."""
    rows = []
    for number in range(NUM_TRACKS):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, (round(TRACK_IN_S * 44100), 2))
        soundfile.write(folder / f"{number}.flac", noise, 44100)
        split = "train" if number < NUM_TRACKS - 4 else "valid"
        rows.append({"path": f"{number}.flac", "duration_in_s": TRACK_IN_S, "split": split} | PROMPT)
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))


def make_config(stage: str, options: argparse.Namespace, overrides: Sequence[str], folder: Path):
    """The script's configuration for the preset, with `overrides` from the command line, and its data."""
    settings = SMALL[stage]
    if options.preset != "small networks":
        file = ROOT / "training" / "configs" / f"{stage}_{options.preset}.yaml"
        if not file.exists():  # the other stages of paper_285s are called paper
            file = file.with_name(f"{stage}_{options.preset.split('_')[0]}.yaml")
        settings = yaml.safe_load(file.read_text())
    steps = options.steps + WARMUP_STEPS + 1
    settings = settings | {"batch_size": options.batch_size, "max_steps": steps, "save_every": 10**9, "log_every": 1}
    settings |= {"output_dir": str(folder / stage), "validate_every": 10**9}
    if stage == "dit":
        settings |= {"latents": str(folder / "latents"), "clap": str(folder / "text")}
        if options.latent_length is not None:
            settings["model"] = settings["model"] | {"sample_size": options.latent_length}
    else:
        settings |= {"manifest": str(folder / "manifest.jsonl")}
        settings |= {"tokenizer": None} if stage == "clap" else {"discriminator_start_step": 0}
    file = folder / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = resolve(stage, "--config", str(file), *overrides)
    if stage == "dit":
        network = training_peer.configuration(DiTTransformer1D, config.model)
        make_latents(folder / "latents", network.in_channels, network.sample_size)
        make_clap(folder / "text", network.cross_attention_input_dim)
    return config


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


class _Done(Exception):
    """Ends a script before its last validation."""


def run_script(stage: str, config, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Clock and processor time at the end of each step that the real script reports."""
    times, report = [], training_loop.report

    def note(*arguments) -> None:
        times.append(_now())
        if len(times) == config.max_steps:
            raise _Done
        report(*arguments)

    training_loop.report = note  # which every training loop calls
    arguments = sys.argv
    try:
        with contextlib.suppress(_Done), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "settings.yaml"
            file.write_text(yaml.safe_dump(vars(config) | {"output_dir": f"{folder}/run"}))
            sys.argv = [str(script_of(stage)), "--config", str(file)]
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        training_loop.report, sys.argv = report, arguments
    return times


def run_plain(stage: str, config, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Clock and processor time at the end of each step of a plain loop."""
    step = {"autoencoder": plain_autoencoder, "clap": plain_clap, "dit": plain_dit}[stage](config, options)
    return _run(step, config.max_steps)


def run_stable_audio_tools(stage: str, config, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Clock and processor time at the end of each step of stable-audio-tools."""
    theirs, device, autocast = training_peer.load(options.stable_audio_tools), _device(), _autocast(config)
    if stage == "autoencoder":
        step = training_peer.autoencoder_step(theirs, config, options.batch_size, device, autocast)
    else:
        length = training_peer.configuration(DiTTransformer1D, config.model).sample_size
        batch, encode = dit_batch(config, length, options.batch_size)
        step = training_peer.dit_step(theirs, config, batch, encode, device, autocast)
    return _run(step, config.max_steps)


def _run(step: Callable[[int], None], num_steps: int) -> list[tuple[float, float]]:
    """Clock and processor time at the end of each step."""
    times = []
    for number in range(num_steps):
        step(number)
        times.append(_now())
    return times


def dit_batch(config, length: int, batch_size: int) -> tuple[dict, Callable[[list[str]], torch.Tensor]]:
    """A batch of windows, and the function that encodes its prompts."""
    text_encoder, tokenizer = load_text_encoder(config.clap)
    text_encoder.requires_grad_(False).eval().to(_device())
    windows = LatentWindows(config.latents, "train", length)
    batch = collate_windows([windows[i] for i in range(batch_size)])
    return batch, lambda prompts: encode_texts(text_encoder, tokenizer, prompts)[0]


def plain_dit(config, options: argparse.Namespace) -> Callable[[int], None]:
    """Forward, backward, AdamW and average of the transformer."""
    device, autocast = _device(), _autocast(config)
    transformer = DiTTransformer1D(**config.model)
    timing = TimingConditioner(**config.timing)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    velocity_loss = VelocityLoss(transformer, timing).to(device)
    optimizer = torch.optim.AdamW(velocity_loss.parameters(), config.learning_rate)
    ema = EMAModel(transformer.parameters())
    batch, encode = dit_batch(config, transformer.config.sample_size, options.batch_size)

    def step(number: int) -> None:
        noise = torch.randn(batch["latents"].shape)
        draws = {"noise": noise, "timestep": torch.rand(len(noise)), "is_dropped": torch.zeros(len(noise)).bool()}
        with autocast():
            loss = velocity_loss(batch | draws | {"prompt_embeds": encode(batch["prompt"])}).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.step(transformer.parameters())

    return step


def plain_autoencoder(config, options: argparse.Namespace) -> Callable[[int], None]:
    """The alternating steps of the two networks."""
    device, autocast = _device(), _autocast(config)
    model = AutoencoderOobleck(**config.model).to(device)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    discriminator = MultiScaleSTFTDiscriminator(**config.discriminator).to(device)
    optimizers = [torch.optim.AdamW(network.parameters(), 1e-4) for network in (model, discriminator)]
    ema = EMAModel(model.parameters())
    waveform = torch.rand(options.batch_size, 2, config.crop_num_samples, device=device) - 0.5
    spectral_losses = functools.partial(
        stereo_stft_loss,
        sampling_rate=model.config.sampling_rate,
        fft_sizes=config.fft_sizes,
        complex_fft_sizes=config.complex_fft_sizes if config.loss_weights["complex_stft"] else (),
        is_a_weighted=config.is_a_weighted,
    )
    weights = {"discriminator": 1.0} | config.loss_weights

    def step(number: int) -> None:
        turn = choose_turn(number, config.discriminator_start_step)
        with autocast():
            if turn.is_discriminators:
                losses = discriminator_step_losses(model, discriminator, waveform)
            else:
                judge = discriminator if turn.is_adversarial else None
                losses = generator_step_losses(model, judge, waveform, spectral_losses)
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        optimizers[turn.is_discriminators].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        if not turn.is_discriminators:
            ema.step(model.parameters())

    return step


def plain_clap(config, options: argparse.Namespace) -> Callable[[int], None]:
    """Forward, backward and Adam of CLAP."""
    device, autocast = _device(), _autocast(config)
    extractor = build_feature_extractor(config.audio_config, config.feature_extractor)
    source = open_source(config.manifest, "train").with_prompts()
    make_item = PairMaker(extractor, config.crop_duration_in_s)
    batch = torch.utils.data.default_collate(source.sample(make_item, options.batch_size, 0))
    tokenizer = RobertaTokenizerFast(
        tokenizer_object=train_tokenizer(batch["prompt"], config.text_config["vocab_size"]), padding_side="right"
    )
    model = build_clap(config.audio_config, config.text_config, config.projection_dim, len(tokenizer))
    add_spec_augment(model, config.time_drop_width, config.frequency_drop_width)
    model = model.to(device).train()
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], config.learning_rate
    )

    def step(number: int) -> None:
        with autocast():
            embeds = embed_pairs(model, tokenizer, batch, device)
        clap_loss(*embeds, model.logit_scale_a.exp()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _autocast(config) -> Callable:
    """The autocast of a configuration's precision."""
    is_enabled = config.mixed_precision != "no"
    dtype = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
    return lambda: torch.autocast(_device().type, dtype, enabled=is_enabled)


def _now() -> tuple[float, float]:
    """Clock and processor time of this process in seconds, after the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    run_main(main)
