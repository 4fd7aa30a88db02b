"""The results of a report as a model card's header shows them."""

import math
from collections.abc import Mapping
from pathlib import Path

from stable_longform.utils.model_card import Result
from stable_longform.utils.text_files import read_json

# Metrics of `evaluate reconstruct-score`, and of `evaluate control`'s notes, by the names they have on the Hub.
RECONSTRUCTION = {
    "si_sdr": "SI-SDR of the autoencoder (dB)",
    "stft_distance": "STFT distance of the autoencoder",
    "mel_distance": "mel distance of the autoencoder",
    "chroma_agreement": "chroma agreement of the autoencoder",
}
NOTES = {"partial_share": "share of power in partials, median", "note_share": "share of power in four notes, median"}


def read_results(report: Path) -> list[Result]:
    """The results in the folder of a report of `evaluate reconstruct-score` or `evaluate control`.

    Of several autoencoders, the first is taken.

    Raises:
        ValueError: the folder has neither report, or one that cannot be read.
    """
    readers = {"reconstruction.json": _of_reconstruction, "control.json": _of_control}
    found = [(report / name, read) for name, read in readers.items() if (report / name).is_file()]
    if not found:
        raise ValueError(f"{report} has no {' or '.join(readers)}.")
    results = []
    for path, read in found:
        try:
            results += read(read_json(path))
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"{path} is not a report of this version: {error!r}") from error
    return [result for result in results if math.isfinite(result.value)]


def _of_reconstruction(report: Mapping) -> list[Result]:
    """Means over the recordings of the first autoencoder."""
    protocol, values = report["protocol"], next(iter(report["codecs"].values()))
    source, split = Path(protocol["source"]), protocol["split"]
    name = source.parent.name if source.suffix else source.name
    dataset = f"{name}, split {split}" if split else name
    return [
        Result(f"{dataset}, {len(values['per_file'])} recordings", title, values[metric])
        for metric, title in RECONSTRUCTION.items()
        if values[metric] is not None
    ]


def _of_control(report: Mapping) -> list[Result]:
    """Shares of generations that have what their prompts request, and the medians of both note measures."""
    dataset = f"{report['generated']['num_files']} held-out prompts"
    shares = {row["what"]: row["generated"] for row in report["shares"]}
    found = [Result(dataset, f"{what} as requested", share["value"]) for what, share in shares.items() if share]
    notes = {title: report["notes"][measure]["generated"] for measure, title in NOTES.items()}
    return found + [Result(dataset, title, summary["median"]) for title, summary in notes.items() if summary]
