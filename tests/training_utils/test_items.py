"""Which items a training takes, and their random numbers."""

from pathlib import Path

import pytest
import torch

from stable_longform.data.listed_source import ListedSource
from stable_longform.data.tracks import Track
from stable_longform.training_utils.items import ItemOrder, item_generator, make_loader, seed_generators


def test_seeds_are_functions_of_seed_and_number():
    def draw(*arguments):
        seed_generators(*arguments)
        return float(torch.rand(()))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(*key) for key in [(1, 2), (1, 3), (2, 2), (0, 0), (2**40, 10**9)]}) == 5
    own = [float(torch.rand((), generator=item_generator(*key))) for key in [(1, 2), (1, 2), (1, 3), (2, 1)]]
    assert own[0] == own[1] and len({draw(1, 2), *own}) == 4


@pytest.mark.parametrize("batch_size, accumulation, num_processes", [(6, 1, 1), (3, 1, 2), (1, 2, 3), (2, 3, 1)])
def test_however_a_step_is_shared_it_takes_the_same_items(batch_size, accumulation, num_processes):
    orders = [ItemOrder(batch_size, accumulation, num_processes, index) for index in range(num_processes)]
    for step in (0, 7):
        taken = [number for micro in range(accumulation) for order in orders for number in order.numbers(step, micro)]
        assert taken == list(range(6 * step, 6 * step + 6))
    assert orders[0].items_per_step == 6 and orders[0].num_items(7) == 42


def test_another_number_of_processes_goes_on_with_the_next_item():
    before = ItemOrder(4, 1, 3)
    after = ItemOrder(4, 1, 2, 1, start_step=5, first_item=before.num_items(5))
    assert list(after.numbers(5)) == [64, 65, 66, 67]  # 60 to 63 are those of the other process
    assert after.num_items(6) == 68


def test_make_loader_gives_the_items_of_the_steps():
    tracks = [Track(Path(), 1.0, "train")]
    items = ListedSource(tracks).items(lambda track, rng: {"value": float(rng.random())})
    values = [item["value"] for item in items.take(6, 12)]
    order = ItemOrder(3, 2, start_step=2, first_item=12)
    loader = make_loader(items, order, 3, num_workers=0)
    batches = list(loader)
    assert [batch["item_numbers"] for batch in batches] == [[12, 13, 14], [15, 16, 17]]
    assert [batch["value"].tolist() for batch in batches] == [values[:3], values[3:]]
    assert list(make_loader(items, order, 1, num_workers=0)) == []
