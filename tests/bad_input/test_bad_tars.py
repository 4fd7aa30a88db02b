"""Tars that are wrong or unusual, each in its own way: listed and streamed alike, the rest is named."""

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from corpora import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.sources import open_source
from stable_longform.data.tracks import Track, read_track

WAV = encode(0, "wav", 24_000)


def pack(*members: tuple, mode: str = "w", **options) -> bytes:
    """A tar of (name, content) or (TarInfo, content), in order."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode, **options) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def special(name: str, kind: bytes, target: str = "a.wav") -> tarfile.TarInfo:
    """A member that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def found(path, prefix: str = "") -> tuple[list[str], list[BadTrackError]]:
    """Names of the tracks of a tar whose audio can be read, and what was left out."""
    results = list(open_source(f"{prefix}{path}", max_bad_fraction=1.0).found())
    tracks = [result for result in results if isinstance(result, Track)]
    for track in tracks:
        assert read_track(track, 0.0, 0.1, 8000).shape[0] == 2
    return sorted(track.path.name for track in tracks), [item for item in results if isinstance(item, BadTrackError)]


GOOD = pack(("a.wav", WAV), ("b.wav", WAV))
JSON = b'{"title": "A"}'
# name -> the tar, the names of the tracks in it
UNUSUAL = {
    "two tracks": (GOOD, ["a.wav", "b.wav"]),
    "metadata after all audio": (pack(("a.wav", WAV), ("b.wav", WAV), ("a.json", JSON)), ["a.wav", "b.wav"]),
    "metadata before the audio": (pack(("a.json", JSON), ("b.wav", WAV), ("a.wav", WAV)), ["a.wav", "b.wav"]),
    "metadata without audio": (pack(("a.wav", WAV), ("z.json", JSON)), ["a.wav"]),
    "dots in names": (pack(("01. A.wav", WAV), ("01. B.wav", WAV)), ["01. A.wav", "01. B.wav"]),
    "a leading dot and slash": (pack(("./x/a.wav", WAV)), ["a.wav"]),
    "macOS files": (pack(("._a.wav", b"\0\x05\x16\x07" + bytes(200)), ("a.wav", WAV)), ["a.wav"]),
    "folders": (pack((special("x", tarfile.DIRTYPE), b""), ("x/a.wav", WAV)), ["a.wav"]),
    "long names": (pack(("x" * 150 + "/" + "y" * 90 + ".wav", WAV)), ["y" * 90 + ".wav"]),
    "old format": (pack(("a.wav", WAV), format=tarfile.USTAR_FORMAT), ["a.wav"]),
    "GNU format": (pack(("é" * 60 + ".wav", WAV), format=tarfile.GNU_FORMAT), ["é" * 60 + ".wav"]),
    "umlauts": (pack(("für/ä.wav", WAV), format=tarfile.PAX_FORMAT), ["ä.wav"]),
    "a space": (pack((" a b .wav", WAV)), [" a b .wav"]),
    "upper case": (pack(("A.WAV", WAV)), ["A.WAV"]),
    "text beside": (pack(("a.wav", WAV), ("a.txt", b"calm piano"), ("readme.md", b"hello")), ["a.wav"]),
}


@pytest.mark.parametrize("data, names", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_tars_are_listed_and_streamed_alike(tmp_path, data, names):
    path = tmp_path / "shard.tar"
    path.write_bytes(data)
    assert found(path)[0] == found(path, "stream:")[0] == names
    assert list(tmp_path.iterdir()) == [path]


SECOND = GOOD.index(b"b.wav")  # where the header of the second member begins
# name -> a tar of which one track, a.wav, or none can be used
DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "zeros": lambda: bytes(10_240),
    "no tar": lambda: b"This is no tar. " * 1000,
    "a page": lambda: b"<html>404</html>" + bytes(600),
    "gzip of nothing": lambda: gzip.compress(b""),
    "cut gzip": lambda: gzip.compress(GOOD)[:-2000],
    "cut in the first header": lambda: GOOD[:300],
    "cut in the first member": lambda: GOOD[:5000],
    "cut in the second member": lambda: GOOD[: SECOND + 5000],
    "a wrong checksum": lambda: GOOD[: SECOND + 148] + b"0000000\0" + GOOD[SECOND + 156 :],
    "a negative size": lambda: GOOD[: SECOND + 124] + b"-0000000001\0" + GOOD[SECOND + 136 :],
    "only text": lambda: pack(("a.txt", b"calm piano")),
    "only folders": lambda: pack((special("a.wav", tarfile.DIRTYPE), b"")),
    "a link": lambda: pack((special("a.wav", tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "a hard link": lambda: pack((special("a.wav", tarfile.LNKTYPE, "../../x.wav"), b"")),
    "a device": lambda: pack((special("a.wav", tarfile.CHRTYPE), b"")),
    "a pipe": lambda: pack((special("a.wav", tarfile.FIFOTYPE), b"")),
    "empty audio": lambda: pack(("a.wav", b"")),
    "text as audio": lambda: pack(("a.wav", b"no music" * 100)),
    "cut audio": lambda: pack(("a.wav", WAV[:30_000])),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("prefix", ["", "stream:"])
def test_damaged_tars(tmp_path, make, prefix):
    path = tmp_path / "shard.tar"
    path.write_bytes(make())
    try:
        names, errors = found(path, prefix)
    except (ValueError, OSError) as error:
        assert "shard.tar" in str(error) and "\n" not in str(error)
    else:
        assert names in ([], ["a.wav"])
        for error in errors:
            assert "\n" not in str(error) and "shard.tar" in str(error)
    if not prefix:
        refused(lambda: open_source(str(path), max_bad_fraction=0.0), "shard.tar")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("prefix", ["", "stream:"])
def test_an_empty_tar_among_others_is_named(tmp_path, prefix):
    for name, data in (("a", GOOD), ("b", pack()), ("c", GOOD)):
        (tmp_path / f"{name}.tar").write_bytes(data)
    source = open_source(f"{prefix}{tmp_path}/{{a..c}}.tar", max_bad_fraction=0.0)
    found = list(source.found())
    assert [str(item) for item in found if not isinstance(item, Track)] == [
        f"{tmp_path}/b.tar: empty: it holds no files"
    ]
    assert len(found) == 5


@pytest.mark.parametrize("pattern", ["{a,a}.tar", "{{a..b},{a..c}}.tar", "{a,?}.tar"])
@pytest.mark.parametrize("prefix", ["", "stream:"])
def test_a_tar_that_a_pattern_names_twice(tmp_path, pattern, prefix):
    (tmp_path / "a.tar").write_bytes(GOOD)
    refused(lambda: open_source(f"{prefix}{tmp_path}/{pattern}"), "a.tar twice")


@pytest.mark.parametrize(
    "name", ["../../escape.wav", "/etc/escape.wav", "x/../../escape.wav", "..\\escape.wav", "C:\\a.wav"]
)
def test_names_that_lead_out_of_a_tar_write_nothing(tmp_path, name):
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "shard.tar").write_bytes(pack((name, WAV)))
    for prefix in ("", "stream:"):
        try:
            found(folder / "shard.tar", prefix)
        except ValueError as error:
            assert "\n" not in str(error)
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["inside", "shard.tar"]


@pytest.mark.parametrize("data", [b"[]", b"5", b"null", b'"x"', b"{", b"\xff\xfe", b"", b'{"duration_in_s": -1}'])
def test_sidecars_that_are_wrong_are_named(tmp_path, data):
    path = tmp_path / "shard.tar"
    path.write_bytes(pack(("a.wav", WAV), ("a.json", data), ("b.wav", WAV)))
    results = []
    for prefix in ("", "stream:"):
        names, errors = found(path, prefix)
        assert "b.wav" in names
        assert "a.wav" in names or any("a." in str(error) for error in errors)
        results.append(names)
    assert results[0] == results[1]


stems = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20)


@settings(max_examples=20)
@given(st.lists(stems.filter(lambda stem: not stem.startswith(".")), min_size=1, max_size=3, unique_by=str.casefold))
def test_what_is_packed_is_found(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "packed.tar"
    path.write_bytes(pack(*((f"{name}.wav", WAV) for name in names), format=tarfile.PAX_FORMAT))
    expected = sorted(f"{name}.wav" for name in names)
    assert found(path)[0] == found(path, "stream:")[0] == expected
