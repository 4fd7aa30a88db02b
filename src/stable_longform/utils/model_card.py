"""Model cards: the README.md of a checkpoint, with the header that the Hugging Face Hub reads."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stable_longform.utils.files import write_text
from stable_longform.utils.text_files import read_text

CARD_FILE = "README.md"
TAGS = ["music-generation", "text-to-audio", "latent-diffusion", "stable_longform"]
PAPER = "[Long-form music generation with latent diffusion](https://arxiv.org/abs/2404.10301)"
UNKNOWN = "Not stated."
TASK = "text-to-audio"
OWN_MUSIC = "valid split of the training music"


class Result(NamedTuple):
    """A measured value, as the Hub shows it beside a model.

    Args:
        dataset: name of the music on which it was measured.
        metric: name of the metric.
        value: what was measured; finite.
    """

    dataset: str
    metric: str
    value: float


def write_model_card(
    directory: str | os.PathLike,
    *,
    description: str = "",
    parts: Mapping[str, int] | None = None,
    data: str = "",
    training: Sequence[Mapping[str, object]] = (),
    metrics: Mapping[str, float] | None = None,
    license: str = "",
) -> Path:
    """Writes the card of a checkpoint, unless the folder already has one.

    Args:
        directory: folder of the checkpoint; its name becomes the title.
        description: of the kind of model.
        parts: number of parameters of each component.
        data: the training data and their licences.
        training: a row of the table for each training, all with the same keys.
        metrics: values measured on the valid split, by name; they are in the header too.
        license: of the weights, as a Hub identifier such as "cc-by-4.0"; "" for no statement.

    Returns:
        The path of the card.

    Raises:
        ValueError: the directory does not exist, or the rows of `training` have different keys.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a folder.")
    path = directory / CARD_FILE
    if path.exists():
        return path
    if any(list(row) != list(training[0]) for row in training):
        raise ValueError(f"All rows of training must have the keys {', '.join(training[0])}.")
    name = directory.resolve().name
    header = ModelCardData(
        license=license or None,
        tags=TAGS,
        pipeline_tag=TASK,
        library_name="stable_longform",
        model_name=name,
        eval_results=_eval_results([Result(OWN_MUSIC, key, value) for key, value in (metrics or {}).items()]) or None,
    )
    counts = [{"part": key, "parameters": f"{count:,}"} for key, count in (parts or {}).items()]
    values = [{"metric": key, "value": f"{value:.4g}"} for key, value in (metrics or {}).items()]
    sections = [
        f"# {name}\n\n{description or 'A model'} for {PAPER}: text to stereo music.",
        "## Usage\n\n```python\nfrom stable_longform import LongFormMusicPipeline\n\n"
        f'pipe = LongFormMusicPipeline.from_pretrained("{name}")\n'
        'result = pipe("Genre: Ambient|Instruments: Piano", duration=30.0)\n'
        "result.audios[0], result.sampling_rate\n```",
        "## Parts\n\n" + _table(counts),
        f"## Training data\n\n{data or UNKNOWN}",
        "## Training\n\n" + _table(training),
        "## Metrics\n\n" + _table(values),
        f"## Licence\n\n{license or UNKNOWN}",
    ]
    card = ModelCard(f"---\n{header}\n---\n\n" + "\n\n".join(sections) + "\n")
    write_text(path, card.content)
    return path


def set_results(directory: str | os.PathLike, results: Sequence[Result]) -> None:
    """Puts evaluation results into the header of a checkpoint's card. The text stays.

    They are the Hub's `model-index`. Earlier results of the same metrics are replaced; those of other metrics stay.

    Args:
        directory: folder of the checkpoint; its name is the model's name, unless the header has one.
        results: at least one.

    Raises:
        ValueError: the folder has no card, or there is no result, or one that is not finite.
    """
    path = Path(directory) / CARD_FILE
    if not path.is_file():
        raise ValueError(f"{directory} has no card, {CARD_FILE}.")
    if not results:
        raise ValueError("There is no result to put into the card.")
    card = ModelCard.load(path)
    card.data.model_name = card.data.get("model_name") or Path(directory).resolve().name
    metrics = {result.metric for result in results}
    kept = [result for result in card.data.eval_results or [] if result.metric_name not in metrics]
    card.data.eval_results = kept + _eval_results(results)
    write_text(path, str(card))


def _eval_results(results: Sequence[Result]) -> list[EvalResult]:
    """Results as the Hub has them.

    Raises:
        ValueError: one is not finite.
    """
    for result in results:
        if not math.isfinite(result.value):
            raise ValueError(f"{result.metric} on {result.dataset} must be finite, got {result.value}.")
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=result.dataset,  # by which the Hub groups
            dataset_name=result.dataset,
            metric_type=result.metric,
            metric_name=result.metric,
            metric_value=round(result.value, 4),
        )
        for result in results
    ]


def read_card(directory: str | os.PathLike) -> str:
    """The text of a checkpoint's card.

    Raises:
        ValueError: the folder has no card, or it is not UTF-8.
    """
    path = Path(directory) / CARD_FILE
    if not path.is_file():
        raise ValueError(f"{directory} has no card, {CARD_FILE}.")
    return read_text(path)


def set_section(directory: str | os.PathLike, title: str, text: str) -> None:
    """Adds a section to the card of a checkpoint; a section with the same title is replaced.

    Args:
        directory: folder of the checkpoint.
        title: of the section, `## title` in the card.
        text: Markdown below the title, without headings of the first or second level.

    Raises:
        ValueError: see `read_card`.
    """
    card, section = read_card(directory), f"## {title}\n\n{text.strip()}\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^##? |\Z)", card, re.DOTALL | re.MULTILINE)
    if found is None:
        card = f"{card.rstrip()}\n\n{section}"
    else:
        rest = card[found.end() :]
        separator = "\n" if rest else ""
        card = f"{card[: found.start()]}{section}{separator}{rest}"
    write_text(Path(directory) / CARD_FILE, card)


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table, or a sentence that nothing is known."""
    if not rows:
        return UNKNOWN
    lines: list[list] = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
