"""The General MIDI instruments of the pieces: their programs, their ranges and their names in prompts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """An instrument of General MIDI.

    Attributes:
        name: its name in prompts.
        program: General MIDI program, 0 ... 127; for a drum kit, the program on channel 10.
        lowest, highest: the range of its parts, as MIDI pitches; that of the real instrument, if it exists.
        loudness: of a scale at velocity 80 and volume 100 in FluidR3_GM, in LUFS; used to balance the parts.
        is_sustained: whether a note holds its level until it is released.
        is_drum_kit: whether its pitches are drums.
    """

    name: str
    program: int
    lowest: int
    highest: int
    loudness: int
    is_sustained: bool = False
    is_drum_kit: bool = False


def _table(*rows: tuple) -> dict[str, Instrument]:
    """Instruments by their key in the tables of genres."""
    return {row[0]: Instrument(*row[1:]) for row in rows}


INSTRUMENTS = _table(
    ("piano", "Piano", 0, 28, 103, -35),
    ("bright_piano", "Piano", 1, 28, 103, -35),
    ("electric_piano", "Electric Piano", 4, 28, 96, -28),
    ("fm_piano", "Electric Piano", 5, 28, 96, -33),
    ("harpsichord", "Harpsichord", 6, 29, 89, -31),
    ("clavinet", "Clavinet", 7, 36, 89, -32),
    ("celesta", "Celesta", 8, 60, 103, -32),
    ("glockenspiel", "Glockenspiel", 9, 67, 103, -32),
    ("music_box", "Music Box", 10, 60, 96, -33),
    ("vibraphone", "Vibraphone", 11, 53, 89, -36),
    ("marimba", "Marimba", 12, 45, 96, -33),
    ("xylophone", "Xylophone", 13, 65, 103, -44),
    ("dulcimer", "Dulcimer", 15, 48, 86, -40),
    ("organ", "Organ", 16, 36, 96, -34, True),
    ("rock_organ", "Organ", 18, 36, 96, -29, True),
    ("church_organ", "Church Organ", 19, 36, 96, -30, True),
    ("accordion", "Accordion", 21, 53, 89, -34, True),
    ("harmonica", "Harmonica", 22, 60, 88, -33, True),
    ("nylon_guitar", "Acoustic Guitar", 24, 40, 83, -33),
    ("steel_guitar", "Acoustic Guitar", 25, 40, 83, -33),
    ("jazz_guitar", "Jazz Guitar", 26, 40, 84, -30),
    ("electric_guitar", "Electric Guitar", 27, 40, 86, -33),
    ("overdriven_guitar", "Electric Guitar", 29, 40, 86, -27, True),
    ("distorted_guitar", "Distorted Guitar", 30, 40, 86, -24, True),
    ("double_bass", "Double Bass", 32, 28, 55, -31),
    ("bass_guitar", "Bass Guitar", 33, 28, 55, -31),
    ("picked_bass", "Bass Guitar", 34, 28, 55, -31),
    ("slap_bass", "Slap Bass", 36, 28, 55, -34),
    ("synth_bass", "Synth Bass", 38, 28, 55, -32, True),
    ("deep_synth_bass", "Synth Bass", 39, 28, 55, -25, True),
    ("violin", "Violin", 40, 55, 96, -29, True),
    ("viola", "Viola", 41, 48, 84, -32, True),
    ("cello", "Cello", 42, 36, 72, -31, True),
    ("contrabass", "Double Bass", 43, 28, 55, -34, True),
    ("pizzicato", "Pizzicato Strings", 45, 36, 86, -32),
    ("harp", "Harp", 46, 28, 98, -32),
    ("timpani", "Timpani", 47, 38, 57, -35),
    ("strings", "Strings", 48, 36, 96, -31, True),
    ("slow_strings", "Strings", 49, 36, 96, -28, True),
    ("choir", "Choir", 52, 43, 79, -32, True),
    ("trumpet", "Trumpet", 56, 55, 84, -31, True),
    ("trombone", "Trombone", 57, 40, 72, -26, True),
    ("french_horn", "French Horn", 60, 41, 77, -27, True),
    ("brass", "Brass", 61, 41, 84, -30, True),
    ("soprano_saxophone", "Saxophone", 64, 56, 87, -28, True),
    ("alto_saxophone", "Saxophone", 65, 49, 80, -28, True),
    ("tenor_saxophone", "Saxophone", 66, 44, 75, -30, True),
    ("oboe", "Oboe", 68, 58, 89, -29, True),
    ("bassoon", "Bassoon", 70, 34, 70, -29, True),
    ("clarinet", "Clarinet", 71, 50, 91, -28, True),
    ("flute", "Flute", 73, 60, 96, -29, True),
    ("recorder", "Recorder", 74, 60, 94, -30, True),
    ("pan_flute", "Pan Flute", 75, 60, 91, -30, True),
    ("square_lead", "Square Synth", 80, 36, 100, -27, True),
    ("saw_lead", "Synth Lead", 81, 36, 100, -28, True),
    ("new_age_pad", "Synth Pad", 88, 36, 96, -29),
    ("warm_pad", "Synth Pad", 89, 36, 96, -35, True),
    ("polysynth", "Synth", 90, 36, 96, -31, True),
    ("choir_pad", "Synth Pad", 91, 36, 96, -29, True),
    ("sweep_pad", "Synth Pad", 95, 36, 96, -28, True),
    ("sitar", "Sitar", 104, 48, 84, -34),
    ("banjo", "Banjo", 105, 48, 86, -32),
    ("koto", "Koto", 107, 48, 86, -35),
    ("kalimba", "Kalimba", 108, 55, 91, -35),
    ("fiddle", "Fiddle", 110, 55, 93, -29, True),
    ("steel_drums", "Steel Drums", 114, 52, 88, -34),
    ("standard_kit", "Drums", 0, 35, 81, -36, False, True),
    ("power_kit", "Drums", 16, 35, 81, -30, False, True),
    ("electronic_kit", "Drum Machine", 24, 35, 81, -32, False, True),
    ("analog_kit", "Drum Machine", 25, 35, 81, -26, False, True),
    ("jazz_kit", "Drums", 32, 35, 81, -35, False, True),
    ("brush_kit", "Brushes", 40, 35, 81, -36, False, True),
    ("orchestra_kit", "Percussion", 48, 35, 81, -31, False, True),
)
