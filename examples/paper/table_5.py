"""Table 5 of the paper: how well autoencoders reconstruct music.

    python examples/paper/table_5.py --manifest corpus/manifest.jsonl --output_dir table_5

The paper uses the 706 recordings of Song Describer; here they are a few held-out tracks, or the audio files of a
folder (--folder). Codecs of transformers, from a folder or the Hub: --codecs facebook/encodec_32khz. An interrupted
run can be continued with the same command. --visqol adds the listening quality that ViSQOL predicts.
"""

from pathlib import Path

import torch
from transformers import AutoModel

from stable_longform import TINY_CHECKPOINT, AutoencoderOobleck
from stable_longform.evaluation.audio_files import ReadingSettings, list_audio, list_tracks
from stable_longform.evaluation.codecs import (
    METRICS,
    codec_of_autoencoder,
    codec_of_transformers,
    score_reconstructions,
)
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.files import weights_sha256
from stable_longform.utils.optional import require
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, ScriptParser, run_main

HEADER = ("model", "latent rate", "STFT distance", "MEL distance", "SI-SDR", "recordings")
PAPER = (
    ("DAC (paper)", "86 Hz", 0.96, 0.52, 10.83, 706),
    ("AudioGen (paper)", "50 Hz", 1.17, 0.64, 9.27, 706),
    ("Encodec (paper)", "50 Hz", 1.82, 1.12, 5.33, 706),
    ("AudioGen (paper)", "100 Hz", 1.10, 0.64, 8.82, 706),
    ("Stable Audio (paper)", "43 Hz", 1.19, 0.67, 8.62, 706),
    ("ours (paper)", "21.5 Hz", 1.19, 0.71, 7.14, 706),
)


def main() -> None:
    """Reconstructs, measures and prints the table."""
    parser = ScriptParser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", help="source of music; its test split has the recordings")
    source.add_argument("--folder", type=Path, help="a folder of recordings instead")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id of a pipeline")
    parser.add_argument("--codecs", nargs="*", default=[], help="codecs of transformers to compare with")
    parser.add_number("--num_tracks", Range(1, 10**4), default=6, help="number of recordings")
    parser.add_argument(
        "--visqol", action="store_true", help="add ViSQOL, which is not in the paper; needs the extra visqol"
    )
    parser.add_number("--trim", SECONDS, kind=float, default=30.0, help="seconds to use of each recording")
    arguments = parser.parse_args()
    columns = (*METRICS, *(("visqol",) if arguments.visqol else ()))
    if arguments.visqol:
        require("visqol", "visqol")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.num_tracks < 1:
        raise ValueError(f"--num_tracks must be at least 1, got {arguments.num_tracks}.")
    if arguments.folder is None:
        files = list_tracks(arguments.manifest, "test", arguments.num_tracks)
    else:
        files = list_audio(arguments.folder)
    vae = AutoencoderOobleck.from_pretrained(arguments.checkpoint, subfolder="vae").to(device).eval()
    codecs = [(codec_of_autoencoder(vae, "this checkpoint", {}), vae, vae.latent_rate)]
    for name in arguments.codecs:
        model = AutoModel.from_pretrained(name).to(device).eval()
        rate = model.config.sampling_rate / getattr(model.config, "hop_length", float("nan"))
        codecs.append((codec_of_transformers(model, name, {}), model, rate))
    rows = []
    for codec, model, rate in codecs:
        cache = arguments.output_dir / f"{weights_sha256(model)[:16]}-{arguments.trim:g}s"
        settings = ReadingSettings(trim_in_s=arguments.trim, peak_in_db=None)
        result = score_reconstructions(codec, files, settings, cache, arguments.visqol)
        for name, reason in result["skipped"].items():
            print(f"left out: {name}: {reason}")
        rows.append((codec.name, f"{rate:.1f} Hz", *(result[metric] for metric in columns), len(result["per_file"])))
    more = [None] * arguments.visqol
    paper = [(*row[:-1], *more, row[-1]) for row in PAPER]
    header = (*HEADER[:-1], *["ViSQOL"] * arguments.visqol, HEADER[-1])
    print(markdown_table(header, [*paper, *rows]), end="")


if __name__ == "__main__":
    run_main(main)
