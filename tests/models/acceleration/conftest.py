import pytest

from stable_longform.models.acceleration.engine import SWITCH


@pytest.fixture(autouse=True)
def acceleration_is_on(monkeypatch):
    """These tests are of the engine, whatever the environment says."""
    monkeypatch.setenv(SWITCH, "1")
