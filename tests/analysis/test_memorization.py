"""Exact searches against brute force, whatever the blocks and processes; groups, thresholds, rates."""

import math

import numpy as np
import pytest

from stable_longform.analysis.memorization import (
    SimilarPairs,
    SimilarPassages,
    Standardizer,
    area_under_curve,
    choose_threshold,
    detection_rate,
    group_pairs,
    in_blocks,
    join_blocks,
    nearest_items,
    strongest_pairs,
    unit_rows,
)


def make_rows(count, dim=96, seed=0, decay=0.0):
    """Random unit rows whose dimensions are ever smaller; the last one is silence."""
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng.standard_normal((count, dim)) * (1 + np.arange(dim)) ** -decay)
    rows[-1] = 0
    return rows


@pytest.mark.parametrize("item_block", (1, 7, 64, 1000))
def test_nearest_items_are_those_of_brute_force(item_block):
    queries, items = make_rows(23, seed=1), make_rows(150, seed=2)
    index, cosines = nearest_items(queries, items, 3, item_block=item_block)
    exact = queries.astype(np.float64) @ items.T.astype(np.float64)
    expected = np.argsort(-exact[:-1, :-1], axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(index[:-1], expected)
    np.testing.assert_allclose(cosines[:-1], np.take_along_axis(exact[:-1], expected, axis=1), rtol=1e-12)
    assert (index[-1] == -1).all() and np.isneginf(cosines[-1]).all()  # silence is like nothing
    opposite = nearest_items(queries[:1], np.stack([-queries[0], queries[-1]]), 1, item_block=item_block)
    assert opposite[0] == [[0]] and opposite[1] == pytest.approx(np.array([[-1.0]]))  # and nothing is like silence


def test_results_do_not_depend_on_blocks_in_any_bit():
    queries, items = make_rows(40, seed=3), make_rows(300, seed=4)
    items[100:110] = queries[:10]  # copies, equal to the last bit
    items[200:210] = queries[:10]
    results = [nearest_items(queries, items, 4, item_block=size) for size in (3, 50, 4096)]
    one_by_one = [nearest_items(query[None], items, 4) for query in queries]
    results.append([np.concatenate(part) for part in zip(*one_by_one, strict=True)])
    for index, cosines in results:
        np.testing.assert_array_equal(index, results[0][0])
        np.testing.assert_array_equal(cosines, results[0][1])
    np.testing.assert_array_equal(results[0][0][:10, :2], np.stack([np.arange(100, 110), np.arange(200, 210)], axis=1))


def test_nothing_is_its_own_neighbour_and_what_is_missing_is_minus_one():
    items, owners = make_rows(7, seed=5)[:6], np.array([0, 0, 1, 1, 2, 2])
    index, cosines = nearest_items(items, items, 5, owners, owners)
    assert all(owners[found] != owner for row, owner in zip(index, owners, strict=True) for found in row[:4])
    assert (index[:, 4] == -1).all() and np.isneginf(cosines[:, 4]).all()
    assert nearest_items(items[:0], items, 2)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("decay", "dim", "threshold"), ((0.0, 96, 0.2), (1.0, 96, 0.9), (1.0, 96, 0.5), (0.5, 8, 0.6))
)
def test_similar_pairs_are_those_of_brute_force(decay, dim, threshold):
    items = make_rows(120, dim, seed=6, decay=decay)
    items[50], items[51] = items[3], unit_rows(items[4:5] + 1e-4)[0]
    exact = items.astype(np.float64) @ items.T.astype(np.float64)
    expected = [(i, j) for i, j in np.argwhere(exact >= threshold) if i < j]
    assert (3, 50) in expected and (4, 51) in expected
    for item_block, row_block in ((16384, 120), (32, 50), (7, 1)):
        search = SimilarPairs(items, threshold, item_block)
        parts = [search.of_rows(start, min(start + row_block, 120)) for start in range(0, 120, row_block)]
        left, right, cosine = (np.concatenate([part[name] for part in parts]) for name in ("left", "right", "cosine"))
        assert list(zip(left.tolist(), right.tolist(), strict=True)) == expected
        np.testing.assert_allclose(cosine, exact[left, right], rtol=1e-12)


def test_similar_passages_are_those_of_brute_force():
    items, item_owners = make_rows(90, 16, seed=8, decay=0.5), np.repeat(np.arange(30), 3)
    queries, query_owners = make_rows(60, 16, seed=9, decay=0.5), np.repeat(np.arange(30), 2)
    items[15], items[80], queries[7], queries[8] = queries[50], queries[5], items[9], 0  # of 5 and 25, 26 and 2, own
    exact = queries.astype(np.float64) @ items.T.astype(np.float64)
    exact[query_owners[:, None] == item_owners[None]] = -np.inf
    highest = np.full((30, 30), -np.inf)
    for query, item in np.argwhere(exact >= 0.7):
        pair = tuple(sorted((query_owners[query], item_owners[item])))
        highest[pair] = max(highest[pair], exact[query, item])
    expected = np.argwhere(np.isfinite(highest))
    assert highest[5, 25] == pytest.approx(1) == highest[2, 26] and 3 < len(expected) < 100
    for item_block, row_block in ((16384, 60), (32, 25), (7, 1)):
        search = SimilarPassages(queries, query_owners, items, item_owners, 0.7, item_block)
        parts = [search.of_rows(start, min(start + row_block, 60)) for start in range(0, 60, row_block)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        left, right, cosine = strongest_pairs(found["left"], found["right"], found["cosine"])
        np.testing.assert_array_equal(np.stack([left, right], axis=1), expected)
        np.testing.assert_allclose(cosine, highest[left, right], rtol=1e-12)
        nearest = np.where(queries.any(axis=1), exact.max(axis=1), -np.inf)
        np.testing.assert_allclose(found["nearest"], nearest, atol=1e-6)


def test_a_search_is_the_same_on_any_number_of_processes_and_goes_on(tmp_path):
    items = make_rows(130, seed=7, decay=1.0)
    search = SimilarPairs(items, 0.6)
    for folder, num_processes in (("one", 1), ("three", 3)):
        for process in reversed(range(num_processes)):
            in_blocks(130, search.of_rows, tmp_path / folder, 20, process, num_processes)
    one, three = join_blocks(tmp_path / "one"), join_blocks(tmp_path / "three")
    assert len(one["left"]) > 5
    for name, values in one.items():
        np.testing.assert_array_equal(values, three[name])
    (tmp_path / "one" / "000000000040.safetensors").unlink()
    starts = []

    def compute(start, end):
        starts.append((start, end))
        return search.of_rows(start, end)

    in_blocks(130, compute, tmp_path / "one", 20)
    assert starts == [(40, 60)]
    np.testing.assert_array_equal(join_blocks(tmp_path / "one")["cosine"], one["cosine"])


def test_groups_are_what_pairs_join():
    assert group_pairs([]) == []
    assert group_pairs([(5, 9), (1, 2), (9, 0), (3, 7), (2, 3)]) == [[0, 5, 9], [1, 2, 3, 7]]
    rng = np.random.default_rng(0)
    colours = rng.integers(20, size=200)
    pairs = [(int(i), int(j)) for i, j in rng.permutation(np.argwhere(colours[:, None] == colours)) if i < j]
    groups = group_pairs(pairs)
    assert groups == sorted(np.flatnonzero(colours == c).tolist() for c in set(colours) if (colours == c).sum() > 1)


def test_a_standardizer_takes_off_what_all_rows_share():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 6)).astype(np.float32)
    rows[:, 5], rows[7] = 3.0, 0.0  # a dimension that never changes; silence
    unit = Standardizer.of([rows])(rows)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [0.0 if n == 7 else 1.0 for n in range(50)], atol=1e-6)
    blocks = Standardizer.of(rows[start : start + 9] for start in range(0, 50, 9))
    np.testing.assert_allclose(blocks(rows), unit, atol=1e-6)
    moved = np.where(rows.any(axis=1, keepdims=True), rows * [1, 10, 0.1, 5, 2, 1] + [100, -3, 0, 1, 1, 0], 0)
    np.testing.assert_allclose(Standardizer.of([moved])(moved), unit, atol=1e-4)
    for row in (np.zeros(2), np.ones(2)):
        with pytest.raises(ValueError, match="passages that differ"):
            Standardizer.of([np.tile(row, (3, 1))])


@pytest.mark.parametrize("share", (0.0, 0.01, 0.05, 0.3))
def test_a_threshold_has_no_more_false_positives_than_allowed(share):
    others = np.random.default_rng(2).random(137)
    threshold = choose_threshold(others, share)
    reached = np.mean(others >= threshold)
    assert reached <= share < reached + 1 / 137  # one lower value would be one too many
    with pytest.raises(ValueError, match="known not to be a copy"):
        choose_threshold([])


def test_rates_have_wilson_intervals():
    assert detection_rate([0.9, 0.1], 0.5)["rate"] == 0.5
    none, half = detection_rate([0.0] * 10, 0.5), detection_rate([0.0, 1.0] * 5, 0.5)
    assert none["low"] == 0 and none["high"] == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4)
    assert (half["low"], half["high"]) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # closed form, textbook
    assert detection_rate([], 0.5) == {"rate": 0.0, "low": 0.0, "high": 1.0, "num": 0}


def test_the_area_under_the_curve_counts_pairs():
    assert area_under_curve([2, 3], [0, 1]) == 1 and area_under_curve([1], [1]) == 0.5
    assert area_under_curve([0, 2], [1]) == 0.5 and math.isclose(area_under_curve([1, 5, 5], [3, 5]), 3 / 6)
