"""The plan of a listening test: balance over listeners, and ids that survive other tools."""

from collections import Counter
from itertools import pairwise

import pytest

from stable_longform.analysis.listening_test import (
    AGAIN,
    Stimulus,
    check_test_id,
    pair_order,
    rating_order,
    stimulus_id,
    williams_square,
)

SYSTEMS, PROMPTS = ("real", "ours", "baseline"), ("p1", "p2", "p3", "p4")
STIMULI = [
    Stimulus(stimulus_id(0, "2m", prompt, system), "2m", prompt, system) for prompt in PROMPTS for system in SYSTEMS
]
BY_ID = {stimulus.id: stimulus for stimulus in STIMULI}


@pytest.mark.parametrize("num_items", range(1, 8))
def test_williams_squares_balance_places_and_neighbors(num_items):
    orders = williams_square(num_items)
    assert len(orders) == (2 * num_items if num_items % 2 else num_items)
    places = Counter((place, item) for order in orders for place, item in enumerate(order))
    assert len(places) == num_items**2 and len(set(places.values())) == 1
    neighbors = Counter(pair for order in orders for pair in pairwise(order))
    assert len(neighbors) == num_items * (num_items - 1) and len(set(neighbors.values())) <= 1


def test_every_listener_rates_everything_once_and_repeats_the_first_ones():
    for listener in (1, 2, 17):
        trials = rating_order(STIMULI, listener, 2)
        assert sorted(trials[:12]) == sorted(BY_ID)
        assert trials[12:] == [f"{trial}{AGAIN}" for trial in trials[:2]]


def test_places_are_balanced_over_listeners():
    counts = Counter(
        (place, BY_ID[trial].system, BY_ID[trial].prompt_id)
        for listener in range(1, 13)
        for place, trial in enumerate(rating_order(STIMULI, listener, 0))
    )
    systems = Counter()
    for (place, system, _), count in counts.items():
        systems[place % 3, system] += count
    assert set(systems.values()) == {16}
    prompts = Counter()
    for (place, _, prompt), count in counts.items():
        prompts[place // 3, prompt] += count
    assert set(prompts.values()) == {9}


def test_pairs_are_of_one_prompt_and_balanced():
    heard = Counter()
    for listener in range(1, 25):
        for first, second in pair_order(STIMULI, listener, 3):
            assert BY_ID[first].prompt_id == BY_ID[second].prompt_id
            heard[first, second] += 1
    assert len(heard) == 24 and set(heard.values()) == {3}
    assert pair_order(STIMULI[:1], 1, 3) == []


def test_ids_survive_webmushra_and_pymushra():
    for stimulus in STIMULI:
        assert stimulus.id.isalnum() and stimulus.id.isascii() and stimulus.id.islower()
        with pytest.raises(ValueError):
            float(stimulus.id)
    assert stimulus_id(1, "2m", "p1", "real") != stimulus_id(0, "2m", "p1", "real")
    for good in ("test", "my-test_2"):
        check_test_id(good)
    for bad in ("", "Test", "a b", "a&b", "a--b", "1test", "täst", "x" * 41):
        with pytest.raises(ValueError, match="small letters"):
            check_test_id(bad)
