"""Asked for against heard: what prompts and truth say, shares and chance, listeners, what is kept."""

import numpy as np
import pytest
import soundfile

from stable_longform.data.tracks import Track
from stable_longform.evaluation import control
from stable_longform.evaluation.control import (
    Asked,
    Heard,
    WordListeners,
    asked_by_prompt,
    asked_by_truth,
    listen,
    tempo_and_key_shares,
    vocabulary_of,
)
from stable_longform.metrics.embedders.features import AudioFeatures

RATE = 22050
PIECE = {"genre": ["House"], "instruments": ["Piano", "Drums"], "moods": ["Dark"], "bpm": 122, "key": "D# minor"}


def test_a_prompt_and_the_truth_that_it_was_made_of_say_the_same():
    expected = Asked(122.0, (3, "minor"), frozenset({"house"}), frozenset({"piano", "drums"}))
    assert asked_by_truth(PIECE) == expected
    vocabulary = vocabulary_of([Track("a.wav", 1.0, "train", metadata=PIECE)])
    assert vocabulary == {"genre": ["House"], "instruments": ["Drums", "Piano"], "moods": ["Dark"]}
    for prompt in (
        "GENRE: HOUSE|KEY: D# MINOR|BPM: 122|INSTRUMENTS: DRUMS, PIANO",
        "piano, house, eb minor, 122 bpm, drums",
    ):
        assert asked_by_prompt(prompt, vocabulary) == expected
    assert asked_by_prompt("dark", vocabulary) == Asked()
    assert asked_by_prompt("BPM: fast|Key: H minor|BPM: 0", {}) == Asked()


def heard(tempo=None, key=None):
    return Heard(tempo, key, None, None, 30.0, None)


def test_shares_of_tempo_and_key():
    asked = {"a": Asked(120.0, (9, "minor")), "b": Asked(80.0, (0, "major")), "c": Asked(100.0), "d": Asked()}
    found = {
        "a": heard(121.0, (0, "major")),
        "b": heard(160.0, (0, "major")),
        "c": heard(),
        "d": heard(100.0, (2, "minor")),
    }
    shares = tempo_and_key_shares(asked, found)
    assert shares["tempo within 4 %"].value == pytest.approx(1 / 3) and shares["tempo within 4 %"].num_files == 3
    assert shares["tempo, or an octave apart"].value == pytest.approx(2 / 3)
    assert (shares["key"].value, shares["key, or its relative"].value) == (0.5, 1.0)
    assert shares["key"].error == pytest.approx(0.5) and shares["key"].num_files == 2
    # The key heard in a is the one asked of b; that heard in b is the relative of a's.
    assert (shares["key"].by_chance, shares["key, or its relative"].by_chance) == (0.5, 1.0)
    assert all(share is None for share in tempo_and_key_shares({"d": Asked()}, found).values())


def test_chance_is_what_the_requests_of_others_would_give():
    """With two keys asked for and always one heard, half of all pairs are right, own and other alike."""
    asked = {f"{number}": Asked(key=(number % 2, "major")) for number in range(100)}
    found = {name: heard(key=(0, "major")) for name in asked}
    share = tempo_and_key_shares(asked, found)["key"]
    assert share.value == share.by_chance == pytest.approx(0.5)


class Texts:
    """Texts whose embedding counts the words that it knows; the tags are these words."""

    words = ("house", "jazz", "piano", "drums", "harp")

    def embed_text(self, texts):
        return np.array([[0.1 + (word in text) for word in self.words] for text in texts])


def make_pieces(num_items=60, seed=0, is_heard=True):
    """Features in which the words can be heard, as tags too, and what is asked for."""
    rng = np.random.default_rng(seed)
    features, asked = {}, {}
    for number in range(num_items):
        words = {*rng.choice(Texts.words[:2], 1), *rng.choice(Texts.words[2:], 2, replace=False)}
        presence = np.array([word in words for word in Texts.words]) * is_heard
        embeddings = (rng.normal(size=(3, 5)) + 5 * presence).astype(np.float32)
        features[f"{number}"] = {"musicnn_msd": AudioFeatures(embeddings, 4.0 * np.tile(presence, (3, 1)) - 2)}
        asked[f"{number}"] = Asked(
            None, None, frozenset(words & {*Texts.words[:2]}), frozenset(words & {*Texts.words[2:]})
        )
    return features, asked


def test_both_listeners_hear_what_is_there_and_nothing_else():
    listeners = WordListeners(*make_pieces(), Texts.words, Texts())
    assert set(listeners.ceilings) == {"genre, probe", "genre, tags", "instruments, probe", "instruments, tags"}
    assert all(share.value > 0.85 and share.by_chance == 0.5 for share in listeners.ceilings.values())
    good = listeners.shares(*make_pieces(seed=1))
    assert all(share.value > 0.85 and share.num_files == 60 for share in good.values())
    deaf = listeners.shares(*make_pieces(seed=2, is_heard=False))
    assert all(abs(share.value - 0.5) < 4 * share.error for share in deaf.values() if share.error > 0)
    features, asked = make_pieces(seed=3)
    no_genre = {name: Asked(instruments=item.instruments) for name, item in asked.items()}
    deaf_to_genre = WordListeners(features, no_genre, Texts.words, Texts()).shares(features, asked)
    assert deaf_to_genre["genre, probe"] is None and deaf_to_genre["instruments, probe"].value > 0.85
    silent = listeners.shares(features, {name: Asked() for name in asked})
    assert all(share is None for share in silent.values())


def test_estimates_are_kept_and_bad_files_named(tmp_path, make_audio, monkeypatch):
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", make_audio(8 * RATE, 2, RATE, number).T.numpy(), RATE)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    files = {path.stem: path for path in sorted(tmp_path.glob("*.wav"))}
    arguments = files, {"0": 5.5}, 6.0, tmp_path / "cache", "title"
    found, skipped = listen(*arguments)
    assert list(found) == ["0", "1"] and "unreadable" in skipped["bad"]
    assert found["0"].level_behind_in_db is not None and found["1"].level_behind_in_db is None
    assert (found["0"].duration_in_s, found["1"].duration_in_s) == (5.5, 6.0)
    assert all(isinstance(item.key, tuple) for item in found.values())
    assert all(0 <= item.partial_share <= 1 and 1 / 3 <= item.note_share <= 1 for item in found.values())
    monkeypatch.setattr(control, "_listen_to_file", lambda *_: pytest.fail("listened again"))
    del files["bad"]
    assert listen(*arguments) == (found, {})


def test_of_short_files_nothing_is_estimated(tmp_path, make_audio):
    soundfile.write(tmp_path / "a.wav", make_audio(4 * RATE, 2, RATE).T.numpy(), RATE)
    found, _ = listen({"a": tmp_path / "a.wav"}, {}, None, tmp_path / "cache", "title")
    assert found["a"] == Heard(None, None, None, None, 4.0, None)
