"""How long the exact searches of `stable-longform analyze memorization` take, and how much memory.

    python benchmarks/memorization_search.py --num_items 800000 --folder /tmp/search

Items are random directions in 512 dimensions whose variance falls as 1/n, as that of embeddings does; a hundred of
them are there twice, slightly changed, and must be found. `--share` searches only some of the rows, and the time of
all is computed from it.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from stable_longform.analysis.memorization import QUERY_BLOCK, SimilarPairs, nearest_items, unit_rows
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.scripts import run_main

DIM, NUM_TWICE, CHANGE, THRESHOLD, NUM_QUERIES, BLOCK = 512, 100, 0.002, 0.97, 1000, 16384


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_items", type=int, default=200000)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows whose pairs are searched, in (0, 1]")
    parser.add_argument("--folder", type=Path, required=True, help="for the file of items, 2 KB each")
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1 or arguments.num_items < 2 * NUM_TWICE:
        raise ValueError(f"share must be in (0, 1], num_items at least {2 * NUM_TWICE}; got {vars(arguments)}.")
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    items = make_items(arguments.folder / "items.npy", arguments.num_items)
    rows, count = [], len(items)

    def measure(name: str, work, scale: float = 1.0):
        start = time.process_time()
        result = work()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append([name, f"{(time.process_time() - start) * scale:.1f} s", f"{memory:.2f} GiB"])
        return result

    search = measure("shorter vectors of all items", lambda: SimilarPairs(items, THRESHOLD))
    blocks = [(start, min(start + QUERY_BLOCK, count)) for start in range(0, count, QUERY_BLOCK)]
    chosen = blocks[: max(1, round(arguments.share * len(blocks)))]
    scale = sum(count - start for start, _ in blocks) / sum(count - start for start, _ in chosen)
    pairs = measure("all pairs above 0.97", lambda: [search.of_rows(*block) for block in chosen], scale)
    index, _ = measure("nearest items of 1000 queries", lambda: nearest_items(np.array(items[:NUM_QUERIES]), items, 2))
    if not (index[:NUM_TWICE, 1] == count - 1 - np.arange(NUM_TWICE)).all():
        raise ValueError("A planted copy was not found.")
    print(markdown_table((f"{count} items", "processor time", "peak memory"), rows))
    print(
        f"{sum(len(found['left']) for found in pairs)} pairs found, of {NUM_TWICE} planted; {scale:.2f} is the scale."
    )


def make_items(path: Path, count: int) -> np.ndarray:
    """Writes the items block by block; returns the mapped file."""
    rng, scale = np.random.default_rng(0), 1 / np.sqrt(1 + np.arange(DIM, dtype=np.float32))
    items = np.lib.format.open_memmap(path, "w+", np.float32, (count, DIM))
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        items[start : start + size] = unit_rows(rng.standard_normal((size, DIM), dtype=np.float32) * scale)
    for number in range(NUM_TWICE):
        noise = CHANGE * rng.standard_normal((1, DIM))
        items[count - 1 - number] = unit_rows(items[number : number + 1] + noise)
    items.flush()
    del items
    return np.load(path, mmap_mode="r")


if __name__ == "__main__":
    run_main(main)
