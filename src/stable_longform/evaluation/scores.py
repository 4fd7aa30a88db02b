"""Scores of generated against reference music, from the features of both.

Metrics, named after the embedder whose features they compare: `fd_*`, the Fréchet distance of all windows of all files
(lower is better); `kad_*`, the kernel audio distance of the same windows (lower is better, 0 for equal distributions);
`kl_*`, the divergence between the classes predicted for a generated file and for its own reference, averaged over
files (lower is better); `clap_score_*`, the cosine of a file with its prompt, averaged over files (higher is better);
`tag_text_*`, the cosine of the predicted tags of a file, as text, with its prompt, averaged over files (higher is
better).

Each has a 95 % interval for the choice of files, from resampling them with replacement (`utils/bootstrap.py`). It does
not include the bias of Fréchet distances with few windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stable_longform.metrics.clap_score import clap_scores
from stable_longform.metrics.divergence import kl_divergence, mean_probabilities
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.metrics.frechet import GaussianStatistics, frechet_distance
from stable_longform.metrics.kernel_distance import KernelSums, kernel_distance
from stable_longform.metrics.tag_text import tag_probabilities, tag_text_scores, tag_weights
from stable_longform.utils.bootstrap import bootstrap_interval

NUM_RESAMPLES = 100
Features = Mapping[str, Mapping[str, AudioFeatures]]  # by file, then by embedder


@dataclass(frozen=True)
class Score:
    """The value of a metric, and the data that it was computed from.

    Args:
        metric: its name.
        value: the number.
        num_files: number of generated files.
        num_windows: windows of the generated and of the reference set; None if files are compared individually.
        per_file: the values that were averaged, by generated file; None for a distance between sets.
        interval: of 95 %; None if a set has only one file, or no interval was requested.
    """

    metric: str
    value: float
    num_files: int
    num_windows: tuple[int, int] | None = None
    per_file: dict[str, float] | None = None
    interval: tuple[float, float] | None = None


def file_embeddings(
    features: Features, embedder_name: str, num_windows: int | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Embeddings `(num_windows, dim)` of each file, for all windows or a random selection from all files.

    Files without a selected window are left out.

    Raises:
        ValueError: there are fewer windows than requested.
    """
    files = [features[name][embedder_name].need_embeddings() for name in sorted(features)]
    if num_windows is None:
        return files
    total = sum(map(len, files))
    if not 2 <= num_windows <= total:
        raise ValueError(f"num_windows must be in [2, {total}], the number of windows, got {num_windows}.")
    is_chosen = np.zeros(total, dtype=bool)
    is_chosen[np.random.default_rng(seed).permutation(total)[:num_windows]] = True
    masks = np.split(is_chosen, np.cumsum([len(embeddings) for embeddings in files])[:-1])
    return [embeddings[mask] for embeddings, mask in zip(files, masks, strict=True) if mask.any()]


def frechet_score(
    generated: Features,
    reference: Features,
    embedder_name: str,
    num_windows: int | None = None,
    seed: int = 0,
    num_resamples: int = 0,
) -> Score:
    """Fréchet distance between two sets of files.

    Args:
        num_windows: number of windows drawn from each set, to compare models fairly; None: all.
        num_resamples: draws for the interval; 0: no interval.

    Raises:
        ValueError: see `file_embeddings`; or a set has fewer than two windows.
    """
    sets = [file_embeddings(features, embedder_name, num_windows, seed) for features in (generated, reference)]

    def statistic(*positions: Sequence[int]) -> float:
        drawn = [np.concatenate([files[n] for n in numbers]) for files, numbers in zip(sets, positions, strict=True)]
        return frechet_distance(*map(GaussianStatistics.from_embeddings, drawn))

    value = statistic(*(range(len(files)) for files in sets))
    interval = bootstrap_interval(statistic, value, [len(files) for files in sets], num_resamples, seed)
    return Score(f"fd_{embedder_name}", value, len(generated), _count_windows(sets), interval=interval)


def kernel_score(
    generated: Features,
    reference: Features,
    embedder_name: str,
    num_windows: int | None = None,
    seed: int = 0,
    num_resamples: int = 0,
) -> Score:
    """Kernel audio distance between two sets of files; arguments and errors as in `frechet_score`."""
    sets = [file_embeddings(features, embedder_name, num_windows, seed) for features in (generated, reference)]
    sums = KernelSums.from_embeddings(sets[0], sets[1])

    def statistic(*positions: np.ndarray) -> float:
        weights = (np.bincount(drawn, minlength=len(files)) for drawn, files in zip(positions, sets, strict=True))
        return kernel_distance(sums, *weights)

    value = kernel_distance(sums)
    interval = bootstrap_interval(statistic, value, [len(files) for files in sets], num_resamples, seed)
    return Score(f"kad_{embedder_name}", value, len(generated), _count_windows(sets), interval=interval)


def _count_windows(sets: Sequence[Sequence[np.ndarray]]) -> tuple[int, int]:
    """Number of windows of the generated and of the reference set."""
    return sum(map(len, sets[0])), sum(map(len, sets[1]))


def divergence_score(
    generated: Features,
    reference: Features,
    embedder_name: str,
    references: Mapping[str, str],
    num_resamples: int = 0,
) -> Score:
    """Mean divergence of generated files from their own references.

    Args:
        references: name of the reference of each generated file to compare.

    Raises:
        ValueError: there is no file to compare.
    """
    values = {}
    for name, other in references.items():
        both = generated[name][embedder_name], reference[other][embedder_name]
        pair = [mean_probabilities(features.need_logits()) for features in both]
        values[name] = float(kl_divergence(*pair))
    return _mean_score(f"kl_{embedder_name}", values, num_resamples)


def clap_text_score(generated: Features, embedder, prompts: Mapping[str, str], num_resamples: int = 0) -> Score:
    """Mean cosine of generated files with their prompts.

    Args:
        embedder: has `name` and `embed_text(texts) -> (num_texts, dim)`.
        prompts: of each generated file to score.

    Raises:
        ValueError: no file to score.
    """
    names = list(prompts)
    if not names:
        return _mean_score(f"clap_score_{embedder.name}", {})
    audio = np.stack([generated[name][embedder.name].need_embeddings().mean(axis=0) for name in names])
    text = embedder.embed_text([prompts[name] for name in names])
    values = clap_scores(audio, text)
    return _mean_score(f"clap_score_{embedder.name}", dict(zip(names, map(float, values), strict=True)), num_resamples)


def tag_text_score(
    generated: Features,
    reference: Features,
    embedder,
    text_embedder,
    prompts: Mapping[str, str],
    num_resamples: int = 0,
) -> Score:
    """Mean cosine of the predicted tags of generated files with their prompts, see `metrics/tag_text.py`.

    Args:
        generated: features of the files to score.
        reference: features of the files whose mean shares of tags are subtracted.
        embedder: of audio, with `name` and `tags`, the names of its classes.
        text_embedder: has `embed_text(texts) -> (num_texts, dim)`.
        prompts: of each generated file to score.

    Raises:
        ValueError: no file to score, or no reference.
    """
    names, metric = list(prompts), f"tag_text_{embedder.name}"
    if not names:
        return _mean_score(metric, {})
    files = [generated[name] for name in names], [*reference.values()]
    heard, usual = (
        np.stack([tag_probabilities(found[embedder.name].need_logits()) for found in group]) for group in files
    )
    texts = text_embedder.embed_text([prompts[name] for name in names])
    values = tag_text_scores(tag_weights(heard, usual), text_embedder.embed_text(embedder.tags), texts)
    return _mean_score(metric, dict(zip(names, map(float, values), strict=True)), num_resamples)


def _mean_score(metric: str, values: dict[str, float], num_resamples: int = 0) -> Score:
    """Mean over files."""
    if not values:
        raise ValueError(f"{metric}: there is no pair to compare.")
    numbers = np.array(list(values.values()))
    mean = float(numbers.mean())
    interval = bootstrap_interval(lambda drawn: numbers[drawn].mean(), mean, [len(numbers)], num_resamples)
    return Score(metric, mean, len(values), per_file=values, interval=interval)


def all_scores(
    generated: Features,
    reference: Features,
    embedders: Sequence,
    references: Mapping[str, str],
    prompts: Mapping[str, str],
    num_windows: int | None = None,
    seed: int = 0,
    text_embedder=None,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Score]:
    """Every metric of every embedder whose inputs are available: pairs for `kl`, prompts for `clap_score`, prompts and
    a text embedder for `tag_text`."""
    scores = []
    for embedder in embedders:
        if "fd" in embedder.metrics:
            for score in (frechet_score, kernel_score):
                scores.append(score(generated, reference, embedder.name, num_windows, seed, num_resamples))
        if "kl" in embedder.metrics and references:
            scores.append(divergence_score(generated, reference, embedder.name, references, num_resamples))
        if "clap_score" in embedder.metrics and prompts:
            scores.append(clap_text_score(generated, embedder, prompts, num_resamples))
        if "tag_text" in embedder.metrics and prompts and text_embedder is not None:
            scores.append(tag_text_score(generated, reference, embedder, text_embedder, prompts, num_resamples))
    return scores
