"""MIDI files read back with mido say what the piece says."""

import io

import mido
import pytest

from stable_longform.data.composition.compose import compose_piece
from stable_longform.data.composition.midi import TICKS_PER_BEAT, to_midi
from stable_longform.data.composition.one_shots import compose_one_shot


@pytest.fixture(params=["Jazz", "Metal", "Waltz", "Trance"])
def piece(request):
    return compose_piece(7, 45, request.param)


def read(data: bytes) -> mido.MidiFile:
    return mido.MidiFile(file=io.BytesIO(data))


def notes_of(track: mido.MidiTrack) -> list[tuple[float, float, int, int]]:
    """Onset, duration (both in ticks), pitch and velocity of the notes of a track."""
    time, open_notes, notes = 0, {}, []
    for message in track:
        time += message.time
        if message.type == "note_on":
            open_notes.setdefault(message.note, []).append((time, message.velocity))
        elif message.type == "note_off":
            start, velocity = open_notes[message.note].pop(0)
            notes.append((start, time - start, message.note, velocity))
    assert not any(open_notes.values())
    return sorted(notes)


def test_tempo_and_metre(piece):
    meta = {message.type: message for message in read(to_midi(piece)).tracks[0]}
    assert mido.tempo2bpm(meta["set_tempo"].tempo) == pytest.approx(piece.bpm, abs=1e-3)
    assert meta["time_signature"].numerator == piece.beats_per_bar


def test_every_part_is_a_track_with_its_notes(piece):
    tracks = read(to_midi(piece)).tracks[1:]
    assert [track.name for track in tracks] == [part.instrument.name for part in piece.parts]
    for track, part in zip(tracks, piece.parts, strict=True):
        expected = sorted((round(note.start * TICKS_PER_BEAT), note.pitch, note.velocity) for note in part.notes)
        assert sorted((start, pitch, velocity) for start, _, pitch, velocity in notes_of(track)) == expected


def test_notes_of_one_pitch_do_not_overlap(piece):
    """Otherwise the end of one would cut the other."""
    for track in read(to_midi(piece)).tracks[1:]:
        ends = {}
        for start, duration, pitch, _ in notes_of(track):
            assert start >= ends.get(pitch, 0)
            ends[pitch] = start + duration


def test_channels_are_the_parts_own_and_drums_are_on_the_tenth(piece):
    channels = []
    for track, part in zip(read(to_midi(piece)).tracks[1:], piece.parts, strict=True):
        (channel,) = {message.channel for message in track if not message.is_meta}
        assert (channel == 9) == part.instrument.is_drum_kit
        channels.append(channel)
    assert len(set(channels)) == len(channels)


def test_the_file_lasts_until_the_last_notes_have_died_away(piece):
    end_in_s = piece.time_in_s(piece.num_bars * piece.beats_per_bar)
    assert read(to_midi(piece, tail_in_s=6)).length == pytest.approx(end_in_s + 6, abs=0.01)


def test_the_same_piece_gives_the_same_bytes(piece):
    assert to_midi(piece) == to_midi(piece)


def test_one_shots_are_files_too():
    for seed in range(30):
        tracks = read(to_midi(compose_one_shot(seed))).tracks
        assert len(notes_of(tracks[1])) == len(compose_one_shot(seed).parts[0].notes)
