"""The soundfont that tests render with, and the mark of tests that need one."""

import importlib.util

import pytest

from stable_longform.data.composition.rendering import SOUNDFONTS

_installed = [path for path in SOUNDFONTS.values() if path.is_file()]
# The smallest one that is installed, or None.
SOUNDFONT = min(_installed, key=lambda path: path.stat().st_size, default=None)

needs_soundfont = pytest.mark.skipif(
    SOUNDFONT is None or importlib.util.find_spec("midirenderer") is None,
    reason="needs midirenderer and a soundfont (apt-get install timgm6mb-soundfont)",
)
