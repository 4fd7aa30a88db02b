"""Compares requested with estimated properties, for a folder of generations with their prompts.

The requests are parsed from the prompts (`data/prompt_parser.py`): tempo, key, genre, instruments. Tempo and key are
estimated from the audio (`metrics/tempo.py`, `metrics/key.py`). Genre and instruments are evaluated by a forced choice
between the own prompt and that of another generation, by two listeners: a probe fitted on music with known metadata
(`metrics/probe.py`), and MusiCNN's tags as texts (`metrics/tag_text.py`). Estimators make errors: their results on
music with known metadata are the ceiling. Chance is their result for the requests of other generations. In addition,
two properties are measured that prompts don't mention: that there are notes (`metrics/tonality.py`), and that the
music ends in time (`metrics/endings.py`).

Properties that are not requested, or cannot be estimated, are not in a share; every share has its number of files. Not
in the paper.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stable_longform.data.composition.theory import parse_key
from stable_longform.data.prompt_parser import parse_prompt, read_key
from stable_longform.data.prompts import prompt_fields, values_of
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import (
    Audio,
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    load_audio,
    to_channels,
)
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.metrics.endings import level_behind
from stable_longform.metrics.key import estimate_key, key_relation
from stable_longform.metrics.probe import Probe, cross_validated_scores
from stable_longform.metrics.prompt_wins import mean_and_error, win_shares
from stable_longform.metrics.tag_text import tag_probabilities, tag_text_matrix, tag_weights
from stable_longform.metrics.tempo import SAMPLING_RATE, estimate_tempo, tempo_relation
from stable_longform.metrics.tonality import note_share, partial_share
from stable_longform.utils.caches import cached_json

logger = logging.getLogger(__name__)

VERSION = 2  # of the cached estimates
MIN_DURATION_IN_S = 5.0  # shorter files are not estimated
MIN_RATE = 8000  # Hz; below it, too little of the band of notes is left
TAGGER = "musicnn_msd"
WORD_FIELDS = ("genre", "instruments")


@dataclass(frozen=True)
class Asked:
    """The content of a prompt or of metadata: tempo in BPM, key (tonic, mode), ...; None or empty if not specified."""

    tempo: float | None = None
    key: tuple[int, str] | None = None
    genre: frozenset[str] = frozenset()
    instruments: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Heard:
    """The estimates for a file; None if there is no estimate.

    Args:
        tempo: BPM.
        key: (tonic, mode).
        partial_share: share of the power in partials, see `metrics/tonality.py`.
        note_share: share of the power in the four strongest pitch classes, see `metrics/tonality.py`.
        duration_in_s: of the evaluated audio.
        level_behind_in_db: level after the requested end, see `metrics/endings.py`.
    """

    tempo: float | None
    key: tuple[int, str] | None
    partial_share: float | None
    note_share: float | None
    duration_in_s: float
    level_behind_in_db: float | None


@dataclass(frozen=True)
class Share:
    """How often the estimates agree with the requests, in a set of files.

    Args:
        value: mean over files, in [0, 1].
        error: standard error over files; NaN for a single file.
        num_files: number of evaluated files.
        by_chance: the value for the requests of the other files; 0.5 for a choice between two.
    """

    value: float
    error: float
    num_files: int
    by_chance: float


def asked_by_prompt(prompt: str, vocabulary: Mapping[str, Sequence[str]]) -> Asked:
    """The requests in a prompt; `vocabulary` as in `parse_prompt`."""
    return _make_asked(parse_prompt(prompt, vocabulary))


def asked_by_truth(metadata: Mapping) -> Asked:
    """The properties in the metadata of a composed piece, like those in a prompt made of all fields."""
    return _make_asked(prompt_fields(metadata))


def _make_asked(fields: Mapping[str, Sequence[str]]) -> Asked:
    """Reads the values of fields; invalid tempos and keys count as not requested."""
    tempo = next(iter(fields.get("bpm", ())), "")
    key = read_key(next(iter(fields.get("key", ())), ""))
    is_number = tempo.replace(".", "", 1).isdecimal() and float(tempo) > 0
    parsed = None if key is None else parse_key(key)
    words = {field: frozenset(word.casefold() for word in fields.get(field, ())) for field in WORD_FIELDS}
    tonic_and_mode = None if parsed is None else (parsed.tonic, parsed.mode)
    return Asked(float(tempo) if is_number else None, tonic_and_mode, **words)


def vocabulary_of(tracks: Sequence[Track]) -> dict[str, list[str]]:
    """The values of each field in the truth, for parsing untyped prompts."""
    return {
        field: sorted({word for track in tracks for word in values_of(track.metadata, field)})
        for field in (*WORD_FIELDS, "moods")
    }


def listen(
    files: Mapping[str, Path],
    ends_in_s: Mapping[str, float | None],
    excerpt_in_s: float | None,
    cache: Path,
    title: str,
) -> tuple[dict[str, Heard], dict[str, str]]:
    """Computes all estimates that need no network, once for each file.

    Args:
        files: by name.
        ends_in_s: the requested end of each file's music; None or missing: the end of the file.
        excerpt_in_s: number of first seconds for the estimation of tempo and key; None: all.
        cache: folder for the estimates.
        title: of the progress bar.

    Returns:
        The estimates by name, and the reasons for unusable files.
    """
    cache.mkdir(parents=True, exist_ok=True)
    heard, skipped = {}, {}
    for name, path in tqdm(files.items(), desc=title, unit="file"):
        end_in_s = ends_in_s.get(name)
        try:
            stored = cache / f"{audio_hash(path)}-{VERSION}-{excerpt_in_s}-{end_in_s}.json"
            heard[name] = _hear_once(path, stored, end_in_s, excerpt_in_s)
        except UnusableAudioError as error:
            logger.warning("%s is left out: %s", path, error)
            skipped[name] = str(error)
    return heard, skipped


def _hear_once(path: Path, stored: Path, end_in_s: float | None, excerpt_in_s: float | None) -> Heard:
    """Estimates of one file, from the cache if they are there."""
    values = cached_json(stored, lambda: asdict(_listen_to_file(path, end_in_s, excerpt_in_s)))
    return Heard(**values | {"key": values["key"] and tuple(values["key"])})


def _listen_to_file(path: Path, end_in_s: float | None, excerpt_in_s: float | None) -> Heard:
    """Estimates of one file."""
    audio = load_audio(path, ReadingSettings(trim_in_s=excerpt_in_s if end_in_s is None else None))
    rate = audio.sampling_rate
    behind = None if end_in_s is None else level_behind(audio.waveform, rate, end_in_s)
    lengths = [round(seconds * rate) for seconds in (end_in_s, excerpt_in_s) if seconds is not None]
    waveform = audio.waveform[:, : min([audio.waveform.shape[1], *lengths])]
    duration_in_s = waveform.shape[1] / rate
    if duration_in_s < MIN_DURATION_IN_S:
        return Heard(None, None, None, None, duration_in_s, behind)
    mono = to_channels(Audio(waveform, rate), 1, SAMPLING_RATE)[0].numpy()
    partials, notes = (
        function(waveform, rate) if rate >= MIN_RATE else None for function in (partial_share, note_share)
    )
    return Heard(estimate_tempo(mono), estimate_key(mono), partials, notes, duration_in_s, behind)


def tempo_and_key_shares(asked: Mapping[str, Asked], heard: Mapping[str, Heard]) -> dict[str, Share | None]:
    """Shares of files with the requested tempo and key; None if nothing is requested.

    Only files that are in both, requests and estimates, are included.
    """
    names = [name for name in asked if name in heard]
    tempos = [(asked[name].tempo, heard[name].tempo) for name in names if asked[name].tempo is not None]
    keys = [(asked[name].key, heard[name].key) for name in names if asked[name].key is not None]
    return {
        "tempo within 4 %": _relation_share(tempos, tempo_relation, {"exact"}),
        "tempo, or an octave apart": _relation_share(tempos, tempo_relation, {"exact", "octave"}),
        "key": _relation_share(keys, key_relation, {"exact"}),
        "key, or its relative": _relation_share(keys, key_relation, {"exact", "relative"}),
        "key, its relative, or a fifth apart": _relation_share(keys, key_relation, {"exact", "relative", "fifth"}),
    }


def _relation_share(pairs: Sequence[tuple], relation: Callable, accepted: set[str]) -> Share | None:
    """Share of pairs of request and estimate in an accepted relation; by chance, with the requests of all others."""
    if not pairs:
        return None
    is_right = np.array(
        [[relation(heard, asked) in accepted for asked, _ in pairs] for _, heard in pairs], dtype=float
    )
    others = is_right[~np.eye(len(pairs), dtype=bool)]
    found = mean_and_error(is_right.diagonal())
    return found and Share(*found, len(pairs), float(others.mean()) if others.size else float("nan"))


class WordListeners:
    """The two listeners for genre and instruments, and their results on the truth, which must have these fields.

    Args:
        truth: features of composed pieces by name, then by embedder.
        asked: the properties of these pieces.
        tags: names of the tagger's classes.
        text_embedder: has `embed_text(texts) -> (num_texts, dim)`.
        seed: of the folds.

    Raises:
        ValueError: see `Probe`.
    """

    def __init__(
        self,
        truth: Mapping[str, Mapping[str, AudioFeatures]],
        asked: Mapping[str, Asked],
        tags: Sequence[str],
        text_embedder,
        seed: int = 0,
    ):
        self.text_embedder, self.tag_embeddings = text_embedder, text_embedder.embed_text(tags)
        self.usual_tags = self._heard_tags(truth)
        self.probes, self.ceilings = {}, {}
        for field in WORD_FIELDS:
            known = {name: getattr(asked[name], field) for name in truth if getattr(asked[name], field)}
            if not known:
                continue
            features, words = probe_features({name: truth[name] for name in known}), list(known.values())
            self.probes[field] = Probe(features, words)
            scores = cross_validated_scores(features, words, seed)
            self.ceilings[f"{field}, probe"] = _win_share(scores, words)
            self.ceilings[f"{field}, tags"] = _win_share(self._tag_scores({n: truth[n] for n in known}, words), words)

    def shares(
        self, features: Mapping[str, Mapping[str, AudioFeatures]], asked: Mapping[str, Asked]
    ) -> dict[str, Share | None]:
        """How often each file fits its own prompt better than another's, by field and listener."""
        shares = {}
        for field in WORD_FIELDS:
            known = {name: getattr(asked[name], field) for name in features if getattr(asked[name], field)}
            known = known if field in self.probes else {}
            words, found = list(known.values()), {name: features[name] for name in known}
            for listener in ("probe", "tags"):
                scores = np.zeros((0, 0))
                if known and listener == "probe":
                    scores = self.probes[field].scores(probe_features(found), words)
                elif known:
                    scores = self._tag_scores(found, words)
                shares[f"{field}, {listener}"] = _win_share(scores, words)
        return shares

    def _tag_scores(self, features: Mapping[str, Mapping[str, AudioFeatures]], words: Sequence) -> np.ndarray:
        """Cosines of the tags of each file with the words of each prompt, `(num_items, num_items)`."""
        texts = self.text_embedder.embed_text([", ".join(sorted(found)) for found in words])
        return tag_text_matrix(tag_weights(self._heard_tags(features), self.usual_tags), self.tag_embeddings, texts)

    def _heard_tags(self, features: Mapping[str, Mapping[str, AudioFeatures]]) -> np.ndarray:
        """Tag probabilities of each file, `(num_items, num_tags)`."""
        return np.stack([tag_probabilities(found[TAGGER].need_logits()) for found in features.values()])


def probe_features(features: Mapping[str, Mapping[str, AudioFeatures]]) -> np.ndarray:
    """The input of a probe for each file: mean and standard deviation over windows of all embeddings."""
    rows = []
    for found in features.values():
        windows = [item.need_embeddings() for item in found.values()]
        rows.append(np.concatenate([part(values, axis=0) for values in windows for part in (np.mean, np.std)]))
    return np.stack(rows)


def _win_share(scores: np.ndarray, words: Sequence[frozenset[str]]) -> Share | None:
    """Mean share of other prompts that fit worse than the own one."""
    shares = win_shares(scores, words)
    found = mean_and_error(shares)
    return found and Share(*found, int((~np.isnan(shares)).sum()), 0.5)
