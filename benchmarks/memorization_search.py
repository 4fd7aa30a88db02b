"""Time and memory of the exact searches in `stable-longform analyze memorization`.

    python benchmarks/memorization_search.py --num_items 800000 --folder search

Items are random directions in 512 dimensions whose variance falls as 1/n, like that of embeddings. A hundred of them
have slightly changed copies, which must be found. One process searches all pairs. Then every other block of its result
is deleted, as after an interruption, and two processes compute the missing blocks; the result must be the same. With
`--share`, only some of the rows are searched, and the total time is extrapolated.
"""

import math
import multiprocessing
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from timing import machine, print_table

from stable_longform.analysis.memorization import (
    QUERY_BLOCK,
    SimilarPairs,
    in_blocks,
    join_blocks,
    nearest_items,
    unit_rows,
)
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

DIM, NUM_TWICE, CHANGE, THRESHOLD, NUM_QUERIES, BLOCK = 512, 100, 0.002, 0.97, 1000, 16384
HEADER = ("search", "processor time", "peak memory of a process")


def main() -> None:
    """Prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_number("--num_items", Range(2 * NUM_TWICE, 10**8), default=200000, help="number of embeddings")
    parser.add_number(
        "--share", Range(0, 1, above=True), kind=float, default=1.0, help="share of the rows in the search for pairs"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder for the file of embeddings, 2 KB each")
    arguments = parser.parse_args()
    folder, count = arguments.folder, arguments.num_items
    for name in ("one", "two"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    items = folder / "items.npy"
    make_items(items, count)
    num_rows = min(count, math.ceil(arguments.share * count / QUERY_BLOCK) * QUERY_BLOCK)
    searched = sum(count - row for row in range(num_rows)) / sum(count - row for row in range(count))
    rows = []

    def measure(name: str, function, calls: list[tuple], setup: float = 0.0, scale: float = 1.0) -> list:
        """Calls a function in new processes, all at the same time; `setup` seconds of each do not scale."""
        with ProcessPoolExecutor(len(calls), multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(costs, function, *call) for call in calls]
            results, seconds, memory = zip(*(future.result() for future in futures), strict=True)
        total = sum(setup + (value - setup) * scale for value in seconds)
        rows.append((name, f"{total:.0f} s", f"{max(memory):.2f} GiB"))
        return [*results, total]

    setup = measure("shorter vectors of all items", search_pairs, [(items, 0, folder / "one", 0, 1)])[-1]
    one = [(items, num_rows, folder / "one", 0, 1)]
    measure("all pairs above 0.97, one process", search_pairs, one, setup, 1 / searched)
    whole = join_blocks(folder / "one")
    shutil.copytree(folder / "one", folder / "two")
    for block in sorted((folder / "two").iterdir())[1::2]:
        block.unlink()
    calls = [(items, num_rows, folder / "two", process, 2) for process in range(2)]
    measure("what half of its blocks held, two processes", search_pairs, calls, setup, 1 / searched)
    again = join_blocks(folder / "two")
    if any((whole[name] != again[name]).any() for name in whole):
        raise ValueError("Two processes found other pairs than one.")
    nearest, _ = measure("nearest items of 1000 queries", search_nearest, [(items,)])
    if not (nearest == count - 1 - np.arange(NUM_TWICE)).all():
        raise ValueError("A planted copy was not found.")
    print(f"{count} items of {DIM} dimensions, {searched:.0%} of the pairs searched; {machine('cpu')}\n")
    print_table(HEADER, rows)
    print(f"{len(whole['left'])} pairs found, of {NUM_TWICE} planted; the same by one process and by two.")


def costs(function, *arguments) -> tuple:
    """What a function returns, its processor seconds, and the largest memory of this process in GiB."""
    torch.set_num_threads(1)
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def search_pairs(items: Path, num_rows: int, folder: Path, process: int, num_processes: int) -> None:
    """Searches one process's share of the pairs of the first rows and stores them in a folder."""
    search = SimilarPairs(np.load(items, mmap_mode="r"), THRESHOLD)
    in_blocks(num_rows, search.of_rows, folder, QUERY_BLOCK, process, num_processes)


def search_nearest(items: Path) -> np.ndarray:
    """The nearest other items of those that have copies."""
    mapped = np.load(items, mmap_mode="r")
    return nearest_items(np.array(mapped[:NUM_QUERIES]), mapped, 2)[0][:NUM_TWICE, 1]


def make_items(path: Path, count: int) -> None:
    """Writes the items block by block."""
    rng, scale = np.random.default_rng(0), 1 / np.sqrt(1 + np.arange(DIM, dtype=np.float32))
    items = np.lib.format.open_memmap(path, "w+", np.float32, (count, DIM))
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        items[start : start + size] = unit_rows(rng.standard_normal((size, DIM), dtype=np.float32) * scale)
    for number in range(NUM_TWICE):
        noise = CHANGE * rng.standard_normal((1, DIM))
        items[count - 1 - number] = unit_rows(items[number : number + 1] + noise)
    items.flush()


if __name__ == "__main__":
    run_main(main)
