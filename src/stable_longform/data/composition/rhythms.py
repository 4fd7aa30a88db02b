"""Rhythms: bars of melody, patterns of chords and bass, and grooves of the drums."""

# Bars of melody in beats; negative numbers are rests. Each style: calm, normal, busy.
MELODY_RHYTHMS = {
    "slow": (
        ((4,), (2, 2), (-2, 2), (3, -1)),
        ((2, 2), (3, 1), (2, 1, 1), (-1, 1, 2)),
        ((2, 1, 1), (1, 1, 2), (1.5, 0.5, 2), (1, 1, 1, 1)),
    ),
    "song": (
        ((2, 1, 1), (1, 1, 2), (2, 2), (-1, 1, 2), (3, -1)),
        ((1, 1, 1, 1), (1.5, 0.5, 1, 1), (1, 0.5, 0.5, 2), (-1, 1, 1, 1), (2, 0.5, 0.5, 1), (0.5, 0.5, 1, 2)),
        (
            (0.5, 0.5, 0.5, 0.5, 1, 1),
            (1, 0.5, 0.5, 1, 0.5, 0.5),
            (-0.5, 0.5, 0.5, 0.5, 1, 1),
            (1.5, 0.5, 0.5, 0.5, 1),
        ),
    ),
    "syncopated": (
        ((1.5, 1.5, 1), (1.5, 2.5), (-1, 1.5, 1.5)),
        ((1.5, 1.5, 0.5, 0.5), (-0.5, 1, 1, 0.5, 1), (0.5, 1, 0.5, 2), (1.5, 1, 1.5)),
        (
            (0.5, 1, 0.5, 0.5, 1, 0.5),
            (0.75, 0.75, 0.5, 0.75, 0.75, 0.5),
            (-0.5, 0.5, 0.5, 1, 0.5, 1),
            (0.5, 0.5, 1, 0.5, 0.5, 1),
        ),
    ),
    "swing": (
        ((1, 1, 2), (1.5, 0.5, 2), (-1, 1, 1.5, 0.5)),
        ((1, 0.5, 0.5, 1, 1), (0.5, 0.5, 0.5, 0.5, 2), (-0.5, 0.5, 0.5, 0.5, 1, 1), (1.5, 0.5, 1, 1)),
        (
            (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1),
            (1, 0.5, 0.5, 0.5, 0.5, 1),
            (0.5,) * 8,
            (-0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1),
        ),
    ),
    "sixteenths": (
        ((1, 1, 1, 1), (0.5, 0.5, 1, 2), (1, 1, 2)),
        ((0.5, 0.5, 0.5, 0.5, 1, 1), (0.75, 0.75, 0.5, 1, 1), (0.5, 0.5, 1, 0.5, 0.5, 1)),
        (
            (0.5, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 1),
            (0.75, 0.25, 0.5, 0.5, 0.75, 0.25, 1),
            (0.25,) * 8 + (0.5, 0.5, 1),
            (0.5,) * 8,
        ),
    ),
    "waltz": (
        ((3,), (2, 1)),
        ((2, 1), (1, 1, 1), (1.5, 0.5, 1), (-1, 1, 1)),
        ((1, 0.5, 0.5, 1), (0.5, 0.5, 0.5, 0.5, 1), (1, 1, 0.5, 0.5), (0.5,) * 6),
    ),
}

ALL = None  # every voice of a chord
# Patterns of chords: onset and duration in beats of a bar, and which voices (0: lowest; numbers past the top go on an
# octave higher).
CHORD_PATTERNS = {
    "held": ((0, 4, ALL),),
    "halves": ((0, 2, ALL), (2, 2, ALL)),
    "quarters": tuple((beat, 0.9, ALL) for beat in range(4)),
    "eighths": tuple((step / 2, 0.45, ALL) for step in range(8)),
    "chugs": tuple((step / 2, 0.4 if step % 4 else 0.5, ALL) for step in range(8)),
    "offbeats": tuple((beat + 0.5, 0.4, ALL) for beat in range(4)),
    "skank": ((1, 0.35, ALL), (3, 0.35, ALL)),
    "skank_double": ((0.5, 0.25, ALL), (1.5, 0.25, ALL), (2.5, 0.25, ALL), (3.5, 0.25, ALL)),
    "arpeggio": tuple((step / 2, 0.5, (voice,)) for step, voice in enumerate((0, 1, 2, 3, 2, 1, 2, 1))),
    "arpeggio_up": tuple((step / 2, 0.5, (voice,)) for step, voice in enumerate((0, 1, 2, 3, 4, 3, 2, 1))),
    "arpeggio_slow": tuple((float(beat), 1.0, (voice,)) for beat, voice in enumerate((0, 1, 2, 1))),
    "arpeggio_fast": tuple((step / 4, 0.25, (voice,)) for step, voice in enumerate((0, 1, 2, 3) * 4)),
    "chip_arpeggio": tuple((step / 4, 0.22, (voice,)) for step, voice in enumerate((0, 1, 2) * 5 + (0,))),
    "alberti": tuple((step / 2, 0.5, (voice,)) for step, voice in enumerate((0, 2, 1, 2) * 2)),
    "broken": ((0, 1.9, (0,)), (0.5, 0.5, (1,)), (1, 1, (2, 1)), (2, 1.9, (0,)), (2.5, 0.5, (1,)), (3, 1, (2, 1))),
    "boom_chick": ((0, 0.5, (0,)), (1, 0.4, (1, 2)), (2, 0.5, (0,)), (3, 0.4, (1, 2))),
    "train": (
        (0, 0.45, (0,)),
        (1, 0.4, (1, 2)),
        (1.5, 0.3, (1, 2)),
        (2, 0.45, (0,)),
        (3, 0.4, (1, 2)),
        (3.5, 0.3, (2,)),
    ),
    "strum": ((0, 0.9, ALL), (1, 0.45, ALL), (1.5, 0.4, ALL), (2.5, 0.45, ALL), (3, 0.45, ALL), (3.5, 0.4, ALL)),
    "strum_slow": ((0, 1.4, ALL), (1.5, 0.5, ALL), (2, 1.5, ALL), (3.5, 0.5, ALL)),
    "charleston": ((0, 0.9, ALL), (1.5, 0.4, ALL)),
    "comp": ((0.5, 0.4, ALL), (1.5, 0.9, ALL), (3.5, 0.4, ALL)),
    "comp_busy": ((0, 0.4, ALL), (1.5, 0.4, ALL), (2.5, 0.4, ALL), (3.5, 0.4, ALL)),
    "bossa": ((0, 0.9, ALL), (1.5, 0.9, ALL), (3, 0.9, ALL)),
    "bossa_busy": ((0, 0.4, ALL), (1, 0.4, ALL), (1.5, 0.9, ALL), (2.5, 0.4, ALL), (3.5, 0.4, ALL)),
    "funk": ((0, 0.2, ALL), (0.75, 0.2, ALL), (1.5, 0.2, ALL), (2.25, 0.2, ALL), (2.75, 0.2, ALL), (3.5, 0.2, ALL)),
    "funk_sparse": ((1.75, 0.2, ALL), (2.5, 0.2, ALL), (3.75, 0.2, ALL)),
    "stabs": ((0, 0.3, ALL), (0.75, 0.3, ALL), (1.5, 0.3, ALL), (2.5, 0.3, ALL), (3.25, 0.3, ALL)),
    "gate": tuple((step / 4, 0.2, ALL) for step in range(16) if step % 4 != 0),
    "waltz": ((0, 0.9, (0,)), (1, 0.8, (1, 2)), (2, 0.8, (1, 2))),
    "waltz_arpeggio": tuple((step / 2, 0.5, (voice,)) for step, voice in enumerate((0, 1, 2, 3, 2, 1))),
}

# Patterns of the bass: onset and duration in beats, and the tone: R root, O the octave above it, F fifth, T third,
# A approach: the step of the scale beside the next chord's root.
BASS_PATTERNS = {
    "held": ((0, 3.9, "R"),),
    "halves": ((0, 1.9, "R"), (2, 1.9, "F")),
    "roots": ((0, 1.9, "R"), (2, 1.9, "R")),
    "quarters": tuple((float(beat), 0.9, "R") for beat in range(4)),
    "eighths": tuple((step / 2, 0.45, "R") for step in range(8)),
    "offbeats": tuple((beat + 0.5, 0.45, "R") for beat in range(4)),
    "octaves": tuple((step / 2, 0.45, "RO"[step % 2]) for step in range(8)),
    "rolling": tuple((beat + step, 0.22, "R") for beat in range(4) for step in (0.25, 0.5, 0.75)),
    "walking": ((0, 0.95, "R"), (1, 0.95, "T"), (2, 0.95, "F"), (3, 0.95, "A")),
    "two_feel": ((0, 1.8, "R"), (2, 1.4, "F"), (3.5, 0.45, "A")),
    "bossa": ((0, 1.4, "R"), (1.5, 0.45, "F"), (2, 1.4, "F"), (3.5, 0.45, "R")),
    "boom": ((0, 0.9, "R"), (2, 0.9, "F")),
    "boom_walk": ((0, 0.9, "R"), (2, 0.9, "F"), (3, 0.9, "A")),
    "funk": ((0, 0.4, "R"), (0.75, 0.2, "R"), (1.5, 0.4, "O"), (2.5, 0.2, "R"), (2.75, 0.2, "F"), (3.5, 0.4, "A")),
    "reggae": ((0, 0.9, "R"), (1.5, 0.45, "R"), (2, 0.9, "F"), (3, 0.45, "T"), (3.5, 0.45, "R")),
    "hip_hop": ((0, 0.7, "R"), (0.75, 0.7, "R"), (2.5, 0.9, "R"), (3.5, 0.4, "F")),
    "shuffle": ((0, 0.9, "R"), (1, 0.9, "T"), (2, 0.9, "F"), (3, 0.9, "T")),
    "breakbeat": ((0, 0.9, "R"), (1.5, 0.9, "R"), (2.5, 1.4, "F")),
    "waltz": ((0, 2.8, "R"),),
    "waltz_walk": ((0, 1.8, "R"), (2, 0.9, "A")),
}

KICK, RIM, SNARE, CLAP, LOW_TOM, CLOSED_HAT, PEDAL_HAT, MID_TOM = 36, 37, 38, 39, 41, 42, 44, 47
OPEN_HAT, CRASH, HIGH_TOM, RIDE, TAMBOURINE, COWBELL, SHAKER, CONGA, TIMBALE, CYMBAL = (
    46,
    49,
    50,
    51,
    54,
    56,
    70,
    63,
    65,
    57,
)
BASS_DRUM = 35
# Grooves: a bar of each drum in equal steps; x loud, o medium, - soft. A light groove is for quiet sections.
GROOVES = {
    "rock": {KICK: "x.......x.x.....", SNARE: "....x.......x...", CLOSED_HAT: "x.o.x.o.x.o.x.o."},
    "rock_light": {KICK: "x.......x.......", RIM: "....o.......o...", CLOSED_HAT: "o.-.o.-.o.-.o.-."},
    "rock_driving": {
        KICK: "x..x..x.x..x..x.",
        SNARE: "....x.......x...",
        OPEN_HAT: "o...o...o...o...",
        CLOSED_HAT: "..o...o...o...o.",
    },
    "metal": {KICK: "x.x.x.x.x.x.x.x.", SNARE: "....x.......x...", RIDE: "x...x...x...x..."},
    "metal_light": {KICK: "x.......x.x.....", SNARE: "....x.......x...", CLOSED_HAT: "x...x...x...x..."},
    "pop": {
        KICK: "x.....x.x.......",
        SNARE: "....x.......x...",
        CLOSED_HAT: "o.o.o.o.o.o.o.o.",
        TAMBOURINE: "....o.......o...",
    },
    "pop_light": {KICK: "x.......o.......", RIM: "....o.......o...", SHAKER: "o.-.o.-.o.-.o.-."},
    "house": {
        KICK: "x...x...x...x...",
        CLAP: "....x.......x...",
        OPEN_HAT: "..x...x...x...x.",
        CLOSED_HAT: "o.-.o.-.o.-.o.-.",
    },
    "house_light": {KICK: "x...x...x...x...", SHAKER: "-.o.-.o.-.o.-.o."},
    "techno": {
        KICK: "x...x...x...x...",
        CLOSED_HAT: "--o---o---o---o-",
        CLAP: "....o.......o...",
        RIM: "...-..-....-..-.",
    },
    "techno_light": {KICK: "x...x...x...x...", CLOSED_HAT: "..o...o...o...o."},
    "trance": {
        KICK: "x...x...x...x...",
        OPEN_HAT: "..x...x...x...x.",
        SNARE: "....o.......o...",
        CLOSED_HAT: "o-.-o-.-o-.-o-.-",
    },
    "breakbeat": {
        KICK: "x.........x.....",
        SNARE: "....x..-.-..x...",
        CLOSED_HAT: "o.o.o.o.o.o.o.o.",
        RIDE: "x.......x.......",
    },
    "breakbeat_light": {KICK: "x.........o.....", CLOSED_HAT: "o.-.o.-.o.-.o.-.", RIM: "....o.......o..."},
    "synthwave": {KICK: "x...x...x...x...", SNARE: "....x.......x...", CLOSED_HAT: "o.o.o.o.o.o.o.o."},
    "synthwave_light": {KICK: "x.......x.......", SNARE: "....o.......o...", CLOSED_HAT: "o...o...o...o..."},
    "chip": {KICK: "x...x...x...x...", SNARE: "....x.......x...", CLOSED_HAT: "..o...o...o...o."},
    "chip_light": {KICK: "x.......x.......", CLOSED_HAT: "o...o...o...o..."},
    "swing": {RIDE: "x..x.xx..x.x", PEDAL_HAT: "...x.....x..", KICK: "-.....-....."},
    "swing_light": {RIDE: "o..o.-o..o.-", PEDAL_HAT: "...o.....o.."},
    "swing_busy": {RIDE: "x..x.xx..x.x", PEDAL_HAT: "...x.....x..", SNARE: ".....-..-..o", KICK: "o....-......"},
    "shuffle": {KICK: "x.....x..x..", SNARE: "...x.....x..", CLOSED_HAT: "x.ox.ox.ox.o"},
    "shuffle_light": {KICK: "x.....o.....", RIM: "...o.....o..", CLOSED_HAT: "o.-o.-o.-o.-"},
    "bossa": {KICK: "x..-x..-x..-x..-", RIM: "x..x..x...x..x..", CLOSED_HAT: "o-o-o-o-o-o-o-o-"},
    "bossa_light": {RIM: "o..o..o...o..o..", SHAKER: "o-o-o-o-o-o-o-o-"},
    "funk": {KICK: "x.x....x..x..x..", SNARE: "....x..-.-..x..-", CLOSED_HAT: "o-o-o-o-o-o-o-x-"},
    "funk_light": {KICK: "x......x..x.....", RIM: "....o.......o...", CLOSED_HAT: "o.o.o.o.o.o.o.o."},
    "one_drop": {KICK: "........x.......", RIM: "........x.......", CLOSED_HAT: "o.-.o.-.o.-.o.-."},
    "steppers": {KICK: "x...x...x...x...", SNARE: "........x.......", CLOSED_HAT: "o.x.o.x.o.x.o.x."},
    "hip_hop": {KICK: "x..x......x.....", SNARE: "....x.......x...", CLOSED_HAT: "o.o.o.o.o.ooo.o."},
    "hip_hop_light": {KICK: "x.........o.....", SNARE: "....o.......o...", CLOSED_HAT: "-.-.-.-.-.-.-.-."},
    "train": {KICK: "x...x...x...x...", SNARE: "-.o.-.o.-.o.-.o.", CLOSED_HAT: "..-...-...-...-."},
    "train_light": {KICK: "o.......o.......", RIM: "....o.......o..."},
    "folk": {KICK: "x.......x.......", TAMBOURINE: "....o.......o...", SHAKER: "-.-.-.-.-.-.-.-."},
    "epic": {BASS_DRUM: "x.....x.x.......", LOW_TOM: "x.o.o.x.x.o.o.o.", CYMBAL: "o..............."},
    "epic_light": {BASS_DRUM: "x.......o......."},
}
# The last bar before a new section: its second half is the fill.
FILLS = (
    {SNARE: "........x.o.x.oo", KICK: "x......."},
    {
        SNARE: "........xx......",
        HIGH_TOM: "..........xx....",
        MID_TOM: "............xx..",
        LOW_TOM: "..............xx",
    },
    {HIGH_TOM: "........x.x.....", MID_TOM: "............x...", LOW_TOM: "..............x."},
    {SNARE: "............oxxx"},
)
SWUNG_FILLS = ({SNARE: "......x.ox.o"}, {SNARE: ".........xxx"}, {HIGH_TOM: "......x.x...", LOW_TOM: ".........x.x"})
