"""Trains the text encoder by contrasting it with an audio encoder (CLAP). Paper: §2.4, §3.1.

    accelerate launch training/train_clap.py --manifest corpus/manifest.jsonl --output_dir runs/clap
    python training/train_clap.py --config training/configs/clap_tiny.yaml ...

The defaults are the paper's architecture (HTSAT-base with feature fusion, RoBERTa base, both from scratch) and the
training of LAION's code, which the paper follows (Wu et al., arXiv 2211.06687). To resume, run the same command
again. The result is `output_dir/clap`, a transformers `ClapModel` with its tokenizer and feature extractor, for
`ClapTextEncoder.from_clap`.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer, ClapModel, ClapProcessor, PreTrainedTokenizerBase, RobertaTokenizerFast

from stable_longform.data.clap_features import BlockwiseClapFeatureExtractor
from stable_longform.data.clap_pairs import PairMaker
from stable_longform.data.prompts import build_prompt
from stable_longform.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from stable_longform.data.tracks import Track
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.batch_norm import share_batch_norms
from stable_longform.training_utils.clap_networks import (
    MAX_LENGTH,
    AudioSettings,
    FeatureSettings,
    TextSettings,
    add_spec_augment,
    build_clap,
    build_feature_extractor,
    check_clap,
    clamp_logit_scale,
    embed_pairs,
)
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused
from stable_longform.training_utils.gradient_cache import contrastive_backward
from stable_longform.training_utils.items import VALIDATION_SEED, make_loader, seed_generators
from stable_longform.training_utils.learning_rate import set_learning_rate, warmup_cosine
from stable_longform.training_utils.loop import StopRequest, TrainingLoop
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.options import FieldsOf
from stable_longform.training_utils.retrieval_validation import validate_retrieval
from stable_longform.training_utils.run_options import MusicOptions, TrainingOptions
from stable_longform.training_utils.runs import start_run, write_stage
from stable_longform.training_utils.train_step import finish_step, keep_buffers
from stable_longform.utils.files import atomic_folder
from stable_longform.utils.model_sources import check_source, load_whole
from stable_longform.utils.ranges import Range

NUM_PROMPTS_PER_TRACK = 100  # for training the tokenizer


@dataclass(frozen=True, kw_only=True)
class Config(MusicOptions, TrainingOptions):
    """Defaults are the paper's architecture and LAION's training; `batch_size` is per process (LAION: 24 of them)."""

    output_dir: shared.OutputDir
    init_from: Annotated[
        str | None,
        "Folder or Hub id of a ClapModel with initial weights, which also sets the architecture.",
    ] = None
    audio_config: Annotated[
        dict,
        FieldsOf(AudioSettings),
        "Arguments of ClapAudioConfig; hidden_size follows from the others.",
    ] = field(default_factory=lambda: asdict(AudioSettings()))
    text_config: Annotated[
        dict,
        FieldsOf(TextSettings),
        "Arguments of ClapTextConfig; a ready tokenizer brings its own vocab_size.",
    ] = field(default_factory=lambda: asdict(TextSettings()))
    feature_extractor: Annotated[
        dict,
        FieldsOf(FeatureSettings),
        "Arguments of ClapFeatureExtractor; truncation follows from enable_fusion.",
    ] = field(default_factory=lambda: asdict(FeatureSettings()))
    projection_dim: Annotated[int, Range(1, 65536), "Width of the embeddings."] = 512
    tokenizer: Annotated[
        str | None,
        "Folder or Hub id of the tokenizer; null: make one from the manifest's prompts.",
    ] = "FacebookAI/roberta-base"
    crop_duration_in_s: Annotated[
        float | None,
        Range(0.1, 1e5),
        "Length of a crop in seconds; null: whole tracks, from which fusion takes four views.",
    ] = None
    batch_size: shared.BatchSize = 96
    gradient_accumulation_steps: Annotated[
        shared.Accumulation,
        "Micro-batches per step; all pairs of a step are each other's negatives.",
    ] = 1
    max_steps: shared.MaxSteps = 12_375  # 45 epochs of LAION's 633,526 pairs in batches of 2304
    max_minutes: shared.MaxMinutes | None = None
    schedule_steps: Annotated[
        int | None,
        Range(1, shared.MAX_TRAINING_STEPS),
        "Steps of the learning-rate schedule; null: max_steps.",
    ] = None
    learning_rate: shared.LearningRate = 1e-4
    warmup_steps: shared.WarmupSteps = 3200
    betas: shared.Betas = (0.9, 0.999)
    weight_decay: shared.WeightDecay = 0.0
    max_grad_norm: shared.MaxGradNorm | None = None  # LAION's code does not clip
    use_spec_augment: Annotated[bool, "Mask random frames and bands of the audio encoder's input."] = True
    time_drop_width: Annotated[
        int, Range(1, 1024), "Each of two masks covers fewer than this number of 1024 frames."
    ] = 64
    frequency_drop_width: Annotated[
        int, Range(1, 64), "Each of two masks covers fewer than this number of 64 bands."
    ] = 8
    mixed_precision: shared.MixedPrecision = "no"
    gradient_checkpointing: shared.GradientCheckpointing = False
    num_workers: shared.NumWorkers = 8
    seed: shared.Seed = 0
    save_every: shared.SaveEvery = 500
    log_every: shared.LogEvery = 20
    validate_every: shared.ValidateEvery = 500
    num_validation_pairs: Annotated[int, Range(1, shared.MAX_COUNT), "Held-out pairs per validation."] = 256
    trackers: shared.Trackers = ()


def main(config: Config) -> int:
    """Builds, resumes, loops, saves; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    accelerator = make_accelerator(config)
    check_config(config)
    if config.init_from is not None:
        extractor = BlockwiseClapFeatureExtractor.from_pretrained(config.init_from)
    else:
        extractor = build_feature_extractor(config.audio_config, config.feature_extractor)
    if extractor.truncation == "fusion" and config.batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 with enable_fusion, got {config.batch_size}.")
    num_pairs = config.batch_size * accelerator.gradient_accumulation_steps * accelerator.num_processes
    make_item = PairMaker(extractor, config.crop_duration_in_s)
    source = config.open_source().with_prompts()
    source, valid_source = source.of_split("train"), source.of_split("valid")
    place = accelerator.process_index, accelerator.num_processes
    pairs = source.items(make_item, config.seed, *place, batch_size=num_pairs)
    accelerator.register_for_checkpointing(source)
    validation = valid_source.sample(make_item, config.num_validation_pairs, VALIDATION_SEED)  # distinct tracks
    tokenizer, initial = load_ready_parts(config, source.tracks)
    output_dir = start_run(config.output_dir, config, accelerator, {"init_from": config.init_from})
    if tokenizer is None:
        with accelerator.main_process_first():
            tokenizer = make_tokenizer(config, output_dir / "tokenizer", source.tracks)
    seed_generators(config.seed, 0)
    model = initial or build_clap(config.audio_config, config.text_config, config.projection_dim, len(tokenizer))
    model = prepare_networks(config, model, accelerator)
    compile_networks(config, model.audio_model, model.text_model)
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=is_fused(config, accelerator.device),
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    raw_model = accelerator.unwrap_model(model)
    loop = TrainingLoop(accelerator, output_dir, config, stop)
    batches = make_loader(pairs, loop.order, config.max_steps, config.num_workers)
    for step in loop.steps():
        model.train()
        factor = warmup_cosine(step, config.warmup_steps, config.schedule_steps or config.max_steps)
        set_learning_rate(optimizer, config.learning_rate * factor)
        optimizer.zero_grad()
        micro_batches = list(itertools.islice(batches, loop.order.accumulation))

        def embed(index: int) -> tuple[torch.Tensor, torch.Tensor]:
            batch = micro_batches[index]  # noqa: B023
            seed_generators(config.seed, batch["item_numbers"][0])
            with accelerator.autocast():
                return embed_pairs(model, tokenizer, batch, accelerator.device)

        buffers = keep_buffers([model])
        loss = contrastive_backward(accelerator, model, embed, loop.order.accumulation)
        metrics, _ = finish_step(
            accelerator,
            optimizer,
            {"contrastive": loss},
            step,
            loop.skipped,
            buffers,
            config.max_grad_norm,
            micro_batches[-1],
        )
        clamp_logit_scale(raw_model)
        loop.end_step(metrics | {"logit_scale": raw_model.logit_scale_a.detach().exp()})
        if loop.is_due(config.validate_every):
            metrics = validate_retrieval(raw_model, tokenizer, validation, config.batch_size, accelerator)
            if accelerator.is_main_process:
                export(raw_model, ClapProcessor(extractor, tokenizer), output_dir, loop.done)
                log_metrics(output_dir, loop.done, metrics, accelerator)
            accelerator.wait_for_everyone()
        loop.save_if_due()
    return stop.exit_code


def check_config(config: Config) -> None:
    """Checks settings that would otherwise fail, or train something else, after the run has started.

    Raises:
        ValueError: a value is not possible; the message names it.
    """
    if config.init_from is not None:
        defaults = Config(manifest=config.manifest, output_dir=config.output_dir)
        for name in ("audio_config", "text_config", "feature_extractor", "projection_dim", "tokenizer"):
            if getattr(config, name) != getattr(defaults, name):
                raise ValueError(f"{name} cannot be set together with init_from, which provides its own.")
        return
    check_clap(config.audio_config, config.text_config, config.feature_extractor, config.projection_dim)


def load_ready_parts(
    config: Config, tracks: Sequence[Track]
) -> tuple[PreTrainedTokenizerBase | None, ClapModel | None]:
    """The tokenizer and the weights that exist before the run; None: they have to be made.

    Raises:
        ValueError: they cannot be loaded, the pad token is another one, or there are no tracks to make a tokenizer of.
    """
    source = config.init_from or config.tokenizer
    if source is None:
        if not tracks:
            raise ValueError("A tokenizer can only be made from a list of tracks; with a stream, give --tokenizer.")
        return None, None
    check_source(source)
    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=MAX_LENGTH, padding_side="right")
    if tokenizer.pad_token_id != SPECIAL_TOKENS.index("<pad>"):
        raise ValueError(f"The pad token of {source} must have id 1, got {tokenizer.pad_token_id}.")
    return tokenizer, None if config.init_from is None else load_whole(ClapModel, config.init_from)


def make_tokenizer(config: Config, folder: Path, tracks: Sequence[Track]) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder; if there is none yet, it is trained on the prompts of the tracks."""
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(exist_ok=True)
        rng = random.Random(config.seed)
        prompts = [build_prompt(track.metadata, rng) for track in tracks for _ in range(NUM_PROMPTS_PER_TRACK)]
        train_tokenizer(prompts, config.text_config["vocab_size"]).save(str(folder / "tokenizer.json"))
    return RobertaTokenizerFast.from_pretrained(folder, model_max_length=MAX_LENGTH, padding_side="right")


def prepare_networks(config: Config, model: ClapModel, accelerator: Accelerator) -> ClapModel:
    """Gives the two encoders one trained temperature, `logit_scale_a`, and applies the options of the training.

    With several processes, the batch norms use the items of all processes, as in LAION's code.
    """
    clamp_logit_scale(model)
    model.logit_scale_t.requires_grad_(False)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if accelerator.num_processes > 1 and accelerator.device.type == "cpu":  # torch's own is for GPUs only
        share_batch_norms(model)
    elif accelerator.num_processes > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.use_spec_augment:
        add_spec_augment(model, config.time_drop_width, config.frequency_drop_width)
    return model


def export(model: ClapModel, processor: ClapProcessor, output_dir: Path, step: int) -> None:
    """Saves the model with its tokenizer and feature extractor, and a record of its origin."""
    with atomic_folder(output_dir / "clap") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_stage(folder, output_dir, "clap", step)


if __name__ == "__main__":
    launch(main, Config)
