"""Descriptions of pieces in natural language."""

import random

from stable_longform.data.composition.piece import Piece

SLOW_BPM, FAST_BPM = 88, 124
TEMPLATES = (
    "{article} {moods} {genre} piece with {instruments}.",
    "{Moods} {genre} in {key} at {bpm} beats per minute.",
    "{Tempo} {genre} for {instruments}.",
    "{article} {tempo}, {moods} {genre} track in {key}.",
    "{Genre} with {instruments}, {moods}.",
    "{Moods} {genre} led by {lead}.",
)


def describe_in_words(piece: Piece) -> str:
    """A sentence about a piece, one of several forms, drawn from its seed."""
    if piece.description is not None:
        return piece.description
    assert piece.genre is not None  # only single sounds have none, and they have a description
    instruments = [name.lower() for name in piece.instruments]
    if piece.kind == "stem":
        return f"Solo {instruments[0]}, {piece.genre.lower()}."
    assert piece.key is not None
    tempo = "slow" if piece.bpm < SLOW_BPM else "fast" if piece.bpm >= FAST_BPM else "mid-tempo"
    moods = ", ".join(mood.lower() for mood in piece.moods)
    template = random.Random(f"description {piece.seed}").choice(TEMPLATES)
    first_word = tempo if template.startswith("{article} {tempo}") else moods
    return template.format(
        article="An" if first_word[0] in "aeiou" else "A",
        genre=piece.genre.lower(),
        Genre=piece.genre,
        moods=moods,
        Moods=moods.capitalize(),
        tempo=tempo,
        Tempo=tempo.capitalize(),
        instruments=_enumerate(instruments),
        lead=instruments[0],
        key=piece.key.name,
        bpm=piece.bpm,
    )


def _enumerate(names: list[str]) -> str:
    """For instance "piano, bass guitar and drums"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
