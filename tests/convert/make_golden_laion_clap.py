"""Writes golden_laion_clap.safetensors: what the real LAION-CLAP computes with known weights, in a small size.

    PYTHONPATH=tests/convert python tests/convert/make_golden_laion_clap.py

Needs laion-clap (made with 1.1.4) and torchvision, which it imports. RoBERTa and HTSAT are built small by their own
classes. Weights and inputs are made from their names (`formula_weights`); only outputs are stored.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from formula_weights import formula_tensor, formula_weights
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden_laion_clap.safetensors"
WIDTH, JOINT_WIDTH = 128, 24
IDS = [[0, 17, 5, 30, 2, 1, 1], [0, 9, 8, 7, 6, 5, 2]]
MASK = [[1, 1, 1, 1, 1, 0, 0], [1] * 7]
LONGER = [[True], [False]]
NOT_WEIGHTS = ("spectrogram_extractor", "logmel_extractor", "attn_mask", "relative_position_index", "num_batches")


def build(enable_fusion: bool) -> torch.nn.Module:
    """A small CLAP of the real classes."""
    import laion_clap.clap_module.model as clap
    from laion_clap.clap_module.htsat import HTSAT_Swin_Transformer
    from transformers import RobertaConfig, RobertaModel

    text = RobertaConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )

    def small_htsat(config, enable_fusion, fusion_type):
        return HTSAT_Swin_Transformer(
            embed_dim=16,
            depths=[1, 2, 1, 2],
            num_heads=[1, 2, 4, 8],
            config=config,
            enable_fusion=enable_fusion,
            fusion_type=fusion_type,
        )

    audio = {"mel_bins": 64, "sample_rate": 48000, "window_size": 1024, "hop_size": 480, "fmin": 50, "fmax": 14000}
    config = clap.CLAPAudioCfp(model_type="HTSAT", model_name="tiny", class_num=5, audio_length=1024, **audio)
    with (
        mock.patch.object(clap, "create_htsat_model", small_htsat),
        mock.patch.object(clap, "RobertaModel", SimpleNamespace(from_pretrained=lambda name: RobertaModel(text))),
    ):
        model = clap.CLAP(
            embed_dim=16 * 8,
            audio_cfg=config,
            text_cfg=clap.CLAPTextCfg(
                context_length=77, vocab_size=1, width=1, heads=1, layers=1, model_type="roberta"
            ),
            enable_fusion=enable_fusion,
            fusion_type="aff_2d",
            joint_embed_shape=JOINT_WIDTH,
        )
    model.text_projection[0] = torch.nn.Linear(WIDTH, JOINT_WIDTH)  # theirs is fixed to RoBERTa base
    return model.eval()


@torch.no_grad()
def outputs(model: torch.nn.Module, enable_fusion: bool) -> dict[str, torch.Tensor]:
    """Hidden states of the text, and the embeddings of text and audio before they are normalized."""
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    features = model.text_branch(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
    text = model.encode_text({"input_ids": ids, "attention_mask": mask}, device="cpu")
    mel = formula_tensor("mel", (2, 4, 1001, 64))
    if enable_fusion:
        audio = model.audio_branch({"longer": torch.tensor(LONGER)[:, 0], "mel_fusion": mel}, device="cpu")
    else:
        x = model.audio_branch.bn0(mel[:, :1].transpose(1, 3)).transpose(1, 3)
        audio = model.audio_branch.forward_features(model.audio_branch.reshape_wav2img(x))
    return {"features": features, "text": text, "audio": model.audio_projection(audio["embedding"])}


def main() -> None:
    """Builds, computes, writes."""
    tensors, metadata = {}, {}
    for case, enable_fusion in (("fused", True), ("plain", False)):
        model = build(enable_fusion)
        state_dict = model.state_dict()
        weights = [key for key in state_dict if not any(part in key for part in NOT_WEIGHTS)]
        shapes = {key: list(state_dict[key].shape) for key in weights if not key.endswith("position_ids")}
        model.load_state_dict(formula_weights(shapes), strict=False)
        kept = ("relative_position_index", "num_batches_tracked")
        shapes |= {key: list(tensor.shape) for key, tensor in state_dict.items() if key.endswith(kept)}
        tensors |= {f"{case}/{name}": tensor for name, tensor in outputs(model, enable_fusion).items()}
        metadata[case] = json.dumps(shapes)
    tensors["relative_position_index"] = state_dict["audio_branch.layers.0.blocks.0.attn.relative_position_index"]
    save_file(tensors, GOLDEN, metadata)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
