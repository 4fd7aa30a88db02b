"""GPU memory of the three trainings at the paper's size, and the batches that fit, computed without a GPU.

    python benchmarks/training_memory.py

The real networks run on short windows, or on tensors without data, and the bytes that autograd keeps for the backward
pass are counted. Added to these are the states: weights, gradients, two moments of the optimiser and the moving
average in float32, autocast's copy of the weights in bf16, and the text encoder. The margin consists of the gradients
of one block, 1 GiB for CUDA, and 5 % for memory that the allocator cannot use. The numbers are computed: they have not
been confirmed on a GPU.
"""

import functools
from collections.abc import Callable

import torch
from script_config import resolve
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import ClapConfig, ClapModel

from stable_longform.losses.stft import stereo_stft_loss
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils.adversarial_steps import generator_step_losses
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

GIB = 2**30
CARDS_IN_GIB = (24, 40, 80)
CUDA_BYTES, USABLE_SHARE = GIB, 0.95
WINDOWS = {"3m10s": 4096, "4m45s": 6144}  # latent frames
TEXT_LENGTH = 77


def main() -> None:
    """Prints the tables."""
    parser = ScriptParser(__doc__)
    parser.add_number("--shards", Range(1, 65536), default=8, help="number of GPUs that share the states with FSDP2")
    shards = parser.parse_args().shards
    print("Largest `batch_size` of a GPU in bf16 (0: does not fit), and GiB at that size\n")
    print("| training | parameters | " + " | ".join(f"{card} GB" for card in CARDS_IN_GIB) + " |")
    print("|---|---|" + "---|" * len(CARDS_IN_GIB))
    for window, length in WINDOWS.items():
        for is_checkpointed in (False, True):
            name = f"transformer, {window}" + (", gradient checkpointing" if is_checkpointed else "")
            parameters, fixed, item = transformer_bytes(length, is_checkpointed)
            print_row(name, parameters, fixed, item)
    length = WINDOWS["4m45s"]
    print_row(
        f"the same, FSDP2 on {shards} GPUs", *transformer_bytes(length, True, weights=4 / shards, other=16 / shards)
    )
    lora = 0.01 * 16  # gradients, moments and weights of an adapter of 1 % of the parameters
    print_row("the same, LoRA", *transformer_bytes(length, True, weights=4, other=lora))
    print_row("autoencoder, 1.5 s", *autoencoder_bytes(is_frozen=False))
    print_row("autoencoder, decoder only", *autoencoder_bytes(is_frozen=True))
    print_row("CLAP", *clap_bytes(), sizes=range(512, 0, -16))


def print_row(name: str, parameters: int, fixed: float, item: float, sizes=tuple(range(64, 0, -1))) -> None:
    """Prints a row: for each card the largest batch that fits and its memory, or the memory that one item needs."""
    cells = []
    for card in CARDS_IN_GIB:
        usable = card * GIB * USABLE_SHARE - CUDA_BYTES
        size = next((size for size in sizes if fixed + size * item <= usable), 0)
        total = (fixed + max(size, 1) * item + CUDA_BYTES) / USABLE_SHARE / GIB
        cells.append(f"{size} ({total:.0f})")
    print(f"| {name} | {parameters / 1e6:.0f} M | " + " | ".join(cells) + " |")


def saved_bytes(forward: Callable[[], object], parameters: set[int]) -> int:
    """Bytes of the storages that autograd keeps after a forward pass, without those of the parameters."""
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage  # kept alive, so that no two have the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(storage.nbytes() for storage in storages.values())
    del output
    return total


def storages_of(*models: torch.nn.Module) -> set[int]:
    """Addresses of the parameters' storages."""
    return {parameter.untyped_storage()._cdata for model in models for parameter in model.parameters()}


def count(*models: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for model in models for parameter in model.parameters())


def transformer_bytes(
    length: int, is_checkpointed: bool, weights: float = 4, other: float = 16
) -> tuple[int, float, float]:
    """Parameters, bytes that do not depend on the batch, and bytes of an item.

    Args:
        length: latent frames.
        is_checkpointed: whether blocks are recomputed in the backward pass.
        weights: bytes of a parameter's weight on one GPU.
        other: bytes of its gradient, moments and average.
    """
    with torch.device("meta"):
        whole, text_encoder = DiTTransformer1D(), ClapTextEncoder()
    num_layers, parameters = whole.config.num_layers, count(whole)
    one, two = (transformer_saved_bytes(length, layers) for layers in (1, 2))
    block, outside = two - one, 2 * one - two
    stream = 4 * (length + 1) * whole.config.num_attention_heads * whole.config.attention_head_dim  # a block's input
    kept = outside + (num_layers * stream + block if is_checkpointed else num_layers * block)
    return parameters, parameters * (weights + other + 2) + 4 * count(text_encoder), kept + block


@functools.cache
def transformer_saved_bytes(length: int, num_layers: int) -> float:
    """Bytes that autograd keeps for one item, extrapolated linearly from two short lengths."""
    lengths, totals = (32, 64), []
    transformer = DiTTransformer1D(num_layers=num_layers)
    config = transformer.config
    for short in lengths:
        inputs = {
            "hidden_states": torch.randn(1, config.in_channels, short),
            "timestep": torch.rand(1),
            "encoder_hidden_states": torch.randn(1, TEXT_LENGTH + 2, config.cross_attention_input_dim),
            "global_hidden_states": torch.randn(1, 1, config.global_states_input_dim),
        }
        with torch.autocast("cpu", torch.bfloat16):
            totals.append(saved_bytes(lambda: transformer(**inputs).sample.float(), storages_of(transformer)))  # noqa: B023
    slope = (totals[1] - totals[0]) / (lengths[1] - lengths[0])
    copies = 2 * count(transformer)  # autocast's of the weights, which an item does not add
    return totals[0] - copies + slope * (length - lengths[0])


def autoencoder_bytes(is_frozen: bool) -> tuple[int, float, float]:
    """Like `transformer_bytes`, for the autoencoder's step with the discriminator's states and activations."""
    config = resolve("autoencoder", "--manifest=none", "--output_dir=none")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        model, discriminator = AutoencoderOobleck(), MultiScaleSTFTDiscriminator()
        model.encoder.requires_grad_(not is_frozen)
        waveform = torch.randn(1, 2, config.crop_num_samples)
        spectral_losses = functools.partial(stereo_stft_loss, sampling_rate=44100, fft_sizes=config.fft_sizes)
        item = saved_bytes(
            lambda: sum(generator_step_losses(model, discriminator, waveform, spectral_losses).values()),
            storages_of(model, discriminator),
        )
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        parameters = count(model)
        fixed = 8 * parameters + 12 * trained + 16 * count(discriminator)  # weights and average; gradient and moments
        copies = 2 * trained + 4 * trained  # of the weights in bf16, and those that weight norm makes in float32
    return parameters, fixed + copies, (item - copies) * 1.1  # a tenth for gradients on their way


def clap_bytes() -> tuple[int, float, float]:
    """Like `transformer_bytes`, for CLAP's step without the fusion (0.1 % of the parameters)."""
    config = resolve("clap", "--manifest=none", "--output_dir=none")
    audio = config.audio_config | {"enable_fusion": False, "hidden_size": 1024}
    model = ClapModel(ClapConfig(audio_config=audio, text_config=config.text_config)).train()
    inputs = {
        "input_ids": torch.ones(2, TEXT_LENGTH, dtype=torch.long),
        "attention_mask": torch.ones(2, TEXT_LENGTH, dtype=torch.long),
        "input_features": torch.randn(2, 1, 1001, 64),
    }
    with torch.autocast("cpu", torch.bfloat16):
        total = saved_bytes(lambda: model(**inputs).logits_per_audio, storages_of(model))
    parameters = count(model)
    return parameters, 18 * parameters, (total - 2 * parameters) / 2 * 1.1


if __name__ == "__main__":
    run_main(main)
