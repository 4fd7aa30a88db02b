"""From sections, chords and melodies to the notes of all parts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stable_longform.data.composition import accompaniment
from stable_longform.data.composition.forms import Section
from stable_longform.data.composition.genres import Genre
from stable_longform.data.composition.harmony import CADENCES, BarChords, make_chord, voice
from stable_longform.data.composition.instruments import INSTRUMENTS, Instrument
from stable_longform.data.composition.melody import Tone, second_voice, vary
from stable_longform.data.composition.piece import Note, Part
from stable_longform.data.composition.theory import Chord, Key

VELOCITY = {"lead": 88, "second": 70, "chords": 66, "bass": 82, "pad": 58, "arpeggio": 62, "drums": 88}
PAN = {"lead": 70, "second": 44, "chords": 40, "bass": 64, "pad": 64, "arpeggio": 92, "drums": 64}
# Loudness of each role's single notes in LUFS, at velocity 80.
LOUDNESS = {"lead": -31, "second": -35, "chords": -39, "bass": -32, "pad": -43, "arpeggio": -39, "drums": -33}
CHORD_RANGE, PAD_RANGE, POWER_RANGE, ARPEGGIO_RANGE = (48, 69), (48, 69), (40, 64), (57, 79)
BASS_RANGE = (31, 52)
LEAD_CENTRE = 75


@dataclass
class Player:
    """A part while it is written."""

    role: str
    instrument: Instrument
    notes: list[Note] = field(default_factory=list)


class Arranger:
    """Writes the parts of a piece, section by section, bar by bar."""

    def __init__(self, genre: Genre, density: float, register: int, rng: random.Random):
        self.genre, self.density, self.register, self.rng = genre, density, register, rng
        roles = {"lead": genre.lead, "chords": genre.chords, "bass": genre.bass, "pad": genre.pad}
        roles |= {"arpeggio": genre.arpeggio, "drums": genre.drums}
        self.players = {role: Player(role, INSTRUMENTS[rng.choice(names)]) for role, names in roles.items() if names}
        others = [name for name in genre.lead if INSTRUMENTS[name] != self.players["lead"].instrument]
        second = INSTRUMENTS[rng.choice(others)] if others else self.players["lead"].instrument
        self.players["second"] = Player("second", second)
        self.voicing = dict.fromkeys(("chords", "pad", "arpeggio"))

    def write(self, sections: Sequence[Section], chords: Mapping[str, list[BarChords]], melodies) -> tuple[Part, ...]:
        """Writes everything.

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
        for section in sections:
            self._write_melody(section, melodies[section.theme], chords[section.theme])
        return tuple(self._part(player) for player in self.players.values() if player.notes)

    def _chords_of(self, sections, number: int, bar: int, chords) -> BarChords:
        """The chords of a bar of a section; an ending closes, and a bridge leads back to the key of the piece."""
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

    def _plays(self, role: str, section: Section, bar: int) -> bool:
        """Whether a role plays in a bar."""
        is_second_half = bar >= section.num_bars / 2
        letter, energy, is_club = section.letter, section.energy, self.genre.form == "club"
        if role == "bass":
            return letter in "VCBE" or (letter == "I" and is_second_half)
        if role == "drums":
            return letter == "U" or (letter != "K" and energy >= 0.35 and (letter != "I" or is_second_half or is_club))
        if role in ("pad", "arpeggio"):
            return energy >= 0.6 or letter in "KUB" or (letter == "I" and role == "pad")
        return role == "chords" and not (letter == "K" and bool(self.genre.pad) and not is_second_half)

    def _write_bar(self, section: Section, bar: int, chords: BarChords, following: Chord, is_last: bool) -> None:
        """Writes one bar of everything but the melody."""
        start = (section.start_bar + bar) * self.genre.beats_per_bar
        for role in ("chords", "pad", "arpeggio"):
            if role in self.players and (is_last or self._plays(role, section, bar)):
                if is_last and role == "arpeggio":
                    continue
                self._write_chords(role, section, start, chords, is_last)
        if "bass" in self.players and (is_last or self._plays("bass", section, bar)):
            patterns = self.genre.bass_patterns
            name = "held" if is_last else patterns[self._level(section.energy, len(patterns))]
            instrument = self.players["bass"].instrument
            lowest, highest = max(BASS_RANGE[0], instrument.lowest), min(BASS_RANGE[1], instrument.highest)
            events = accompaniment.play_bass(name, chords, following, self.genre.beats_per_bar, lowest, highest)
            self._add("bass", start, events, section.energy)
        if "drums" in self.players and self._plays("drums", section, bar):
            self._write_drums(section, bar, start, is_last)

    def _write_chords(self, role: str, section: Section, start: float, chords: BarChords, is_last: bool) -> None:
        """Writes a bar of chords, pad or arpeggio."""
        instrument = self.players[role].instrument
        is_power = self.genre.chord_steps == (0, 4, 7)
        lowest, highest = {"pad": PAD_RANGE, "arpeggio": ARPEGGIO_RANGE}.get(
            role, POWER_RANGE if is_power else CHORD_RANGE
        )
        lowest, highest = max(lowest, instrument.lowest), min(highest, instrument.highest)
        voicings = []
        for chord in chords:
            if role != "chords" and is_power:
                chord = Chord(chord.key, chord.degree, (0, 2, 4), chord.has_leading_tone)
            self.voicing[role] = voice(chord, self.voicing[role], lowest, highest)
            voicings.append(self.voicing[role])
        patterns = {"pad": ("held",), "arpeggio": ("arpeggio_up", "arpeggio_fast")}.get(
            role, self.genre.chord_patterns
        )
        name = "held" if is_last else patterns[self._level(section.energy, len(patterns))]
        events = accompaniment.play_chords(name, voicings, chords, self.genre.beats_per_bar, instrument.highest)
        self._add(role, start, events, section.energy)

    def _level(self, energy: float, count: int) -> int:
        """Which of `count` patterns, calm to busy, an energy asks for."""
        return min(max(int((energy + 0.3 * self.density - 0.2) / 0.7 * count), 0), count - 1)

    def _write_drums(self, section: Section, bar: int, start: float, is_last: bool) -> None:
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

    def _write_melody(self, section: Section, melody: Sequence[Tone], theme: list[BarChords]) -> None:
        """Writes the melody of a section: varied when it returns, with a second voice where all play."""
        beats_per_bar = self.genre.beats_per_bar
        start, length = section.start_bar * beats_per_bar, section.num_bars * beats_per_bar
        if section.letter == "E":
            key, last = section.key, length - beats_per_bar
            tone = Tone(last, beats_per_bar - 0.1, 7, self._chord(key, 0))
            self._add_tones("lead", start, [tone], section.energy)
            return
        if section.letter in "IU" or (section.letter == "K" and self.genre.form == "club"):
            return
        role = "second" if section.letter == "B" or section.theme in ("C0", "C2") else "lead"
        theme_length = len(theme) * beats_per_bar
        for repetition in range(-(-length // theme_length)):
            offset = repetition * theme_length
            is_repeated = section.repetition > 0 or repetition > 0
            tones = vary(melody, self.rng) if is_repeated else list(melody)
            tones = [tone for tone in tones if offset + tone.start + tone.duration <= length]
            if section.letter == "B" and section.num_bars * beats_per_bar <= offset + theme_length:
                tones = [tone for tone in tones if offset + tone.start + tone.duration <= length - beats_per_bar]
            self._add_tones(role, start + offset, tones, section.energy)
            if section.letter == "C" and section.energy >= 0.8 and section.theme == "C" and is_repeated:
                self._add_tones("second", start + offset, second_voice(tones), section.energy)

    def _add_tones(self, role: str, start: float, tones: Sequence[Tone], energy: float) -> None:
        """Adds tones of a melody, in the octave that suits the instrument."""
        if not tones:
            return
        instrument = self.players[role].instrument
        centre = min(LEAD_CENTRE, instrument.highest - 9) + self.register
        mean = sum(tone.pitch for tone in tones) / len(tones) if len(tones) > 1 else 72
        shift = 12 * round((centre - mean) / 12)
        events = []
        for tone in tones:
            pitch = tone.pitch + shift
            while pitch > instrument.highest:
                pitch -= 12
            while pitch < instrument.lowest:
                pitch += 12
            accent = 6 if tone.start % self.genre.beats_per_bar == 0 else 0
            events.append((tone.start, tone.duration * 0.95, pitch, accent))
        self._add(role, start, events, energy)

    def _add(self, role: str, start: float, events: Sequence[tuple], energy: float) -> None:
        """Adds events of a bar or a theme as notes: swung, and as loud as the section is."""
        for onset, duration, pitch, accent in events:
            velocity = round(VELOCITY[role] + 50 * (energy - 0.6) + accent + self.rng.uniform(-4, 4))
            begin, end = self._swing(start + onset), self._swing(start + onset + duration)
            self.players[role].notes.append(Note(begin, end - begin, pitch, min(max(velocity, 1), 127)))

    def _swing(self, beat: float) -> float:
        """Where a beat falls when the second half of each beat comes late."""
        whole, part = divmod(beat, 1)
        swing = self.genre.swing
        return whole + (part * 2 * swing if part < 0.5 else swing + (part - 0.5) * 2 * (1 - swing))

    def _part(self, player: Player) -> Part:
        """The finished part."""
        role = player.role
        notes = tuple(sorted(player.notes, key=lambda note: (note.start, note.pitch, -note.velocity)))
        return Part(role, player.instrument, notes, volume(role, player.instrument), PAN[role], self.genre.reverb)


def volume(role: str, instrument: Instrument) -> int:
    """The volume (MIDI controller 7, 40 dB a decade) at which an instrument has the loudness of a role."""
    return min(max(round(100 * 10 ** ((LOUDNESS[role] - instrument.loudness) / 40)), 1), 127)
