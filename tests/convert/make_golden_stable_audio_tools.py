"""Writes golden_stable_audio_tools.safetensors: what the real stable-audio-tools computes with known weights.

    PYTHONPATH=<checkout of stable-audio-tools>:tests/convert python tests/convert/make_golden_stable_audio_tools.py

Needs https://github.com/Stability-AI/stable-audio-tools (made with commit 50049e3) and what its `models` import. The
weights are not stored: both the script and the tests make them from names and shapes (`formula_weights`). Nor is the
text encoder: its features are an input. The file holds inputs and outputs, and as metadata for each case the
configuration and the shapes of the state dict.
"""

import copy
import json
from pathlib import Path

import torch
from formula_weights import formula_tensor, formula_weights
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden_stable_audio_tools.safetensors"
TIMES = (0.02, 0.37, 0.81, 0.999)
GUIDANCE_SCALE, GUIDANCE_RESCALE = 6.5, 0.4


def autoencoder(latent_dim: int, channels: tuple[int, int]) -> dict:
    """The autoencoder of stable_audio_2_0.json, scaled down."""
    common = {"c_mults": [1, 2, 3], "strides": [2, 4, 8], "use_snake": True}
    return {
        "encoder": {
            "type": "oobleck",
            "config": {"in_channels": 2, "channels": channels[0], "latent_dim": 2 * latent_dim, **common},
        },
        "decoder": {
            "type": "oobleck",
            "config": {
                "out_channels": 2,
                "channels": channels[1],
                "latent_dim": latent_dim,
                "final_tanh": False,
                **common,
            },
        },
        "bottleneck": {"type": "vae"},
        "latent_dim": latent_dim,
        "downsampling_ratio": 64,
        "io_channels": 2,
    }


def diffusion(
    text: dict, numbers: list[str], width: int, dit: dict, latent_dim: int = 6, max_val: int = 512, **objective
) -> dict:
    """The whole of stable_audio_2_0.json, scaled down."""
    number = {"type": "number", "config": {"min_val": 0, "max_val": max_val}}
    return {
        "model_type": "diffusion_cond",
        "sample_size": 48 * 64,
        "sample_rate": 44100,
        "audio_channels": 2,
        "model": {
            "pretransform": {"type": "autoencoder", "iterate_batch": True, "config": autoencoder(latent_dim, (8, 6))},
            "conditioning": {
                "configs": [{"id": "prompt", **text}, *({"id": name, **number} for name in numbers)],
                "cond_dim": width,
            },
            "diffusion": {
                "cross_attention_cond_ids": ["prompt", *numbers],
                "global_cond_ids": numbers,
                **objective,
                "type": "dit",
                "config": {
                    "io_channels": latent_dim,
                    "embed_dim": 128,
                    "num_heads": 2,
                    "cond_token_dim": width,
                    "global_cond_dim": len(numbers) * width,
                    "transformer_type": "continuous_transformer",
                    **dit,
                },
            },
            "io_channels": latent_dim,
        },
    }


CLAP = {
    "type": "clap_text",
    "config": {
        "audio_model_type": "HTSAT-base",
        "enable_fusion": True,
        "clap_ckpt_path": "/path/to/clap.ckpt",
        "use_text_features": True,
        "feature_layer_ix": -2,
    },
}
T5 = {"type": "t5", "config": {"t5_model_name": "t5-base", "max_length": 128}}
CASES = {
    "stable_audio_2_0": diffusion(
        CLAP, ["seconds_start", "seconds_total"], 64, {"depth": 2, "project_cond_tokens": False}
    ),
    # Only the total, projected conditions, patches, and norms with biases.
    "total_only": diffusion(T5, ["seconds_total"], 24, {"depth": 1, "patch_size": 2, "norm_kwargs": {"bias": True}}),
    # Distilled rectified flow, normalised queries and keys, heads of 128 channels.
    "stable_audio_open_small": diffusion(
        {"type": "t5", "config": {"t5_model_name": "t5-base", "max_length": 64}},
        ["seconds_total"],
        48,
        {"depth": 2, "embed_dim": 256, "attn_kwargs": {"qk_norm": "ln"}},
        max_val=256,
        diffusion_objective="rf_denoiser",
    ),
}
PING_PONG_STEPS, PING_PONG_SEED = 8, 3


def build(config: dict) -> torch.nn.Module:
    """The real model, but for its text conditioner, whose encoder is no part of a checkpoint."""
    from stable_audio_tools.models.factory import create_model_from_config

    config = copy.deepcopy(config)
    conditioners = config["model"]["conditioning"]["configs"]
    conditioners[:] = [entry for entry in conditioners if entry["type"] == "number"]
    return create_model_from_config(config).eval()


@torch.no_grad()
def outputs(model: torch.nn.Module, config: dict) -> dict[str, torch.Tensor]:
    """Inputs made by formula, and what the model makes of them."""
    latent_dim, width = config["model"]["io_channels"], config["model"]["conditioning"]["cond_dim"]
    numbers = config["model"]["diffusion"]["global_cond_ids"]
    limit = config["model"]["conditioning"]["configs"][-1]["config"]["max_val"]
    waveform = 0.3 * formula_tensor("waveform", (2, 2, 64 * 9))
    latents = formula_tensor("latents", (2, latent_dim, 26))
    prompt, negative = (formula_tensor(name, (2, 7, width)) for name in ("prompt", "negative"))
    seconds = {"seconds_start": [0.0, 31.5], "seconds_total": [min(285.0, limit), 97.25]}
    audio = model.pretransform.model
    results = {"mean": audio.encoder(waveform).chunk(2, dim=1)[0], "waveform": audio.decode(latents)}
    metadata = [{name: seconds[name][i] for name in numbers} for i in range(2)]
    conditions = model.conditioner(metadata, "cpu")
    for name in numbers:
        results[name] = conditions[name][0]
    ones = torch.ones(2, 7)
    inputs = model.get_conditioning_inputs(conditions | {"prompt": [prompt, ones]})
    against = model.get_conditioning_inputs(conditions | {"prompt": [negative, ones]}, negative=True)
    for t in TIMES:
        time = torch.full((2,), t)
        results[f"v.{t}"] = model.model(latents, time, **inputs)
        guidance = {"cfg_scale": GUIDANCE_SCALE, "scale_phi": GUIDANCE_RESCALE}
        results[f"guided.{t}"] = model.model(latents, time, **inputs, **guidance)
        results[f"negative.{t}"] = model.model(latents, time, **inputs, **against, **guidance)
    if config["model"]["diffusion"].get("diffusion_objective") == "rf_denoiser":
        from stable_audio_tools.inference.sampling import sample_rf

        torch.manual_seed(PING_PONG_SEED)
        noise = formula_tensor("noise", tuple(latents.shape))
        call = {"steps": PING_PONG_STEPS, "sampler_type": "pingpong", "device": "cpu"}
        results["ping_pong"] = sample_rf(model.model, noise, **call, **inputs)
    return results


def main() -> None:
    """Builds, computes, writes."""
    tensors, metadata = {}, {}
    for case, config in CASES.items():
        model = build(config)
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        text = config["model"]["conditioning"]["configs"][0]["id"]
        width = config["model"]["conditioning"]["cond_dim"]
        buffers = dict(model.named_buffers())  # rotary frequencies and zeros, which are no weights
        model.load_state_dict(formula_weights(shapes) | buffers)
        tensors |= {f"{case}/{name}": tensor.contiguous() for name, tensor in outputs(model, config).items()}
        # What the text conditioner, which is not built, has in a checkpoint.
        shapes |= {f"conditioner.conditioners.{text}.proj_out.weight": [width, 768]}
        shapes |= {f"conditioner.conditioners.{text}.proj_out.bias": [width]}
        tensors |= {f"{case}/buffers/{key}": tensor for key, tensor in buffers.items()}
        metadata[case] = json.dumps({"config": config, "shapes": shapes})
    save_file(tensors, GOLDEN, metadata)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
