"""Listeners whose preferences are known."""

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
from stable_longform.analysis.listening_test_results import Answer

MEANS = {"real": 4.5, "ours": 3.5, "baseline": 2.2}
STRENGTHS = {"real": 1.0, "ours": 0.0, "baseline": -1.0}


def make_stimuli(num_prompts=6, part="2m"):
    """All stimuli of a part."""
    return [
        Stimulus(stimulus_id(0, part, str(prompt), system), part, str(prompt), system)
        for prompt in range(num_prompts)
        for system in MEANS
    ]


def answers_of(stimuli, listener, careless=False, num_pairs=9):
    """All answers of a listener: ratings about the system's mean, or at random; pairs after the strengths."""
    rng, by_id, answers, first = np.random.default_rng(listener), {s.id: s for s in stimuli}, [], {}
    bias = rng.normal(0, 0.2)
    for trial in rating_order(stimuli, listener, 2):
        stimulus = by_id[trial.removesuffix(AGAIN)]
        for question in QUESTIONS:
            key = (stimulus.id, question)
            if careless:
                value = int(rng.integers(1, 6))
            elif key in first:
                value = int(np.clip(first[key] + rng.choice([-1, 0, 0, 0, 1]), 1, 5))
            else:
                value = int(np.clip(round(MEANS[stimulus.system] + bias + rng.normal(0, 0.5)), 1, 5))
            first.setdefault(key, value)
            answer = str(value) if question != STEREO else "yes" if rng.random() < MEANS[stimulus.system] / 5 else "no"
            answers.append(Answer(str(listener), trial, question, answer))
    for pair in pair_order(stimuli, listener, num_pairs):
        odds = STRENGTHS[by_id[pair[0]].system] - STRENGTHS[by_id[pair[1]].system]
        choice = "equal" if rng.random() < 0.1 else "a" if rng.random() < 1 / (1 + np.exp(-odds)) else "b"
        answers.append(Answer(str(listener), "_".join(pair), PREFERENCE, choice))
    return answers
