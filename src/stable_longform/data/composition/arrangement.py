"""Turns sections, chords and melodies into the notes of all parts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stable_longform.data.composition import accompaniment
from stable_longform.data.composition.forms import FormSection
from stable_longform.data.composition.genres import Genre
from stable_longform.data.composition.harmony import CADENCES, BarChords, make_chord, voice
from stable_longform.data.composition.instruments import Instrument
from stable_longform.data.composition.melody import Tone, second_voice, vary
from stable_longform.data.composition.orchestra import LEAD_CENTRE, POWER_CHORDS, ROLES, pitch_range, volume
from stable_longform.data.composition.piece import Note, Part
from stable_longform.data.composition.theory import Chord, Key


@dataclass
class Player:
    """A part that is being written."""

    role: str
    instrument: Instrument
    notes: list[Note] = field(default_factory=list)


class Arranger:
    """Writes the parts of a piece, section by section, bar by bar.

    Args:
        genre: with the patterns to play.
        players: the instrument of each role that plays.
        density: how busy, -1 ... 1.
        register: degrees by which melodies are moved.
        rng: the source of all choices.
    """

    def __init__(
        self, genre: Genre, players: Mapping[str, Instrument], density: float, register: int, rng: random.Random
    ):
        self.genre, self.density, self.register, self.rng = genre, density, register, rng
        self.players = {role: Player(role, instrument) for role, instrument in players.items()}
        self.voicings = dict.fromkeys(players)  # the last chord of each role

    def write(
        self,
        sections: Sequence[FormSection],
        chords: Mapping[str, Sequence[BarChords]],
        melodies: Mapping[str, Sequence[Tone]],
    ) -> tuple[Part, ...]:
        """Writes all parts.

        Args:
            sections: of the piece, in order.
            chords: the chords of each theme, in its key.
            melodies: the melody of each theme.
        """
        bars = [
            (section, bar, self._chords_of(sections, number, bar, chords))
            for number, section in enumerate(sections)
            for bar in range(section.num_bars)
        ]
        for index, (section, bar, bar_chords) in enumerate(bars):
            following = bars[min(index + 1, len(bars) - 1)][2][0]
            self._write_bar(section, bar, bar_chords, following, is_last=index == len(bars) - 1)
        for section in sections if "lead" in self.players else ():
            self._write_melody(section, melodies[section.theme], len(chords[section.theme]))
        return tuple(self._part(player) for player in self.players.values() if player.notes)

    def _chords_of(
        self, sections: Sequence[FormSection], number: int, bar: int, chords: Mapping[str, Sequence[BarChords]]
    ) -> BarChords:
        """The chords of a bar of a section; an ending has a cadence, and a bridge leads back to the main key."""
        section = sections[number]
        home, remaining = sections[0].key, section.num_bars - bar
        if section.letter == "E" and remaining <= min(len(CADENCES[home.mode]), section.num_bars):
            return (self._chord(home, CADENCES[home.mode][-remaining]),)
        if section.letter == "B" and remaining == 1 and section.key != home:
            return (self._chord(home, 4),)
        theme = chords[section.theme]
        return theme[bar % len(theme)]

    def _chord(self, key: Key, degree: int) -> Chord:
        return make_chord(key, degree, self.genre.chord_steps, self.genre.has_leading_tone)

    def _plays(self, role: str, section: FormSection, bar: int) -> bool:
        """Whether a role plays in a bar."""
        if len(self.players) == 1:
            return True
        is_second_half = bar >= section.num_bars / 2
        letter, energy, is_club = section.letter, section.energy, self.genre.form == "club"
        if role == "bass":
            return letter in "VCBE" or (letter == "I" and is_second_half)
        if role == "drums":
            has_begun = is_club or (energy >= 0.35 and (letter != "I" or is_second_half))
            return letter == "U" or (letter != "K" and has_begun)
        if role in ("pad", "arpeggio"):
            return energy >= 0.6 or letter in "KUB" or (letter == "I" and role == "pad")
        return role == "chords" and not (letter == "K" and bool(self.genre.pad) and not is_second_half)

    def _write_bar(self, section: FormSection, bar: int, chords: BarChords, following: Chord, is_last: bool) -> None:
        """Writes one bar of all parts except the melody."""
        start = (section.start_bar + bar) * self.genre.beats_per_bar
        for role in ("chords", "pad", "arpeggio"):
            if role in self.players and (is_last or self._plays(role, section, bar)):
                self._write_chords(role, section, start, chords, is_last)
        if "bass" in self.players and (is_last or self._plays("bass", section, bar)):
            patterns = self.genre.bass_patterns
            name = "held" if is_last else patterns[self._level(section.energy, len(patterns))]
            register = pitch_range("bass", self.players["bass"].instrument, self.genre.chord_steps)
            events = accompaniment.play_bass(name, chords, following, self.genre.beats_per_bar, *register)
            self._add("bass", start, events, section.energy)
        if "drums" in self.players and self._plays("drums", section, bar):
            self._write_drums(section, bar, start, is_last)

    def _write_chords(self, role: str, section: FormSection, start: float, chords: BarChords, is_last: bool) -> None:
        """Writes a bar of chords, pad or arpeggio."""
        instrument = self.players[role].instrument
        register = pitch_range(role, instrument, self.genre.chord_steps)
        voicings = []
        for chord in chords:
            if role != "chords" and chord.steps == POWER_CHORDS:
                chord = replace(chord, steps=(0, 2, 4))
            voicings.append(voice(chord, self.voicings[role], *register))
            self.voicings[role] = voicings[-1]
        patterns = {"pad": ("held",), "arpeggio": ("arpeggio_up", "arpeggio_fast")}.get(
            role, self.genre.chord_patterns
        )
        name = "held" if is_last else patterns[self._level(section.energy, len(patterns))]
        events = accompaniment.play_chords(name, voicings, chords, self.genre.beats_per_bar, instrument.highest)
        self._add(role, start, events, section.energy)

    def _level(self, energy: float, count: int) -> int:
        """The number of the pattern for an energy, out of `count` from calm to busy."""
        return min(max(int((energy + 0.3 * self.density - 0.2) / 0.7 * count), 0), count - 1)

    def _write_drums(self, section: FormSection, bar: int, start: float, is_last: bool) -> None:
        """Writes a bar of drums."""
        genre = self.genre
        is_swung = genre.swing == 2 / 3
        if is_last:
            events = [accompaniment.crash(), (0.0, 0.5, 36, 100)]
        elif section.letter == "U":
            events = accompaniment.play_roll((bar + 1) / section.num_bars, genre.form == "club")
        else:
            events = accompaniment.play_groove(
                genre.grooves[self._level(section.energy, len(genre.grooves))], genre.beats_per_bar
            )
            if bar == section.num_bars - 1 and section.num_bars >= 4:
                events = accompaniment.play_fill(events, is_swung, self.rng)
            if bar == 0 and section.energy >= 0.6 and section.letter in "CBV":
                events.append(accompaniment.crash())
        notes = self.players["drums"].notes
        gain = 0.75 + 0.3 * (section.energy - 0.4)
        for onset, duration, pitch, velocity in events:
            time = start + (onset if is_swung else self._swing(onset))
            velocity = round(velocity * gain + self.rng.uniform(-4, 4))
            notes.append(Note(time, duration, pitch, min(max(velocity, 1), 127)))

    def _write_melody(self, section: FormSection, melody: Sequence[Tone], num_theme_bars: int) -> None:
        """Writes the melody of a section: varied when it returns, with a second voice in sections where all play."""
        beats_per_bar, is_duet = self.genre.beats_per_bar, "second" in self.players
        start, length = section.start_bar * beats_per_bar, section.num_bars * beats_per_bar
        if section.letter == "E":
            last_tone = Tone(length - beats_per_bar, beats_per_bar - 0.1, 7, self._chord(section.key, 0))
            self._add_tones("lead", start, [last_tone], self._octave("lead", [last_tone]), section.energy)
        if section.letter in "IUE" or (section.letter == "K" and self.genre.form == "club"):
            return
        is_seconds = section.letter == "B" or (section.is_solo and section.repetition % 2 == 0)
        role = "second" if is_duet and is_seconds else "lead"
        octave, theme_length = self._octave(role, melody), num_theme_bars * beats_per_bar
        # The last bar of a bridge leads back, without melody.
        end = length - beats_per_bar if section.letter == "B" else length
        for offset in range(0, length, theme_length):
            is_repeated = section.repetition > 0 or offset > 0
            tones = vary(melody, self.rng) if is_repeated else melody
            tones = [tone for tone in tones if offset + tone.start + tone.duration <= end]
            self._add_tones(role, start + offset, tones, octave, section.energy)
            if is_duet and is_repeated and section.theme == "C" and section.energy >= 0.8:
                self._add_tones("second", start + offset, second_voice(tones), octave, section.energy)

    def _octave(self, role: str, melody: Sequence[Tone]) -> int:
        """The shift by octaves, in semitones, that moves a melody to the middle of its register on an instrument."""
        centre = min(LEAD_CENTRE, self.players[role].instrument.highest - 9) + self.register
        mean = sum(tone.pitch for tone in melody) / len(melody)
        return 12 * round((centre - mean) / 12)

    def _add_tones(self, role: str, start: float, tones: Sequence[Tone], octave: int, energy: float) -> None:
        """Adds tones of a melody, shifted by `octave`; tones out of the instrument's range move by an octave."""
        lowest, highest = self.players[role].instrument.lowest, self.players[role].instrument.highest
        events = []
        for tone in tones:
            pitch = tone.pitch + octave
            pitch -= 12 * max(0, -(-(pitch - highest) // 12))
            pitch += 12 * max(0, -(-(lowest - pitch) // 12))
            accent = 6 if tone.start % self.genre.beats_per_bar == 0 else 0
            events.append((tone.start, tone.duration * 0.95, pitch, accent))
        self._add(role, start, events, energy)

    def _add(self, role: str, start: float, events: Sequence[tuple], energy: float) -> None:
        """Adds events of a bar or a theme as notes: swung, and as loud as the section is."""
        for onset, duration, pitch, accent in events:
            velocity = round(ROLES[role].velocity + 50 * (energy - 0.6) + accent + self.rng.uniform(-4, 4))
            begin, end = self._swing(start + onset), self._swing(start + onset + duration)
            self.players[role].notes.append(Note(begin, end - begin, pitch, min(max(velocity, 1), 127)))

    def _swing(self, beat: float) -> float:
        """The swung position of a beat, with the second half of each beat delayed."""
        whole, part = divmod(beat, 1)
        swing = self.genre.swing
        return whole + (part * 2 * swing if part < 0.5 else swing + (part - 0.5) * 2 * (1 - swing))

    def _part(self, player: Player) -> Part:
        """The finished part. A player with the melody's instrument is panned to the centre."""
        is_alone = player.role != "lead" and player.instrument == self.players.get("lead", player).instrument
        pan = 64 if is_alone or len(self.players) == 1 else ROLES[player.role].pan
        notes = tuple(sorted(player.notes, key=lambda note: (note.start, note.pitch, -note.velocity)))
        loudness = volume(player.role, player.instrument)
        return Part(player.role, player.instrument, notes, loudness, pan, self.genre.reverb)
