"""Puts a pipeline together from the three trainings.

    python training/make_checkpoint.py --autoencoder runs/ae/autoencoder --clap runs/clap/clap \
        --dit runs/dit_285s/dit --output_dir checkpoint --dtype float16

The result opens with `LongFormMusicPipeline.from_pretrained(output_dir)`.
"""

from dataclasses import dataclass

from stable_longform import training_utils as utils
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.noise_schedule import SIGMA_MAX, SIGMA_MIN, make_scheduler
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline


@dataclass(frozen=True)
class Config:
    """Folders of the trained parts, and the range of noise levels that the scheduler samples.

    `clap` may also be the folder of a whole checkpoint, whose text encoder is taken.
    """

    autoencoder: str
    clap: str
    dit: str
    output_dir: str
    dtype: str = "float32"
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX


def main(config: Config) -> None:
    """Loads the parts, checks that they fit, saves the pipeline."""
    dtype = utils.float_dtype(config.dtype)
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    transformer = DiTTransformer1D.from_pretrained(config.dit, subfolder="transformer")
    if transformer.config.in_channels != vae.config.decoder_input_channels:
        raise ValueError(
            f"The transformer has {transformer.config.in_channels} latent channels, "
            f"the autoencoder {vae.config.decoder_input_channels}."
        )
    text_encoder, tokenizer = utils.load_text_encoder(config.clap)
    pipe = LongFormMusicPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        timing_conditioner=TimingConditioner.from_pretrained(config.dit, subfolder="timing_conditioner"),
        transformer=transformer,
        scheduler=make_scheduler(config.sigma_min, config.sigma_max),
    ).to(dtype)
    utils.export_model(pipe, config.output_dir)


if __name__ == "__main__":
    utils.launch(main, Config)
