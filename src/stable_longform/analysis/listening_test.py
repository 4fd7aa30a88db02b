"""The plan of a listening test: the questions, and the order of the stimuli for each listener. Paper: §4.2, Table 4.

A test has parts, one for each length of music (the paper's are 2m and 4m45s). In a part, every listener rates every
system's version of every prompt, one after the other, and compares pairs of versions of the same prompt. Some ratings
are repeated at the end of a part, to detect inattentive listeners.

The order is balanced over listeners. Prompts are rotated. The systems of a prompt follow a Williams square, in which
each is equally often at each position and after each other system. Listeners and systems have anonymous ids of letters
and digits only: webMUSHRA posts its results without encoding them, and pymushra converts any text that looks like a
number.

References: Williams, "Experimental designs balanced for the estimation of residual effects of treatments" (Australian
Journal of Scientific Research, 1949).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

SCALE = ("bad", "poor", "fair", "good", "excellent")  # 1 ... 5
STEREO = "stereo_correctness"
# Name and text for the listener. All are rated from 1 to 5 except the last, which is answered by yes or no.
QUESTIONS = {
    "audio_quality": "How good is the audio quality?",
    "text_alignment": "How well does the music match the text?",
    "musical_structure": "How good is the musical structure, from beginning to end?",
    "musicality": "How musical is it, in melody, harmony and rhythm?",
    STEREO: "Is the stereo image correct?",
}
PREFERENCE = "preference"
CHOICES = ("a", "b", "equal")
AGAIN = "_again"
SAFE_TEST_ID = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


@dataclass(frozen=True)
class Stimulus:
    """A system's version of a prompt, in one part of the test.

    Args:
        id: does not reveal the system.
        part: name of the part.
        prompt_id: id of the prompt.
        system: name of the system.
    """

    id: str
    part: str
    prompt_id: str
    system: str


def check_test_id(test_id: str) -> None:
    """Raises a ValueError unless a test's id survives webMUSHRA and file names."""
    if not SAFE_TEST_ID.fullmatch(test_id) or len(test_id) > 40:
        raise ValueError(
            f"The test's id must be up to 40 small letters, digits, and single - or _ between them, got {test_id!r}."
        )


def stimulus_id(seed: int, part: str, prompt_id: str, system: str) -> str:
    """An id of eleven letters and digits, the first a letter, that does not reveal the system."""
    digest = hashlib.sha256("\0".join((str(seed), part, prompt_id, system)).encode()).hexdigest()
    return f"s{digest[:10]}"


def allowed_answers(question: str) -> tuple[str, ...]:
    """The answers to a question, as text."""
    if question == PREFERENCE:
        return CHOICES
    return ("yes", "no") if question == STEREO else tuple(str(value) for value in range(1, len(SCALE) + 1))


def williams_square(num_items: int) -> list[list[int]]:
    """Orders of items in which each is equally often at each position, and directly after each other item.

    Returns:
        As many orders as items if their number is even, twice as many if it is odd.
    """
    first, low, high = [], 0, num_items - 1
    for place in range(num_items):
        first.append(low if place % 2 == 0 else high)
        low, high = (low + 1, high) if place % 2 == 0 else (low, high - 1)
    orders = [[(item + shift) % num_items for item in first] for shift in range(num_items)]
    return orders + [order[::-1] for order in orders] if num_items % 2 else orders


def rating_order(stimuli: Sequence[Stimulus], listener: int, num_repeats: int) -> list[str]:
    """Ids of the trials in which a listener rates the stimuli of one part.

    Args:
        stimuli: of the part, in a fixed order.
        listener: number of the listener, from 1.
        num_repeats: number of stimuli from the beginning that are rated again at the end.
    """
    prompts = list(dict.fromkeys(stimulus.prompt_id for stimulus in stimuli))
    shift = (listener - 1) % len(prompts)
    trials = []
    for place, prompt in enumerate(prompts[shift:] + prompts[:shift]):
        versions = [stimulus for stimulus in stimuli if stimulus.prompt_id == prompt]
        orders = williams_square(len(versions))
        trials += [versions[index].id for index in orders[(listener - 1 + place) % len(orders)]]
    return trials + [f"{trial}{AGAIN}" for trial in trials[: min(num_repeats, len(trials))]]


def pair_order(stimuli: Sequence[Stimulus], listener: int, num_pairs: int) -> list[tuple[str, str]]:
    """Pairs of stimuli of the same prompt that a listener compares in one part, each as (A, B).

    All pairs are used in turn over prompts and listeners; every second listener hears them in reverse order.
    """
    pairs = [
        (first.id, second.id)
        for number, first in enumerate(stimuli)
        for second in stimuli[number + 1 :]
        if first.prompt_id == second.prompt_id
    ]
    count = min(num_pairs, len(pairs))
    start = (listener - 1) // 2 * count
    chosen = [pairs[(start + place) % len(pairs)] for place in range(count)]
    return [pair if (listener + place) % 2 else pair[::-1] for place, pair in enumerate(chosen)]
