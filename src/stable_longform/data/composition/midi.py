"""Writes pieces as MIDI files."""

import io

from stable_longform.data.composition.piece import Part, Piece
from stable_longform.utils.optional import require

TICKS_PER_BEAT = 480
DRUM_CHANNEL = 9
# MIDI controller numbers.
VOLUME, PAN, REVERB = 7, 10, 91


def to_midi(piece: Piece, tail_in_s: float = 6.0) -> bytes:
    """A standard MIDI file (format 1): the tempo in the first track, then a track for each part.

    Args:
        piece: with at most 15 pitched parts, because each part needs its own channel.
        tail_in_s: seconds after the last bar in which notes may decay.
    """
    mido = require("mido", "train")
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT)
    last_beat = max(note.start + note.duration for part in piece.parts for note in part.notes)
    end = max(last_beat, piece.num_bars * piece.beats_per_bar) + tail_in_s * piece.bpm / 60
    conductor = mido.MidiTrack()
    conductor.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(piece.bpm)))
    conductor.append(mido.MetaMessage("time_signature", numerator=piece.beats_per_bar, denominator=4))
    conductor.append(mido.MetaMessage("end_of_track", time=round(end * TICKS_PER_BEAT)))
    file.tracks.append(conductor)
    channels = iter([channel for channel in range(16) if channel != DRUM_CHANNEL])
    for part in piece.parts:
        channel = DRUM_CHANNEL if part.instrument.is_drum_kit else next(channels)
        file.tracks.append(_track(mido, part, channel, round(end * TICKS_PER_BEAT)))
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def _track(mido, part: Part, channel: int, end: int):
    """The track of one part; a silent message at the end gives all tracks the same length, as renderers expect."""
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("track_name", name=part.instrument.name))
    track.append(mido.Message("program_change", channel=channel, program=part.instrument.program))
    for control, value in ((VOLUME, part.volume), (PAN, part.pan), (REVERB, part.reverb)):
        track.append(mido.Message("control_change", channel=channel, control=control, value=value))
    events = []
    for note in part.notes:
        start, stop = (round(beat * TICKS_PER_BEAT) for beat in (note.start, note.start + note.duration))
        events.append((start, 1, note.pitch, note.velocity))
        events.append((max(stop - 1, start + 1), 0, note.pitch, 0))
    time = 0
    for tick, is_on, pitch, velocity in sorted(events):
        name = "note_on" if is_on else "note_off"
        track.append(mido.Message(name, channel=channel, note=pitch, velocity=velocity, time=tick - time))
        time = tick
    track.append(mido.Message("control_change", channel=channel, control=PAN, value=part.pan, time=end - time))
    return track
