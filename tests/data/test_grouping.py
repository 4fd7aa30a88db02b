"""Which files are recordings, and which belong to them."""

import posixpath
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stable_longform.data.bad_tracks import IGNORED_KINDS, KINDS
from stable_longform.data.grouping import group_files

NAME = st.text("aB .\u00e9", min_size=1, max_size=6)
EXTENSION = st.sampled_from([".flac", ".WAV", ".json", ".txt", ".m4a", ".jpg", ""])
PATH = st.builds(
    lambda folder, name, extension: folder + name + extension, st.sampled_from(["", "x/"]), NAME, EXTENSION
)


def as_file(name: str) -> str:
    """A name, or nothing where it is only an extension, as `.flac`."""
    return name if posixpath.splitext(name)[1] else ""


def group(*names: str) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Sidecars by recording, and kinds of what is left out by name."""
    groups = group_files(names, Path("root"))
    recordings = {names[number]: {names[other] for other in others.values()} for number, others in groups.recordings}
    return recordings, {error.path.relative_to("root").as_posix(): error.kind for error in groups.left_out}


def test_an_extension_begins_at_the_last_dot():
    assert group("01. A.flac", "01. A.json", "01. B.flac", "v1.0.txt") == (
        {"01. A.flac": {"01. A.json"}, "01. B.flac": set()}, {"v1.0.txt": "stray"}
    )  # fmt: skip


def test_sidecars_stand_anywhere_and_in_any_case():
    assert group("a.json", "x/a.flac", "A.txt", "x/b.ogg", "x/a.JSON", "x/b.Txt")[0] == {
        "x/a.flac": {"x/a.JSON"}, "x/b.ogg": {"x/b.Txt"}
    }  # fmt: skip
    assert group("e\u0301.flac", "\u00e9.json")[0] == {"e\u0301.flac": {"\u00e9.json"}}  # macOS's accents


def test_what_macos_adds_is_passed_over():
    names = ("._a.flac", "a.flac", "._a.json", "a.json", "__MACOSX/a.flac", ".git/b.wav", ".DS_Store")
    recordings, left_out = group(*names)
    assert recordings == {"a.flac": {"a.json"}}
    assert left_out == dict.fromkeys(("._a.flac", "._a.json", "__MACOSX/a.flac", ".git/b.wav"), "hidden")


def test_a_name_counts_once():
    recordings, left_out = group("a.flac", "a.json", "a.flac", "a.json", "a.wav", "a.flac")
    assert recordings == {"a.flac": {"a.json"}, "a.wav": {"a.json"}}
    assert left_out == dict.fromkeys(("a.flac (2)", "a.json (2)", "a.flac (3)"), "repeated")


def test_other_formats_of_music_are_named():
    recordings, left_out = group("a.m4a", "a.json", "b.WMA", "cover.jpg", "notes.pdf")
    assert recordings == {} and left_out == {"a.m4a": "unsupported", "b.WMA": "unsupported"}


@given(names=st.lists(PATH, max_size=8))
def test_every_recording_is_used_or_named(names):
    groups = group_files(names, Path("root"))
    music = sum(name.lower().endswith((".flac", ".wav", ".m4a")) for name in map(as_file, names))
    named = sum(as_file(error.path.name).partition(" (")[0].lower().endswith((".flac", ".wav", ".m4a"))
                for error in groups.left_out)  # fmt: skip
    assert len(groups.recordings) + named == music
    assert all(error.kind in KINDS + IGNORED_KINDS for error in groups.left_out)
    for number, others in groups.recordings:
        for extension, other in others.items():
            assert names[other].lower().endswith(extension)
            assert posixpath.splitext(names[other])[0] == posixpath.splitext(names[number])[0]
