"""Assembles a pipeline from the results of the three trainings.

    python training/make_checkpoint.py --autoencoder runs/ae/autoencoder --clap runs/clap/clap \
        --dit runs/dit_285s/dit --output_dir checkpoint --dtype float16

The result opens with `LongFormMusicPipeline.from_pretrained(output_dir)`. A model card is written from the records of
the runs, unless there is one already; add what they don't contain with `--description`, `--data` and `--license`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import SIGMA_MAX, SIGMA_MIN, make_scheduler
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.latent_encoding import has_encoded
from stable_longform.training_utils.pretrained import export_model, load_text_encoder
from stable_longform.training_utils.runs import STAGE_FILE
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.model_card import CARD_FILE, write_model_card
from stable_longform.utils.ranges import Range
from stable_longform.utils.text_files import read_json, read_json_lines
from stable_longform.utils.yaml_files import read_yaml


@dataclass(frozen=True)
class Config:
    """Folders of the trained parts, defaults for sampling, and texts for the card.

    `clap` may also be the folder of a whole checkpoint; then its text encoder is used.
    """

    autoencoder: Annotated[str, "Folder or Hub id of the autoencoder."]
    clap: Annotated[str, "Folder or Hub id of a ClapModel, or folder of a checkpoint; provides the text encoder."]
    dit: Annotated[str, "The `dit` folder of a run."]
    output_dir: shared.OutputDir
    dtype: shared.Dtype = "float32"
    sigma_min: Annotated[float, Range(0, 1e6, above=True), "Noise level at which the default sampler ends."] = (
        SIGMA_MIN
    )
    sigma_max: Annotated[float, Range(0, 1e6, above=True), "Noise level at which the default sampler starts."] = (
        SIGMA_MAX
    )
    mask_text_padding: Annotated[bool, "Hide padding tokens of the prompts; as in the transformer's training."] = False
    guidance_interval: Annotated[
        tuple[float, float],
        Range(0, 1),
        "Default times between which guidance is on.",
    ] = (0.0, 1.0)
    num_inference_steps: Annotated[int, Range(1, 1000), "Default number of sampling steps."] = 100
    guidance_scale: Annotated[float, Range(-100, 100), "Default guidance scale."] = 7.0
    window_in_s: Annotated[
        tuple[float, ...],
        Range(0, 1e6, above=True),
        "Windows of all stages of the transformer, in seconds; empty: only the longest.",
    ] = ()
    max_shard_size_in_mb: Annotated[
        int, Range(1, 10**6), "Larger files of weights are split into shards of at most this size."
    ] = 10_000
    description: Annotated[str, "Description of the model, for the card."] = ""
    data: Annotated[str, "Training data and their licences, for the card."] = ""
    license: Annotated[str, "Licence of the weights, for the card, for example cc-by-4.0."] = ""


def main(config: Config) -> None:
    """Loads the parts, checks that they fit, saves the pipeline."""
    dtype = DTYPES[config.dtype]
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    transformer = DiTTransformer1D.from_pretrained(config.dit, subfolder="transformer")
    if transformer.config.in_channels != vae.config.decoder_input_channels:
        raise ValueError(
            f"The transformer has {transformer.config.in_channels} latent channels, "
            f"the autoencoder {vae.config.decoder_input_channels}."
        )
    check_history(Path(config.dit) / STAGE_FILE, vae)
    text_encoder, tokenizer = load_text_encoder(config.clap)
    pipe = LongFormMusicPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        timing_conditioner=TimingConditioner.from_pretrained(config.dit, subfolder="timing_conditioner"),
        transformer=transformer,
        scheduler=make_scheduler(config.sigma_min, config.sigma_max),
        mask_text_padding=config.mask_text_padding,
        guidance_interval=config.guidance_interval,
        window_in_s=config.window_in_s or None,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
    ).to(dtype)
    kept = (CARD_FILE, "ATTRIBUTION.md")
    export_model(pipe, config.output_dir, keep=kept, max_shard_size=f"{config.max_shard_size_in_mb}MB")
    runs = {"autoencoder": config.autoencoder, "CLAP": config.clap, "transformer": config.dit}
    recorded = {part: read_run(Path(folder).parent) for part, folder in runs.items()}
    networks = ("vae", "text_encoder", "timing_conditioner", "transformer")
    write_model_card(
        config.output_dir,
        description=config.description,
        parts={name: getattr(pipe, name).num_parameters() for name in networks},
        data=config.data,
        training=[{"part": part, **settings} for part, (settings, _) in recorded.items() if settings],
        metrics={f"{part}, {name}": value for part, (_, values) in recorded.items() for name, value in values.items()},
        license=config.license,
    )


def check_history(stage: Path, vae: AutoencoderOobleck) -> None:
    """Raises a ValueError if the transformer's `stage.json` is missing or names another encoder of its latents."""
    if not stage.is_file():
        raise ValueError(f"{stage.parent} was not exported by a training script: it has no {STAGE_FILE}.")
    latents = read_json(stage, "sources")["sources"].get("latents", {}).get("latents", {})
    if "encoder_sha256" in latents and not has_encoded(vae, latents):
        raise ValueError(f"{stage.parent} was trained on latents of another autoencoder than the one given.")


def read_run(folder: Path) -> tuple[dict, dict]:
    """Reads a run's settings for the card and its last metrics of the valid split; empty if there are none."""
    config, log = folder / "config.yaml", folder / "metrics.jsonl"
    if not config.is_file() or not log.is_file():
        return {}, {}
    settings = read_yaml(config)
    rows = [row for _, row in read_json_lines(log)]
    steps = max((row["step"] for row in rows), default=0)
    metrics = {name: value for row in rows for name, value in row.items() if name.startswith("valid/")}
    return {"steps": steps, "batch size": settings.get("batch_size"), "seed": settings.get("seed")}, metrics


if __name__ == "__main__":
    launch(main, Config)
