"""Trains the text encoder by contrasting it with an audio encoder (CLAP). Paper: §2.4, §3.1.

    accelerate launch training/train_clap.py --manifest corpus/manifest.jsonl --output_dir runs/clap
    python training/train_clap.py --config training/configs/clap_tiny.yaml ...

The defaults are the paper's architecture (HTSAT-base with feature fusion, RoBERTa base, both from scratch) and the
training of LAION's code, which the paper follows (Wu et al., arXiv 2211.06687). To resume, run the same command
again. The result is `output_dir/clap`, a transformers `ClapModel` with its tokenizer and feature extractor, for
`ClapTextEncoder.from_clap`.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import (
    AutoTokenizer,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    ClapTextConfig,
    RobertaTokenizerFast,
)

from stable_longform.data.clap_features import BlockwiseClapFeatureExtractor
from stable_longform.data.clap_pairs import PairMaker, mark_longer
from stable_longform.data.prompts import build_prompt
from stable_longform.data.sources import open_source
from stable_longform.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from stable_longform.data.tracks import Track
from stable_longform.losses.contrastive import clap_loss, gather_embeds, retrieval_recall
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.batch_norm import share_batch_norms
from stable_longform.training_utils.checkpointing import resume, save_checkpoint
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.items import make_loader, seed_generators
from stable_longform.training_utils.loop import TimeLimit, is_due, progress_bar
from stable_longform.training_utils.metric_log import log_metrics, report
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import check_finite, gradient_norm, mean_losses
from stable_longform.utils.files import atomic_folder

VALIDATION_SEED = 2**30  # far from any training seed
MAX_LENGTH = 77  # tokens of a prompt, as in LAION's code
MAX_LOGIT_SCALE = math.log(100)
NUM_PROMPTS_PER_TRACK = 100  # from which the tokenizer is made


def _htsat_base() -> dict:
    """HTSAT-base as in LAION's code; `hidden_size` follows from the others."""
    return {
        "spec_size": 256,
        "num_mel_bins": 64,
        "window_size": 8,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 128,
        "depths": [2, 2, 12, 2],
        "num_attention_heads": [4, 8, 16, 32],
        "mlp_ratio": 4.0,
        "enable_fusion": True,
        "fusion_type": "aff_2d",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.1,
    }


def _roberta_base() -> dict:
    """RoBERTa base. `vocab_size` is that of a tokenizer made here; a ready one brings its own."""
    return {
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }


def _laion_features() -> dict:
    """Log-mel features of LAION's code; `truncation` follows from `enable_fusion`."""
    return {
        "sampling_rate": 48000,
        "max_length_s": 10,
        "hop_length": 480,
        "fft_window_size": 1024,
        "frequency_min": 50,
        "frequency_max": 14000,
        "padding": "repeatpad",
    }


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's architecture and LAION's training; `batch_size` is per process (LAION: 24 of them)."""

    manifest: str  # any source: see stable_longform.data.sources
    output_dir: str
    max_bad_fraction: float = 0.01  # of the tracks, that may turn out to be unusable
    init_from: str | None = None  # folder or Hub id of a ClapModel to go on from, whose architecture is taken
    audio_config: dict = field(default_factory=_htsat_base)
    text_config: dict = field(default_factory=_roberta_base)
    feature_extractor: dict = field(default_factory=_laion_features)
    projection_dim: int = 512
    tokenizer: str | None = "FacebookAI/roberta-base"  # folder or Hub id; None makes one from the manifest's prompts
    crop_duration_in_s: float | None = None  # None: whole tracks, of which fusion takes four views
    batch_size: int = 96
    gradient_accumulation_steps: int = 1  # micro-batches of batch_size, all of which are each other's negatives
    max_steps: int = 12_375  # 45 epochs of LAION's 633,526 pairs in batches of 2304
    max_minutes: float | None = None  # then the script stops after the step it is in, as if it were the last
    schedule_steps: int | None = None  # length of the learning rate's schedule; None: max_steps
    learning_rate: float = 1e-4
    warmup_steps: int = 3200
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float | None = None  # LAION's code does not clip
    use_spec_augment: bool = True
    time_drop_width: int = 64  # of 1024 frames, twice
    frequency_drop_width: int = 8  # of 64 bands, twice
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    num_workers: int = 8
    seed: int = 0
    save_every: int = 500
    log_every: int = 20
    validate_every: int = 500
    num_validation_pairs: int = 256
    trackers: tuple = ()  # "tensorboard", "wandb", "trackio"


def main(config: Config) -> None:
    """Builds, resumes, loops, saves."""
    time_limit = TimeLimit(config.max_minutes)
    accelerator = make_accelerator(
        config.mixed_precision, config.gradient_accumulation_steps, config.trackers, config.output_dir
    )
    check_config(config)
    extractor = build_feature_extractor(config)
    num_pairs = config.batch_size * accelerator.gradient_accumulation_steps * accelerator.num_processes
    make_item = PairMaker(extractor, config.crop_duration_in_s)
    source = open_source(config.manifest, max_bad_fraction=config.max_bad_fraction).with_prompts()
    source, valid_source = source.of_split("train"), source.of_split("valid")
    place = accelerator.process_index, accelerator.num_processes
    pairs = source.items(make_item, config.seed, *place, batch_size=num_pairs)
    accelerator.register_for_checkpointing(source)
    validation = []  # fixed pairs of distinct tracks, for the process that validates
    if accelerator.is_main_process:
        validation = valid_source.sample(make_item, config.num_validation_pairs, VALIDATION_SEED)
    output_dir = start_run(config.output_dir, config, accelerator, {"init_from": config.init_from})
    with accelerator.main_process_first():
        tokenizer = load_tokenizer(config, output_dir, source.tracks)
    seed_generators(config.seed, 0)
    model = build_model(config, len(tokenizer), accelerator)
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    raw_model = accelerator.unwrap_model(model)
    order = resume(accelerator, output_dir, config.batch_size)
    batches = iter(make_loader(pairs, order, config.max_steps, config.num_workers))
    progress = progress_bar(accelerator, order.start_step, config.max_steps)
    for step in progress:
        model.train()
        rate = config.learning_rate * schedule(step, config.warmup_steps, config.schedule_steps or config.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        micro_batches = [next(batches) for _ in range(order.accumulation)]

        def embed(micro_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
            seed_generators(config.seed, order.numbers(step, micro_batch).start)  # noqa: B023
            with accelerator.autocast():
                return embed_pairs(model, tokenizer, micro_batches[micro_batch], accelerator.device)  # noqa: B023

        losses = {"contrastive": backward(accelerator, model, embed, order.accumulation, step)}
        norm = gradient_norm(accelerator, raw_model.parameters(), config.max_grad_norm)
        check_finite(norm, step, micro_batches[-1])
        optimizer.step()
        clamp_logit_scale(raw_model)
        done = step + 1
        is_last = done == config.max_steps or time_limit.is_reached(accelerator)
        if is_due(done, config.log_every, is_last):
            metrics = mean_losses(accelerator, [losses]) | norm
            metrics |= {"learning_rate": rate, "logit_scale": float(raw_model.logit_scale_a.exp())}
            report(accelerator, output_dir, done, metrics, progress)
        if is_due(done, config.validate_every, is_last):  # before the checkpoint: never left out
            if accelerator.is_main_process:
                export(raw_model, ClapProcessor(extractor, tokenizer), output_dir, done)
                metrics = validate(raw_model, tokenizer, validation, config.batch_size)
                log_metrics(output_dir, done, metrics, accelerator)
            accelerator.wait_for_everyone()
        if is_due(done, config.save_every, is_last):
            save_checkpoint(accelerator, output_dir, done, order)
        if is_last:
            break
    accelerator.end_training()


def backward(
    accelerator: Accelerator, model, embed: Callable[[int], tuple[torch.Tensor, torch.Tensor]], accumulation: int, step
) -> torch.Tensor:
    """Computes the gradient of the loss among the pairs of all micro-batches and processes; returns the loss.

    With several micro-batches all embeddings are computed first, without their graphs; then, from the loss's gradient
    with respect to them, that of each micro-batch by itself. Gao et al., "Scaling deep contrastive learning batch size
    under memory limited setup" (2021), arXiv 2101.06983. The result is that of one large batch, except that batch
    norms see a micro-batch at a time.

    Args:
        accelerator: of the run.
        model: prepared.
        embed: gives audio and text embeddings `(B, E)` of a micro-batch, the same at each call.
        accumulation: number of micro-batches.
        step: for the message of an error.
    """
    log_scale = accelerator.unwrap_model(model).logit_scale_a
    if accumulation == 1:
        with accelerator.accumulate(model):
            loss = clap_loss(*map(gather_embeds, embed(0)), log_scale.exp())
            check_finite({"contrastive": loss}, step)
            accelerator.backward(loss)
        return loss.detach()
    with torch.no_grad(), untouched_statistics(model):
        embeds = [torch.cat(parts) for parts in zip(*map(embed, range(accumulation)), strict=True)]
    inputs = [tensor.detach().requires_grad_() for tensor in (*embeds, log_scale)]
    loss = clap_loss(*map(gather_embeds, inputs[:2]), inputs[2].exp())
    check_finite({"contrastive": loss}, step)
    *gradients, scale_gradient = torch.autograd.grad(loss, inputs)
    parts = zip(*(gradient.chunk(accumulation) for gradient in gradients), strict=True)
    for micro_batch, part in enumerate(parts):
        with accelerator.accumulate(model):
            product = sum((own * gradient).sum() for own, gradient in zip(embed(micro_batch), part, strict=True))
            if micro_batch == accumulation - 1:
                product = product + log_scale * scale_gradient
            accelerator.backward(product * accumulation)  # which divides by it
    return loss.detach()


@contextlib.contextmanager
def untouched_statistics(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block batch norms in training mode use a batch's statistics without learning from them."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def check_config(config: Config) -> None:
    """Checks what would otherwise fail, or train something else, after the run has started.

    Raises:
        ValueError: naming the value.
    """
    if config.init_from is not None:
        defaults = Config(config.manifest, config.output_dir)
        for name in ("audio_config", "text_config", "feature_extractor", "projection_dim", "tokenizer"):
            if getattr(config, name) != getattr(defaults, name):
                raise ValueError(f"{name} cannot be set with init_from, which brings its own.")
        return
    num_positions, pad_token_id = config.text_config["max_position_embeddings"], SPECIAL_TOKENS.index("<pad>")
    if num_positions < MAX_LENGTH + pad_token_id + 1:
        raise ValueError(
            f"text_config.max_position_embeddings must be at least {MAX_LENGTH + pad_token_id + 1}, "
            f"got {num_positions}."
        )


def schedule(step: int, warmup_steps: int, num_steps: int) -> float:
    """Factor of the learning rate: linear from 1/warmup_steps to 1, then half a cosine to 0 at `num_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def build_feature_extractor(config: Config) -> ClapFeatureExtractor:
    """The feature extractor that belongs to the audio encoder.

    Raises:
        ValueError: fusion with a single item in a batch.
    """
    if config.init_from is not None:
        extractor = BlockwiseClapFeatureExtractor.from_pretrained(config.init_from)
    else:
        extractor = BlockwiseClapFeatureExtractor(
            feature_size=config.audio_config["num_mel_bins"],
            truncation="fusion" if config.audio_config["enable_fusion"] else "rand_trunc",
            **config.feature_extractor,
        )
    if extractor.truncation == "fusion" and config.batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 with enable_fusion, got {config.batch_size}.")
    return extractor


def build_model(config: Config, vocab_size: int, accelerator: Accelerator | None = None) -> ClapModel:
    """The two encoders, fresh or those of `init_from`, and one trained temperature, that of `logit_scale_a`.

    With several processes their batch norms see the items of all of them, as in LAION's code.
    """
    audio = config.audio_config
    hidden_size = audio["patch_embeds_hidden_size"] * 2 ** (len(audio["depths"]) - 1)
    if config.init_from is not None:
        model = ClapModel.from_pretrained(config.init_from)
    else:
        model = ClapModel(
            ClapConfig(
                audio_config=ClapAudioConfig(**audio, hidden_size=hidden_size).to_dict(),
                text_config=ClapTextConfig(**{**config.text_config, "vocab_size": vocab_size}).to_dict(),
                projection_dim=config.projection_dim,
            )
        )
    clamp_logit_scale(model)
    model.logit_scale_t.requires_grad_(False)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if accelerator is not None and accelerator.num_processes > 1:
        if accelerator.device.type == "cpu":  # torch's own is for GPUs only
            share_batch_norms(model)
        else:
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.use_spec_augment:
        widths = config.time_drop_width, config.frequency_drop_width

        def augment(module, inputs, output):  # (B, num_mels, num_frames, views)
            return spec_augment(output, *widths) if module.training else output

        model.audio_model.audio_encoder.batch_norm.register_forward_hook(augment)
    return model


def spec_augment(features: torch.Tensor, time_width: int, frequency_width: int, num_stripes: int = 2) -> torch.Tensor:
    """Zeroes random stripes of normalised features `(B, num_mels, num_frames, views)`. LAION's SpecAugmentation.

    Each item loses `num_stripes` stripes of frames and as many of bands, each of a width uniform in [0, width).
    """
    mask = torch.ones(features.shape[:3], device=features.device, dtype=features.dtype)
    for item in mask:
        for stripes, width in ((item, frequency_width), (item.T, time_width)):
            for _ in range(num_stripes):
                size = int(torch.randint(min(width, len(stripes)), ()))
                start = int(torch.randint(len(stripes) - size, ()))
                stripes[start : start + size] = 0
    return features * mask[..., None]


@torch.no_grad()
def clamp_logit_scale(model: ClapModel) -> None:
    """Keeps the temperature's inverse in [1, 100] and both of transformers' parameters for it equal."""
    model.logit_scale_a.clamp_(0, MAX_LOGIT_SCALE)
    model.logit_scale_t.copy_(model.logit_scale_a)


def embed_pairs(model, tokenizer, batch: dict, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Audio and text embeddings `(B, projection_dim)` of unit length, float32, of a collated batch."""
    tokens = tokenizer(batch["prompt"], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    is_longer = mark_longer(batch["is_longer"]) if model.training else batch["is_longer"]
    output = model(
        input_ids=tokens["input_ids"].to(device),
        attention_mask=tokens["attention_mask"].to(device),
        input_features=batch["input_features"].to(device),
        is_longer=is_longer.to(device),
    )
    return output.audio_embeds.float(), output.text_embeds.float()


def export(model: ClapModel, processor: ClapProcessor, output_dir: Path, step: int) -> None:
    """Saves the model with its tokenizer and feature extractor, and a note of where it comes from."""
    with atomic_folder(output_dir / "clap") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_stage(folder, output_dir, "clap", step)


@torch.no_grad()
def validate(model: ClapModel, tokenizer, pairs: Sequence[dict], batch_size: int) -> dict[str, float]:
    """Loss and retrieval among all pairs of the valid split: every other pair is a candidate."""
    model.eval()
    device = model.logit_scale_a.device
    loader = torch.utils.data.DataLoader(pairs, batch_size=batch_size)
    embeds = [embed_pairs(model, tokenizer, batch, device) for batch in loader]
    audio_embeds, text_embeds = (torch.cat(part) for part in zip(*embeds, strict=True))
    metrics = {"contrastive": clap_loss(audio_embeds, text_embeds, model.logit_scale_a.exp())}
    metrics |= retrieval_recall(audio_embeds, text_embeds)
    return {f"valid/{name}": float(value) for name, value in metrics.items()}


def load_tokenizer(config: Config, output_dir: Path, tracks: Sequence[Track] | None):
    """The tokenizer of `init_from` or `tokenizer`, or one made from the prompts and kept in `output_dir/tokenizer`.

    Raises:
        ValueError: another pad token, or no tracks to make one from.
    """
    source = config.init_from or config.tokenizer
    if source is not None:
        tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=MAX_LENGTH, padding_side="right")
        if tokenizer.pad_token_id != SPECIAL_TOKENS.index("<pad>"):
            raise ValueError(f"The pad token of {source} must have id 1, got {tokenizer.pad_token_id}.")
        return tokenizer
    folder = output_dir / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        if not tracks:
            raise ValueError("A tokenizer is made from a list of tracks; with a stream, give --tokenizer.")
        folder.mkdir(exist_ok=True)
        rng = random.Random(config.seed)
        prompts = [build_prompt(track.metadata, rng) for track in tracks for _ in range(NUM_PROMPTS_PER_TRACK)]
        train_tokenizer(prompts, config.text_config["vocab_size"]).save(str(folder / "tokenizer.json"))
    return RobertaTokenizerFast.from_pretrained(folder, model_max_length=MAX_LENGTH, padding_side="right")


if __name__ == "__main__":
    launch(main, Config)
