"""Simulates listeners with known preferences in a listening test: does the score recover these preferences?

    stable-longform listening-test build real=real ours=generated --prompts prompts.jsonl -o test
    python benchmarks/simulated_listeners.py --test test --means real=4.5 ours=3.0 --output_dir simulated

Every listener answers all trials. Ratings are distributed around the system's mean, with a standard deviation of half
a step and a bias of the listener; repeated ratings differ from the first by at most one step. The choice in pairs
depends on the systems' strengths, which are the means minus their average. `--num_careless` of the listeners answer at
random. The answers are written to `results/` in the format of the page; the table is that of `stable-longform
listening-test score`. No human took part.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stable_longform.analysis.listening_test import (
    AGAIN,
    PREFERENCE,
    QUESTIONS,
    STEREO,
    Stimulus,
    pair_order,
    rating_order,
    stimulus_id,
)
from stable_longform.analysis.listening_test_results import PAGE_COLUMNS, Answer
from stable_longform.evaluation.listening_test import score_test
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

MEANS = {"real": 4.5, "ours": 3.5, "baseline": 2.2}
STRENGTHS = {"real": 1.0, "ours": 0.0, "baseline": -1.0}


def main() -> None:
    """Writes the answers and prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--test", type=Path, required=True, help="folder of the test")
    parser.add_argument(
        "--means", nargs="+", required=True, metavar="SYSTEM=RATING", help="mean rating of each system, 1 to 5"
    )
    parser.add_number(
        "--num_careless",
        Range(0, 10**4),
        default=2,
        help="number of listeners who answer at random; they are the last ones",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the answers and the report")
    arguments = parser.parse_args()
    key = json.loads((arguments.test / "key.json").read_text(encoding="utf-8"))
    stimuli = {
        name: Stimulus(name, *(values[field] for field in ("part", "prompt_id", "system")))
        for name, values in key["stimuli"].items()
    }
    means = read_means(arguments.means, {stimulus.system for stimulus in stimuli.values()})
    average = sum(means.values()) / len(means)
    strengths = {system: mean - average for system, mean in means.items()}
    results = arguments.output_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    first_careless = len(key["listeners"]) - arguments.num_careless
    for number, (listener, trials) in enumerate(key["listeners"].items()):
        answers = answer_trials(trials, stimuli, int(listener), means, strengths, number >= first_careless)
        write_answers(results / f"{listener}.csv", key["settings"]["test_id"], answers)
    score_test(arguments.test / "key.json", [results], arguments.output_dir)
    print("Simulated listeners; no human took part.\n")
    print((arguments.output_dir / "table.md").read_text(encoding="utf-8"), end="")


def read_means(specs: Sequence[str], systems: set[str]) -> dict[str, float]:
    """Ratings by system, from `SYSTEM=RATING`.

    Raises:
        ValueError: a rating is outside 1 to 5, or the systems are not those of the test.
    """
    means = {}
    for spec in specs:
        name, _, text = spec.partition("=")
        try:
            means[name] = float(text)
        except ValueError:
            means[name] = np.nan
        if not 1 <= means[name] <= 5:
            raise ValueError(f"--means takes SYSTEM=RATING with ratings from 1 to 5, got {spec!r}.")
    if set(means) != systems:
        raise ValueError(f"--means must name {', '.join(sorted(systems))}, got {', '.join(sorted(means))}.")
    return means


def make_stimuli(num_prompts: int = 6, part: str = "2m") -> list[Stimulus]:
    """All stimuli of a part by the systems of `MEANS`."""
    return [
        Stimulus(stimulus_id(0, part, str(prompt), system), part, str(prompt), system)
        for prompt in range(num_prompts)
        for system in MEANS
    ]


def answers_of(stimuli: Sequence[Stimulus], listener: int, careless: bool = False, num_pairs: int = 9) -> list[Answer]:
    """All answers of a listener about the stimuli of one part, with `MEANS` and `STRENGTHS`."""
    pairs = ["_".join(pair) for pair in pair_order(stimuli, listener, num_pairs)]
    trials = rating_order(stimuli, listener, 2) + pairs
    by_id = {stimulus.id: stimulus for stimulus in stimuli}
    return list(answer_trials(trials, by_id, listener, MEANS, STRENGTHS, careless))


def answer_trials(
    trials: Sequence[str],
    stimuli: Mapping[str, Stimulus],
    listener: int,
    means: Mapping[str, float],
    strengths: Mapping[str, float],
    careless: bool = False,
) -> Iterator[Answer]:
    """A listener's answers to trials: ids of stimuli, some of them `AGAIN`, and of pairs, `A_B`."""
    rng, first = np.random.default_rng(listener), {}
    bias = rng.normal(0, 0.2)
    for trial in trials:
        if trial not in stimuli and not trial.endswith(AGAIN):
            odds = np.subtract(*(strengths[stimuli[name].system] for name in trial.split("_")))
            is_first = rng.random() < (0.5 if careless else 1 / (1 + np.exp(-odds)))
            choice = "equal" if rng.random() < 0.1 else "a" if is_first else "b"
            yield Answer(str(listener), trial, PREFERENCE, choice)
            continue
        stimulus = stimuli[trial.removesuffix(AGAIN)]
        for question in QUESTIONS:
            key = (stimulus.id, question)
            if careless:
                value = int(rng.integers(1, 6))
            elif key in first:
                value = int(np.clip(first[key] + rng.choice([-1, 0, 0, 0, 1]), 1, 5))
            else:
                value = int(np.clip(round(means[stimulus.system] + bias + rng.normal(0, 0.5)), 1, 5))
            first.setdefault(key, value)
            answer = str(value) if question != STEREO else "yes" if rng.random() < means[stimulus.system] / 5 else "no"
            yield Answer(str(listener), trial, question, answer)


def write_answers(path: Path, test_id: str, answers: Sequence[Answer]) -> None:
    """Writes answers in the format of the page."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(PAGE_COLUMNS)
        for answer in answers:
            writer.writerow([test_id, answer.listener, answer.trial_id, answer.question, answer.answer, 40.0, 60000])


if __name__ == "__main__":
    run_main(main)
