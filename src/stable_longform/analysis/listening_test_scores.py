"""Table 4 of a listening test: mean and deviation of ratings, stereo correctness, preferences, with intervals.

The 95 % intervals are for the choice of listeners, who are resampled with replacement because the ratings of one
listener are similar. A listener whose repeated ratings differ too much is excluded.

References: Bradley and Terry, "Rank analysis of incomplete block designs" (Biometrika, 1952); Hunter, "MM algorithms
for generalized Bradley-Terry models" (Annals of Statistics, 2004).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stable_longform.analysis.listening_test import AGAIN, PREFERENCE, QUESTIONS, STEREO
from stable_longform.analysis.listening_test_results import Answer
from stable_longform.utils.bootstrap import bootstrap_interval

MAX_REPEAT_DIFFERENCE = 1.0  # steps of the scale, mean over repeated ratings; random answers differ by 1.6
MIN_REPEATS = 4  # listeners with fewer repeated ratings are not screened
PRIOR_COMPARISONS = 0.5  # for each pair of systems, half won by each: keeps the strength of a perfect winner finite
NUM_ITERATIONS = 1000
NUM_RESAMPLES = 1000


def repeat_differences(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean absolute difference between first and repeated rating, for each listener with at least four."""
    given = {(answer.listener, answer.trial_id, answer.question): answer.answer for answer in answers}
    differences: dict[str, list[float]] = {}
    for (listener, trial, question), answer in given.items():
        first = given.get((listener, trial.removesuffix(AGAIN), question))
        if trial.endswith(AGAIN) and first is not None and question not in (STEREO, PREFERENCE):
            differences.setdefault(listener, []).append(abs(int(answer) - int(first)))
    return {name: float(np.mean(found)) for name, found in differences.items() if len(found) >= MIN_REPEATS}


def screen_listeners(answers: Sequence[Answer], limit: float = MAX_REPEAT_DIFFERENCE) -> dict[str, str]:
    """The excluded listeners with the reasons."""
    return {
        listener: f"repeated ratings differ by {difference:.2f} on average, more than {limit:g}"
        for listener, difference in sorted(repeat_differences(answers).items())
        if difference > limit
    }


def rating_table(
    answers: Sequence[Answer],
    stimuli: Mapping[str, Mapping],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, dict]]]:
    """Mean, deviation, interval and counts of each question, by part and system.

    Args:
        answers: of the listeners that count; repeated ratings are ignored.
        stimuli: `part` and `system` of each, by id.
        num_resamples: draws of listeners.
        seed: of the draws.

    Returns:
        part → system → question → `mean`, `deviation`, `interval`, `num_ratings`, `num_listeners`. Stereo correctness
        is the percentage of yes.
    """
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for answer in answers:
        if answer.question in QUESTIONS and not answer.trial_id.endswith(AGAIN):
            stimulus = stimuli[answer.trial_id]
            value = 100.0 * (answer.answer == "yes") if answer.question == STEREO else float(answer.answer)
            group = groups.setdefault((stimulus["part"], stimulus["system"], answer.question), {})
            group.setdefault(answer.listener, []).append(value)
    table: dict = {}
    for (part, system, question), by_listener in sorted(groups.items()):
        table.setdefault(part, {}).setdefault(system, {})[question] = _summarize(
            list(by_listener.values()), num_resamples, seed
        )
    return table


def _summarize(by_listener: list[list[float]], num_resamples: int, seed: int) -> dict:
    """Mean and deviation over ratings, interval over listeners."""
    values = np.concatenate(by_listener)
    sums, counts = np.array([sum(found) for found in by_listener]), np.array([len(found) for found in by_listener])
    mean = float(values.mean())
    interval = bootstrap_interval(
        lambda drawn: sums[drawn].sum() / counts[drawn].sum(), mean, [len(by_listener)], num_resamples, seed
    )
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    sizes = {"num_ratings": len(values), "num_listeners": len(by_listener)}
    return {"mean": mean, "deviation": deviation, "interval": interval} | sizes


def preference_table(
    answers: Sequence[Answer],
    stimuli: Mapping[str, Mapping],
    num_resamples: int = NUM_RESAMPLES // 5,
    seed: int = 0,
) -> dict[str, dict]:
    """Bradley-Terry strengths of the systems of each part, from pairwise comparisons; ties count half for each.

    Returns:
        part → `strengths` (system → `strength`, the log odds against the mean system, and its `interval`), `wins`
        (system → system → number), `num_comparisons`, `num_listeners`.
    """
    comparisons: dict[str, dict[str, list[tuple[str, str, float]]]] = {}
    for answer in answers:
        if answer.question == PREFERENCE:
            first, second = (stimuli[name] for name in answer.trial_id.split("_"))
            share = {"a": 1.0, "b": 0.0, "equal": 0.5}[answer.answer]
            by_listener = comparisons.setdefault(first["part"], {})
            by_listener.setdefault(answer.listener, []).append((first["system"], second["system"], share))
    table = {}
    for part, by_listener in sorted(comparisons.items()):
        systems = sorted({name for found in by_listener.values() for pair in found for name in pair[:2]})
        wins = np.zeros((len(by_listener), len(systems), len(systems)))
        for number, found in enumerate(by_listener.values()):
            for winner, loser, share in found:
                row, column = systems.index(winner), systems.index(loser)
                wins[number, row, column] += share
                wins[number, column, row] += 1 - share
        strengths = bradley_terry(wins.sum(axis=0))
        table[part] = {
            "strengths": {
                name: {
                    "strength": float(strengths[place]),
                    "interval": bootstrap_interval(
                        lambda drawn, wins=wins, place=place: float(bradley_terry(wins[drawn].sum(axis=0))[place]),
                        float(strengths[place]), [len(by_listener)], num_resamples, seed,
                    ),
                }
                for place, name in enumerate(systems)
            },
            "wins": {
                name: dict(zip(systems, row, strict=True))
                for name, row in zip(systems, wins.sum(axis=0).tolist(), strict=True)
            },
            "num_comparisons": int(wins.sum()),
            "num_listeners": len(by_listener),
        }  # fmt: skip
    return table


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Log strengths with mean 0 that maximise the likelihood for P(i beats j) = exp(s_i) / (exp(s_i) + exp(s_j)).

    Args:
        wins: `(n, n)`, how often the row beat the column. Half a comparison of each pair is added.
    """
    wins = wins + PRIOR_COMPARISONS / 2
    np.fill_diagonal(wins, 0)
    totals, comparisons, strengths = wins.sum(axis=1), wins + wins.T, np.ones(len(wins))
    for _ in range(NUM_ITERATIONS):
        previous = strengths
        strengths = totals / (comparisons / (strengths[:, None] + strengths[None, :])).sum(axis=1)
        strengths = strengths / np.exp(np.log(strengths).mean())
        if np.abs(strengths - previous).max() < 1e-9:
            break
    return np.log(strengths)
