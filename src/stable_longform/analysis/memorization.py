"""Detects copies of music from embeddings: exact search, groups of copies, thresholds. Paper: §4.5.

Conventions: embeddings are rows of unit length, so products are cosines; a row of zeros (silence) is similar to no
other row. An owner is the number of the recording that an embedding belongs to. Searches work block by block, so items
may be a memory-mapped file. The returned cosines are recomputed in float64, pair by pair, so they depend neither on
the blocks nor on the process.

Contents: `Standardizer`, `nearest_items`, `SimilarPairs`, `SimilarPassages`, `in_blocks` for searches that several
processes share and that can be continued after an interruption, `group_pairs`, `choose_threshold`, `detection_rate`,
`area_under_curve`.

References: Carlini et al., "Extracting training data from diffusion models" (2023) for copies as neighbours nearer
than other music's; Wilson, "Probable inference, the law of succession, and statistical inference" (1927) for intervals
of shares.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from stable_longform.utils.caches import cached_arrays

QUERY_BLOCK, ITEM_BLOCK = 2048, 16384  # rows; 128 MB of cosines at a time
NUM_SPARE = 8  # additional candidates, because rounding in float32 may change the order
NUM_BOUND_DIMS = 64  # of the vectors whose products are upper bounds of the cosines
MAX_BASIS_ROWS = 8192  # rows from which the basis of these vectors is computed
ROUNDING = 1e-5  # largest error of a product in float32
MAX_FALSE_POSITIVES = 0.01  # share of music known not to be copied that may exceed a threshold
MIN_DEVIATION = 1e-9  # smallest standard deviation of a dimension that counts
Z_95 = 1.959964


@dataclass(frozen=True)
class Standardizer:
    """Subtracts the mean of embeddings, divides by their standard deviation, dimension by dimension, and normalises to
    unit length. Otherwise, common properties of all music would make all cosines large.

    Args:
        mean: `(dim,)` of a set of embeddings.
        deviation: `(dim,)`.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray]) -> "Standardizer":
        """The standardizer of all rows of some `(n, dim)`, except rows of zeros.

        Raises:
            ValueError: no two rows that differ.
        """
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for block in blocks:
            rows = block[block.any(axis=1)].astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + np.square(rows).sum(axis=0)
        mean = total / max(count, 1)
        deviation = np.sqrt(np.maximum(squares / max(count, 1) - np.square(mean), 0))
        if not np.any(deviation > MIN_DEVIATION):
            raise ValueError(f"The training set must have passages that differ; all {count} are the same.")
        return cls(mean, deviation)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Unit rows `(n, dim)` in float32; rows of zeros stay zero, dimensions that never change count as zero."""
        usable = self.deviation > MIN_DEVIATION
        rows = (embeddings - self.mean) * np.where(usable, 1 / np.where(usable, self.deviation, 1), 0)
        return unit_rows(np.where(embeddings.any(axis=1, keepdims=True), rows, 0))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Divides rows `(n, dim)` by their norms, in float32; rows of zeros stay zero."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def pair_cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products `(n,)` in float64 of the rows of two `(n, dim)`."""
    return np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64))


def nearest_items(
    queries: np.ndarray,
    items: np.ndarray,
    num_neighbors: int = 1,
    query_owners: np.ndarray | None = None,
    item_owners: np.ndarray | None = None,
    item_block: int = ITEM_BLOCK,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the exact nearest items of each query.

    Args:
        queries: unit rows `(Q, dim)`.
        items: unit rows `(N, dim)`; may be a memory-mapped file.
        num_neighbors: number of items for each query.
        query_owners: `(Q,)`; items with the same owner as the query are excluded. None: all items count.
        item_owners: `(N,)`.
        item_block: items at a time.
        device: for the products.

    Returns:
        `(indices, cosines)`, each `(Q, num_neighbors)`, nearest first, and the lower index first for equal cosines. If
        there are fewer items, the index is -1 and the cosine -inf.
    """
    found = [
        _nearest_of_block(
            queries[start : start + QUERY_BLOCK],
            items,
            num_neighbors,
            None if query_owners is None else query_owners[start : start + QUERY_BLOCK],
            item_owners,
            item_block,
            device,
        )
        for start in range(0, len(queries), QUERY_BLOCK)
    ]
    if not found:
        return np.zeros((0, num_neighbors), dtype=np.int64), np.zeros((0, num_neighbors))
    index, cosines = zip(*found, strict=True)
    return np.concatenate(index), np.concatenate(cosines)


def _nearest_of_block(
    queries: np.ndarray,
    items: np.ndarray,
    num_neighbors: int,
    query_owners: np.ndarray | None,
    item_owners: np.ndarray | None,
    item_block: int,
    device: str | torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_items` for one block of queries."""
    wanted = num_neighbors + NUM_SPARE
    rows = torch.from_numpy(np.array(queries)).to(device)
    best = torch.full((len(queries), 0), -math.inf, device=device)
    index = torch.zeros((len(queries), 0), dtype=torch.long, device=device)
    for start in range(0, len(items), item_block):
        block = torch.from_numpy(np.array(items[start : start + item_block])).to(device)
        cosines = rows @ block.T
        cosines[~rows.any(dim=1)] = -math.inf
        cosines[:, ~block.any(dim=1)] = -math.inf
        if query_owners is not None and item_owners is not None:
            own = torch.from_numpy(query_owners[:, None] == item_owners[None, start : start + item_block])
            cosines.masked_fill_(own.to(device), -math.inf)
        found, place = cosines.topk(min(wanted, cosines.shape[1]), dim=1)
        best, index = torch.cat([best, found], dim=1), torch.cat([index, place + start], dim=1)
        best, place = best.topk(min(wanted, best.shape[1]), dim=1)
        index = index.gather(1, place)
    return _sort_exactly(queries, items, index.cpu().numpy(), best.isfinite().cpu().numpy(), num_neighbors)


def _sort_exactly(
    queries: np.ndarray, items: np.ndarray, index: np.ndarray, is_found: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best candidates `(Q, n)` of each query, by their cosines in float64."""
    cosines = np.full(index.shape, -np.inf)
    for column in range(index.shape[1]):
        cosines[:, column] = pair_cosines(queries, np.asarray(items[index[:, column]]))
    cosines[~is_found] = -np.inf
    order = np.lexsort((index, -cosines), axis=1)[:, :num_neighbors]
    index, cosines = np.take_along_axis(index, order, axis=1), np.take_along_axis(cosines, order, axis=1)
    missing = ((0, 0), (0, num_neighbors - index.shape[1]))
    index = np.pad(np.where(np.isfinite(cosines), index, -1), missing, constant_values=-1)
    return index, np.pad(cosines, missing, constant_values=-np.inf)


class SimilarPairs:
    """Finds all pairs of items whose cosine is at least a threshold, exactly.

    Most pairs are excluded by means of shorter vectors, which consist of an item's coordinates in the directions in
    which items differ most, and the norm of the rest. Their product is at least the cosine (Cauchy and Schwarz), so no
    pair is missed.

    Args:
        items: unit rows `(N, dim)`; may be a memory-mapped file.
        threshold: the smallest cosine.
        item_block: items at a time.
        device: for the products.
    """

    def __init__(
        self,
        items: np.ndarray,
        threshold: float,
        item_block: int = ITEM_BLOCK,
        device: str | torch.device = "cpu",
    ):
        self.items, self.threshold, self.item_block = items, threshold, item_block
        self.device = torch.device(device)
        step = max(1, len(items) // MAX_BASIS_ROWS)
        sample = np.array(items[::step][:MAX_BASIS_ROWS], dtype=np.float64)
        num_dims = min(NUM_BOUND_DIMS - 1, items.shape[1])
        self.basis = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :num_dims]
        blocks = range(0, len(items), item_block)
        self.bounds = torch.cat([self._bound(items[start : start + item_block]) for start in blocks])

    def _bound(self, block: np.ndarray) -> torch.Tensor:
        """The shorter vectors of some items."""
        rows = np.asarray(block, dtype=np.float64)
        coordinates = rows @ self.basis
        rest = np.sqrt(np.maximum(np.square(rows).sum(axis=1) - np.square(coordinates).sum(axis=1), 0))
        return torch.from_numpy(np.column_stack([coordinates, rest]).astype(np.float32)).to(self.device)

    def of_rows(self, start: int, end: int) -> dict[str, np.ndarray]:
        """Pairs of the items `start` to `end - 1`, each with a later item.

        Returns:
            `left`, `right` and `cosine`, each `(num_pairs,)`, in ascending order of left and right.
        """
        found = []
        for first in range(start // self.item_block * self.item_block, len(self.items), self.item_block):
            bounds = self.bounds[start:end] @ self.bounds[first : first + self.item_block].T
            least = self.threshold - ROUNDING
            rows = torch.nonzero(bounds.amax(dim=1) >= least)[:, 0]
            hits = torch.nonzero(bounds[rows] >= least)
            found.append(torch.stack([rows[hits[:, 0]] + start, hits[:, 1] + first], dim=1).cpu().numpy())
        left, right = np.concatenate(found).T if found else np.zeros((2, 0), dtype=np.int64)
        left, right = left[left < right], right[left < right]
        cosines = [np.zeros(0)]
        for first in range(0, len(left), self.item_block):
            pair = slice(first, first + self.item_block)
            cosines.append(pair_cosines(np.asarray(self.items[left[pair]]), np.asarray(self.items[right[pair]])))
        cosine = np.concatenate(cosines)
        is_similar = cosine >= self.threshold
        left, right, cosine = left[is_similar], right[is_similar], cosine[is_similar]
        order = np.lexsort((right, left))
        return {"left": left[order], "right": right[order], "cosine": cosine[order]}


class SimilarPassages:
    """Finds all pairs of recordings of which a query of one and an item of the other are similar.

    Args:
        queries: unit rows `(Q, dim)`; may be a memory-mapped file.
        query_owners: `(Q,)`.
        items: unit rows `(N, dim)`; may be a memory-mapped file.
        item_owners: `(N,)`.
        threshold: the smallest cosine.
        item_block: items at a time.
    """

    def __init__(
        self,
        queries: np.ndarray,
        query_owners: np.ndarray,
        items: np.ndarray,
        item_owners: np.ndarray,
        threshold: float,
        item_block: int = ITEM_BLOCK,
    ):
        self.queries, self.query_owners, self.items, self.item_owners = queries, query_owners, items, item_owners
        self.threshold, self.item_block = threshold, item_block

    def of_rows(self, start: int, end: int) -> dict[str, np.ndarray]:
        """Pairs that the queries `start` to `end - 1` are in.

        Returns:
            `left`, `right` and `cosine`, each `(num_pairs,)`, the numbers of the recordings and the highest cosine, in
            ascending order of left and right; `nearest`, `(end - start,)`, the highest cosine of each query with an
            item of another recording, -inf for silence.
        """
        queries, owners = np.array(self.queries[start:end]), self.query_owners[start:end]
        nearest, pairs, cosines = np.full(len(queries), -np.inf), [np.zeros((2, 0), dtype=np.int64)], [np.zeros(0)]
        for first in range(0, len(self.items), self.item_block):
            items = np.array(self.items[first : first + self.item_block])
            item_owners = self.item_owners[first : first + self.item_block]
            products = (torch.from_numpy(queries) @ torch.from_numpy(items).T).numpy()
            products[owners[:, None] == item_owners[None]] = -np.inf
            nearest = np.maximum(nearest, products.max(axis=1))
            query, item = np.nonzero(products >= self.threshold - ROUNDING)
            exact = pair_cosines(queries[query], items[item])
            is_similar = exact >= self.threshold
            pairs.append(np.sort([owners[query[is_similar]], item_owners[item[is_similar]]], axis=0))
            cosines.append(exact[is_similar])
        left, right = np.concatenate(pairs, axis=1)
        left, right, cosine = strongest_pairs(left, right, np.concatenate(cosines))
        nearest[~queries.any(axis=1)] = -np.inf
        return {"left": left, "right": right, "cosine": cosine, "nearest": nearest}


def strongest_pairs(
    left: np.ndarray, right: np.ndarray, cosine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair once, with its highest cosine, in ascending order of left and right."""
    order = np.lexsort((-cosine, right, left))
    left, right, cosine = left[order], right[order], cosine[order]
    is_first = np.ones(len(left), dtype=bool)
    is_first[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return left[is_first], right[is_first], cosine[is_first]


def in_blocks(
    num_rows: int,
    compute: Callable[[int, int], dict[str, np.ndarray]],
    folder: Path,
    block_size: int = QUERY_BLOCK,
    process_index: int = 0,
    num_processes: int = 1,
) -> None:
    """Computes this process's share of a search block by block and stores the blocks; existing ones are skipped.

    Args:
        num_rows: of the whole search.
        compute: called with the first row of a block and the row after its last; returns arrays by name.
        folder: for the results of this search only; created if necessary.
        block_size: rows in a block.
        process_index: number of this process, in [0, num_processes).
        num_processes: number of processes that share the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, num_rows, block_size)[process_index::num_processes]:
        end = min(start + block_size, num_rows)
        cached_arrays(folder / f"{start:012d}.safetensors", functools.partial(compute, start, end))


def join_blocks(folder: Path) -> dict[str, np.ndarray]:
    """Joins the stored blocks of a complete search."""
    blocks = [load_file(path) for path in sorted(folder.glob("[0-9]*.safetensors"))]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def group_pairs(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of items that are connected by pairs; each ascending, in the order of their first items."""
    parent: dict[int, int] = {}

    def root(item: int) -> int:
        while parent.setdefault(item, item) != item:
            parent[item] = item = parent[parent[item]]
        return item

    for left, right in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for item in sorted(parent):
        groups.setdefault(root(item), []).append(item)
    return sorted(groups.values())


def choose_threshold(others: Sequence[float], max_false_positives: float = MAX_FALSE_POSITIVES) -> float:
    """The lowest cosine that at most a given share of music reaches which is known not to be copied.

    Args:
        others: nearest cosines of this music.
        max_false_positives: the share, in [0, 1).

    Raises:
        ValueError: `others` is empty.
    """
    if not len(others):
        raise ValueError("A threshold needs music that is known not to be a copy.")
    ordered = np.sort(np.asarray(others, dtype=np.float64))[::-1]
    return float(np.nextafter(ordered[int(max_false_positives * len(ordered))], np.inf))


def detection_rate(scores: Sequence[float], threshold: float) -> dict[str, float | int]:
    """Share of scores that reach a threshold, with Wilson's 95 % interval: `rate`, `low`, `high`, `num`."""
    num = len(scores)
    rate = float(np.mean(np.asarray(scores) >= threshold)) if num else 0.0
    if not num:
        return {"rate": rate, "low": 0.0, "high": 1.0, "num": 0}
    center, width = rate + Z_95**2 / (2 * num), Z_95 * math.sqrt(rate * (1 - rate) / num + Z_95**2 / (4 * num**2))
    scale = 1 + Z_95**2 / num
    low, high = (center - width) / scale, (center + width) / scale
    return {"rate": rate, "low": max(low, 0.0), "high": min(high, 1.0), "num": num}


def area_under_curve(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Share of pairs with one value of each in which the first is higher; ties count half."""
    first, second = np.asarray(higher, dtype=np.float64)[:, None], np.asarray(lower, dtype=np.float64)[None, :]
    return float(np.mean((first > second) + 0.5 * (first == second)))
