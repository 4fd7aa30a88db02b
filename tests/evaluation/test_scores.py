"""Scores from features: pooling, equal numbers of windows, pairs, texts."""

import numpy as np
import pytest

from stable_longform.evaluation.scores import (
    all_scores,
    clap_text_score,
    divergence_score,
    file_embeddings,
    frechet_score,
    kernel_score,
    tag_text_score,
)
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.metrics.frechet import GaussianStatistics, frechet_distance
from stable_longform.metrics.kernel_distance import KernelSums, kernel_distance


def features(num_windows, shift=0.0, seed=0, prefix="f"):
    """Three files of random windows."""
    rng = np.random.default_rng(seed)
    return {
        f"{prefix}{number}": {
            "net": AudioFeatures(
                (rng.normal(size=(num_windows + number, 4)) + shift).astype(np.float32),
                rng.normal(size=(num_windows + number, 5)).astype(np.float32),
            )
        }
        for number in range(3)
    }


class Texts:
    """An embedder whose texts are numbers: the axis that they point along."""

    name, metrics, tags = "net", ("fd", "kl", "clap_score", "tag_text"), list("01230")

    def embed_text(self, texts):
        return np.eye(4)[[int(text) for text in texts]]


def test_frechet_score_is_that_of_all_windows_together():
    first, second = features(20), features(30, shift=1.0, seed=1)
    score = frechet_score(first, second, "net")
    stacks = [np.concatenate([files[name]["net"].embeddings for name in files]) for files in (first, second)]
    assert score.value == frechet_distance(*map(GaussianStatistics.from_embeddings, stacks))
    assert (score.metric, score.num_files, score.num_windows) == ("fd_net", 3, (63, 93))
    assert frechet_score(first, first, "net").value == pytest.approx(0, abs=1e-9)


def test_equal_numbers_of_windows_are_drawn_by_seed():
    first, second = features(20), features(30, seed=1)
    score = frechet_score(first, second, "net", num_windows=40, seed=1)
    assert score.num_windows == (40, 40)
    assert score.value == frechet_score(first, second, "net", num_windows=40, seed=1).value
    assert score.value != frechet_score(first, second, "net", num_windows=40, seed=2).value
    drawn = np.concatenate(file_embeddings(first, "net", 40))
    assert len(np.unique(drawn, axis=0)) == 40  # without repetition
    all_windows = {tuple(row) for files in first.values() for row in files["net"].embeddings}
    assert all(tuple(row) in all_windows for row in drawn)
    for number in (1, 64):
        with pytest.raises(ValueError, match=f"num_windows must be in .2, 63.*got {number}"):
            file_embeddings(first, "net", number)


def test_kernel_score_is_that_of_the_same_windows():
    first, second = features(20), features(30, shift=1.0, seed=1)
    score = kernel_score(first, second, "net", num_windows=40)
    sets = [file_embeddings(files, "net", 40) for files in (first, second)]
    assert score.value == kernel_distance(KernelSums.from_embeddings(*sets))
    assert (score.metric, score.num_files, score.num_windows) == ("kad_net", 3, (40, 40))
    assert kernel_score(first, features(30, seed=1), "net").value < score.value / 5


def test_intervals_hold_the_value_and_narrow_with_more_files():
    def many(count, seed):
        rng = np.random.default_rng(seed)
        shifts = rng.normal(size=count)
        return {
            f"f{number}": {
                "net": AudioFeatures((rng.normal(size=(6, 4)) + shift).astype(np.float32), rng.normal(size=(2, 3)))
            }
            for number, shift in enumerate(shifts)
        }

    for score in (frechet_score, kernel_score):
        few, more = (score(many(count, 0), many(count, 1), "net", num_resamples=100) for count in (8, 60))
        for found in (few, more):
            assert found.interval[0] < found.value < found.interval[1]
        widths = [np.subtract(*found.interval[::-1]) for found in (few, more)]
        assert widths[1] < 0.6 * widths[0]
        assert score(many(1, 0), many(5, 1), "net", num_resamples=100).interval is None
    kl = divergence_score(many(8, 0), many(8, 1), "net", {f"f{n}": f"f{n}" for n in range(8)}, num_resamples=100)
    assert kl.interval[0] < kl.value < kl.interval[1]


def test_divergence_compares_each_file_with_its_own_reference():
    first = features(20)
    same = divergence_score(first, first, "net", {name: name for name in first})
    assert abs(same.value) < 1e-4 and set(same.per_file) == set(first)
    crossed = divergence_score(first, first, "net", {"f0": "f1", "f1": "f2"})
    assert crossed.value > same.value and crossed.num_files == 2
    assert crossed.value == np.mean(list(crossed.per_file.values()))
    with pytest.raises(ValueError, match="kl_net: there is no pair"):
        divergence_score(first, first, "net", {})


def test_divergence_is_that_of_the_generated_from_the_reference():
    """KL(generated ‖ reference): a class that only the reference holds costs little, one that it lacks costs much."""

    def heard(*probabilities):
        return {"a": {"net": AudioFeatures(logits=np.log([probabilities]))}}

    broad, narrow = heard(0.5, 0.5), heard(0.999, 0.001)
    value = divergence_score(narrow, broad, "net", {"a": "a"}).value
    assert value == pytest.approx(0.999 * np.log(0.999 / 0.5) + 0.001 * np.log(0.001 / 0.5), abs=1e-5)
    assert divergence_score(broad, narrow, "net", {"a": "a"}).value > 2 * value


def test_clap_score_compares_each_file_with_its_own_prompt():
    files = {name: {"net": AudioFeatures(3 * np.eye(4)[[axis]])} for name, axis in (("a", 0), ("b", 2))}
    score = clap_text_score(files, Texts(), {"a": "0", "b": "1"})
    assert score.per_file == {"a": 1.0, "b": 0.0} and score.value == 0.5
    with pytest.raises(ValueError, match="clap_score_net: there is no pair"):
        clap_text_score(files, Texts(), {})


def test_tag_text_score_compares_what_stands_out_with_the_prompt():
    def files(**tags):
        return {
            name: {"net": AudioFeatures(logits=8 * np.eye(5)[list(windows)] - 4)} for name, windows in tags.items()
        }

    found, reference = files(a=(1, 1), b=(2, 3)), files(c=(0,), d=(4, 4, 4))  # all of the reference is axis 0
    score = tag_text_score(found, reference, Texts(), Texts(), {"a": "1", "b": "1"})
    assert score.metric == "tag_text_net" and score.num_files == 2 and score.num_windows is None
    assert score.per_file["a"] == pytest.approx(np.sqrt(0.5), abs=1e-3)  # +1 along axis 1, -1 along axis 0
    assert score.per_file["b"] == pytest.approx(0, abs=1e-3)
    assert score.value == np.mean(list(score.per_file.values()))
    with pytest.raises(ValueError, match="tag_text_net: there is no pair"):
        tag_text_score(found, reference, Texts(), Texts(), {})


def test_all_scores_leaves_out_what_has_no_input():
    first, second = features(20), features(20, seed=1)
    args = first, second, [Texts()]
    assert [score.metric for score in all_scores(*args, {}, {})] == ["fd_net", "kad_net"]
    names = [score.metric for score in all_scores(*args, {"f0": "f0"}, {"f1": "2"})]
    assert names == ["fd_net", "kad_net", "kl_net", "clap_score_net"]
    names = [score.metric for score in all_scores(*args, {}, {"f1": "2"}, text_embedder=Texts())]
    assert names == ["fd_net", "kad_net", "clap_score_net", "tag_text_net"]
