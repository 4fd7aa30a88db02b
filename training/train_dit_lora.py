"""Fine-tunes a checkpoint on a few tracks of your own: a LoRA adapter of its transformer, trained on latents.

    python training/encode_latents.py --manifest mine.jsonl --autoencoder checkpoint/vae --output_dir mine_latents
    accelerate launch training/train_dit_lora.py --checkpoint checkpoint --latents mine_latents --output_dir runs/lora

To resume, run the same command again. The result is `output_dir/lora/pytorch_lora_weights.safetensors` for
`LongFormMusicPipeline.load_lora_weights`; `examples/lora_before_after.py` lets you hear what it changes. Not in the
paper. Hu et al., "LoRA", arXiv 2106.09685.
"""

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from tqdm import tqdm
from train_dit import uniform_times, validate, velocity_loss

from stable_longform import training_utils as utils
from stable_longform.data.latents import INFO_FILE, LatentWindows, collate_windows
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline

WEIGHT_NAME = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Config:
    """Defaults suit some ten tracks; `batch_size` is per process. The adapter is scaled by `alpha / rank`."""

    checkpoint: str  # folder or Hub id of a pipeline
    latents: str  # encoded by the checkpoint's own autoencoder
    output_dir: str
    rank: int = 16
    alpha: float = 16.0
    target_modules: tuple = ("to_q", "to_k", "to_v", "to_out.0")
    batch_size: int = 4
    max_steps: int = 1000
    learning_rate: float = 1e-4
    warmup_steps: int = 50  # of a linear ramp; constant afterwards
    weight_decay: float = 1e-2
    condition_dropout: float = 0.1
    terminal_probability: float = 0.01  # share of items at t = 1, pure noise
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    num_workers: int = 2
    seed: int = 0
    save_every: int = 200
    log_every: int = 10
    validate_every: int = 200
    num_validation_windows: int = 8  # of the valid split; 0 if there is none


class AdapterState:
    """What a checkpoint holds of the model: the adapter, not the weights that stay as they are."""

    def __init__(self, transformer: torch.nn.Module):
        self.transformer = transformer

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The adapter's weights."""
        return get_peft_model_state_dict(self.transformer)

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Puts them back."""
        set_peft_model_state_dict(self.transformer, state_dict)


def main(config: Config) -> None:
    """Loads, adds the adapter, resumes, loops, saves."""
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    utils.seed_step(config.seed, 0)
    pipe = LongFormMusicPipeline.from_pretrained(config.checkpoint)
    adapter, timing_conditioner = pipe.transformer, pipe.timing_conditioner
    check_latents(config.latents, pipe.vae)
    window_length, max_seconds = adapter.config.sample_size, timing_conditioner.config.max_value
    windows = LatentWindows(config.latents, "train", window_length, max_seconds, config.seed)
    for name in ("vae", "text_encoder", "timing_conditioner", "transformer"):
        getattr(pipe, name).requires_grad_(False)
    add_adapter(adapter, config)
    pipe.to(accelerator.device)
    output_dir = utils.start_run(config.output_dir, config)
    if config.gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    transformer, optimizer = accelerator.prepare(adapter.train(), optimizer)
    accelerator.register_for_checkpointing(AdapterState(adapter))
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
    start_step = utils.resume(accelerator, output_dir)
    loader = utils.make_loader(
        windows, accelerator, config.batch_size, start_step, config.max_steps, config.num_workers, collate_windows
    )

    @torch.no_grad()
    def encode(prompts: list[str]) -> dict:
        text, mask = pipe.encode_prompt(prompts)
        return {"text": text, "text_mask": mask}

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
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min((step + 1) / max(config.warmup_steps, 1), 1.0)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        done = step + 1
        if accelerator.is_main_process and (done % config.log_every == 0 or done == config.max_steps):
            utils.log_metrics(output_dir, done, {"loss": loss})
            progress.set_postfix(loss=f"{float(loss):.3f}")
        if done % config.validate_every == 0 or done == config.max_steps:  # before the checkpoint: never left out
            if accelerator.is_main_process:
                export(adapter, output_dir / "lora")
                if config.num_validation_windows:
                    metrics = validate(adapter.eval(), timing_conditioner, encode, config)
                    utils.log_metrics(output_dir, done, metrics)
                    adapter.train()
            accelerator.wait_for_everyone()
        if done % config.save_every == 0 or done == config.max_steps:
            utils.save_checkpoint(accelerator, output_dir, done)


def add_adapter(transformer: torch.nn.Module, config: Config) -> None:
    """Adds a fresh adapter, whose product is zero; its weights are in float32 and the only ones that are trained.

    Raises:
        ValueError: `rank` below 1, or target modules that the transformer does not have.
    """
    if config.rank < 1:
        raise ValueError(f"rank must be at least 1, got {config.rank}.")
    names = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in config.target_modules:
        if not any(name.endswith(f".{target}") for name in names):
            raise ValueError(f"target_modules: the transformer has no linear layer whose name ends in {target!r}.")
    transformer.add_adapter(
        LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules))
    )


def check_latents(latents: str, vae: torch.nn.Module) -> None:
    """Raises ValueError unless the latents were encoded by this autoencoder, in whatever precision."""
    file = Path(latents) / INFO_FILE
    if not file.is_file():
        raise ValueError(f"{latents} is not a folder of latents: it has no {INFO_FILE}.")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    digests = [utils.weights_digest(copy.deepcopy(vae).to(dtype)) for dtype in dtypes]
    if json.loads(file.read_text(encoding="utf-8"))["weights_sha256"] not in digests:
        raise ValueError(f"{latents} holds latents of another autoencoder: encode with that of the checkpoint.")


def export(transformer: torch.nn.Module, directory: Path) -> None:
    """Writes the adapter and its configuration, atomically."""
    partial = f".{WEIGHT_NAME}.partial"
    LongFormMusicPipeline.save_lora_weights(
        directory,
        get_peft_model_state_dict(transformer),
        weight_name=partial,
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    os.replace(directory / partial, directory / WEIGHT_NAME)


if __name__ == "__main__":
    utils.launch(main, Config)
